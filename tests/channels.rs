//! The state of channels, read over the admin API of a running gateway.

#[path = "support/gateway.rs"]
mod gateway;

use std::sync::Arc;

use gateway::{Answer, Running, start};
use serde_json::{Value, json};
use tickgate_protocol::channel::{BookRules, Class, Classes, History, Overflow, Pattern};

fn get(gateway: &Running, path: &str) -> Answer {
    gateway.admin("GET", path, "")
}

fn class(pattern: &str, class: Class) -> (Pattern, Class) {
    (Pattern::parse(pattern).expect("valid"), class)
}

#[test]
fn a_channel_is_reported_with_its_last_event_position_and_subscribers() {
    let gateway = start(|_| {});
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*", "grid.a.*", "grid.a.status"]);
    let channel = |name: &str| {
        let answer = get(&gateway, &format!("/api/channels/{name}"));
        assert_eq!(answer.status, 200, "{name}: {}", answer.body);
        answer.json()
    };
    let before = channel("grid.a.status");
    assert_eq!((&before["last"], &before["offset"]), (&Value::Null, &Value::Null));
    gateway.publish(r#"{"channel":"grid.a.status","event":"update","timestamp":7,"data":{"p":1.50}}"#);
    let after = channel("grid.a.status");
    assert_eq!(
        after["subscribers"], 1,
        "a connection counts once, however many of its patterns match"
    );
    assert_eq!(
        after["last"],
        json!({"event": "update", "timestamp": 7, "data": {"p": 1.50}})
    );
    assert_eq!(after["offset"], Value::Null, "no history");

    // A class with a history but without a last value for newcomers, and a name that must be percent-encoded.
    let answer = gateway
        .publish(r#"{"channel":"market.BTC/USDT.trade","event":"t","data":1}"#)
        .json();
    let trade = channel("market.BTC%2FUSDT.trade");
    assert_eq!(
        (&trade["offset"], &trade["epoch"]),
        (&answer["offset"], &answer["epoch"])
    );
    assert_eq!(trade["last"]["data"], 1);
    assert_eq!(
        (&trade["subscribers"], &trade["channel"]),
        (&json!(0), &json!("market.BTC/USDT.trade"))
    );

    for (name, status) in [("grid..a", 400), ("grid.*", 400), ("%ff", 404)] {
        assert_eq!(get(&gateway, &format!("/api/channels/{name}")).status, status, "{name}");
    }
}

#[test]
fn a_history_is_read_in_pages_and_reports_when_it_is_not_complete() {
    let gateway = start(|settings| {
        let short = Class {
            history: Some(History {
                size: 5,
                ttl_ms: 60_000,
            }),
            overflow: Overflow::Disconnect,
            ..Class::default()
        };
        settings.hub.classes = Arc::new(Classes::new(vec![class("a.*", short)]));
    });
    let publish = |n: u64| {
        let answer = gateway.publish(&format!(r#"{{"channel":"a.b","event":"e","data":{n}}}"#));
        answer.json()["offset"].as_u64().expect("an offset")
    };
    let offsets: Vec<u64> = (0..4).map(publish).collect();
    let history = |query: &str| {
        let answer = get(&gateway, &format!("/api/channels/a.b/history{query}"));
        assert_eq!(answer.status, 200, "{query}: {}", answer.body);
        answer.json()
    };
    let data = |page: &Value| -> Vec<u64> {
        let events = page["events"].as_array().expect("events").iter();
        events.map(|event| event["data"].as_u64().expect("a number")).collect()
    };
    let whole = history("");
    assert_eq!(
        (data(&whole), &whole["complete"], &whole["more"]),
        (vec![0, 1, 2, 3], &json!(true), &json!(false))
    );

    let (mut since, mut seen) = (0, Vec::new());
    loop {
        let page = history(&format!("?since={since}&limit=3"));
        seen.extend(data(&page));
        since = page["offset"].as_u64().expect("an offset");
        if page["more"] == false {
            break;
        }
    }
    assert_eq!((seen, since), (vec![0, 1, 2, 3], offsets[3]));

    for n in 4..8 {
        publish(n);
    }
    let trimmed = history(&format!("?since={}", offsets[0]));
    assert_eq!(
        (data(&trimmed), &trimmed["complete"]),
        (vec![3, 4, 5, 6, 7], &json!(false))
    );
    let covered = history(&format!("?since={}", offsets[2]));
    assert_eq!(
        (data(&covered), &covered["complete"]),
        (vec![3, 4, 5, 6, 7], &json!(true))
    );
    let of_another_epoch = history(&format!("?since={}&epoch=0000000000000001", offsets[3]));
    assert_eq!(
        of_another_epoch["complete"], false,
        "offsets of another epoch are not accepted"
    );
    let epoch = covered["epoch"].as_str().expect("text");
    assert_eq!(
        history(&format!("?since={}&epoch={epoch}", offsets[3]))["complete"],
        true
    );

    for (path, status, code) in [
        ("/api/channels/a.b/history?since=x", 400, "INVALID_MESSAGE"),
        ("/api/channels/a.b/history?limit=0", 400, "INVALID_MESSAGE"),
        ("/api/channels/a.b/history?epoch=1", 400, "INVALID_MESSAGE"),
        ("/api/channels/a..b/history", 400, "INVALID_CHANNEL"),
        ("/api/channels/system.log/history", 404, "NOT_FOUND"),
    ] {
        let answer = get(&gateway, path);
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (status, &json!(code)),
            "{path}"
        );
    }
}

#[test]
fn repeated_ids_and_unchanged_values_are_reported() {
    let gateway = start(|settings| {
        let changed = Class {
            only_changed: true,
            ..Class::default()
        };
        settings.hub.classes = Arc::new(Classes::new(vec![class("c.*", changed)]));
    });
    let publish = |body: &str| gateway.publish(body).json();
    let order = r#"{"channel":"grid.a.order","event":"e","id":"x1"}"#;
    let first = publish(order);
    let again = publish(order);
    assert_eq!(first["published"], 1);
    assert_eq!(
        again,
        json!({"published": 0, "duplicate": true, "offset": first["offset"], "epoch": first["epoch"]})
    );
    // An id applies to its channel, and a number differs from a string. A repetition in one request is a duplicate as well.
    let many = r#"[{"channel":"grid.b.order","event":"e","id":"x1"},{"channel":"grid.a.order","event":"e","id":"x1"},
        {"channel":"x.y","event":"e","id":1},{"channel":"x.y","event":"e","id":"1"},{"channel":"x.y","event":"e","id":1}]"#;
    assert_eq!(
        publish(many),
        json!({"published": 3, "without_subscriber": 3, "duplicates": [1, 4]})
    );

    let value = r#"{"channel":"c.d","event":"e","data":{"a":1,"b":[1.0]}}"#;
    let same = r#"{"channel":"c.d","event":"e","data":{"b":[1],"a":1}}"#;
    assert_eq!(publish(value), json!({"published": 1, "without_subscriber": 1}));
    assert_eq!(publish(same), json!({"published": 0, "unchanged": true}));
    assert_eq!(
        publish(&format!("[{same},{value}]")),
        json!({"published": 0, "unchanged_items": 2})
    );
    let stats = get(&gateway, "/api/websocket/stats").json();
    assert_eq!(stats["events"]["duplicates"], 3);
    assert_eq!(stats["events"]["unchanged"], 3);
    assert_eq!(stats["state"]["channels"], 3, "plain channels have no state");
}

#[test]
fn deleted_channels_are_told_and_are_gone_for_newcomers() {
    let gateway = start(|_| {});
    let publish = |channel: &str, data: &str| {
        let event = format!(r#"{{"channel":"{channel}","event":"update","data":{data}}}"#);
        assert_eq!(gateway.publish(&event).json()["published"], 1);
    };
    for channel in ["market.a.price", "market.b.price", "grid.a.status", "grid.a.order"] {
        publish(channel, "1");
    }
    let mut native = gateway.client(&gateway.trader("u1"));
    native.subscribe(&["grid.*"]);
    assert_eq!(native.json()["data"], 1);
    let mut prices = gateway.client(&gateway.trader("u1"));
    prices.subscribe(&["market.*.price"]);
    for _ in 0..2 {
        assert_eq!(prices.json()["data"], 1);
    }

    let delete = |pattern: &str| gateway.admin("DELETE", &format!("/api/channels/{pattern}"), "");
    assert_eq!(delete("market.*.price").json(), json!({"deleted": 2}));
    for channel in ["market.a.price", "market.b.price"] {
        let event = prices.json();
        let told = (&event["event"], &event["channel"], &event["data"]);
        assert_eq!(told, (&json!("deleted"), &json!(channel), &Value::Null));
    }
    assert_eq!(delete("grid.a.*").json(), json!({"deleted": 2}));
    for _ in 0..2 {
        let event = native.json();
        assert_eq!((&event["event"], &event["data"]), (&json!("deleted"), &Value::Null));
        assert_eq!(event["offset"].is_u64(), event["channel"] == "grid.a.order", "{event}");
    }
    assert_eq!(delete("*").json(), json!({"deleted": 0}), "nothing is left");
    assert_eq!(delete("grid..a").json()["error"]["code"], "INVALID_CHANNEL");
    let of_trader = gateway.admin_as(
        Some(&gateway.trader("u1")),
        "DELETE",
        "/api/channels/grid.a.status",
        "",
        b"",
    );
    assert_eq!(of_trader.status, 403);

    assert_eq!(get(&gateway, "/api/channels/grid.a.status").json()["last"], Value::Null);
    let mut newcomer = gateway.client(&gateway.trader("u2"));
    newcomer.subscribe(&["market.*.price", "grid.a.status"]);
    publish("market.a.price", "2");
    assert_eq!(newcomer.json()["data"], 2, "the first that a newcomer gets");
}

#[test]
fn a_last_value_that_nobody_renews_ends_and_its_subscribers_are_told() {
    let gateway = start(|settings| {
        let ending = Class {
            cache_last: true,
            overflow: Overflow::Conflate,
            last_ttl_ms: Some(100),
            ..Class::default()
        };
        settings.hub.classes = Arc::new(Classes::new(vec![class("grid.*.status", ending)]));
    });
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    gateway.publish(r#"{"channel":"grid.bot.status","event":"update","data":1}"#);
    assert_eq!(client.json()["data"], 1);
    let end = client.json();
    assert_eq!((&end["event"], &end["data"]), (&json!("deleted"), &Value::Null));
    assert_eq!(
        get(&gateway, "/api/channels/grid.bot.status").json()["last"],
        Value::Null
    );
}

#[test]
fn subscribers_are_told_when_a_channel_is_silent_and_when_it_goes_on() {
    let gateway = start(|settings| {
        let fresh = Class {
            fresh_within_ms: Some(300),
            ..Class::default()
        };
        settings.hub.classes = Arc::new(Classes::new(vec![class("grid.*.status", fresh)]));
    });
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    gateway.publish(r#"{"channel":"grid.a.status","event":"update","data":1}"#);
    assert_eq!(client.json()["data"], 1);
    let told = |message: Value| (message["type"].clone(), message["data"].clone());
    let about = |kind: &str| (json!(kind), json!({"count": 1, "channels": ["grid.a.status"]}));
    assert_eq!(told(client.json()), about("stale"));
    // A newcomer is told, too.
    let mut newcomer = gateway.client(&gateway.trader("u2"));
    newcomer.subscribe(&["grid.a.*"]);
    assert_eq!(told(newcomer.json()), about("stale"));
    let keep_alive =
        |bearer: &str, body: &str| gateway.admin_as(Some(bearer), "POST", "/api/keep_alive", "", body.as_bytes());
    let all = r#"{"channels":["grid.*.status"]}"#;
    assert_eq!(keep_alive(&gateway.trader("u1"), all).status, 403);
    let publisher = gateway.token("p", |grant| {
        grant.publish = Some(vec![Pattern::parse("grid.*").expect("valid")])
    });
    assert_eq!(keep_alive(&publisher, r#"{"channels":["*.*.status"]}"#).status, 403);
    assert_eq!(
        keep_alive(&publisher, r#"{"channels":["grid..a"]}"#).code(),
        "INVALID_CHANNEL"
    );
    assert_eq!(keep_alive(&publisher, r#"{"channels":"a"}"#).code(), "INVALID_MESSAGE");
    assert_eq!(keep_alive(&publisher, all).json(), json!({"channels": 1}));
    for client in [&mut client, &mut newcomer] {
        assert_eq!(told(client.json()), about("fresh"));
    }
    assert!(
        get(&gateway, "/metrics")
            .body
            .contains("tickgate_probes_outstanding{shard=\"0\"}")
    );
}

#[test]
fn an_order_book_is_merged_and_what_is_none_is_refused() {
    let gateway = start(|settings| {
        let book = Class {
            cache_last: true,
            overflow: Overflow::Conflate,
            book: Some(BookRules { depth: Some(1) }),
            ..Class::default()
        };
        settings.hub.classes = Arc::new(Classes::new(vec![class("market.*.orderbook", book)]));
    });
    let publish = |data: &str| {
        gateway.publish(&format!(
            r#"{{"channel":"market.x.orderbook","event":"update","data":{data}}}"#
        ))
    };
    let refused = publish(r#"{"bids":[["x",1]]}"#);
    assert_eq!((refused.status, refused.code().as_str()), (400, "INVALID_MESSAGE"));
    assert!(refused.body.contains("a price and a size"), "{refused:?}");
    assert_eq!(
        publish(r#"{"snapshot":true,"bids":[["2","1"],["1","1"]],"asks":[],"seq":1}"#).json()["published"],
        1
    );
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["market.*.orderbook"]);
    let whole = json!({"snapshot": true, "seq": 1, "bids": [["2", "1"]], "asks": []});
    assert_eq!(client.json()["data"], whole);
    assert_eq!(publish(r#"{"bids":[["1","9"]],"seq":2}"#).json()["unchanged"], true);
    publish(r#"{"bids":[["2","0"]],"seq":3}"#);
    let changes = json!({"prev_seq": 1, "seq": 3, "bids": [["2", "0"], ["1", "9"]], "asks": []});
    assert_eq!(client.json()["data"], changes);
}
