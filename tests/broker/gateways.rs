//! What gateways that share a broker know of each other, and do for each other.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tickgate_protocol::channel::{Class, Classes, Pattern};

use crate::gateway::{self, Running};
use crate::nats_server::{Nats, Proxy};
use crate::redis_server::Redis;
use crate::requests::{broker, start, start_with_class};

/// The names and states of the gateways that this one knows, sorted, and the connections of all.
fn known(running: &Running) -> (Vec<(String, String)>, u64) {
    let reply = running.admin("GET", "/api/gateways", "").json();
    let gateways = reply["gateways"].as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut names: Vec<_> = gateways
        .map(|gateway| (text(&gateway["node"]), text(&gateway["status"])))
        .collect();
    names.sort_unstable();
    (names, reply["connections"].as_u64().expect("a number"))
}

fn until_known(running: &Running, expected: &[(&str, &str)], connections: u64) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(node, status)| ((*node).to_owned(), (*status).to_owned()))
        .collect();
    gateway::until("the gateways", || known(running) == (expected.clone(), connections));
}

fn check(running: &Running) -> (String, String) {
    let overview = running.admin("GET", "/api/overview", "").json();
    let checks = overview["checks"].as_array().expect("a list").iter();
    let check = { checks }
        .find(|check| check["name"] == "gateways")
        .expect("a check")
        .clone();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&check["status"]), text(&check["detail"]))
}

/// The same broker through a proxy.
pub(crate) fn through(proxy: &Proxy, url: &str) -> String {
    let (scheme, _) = url.split_once("://").expect("a URL");
    format!("{scheme}://127.0.0.1:{}", proxy.port)
}

#[test]
fn gateways_know_each_other_and_end_connections_for_each_other() {
    let server = Nats::start();
    check_for_each_other(&server.url(), server.port);
}

#[test]
fn gateways_over_redis_know_each_other_and_end_connections_for_each_other() {
    let server = Redis::start();
    check_for_each_other(&server.address(), server.port);
}

fn check_for_each_other(url: &str, port: u16) {
    let proxy = Proxy::start(port);
    let one = start(url.to_owned(), "one", |_| {});
    assert_eq!(known(&one).0, [("one".to_owned(), "ok".to_owned())]);
    let (two, three) = (
        start(through(&proxy, url), "two", |_| {}),
        start(url.to_owned(), "three", |_| {}),
    );
    let user = |running: &Running, user: &str| running.client(&running.trader(user));
    let (mut first, mut second, mut other) = (user(&one, "u1"), user(&two, "u1"), user(&three, "u2"));
    for client in [&mut first, &mut second, &mut other] {
        client.send(r#"{"type":"get_status"}"#);
        client.text();
    }
    for running in [&one, &two, &three] {
        until_known(running, &[("one", "ok"), ("three", "ok"), ("two", "ok")], 3);
    }
    let (status, detail) = check(&three);
    assert_eq!(
        (&*status, &*detail),
        ("ok", "3 gateways share the broker, with 3 connections")
    );
    // A user is ended at all gateways, through any of them.
    assert_eq!(three.admin("DELETE", "/api/users/u1/connections", "").status, 204);
    assert_eq!((first.close_code(), second.close_code()), (Some(4003), Some(4003)));
    assert_eq!(three.admin("DELETE", "/api/users/u1/connections", "").status, 404);
    // And one connection.
    other.send(r#"{"type":"get_status"}"#);
    let status: Value = serde_json::from_str(&other.text()).expect("JSON");
    let id = status["client_id"].as_str().expect("an id").to_owned();
    let target = format!("/api/websocket/clients/{id}");
    assert_eq!(one.admin("DELETE", &target, "").status, 204);
    assert_eq!(other.close_code(), Some(4003));
    assert_eq!(one.admin("DELETE", &target, "").status, 404);
    // A gateway that does not answer is named.
    proxy.hold();
    let answer = one.admin("DELETE", "/api/users/u1/connections", "");
    assert_eq!((answer.status, &*answer.code()), (504, "OUTCOME_UNKNOWN"));
    assert!(
        answer.json()["error"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("missing: two"))
    );
    until_known(&one, &[("one", "ok"), ("three", "ok"), ("two", "silent")], 0);
    let (status, detail) = check(&one);
    assert!(status == "warn" && detail.contains("\"two\" fell silent"), "{detail}");
    proxy.mend();
    until_known(&one, &[("one", "ok"), ("three", "ok"), ("two", "ok")], 0);
    // One that ends says so.
    three.gateway.handle().drain();
    three.gateway.wait().expect("a good end");
    until_known(&one, &[("one", "ok"), ("two", "ok")], 0);
    assert_eq!(check(&one).0, "ok");
    // A gateway that is cut off does its own part, and says that it cannot reach the others.
    proxy.cut();
    gateway::until("cut off", || two.admin("GET", "/readyz", "").status == 503);
    let answer = two.admin("DELETE", "/api/users/u1/connections", "");
    assert_eq!((answer.status, &*answer.code()), (504, "OUTCOME_UNKNOWN"));
}

#[test]
fn a_gateway_waits_for_a_broker_that_cannot_be_reached_when_it_starts() {
    let (nats, redis) = (Nats::start(), Redis::start());
    for (url, port) in [(nats.url(), nats.port), (redis.address(), redis.port)] {
        let proxy = Proxy::start(port);
        proxy.cut();
        let running = gateway::start(|settings| settings.shared = Some(broker(through(&proxy, &url), "one")));
        let unready = running.admin("GET", "/readyz", "");
        let error = &unready.json()["error"];
        assert_eq!((unready.status, &error["message"]), (503, &json!("broker_lost")));
        assert!(
            error["detail"].as_str().is_some_and(|reason| !reason.is_empty()),
            "{url}"
        );
        let item = r#"{"channel":"grid.a.order","event":"filled","data":1}"#;
        assert_eq!(running.publish(item).code(), "BROKER_UNAVAILABLE");
        proxy.mend();
        gateway::until("ready", || running.admin("GET", "/readyz", "").status == 200);
        assert_eq!(running.publish(item).status, 200, "{url}");
    }
}

#[test]
fn a_gateway_with_other_classes_tells_the_others_why_it_is_not_ready() {
    let server = Nats::start();
    check_other_classes(&server.url());
}

#[test]
fn a_gateway_with_other_classes_tells_the_others_over_redis_why_it_is_not_ready() {
    let server = Redis::start();
    check_other_classes(&server.address());
}

fn check_other_classes(url: &str) {
    let one = start(url.to_owned(), "one", |_| {});
    let two = start_with_class(url.to_owned(), "two", "quotes.*");
    until_known(&one, &[("one", "ok"), ("two", "broker_unfit")], 0);
    let (status, detail) = check(&one);
    assert!(
        status == "warn" && detail.starts_with("\"two\" is not ready") && detail.contains("quotes.*"),
        "{detail}"
    );
    let refused = two.publish(r#"{"channel":"grid.a.order","event":"filled","data":1}"#);
    assert_eq!(refused.code(), "BROKER_UNAVAILABLE");
    let published = one.publish(r#"{"channel":"grid.a.order","event":"filled","data":1}"#);
    assert_eq!(published.status, 200, "{published:?}");
    // It also says that it ends.
    two.gateway.handle().drain();
    two.gateway.wait().expect("a good end");
    until_known(&one, &[("one", "ok")], 0);
    assert_eq!(check(&one).0, "ok");
}

#[test]
fn a_revoked_token_is_refused_by_all_gateways_also_by_those_that_start_later() {
    let server = Nats::start();
    check_revocations(&server.url(), server.port);
}

#[test]
fn a_token_that_is_revoked_over_redis_is_refused_by_all_gateways() {
    let server = Redis::start();
    check_revocations(&server.address(), server.port);
}

fn check_revocations(url: &str, port: u16) {
    let proxy = Proxy::start(port);
    let (one, two) = (
        start(url.to_owned(), "one", |_| {}),
        start(through(&proxy, url), "two", |_| {}),
    );
    let is_let_in = |running: &Running, user: &str| {
        let token = running.trader(user);
        running.admin_as(Some(&token), "POST", "/api/publish", "", b"[]").status != 401
    };
    for running in [&one, &two] {
        until_known(running, &[("one", "ok"), ("two", "ok")], 0);
    }
    let mut client = two.client(&two.trader("u1"));
    client.subscribe(&["grid.a.order"]);
    let revoke = |running: &Running, user: &str| {
        let body = json!({"sub": user, "issued_before": soon()});
        running.admin("POST", "/api/revocations", &body.to_string())
    };
    let answer = revoke(&one, "u1");
    assert_eq!((answer.status, &answer.json()["ended"]), (200, &json!(1)), "{answer:?}");
    assert!(client.close_code().is_some());
    for running in [&one, &two] {
        assert!(!is_let_in(running, "u1") && is_let_in(running, "u2"));
    }
    // A gateway that is cut off does not hear of it, and the operator is told. It learns of it when it is back.
    let mut away = two.client(&two.trader("u3"));
    proxy.hold();
    let answer = revoke(&one, "u3");
    assert_eq!((answer.status, &*answer.code()), (504, "OUTCOME_UNKNOWN"));
    proxy.mend();
    assert!(away.close_code().is_some());
    // So does one that starts later, after all others have ended.
    drop((one, two));
    let three = start(url.to_owned(), "three", |_| {});
    assert!(!is_let_in(&three, "u1") && is_let_in(&three, "u2") && !is_let_in(&three, "u3"));
    let list = three.admin("GET", "/api/revocations", "").json();
    assert_eq!(list["total"], 2, "{list}");
}

#[test]
fn a_channel_is_stale_or_alive_at_all_gateways() {
    let server = Nats::start();
    check_freshness(&server.url());
}

#[test]
fn a_channel_is_stale_or_alive_at_all_gateways_over_redis() {
    let server = Redis::start();
    check_freshness(&server.address());
}

fn check_freshness(url: &str) {
    let with_class = |settings: &mut tickgate::gateway::Settings| {
        let class = Class {
            cache_last: true,
            fresh_within_ms: Some(1500),
            ..Class::default()
        };
        let pattern = Pattern::parse("quiet.*").expect("valid");
        settings.hub.classes = std::sync::Arc::new(Classes::new(vec![(pattern, class)]));
    };
    let (one, two) = (
        start(url.to_owned(), "one", with_class),
        start(url.to_owned(), "two", with_class),
    );
    for running in [&one, &two] {
        until_known(running, &[("one", "ok"), ("two", "ok")], 0);
    }
    let published = one.publish(r#"{"channel":"quiet.a","event":"e","data":1}"#);
    assert_eq!(published.status, 200, "{published:?}");
    let names = |running: &Running| -> Vec<Value> {
        let list = running.admin("GET", "/api/channels?stale=true", "").json();
        list["channels"].as_array().expect("a list").clone()
    };
    // Twice as long as the channel may be silent. Requests that are slow themselves prove nothing.
    let (began, mut last) = (Instant::now(), Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        let answer = one.admin("POST", "/api/keep_alive", r#"{"channels":["quiet.*"]}"#);
        assert_eq!(
            (answer.status, &answer.json()["channels"]),
            (200, &json!(1)),
            "{answer:?}"
        );
        let (stale, elapsed) = (names(&one).len() + names(&two).len(), last.elapsed());
        assert!(stale == 0 || elapsed > Duration::from_secs(1), "after {elapsed:?}");
        last = Instant::now();
    }
    for running in [&one, &two] {
        gateway::until("the silence", || names(running).len() == 1);
    }
}

/// An hour from now, in Unix seconds: after the time at which all tokens of the test are made.
fn soon() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_secs() + 3600
}

#[test]
fn a_gateway_that_stands_alone_lists_itself() {
    let alone = gateway::start(|_| {});
    let reply = alone.admin("GET", "/api/gateways", "").json();
    assert_eq!(reply["gateways"].as_array().expect("a list").len(), 1);
    let first = &reply["gateways"][0];
    assert_eq!(
        (&first["status"], &first["heard_seconds"]),
        (&json!("ok"), &Value::Null)
    );
    let overview = alone.admin("GET", "/api/overview", "").json();
    let checks = overview["checks"].as_array().expect("a list").iter();
    assert_eq!({ checks }.filter(|check| check["name"] == "gateways").count(), 0);
}
