//! What operators look at and do: one user, one channel, traces, and actions with a reason.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};
use tickgate_protocol::channel::Pattern;

use super::gateway::{Client, Received, Running, VIEWER_KEY, answer, connect, start, until};

fn get(gateway: &Running, path: &str) -> Value {
    let answer = gateway.admin("GET", path, "");
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    answer.json()
}

fn subscribe(client: &mut Client<TcpStream>, pattern: &str) {
    client.send(&json!({"type": "subscribe", "channels": [pattern]}).to_string());
    while client.json()["type"] != "subscribed" {}
}

/// A client that sees the audit trail.
fn auditor(gateway: &Running) -> Client<TcpStream> {
    let mut client = gateway.client(&gateway.token("boss", |grant| grant.role = Some("admin".into())));
    subscribe(&mut client, "system.log");
    client
}

fn audited(client: &mut Client<TcpStream>, action: &str) -> Value {
    loop {
        let message = client.json();
        if message["data"]["action"] == action {
            return message["data"].clone();
        }
    }
}

#[test]
fn a_user_is_shown_with_the_rules_that_allow_and_refuse() {
    let gateway = start(|_| {});
    let token = gateway.token("u1", |grant| {
        grant.channels = Some(vec![Pattern::parse("grid.*").expect("valid")]);
    });
    let mut client = gateway.client(&token);
    subscribe(&mut client, "grid.a.order");
    subscribe(&mut client, "user.u1.*");
    client.send(r#"{"type":"command","id":"1","action":"no.such.thing","params":{}}"#);
    while client.json()["id"] != "1" {}
    let user = get(&gateway, "/api/users/u1");
    let connection = &user["connections"][0];
    assert_eq!(connection["user"], "u1", "{user}");
    assert_eq!(connection["permissions"]["channels"], json!(["grid.*"]));
    let rule = |pattern: &str| {
        let subscribed = connection["subscribed"].as_array().expect("a list");
        let found = subscribed.iter().find(|entry| entry["pattern"] == pattern);
        found.expect("subscribed")["rule"].as_str().expect("text").to_owned()
    };
    assert_eq!(rule("grid.a.order"), "the entry `grid.*` of `channels` covers it");
    assert!(rule("user.u1.*").contains("the user's own"));
    assert!(connection["expires_at"].as_f64() > Some(0.0));
    for (question, allowed) in [
        ("subscribe=grid.b", true),
        ("subscribe=market.*", false),
        ("subscribe=user.u2.*", false),
        ("publish=grid.a", false),
        ("command=grid.start", false),
    ] {
        let verdict = get(&gateway, &format!("/api/users/u1/explain?{question}"));
        assert_eq!(verdict["allowed"], allowed, "{question}: {verdict}");
    }
    assert_eq!(get(&gateway, "/api/users/nobody")["connections"], json!([]));
}

#[test]
fn the_busiest_channels_come_first() {
    let gateway = start(|_| {});
    let events = |channel: &str, count| vec![json!({"channel": channel, "event": "e", "data": "0123456789"}); count];
    // One channel of each kind: with a history, and without any state. Neither has a subscriber.
    let batch = [events("grid.a.order", 300), events("news.all", 3000)].concat();
    assert_eq!(gateway.publish(&json!(batch).to_string()).json()["published"], 3300);
    let busiest = get(&gateway, "/api/channels?sort=rate");
    let names: Vec<&Value> = (busiest["channels"].as_array().expect("a list").iter())
        .map(|busy| &busy["channel"])
        .collect();
    assert_eq!(names, ["news.all", "grid.a.order"], "{busiest}");
    let first = &busiest["channels"][0];
    // Ten digits and two quotation marks.
    let bytes = first["bytes_per_s"].as_f64().expect("a number") / first["events_per_s"].as_f64().expect("a number");
    assert!((11.9..12.1).contains(&bytes), "{first}");
    assert_eq!(get(&gateway, "/api/channels?sort=rate&limit=1")["channels"][0], *first);
}

#[test]
fn a_channel_is_shown_with_its_class_and_found_in_pages_and_a_viewer_sees_no_payload() {
    let gateway = start(|_| {});
    for n in 0..25 {
        let event = json!({"channel": format!("grid.g{n}.order"), "event": "filled", "data": {"n": n}});
        assert_eq!(gateway.publish(&event.to_string()).status, 200);
    }
    let channel = get(&gateway, "/api/channels/grid.g7.order");
    assert_eq!(channel["last"]["data"], json!({"n": 7}), "{channel}");
    assert_eq!(channel["kept"]["events"], 1);
    assert!(channel["kept"]["bytes"].as_u64() > Some(0) && channel["class"]["history"]["length"].as_u64() > Some(0));
    let price = get(&gateway, "/api/channels/market.a.price")["class"].clone();
    assert_eq!(
        (
            &price["overflow"],
            &price["book"],
            &price["max_rate"],
            &price["last_ttl_seconds"]
        ),
        (&json!("conflate"), &json!(false), &Value::Null, &Value::Null)
    );
    let viewer = gateway
        .admin_as(Some(VIEWER_KEY), "GET", "/api/channels/grid.g7.order", "", b"")
        .json();
    assert_eq!(
        (&viewer["last"]["event"], &viewer["last"]["data"]),
        (&json!("filled"), &Value::Null)
    );

    let (mut seen, mut cursor) = (Vec::new(), Some(String::new()));
    while let Some(at) = cursor {
        let page = get(&gateway, &format!("/api/channels?pattern=grid.*&limit=10&cursor={at}"));
        let channels = page["channels"].as_array().expect("a list");
        seen.extend(
            channels
                .iter()
                .map(|listed| listed["channel"].as_str().expect("a name").to_owned()),
        );
        cursor = page["next_cursor"].as_str().map(str::to_owned);
    }
    seen.sort();
    let mut expected: Vec<_> = (0..25).map(|n| format!("grid.g{n}.order")).collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn a_trace_shows_what_happens_to_a_user_and_is_audited() {
    let gateway = start(|_| {});
    let mut auditor = auditor(&gateway);
    let mut client = gateway.client(&gateway.trader("u1"));
    subscribe(&mut client, "grid.*");
    let body = json!({"user": "u1", "reason": "a complaint"}).to_string();
    let answer = gateway.admin("POST", "/api/traces", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = answer.json()["id"].as_str().expect("an id").to_owned();
    let line = audited(&mut auditor, "admin.trace");
    assert_eq!(
        (&line["user"], &line["outcome"]),
        (&json!("admin key"), &json!("success"))
    );

    client.send(r#"{"type":"subscribe","channels":["market.*"],"token":"very-secret","pin":1234}"#);
    while client.json()["type"] != "subscribed" {}
    client.send(r#"{"type":"subscribe","channels":["user.u2.orders"]}"#);
    client.send(r#"{"type":"publish","channel":"grid.a","event":"e"}"#);
    client.send(r#"{"type":"command","id":"c","action":"system.stop","params":{}}"#);
    let channels: Vec<_> = (0..51).map(|n| format!("grid.{n}")).collect();
    client.send(&json!({"type": "subscribe", "channels": channels}).to_string());
    for _ in 0..150 {
        client.send(r#"{"type":"ping"}"#);
    }
    gateway.publish(r#"{"channel":"grid.a","event":"filled","data":{"level":2}}"#);
    while client.json()["channel"] != "grid.a" {}
    // What happens to others is not shown.
    drop(gateway.client(&gateway.trader("u2")));
    gateway.admin("DELETE", "/api/users/u1/connections?reason=enough", "");
    while !matches!(client.receive(), Received::Close(_) | Received::End) {}

    let lines = || {
        get(&gateway, &format!("/api/traces/{id}"))["lines"]
            .as_array()
            .expect("lines")
            .clone()
    };
    until("the end of the connection", || {
        lines().iter().any(|line| line["what"] == "ended")
    });
    let lines = lines();
    assert!(lines.iter().all(|line| line["user"] == "u1"), "{lines:?}");
    let find = |what: &str, text: &str| {
        let found = lines
            .iter()
            .find(|line| line["what"] == what && line["text"].as_str().is_some_and(|all| all.contains(text)));
        found
            .unwrap_or_else(|| panic!("no {what} with {text}: {lines:#?}"))
            .clone()
    };
    let mut refused = lines.iter().filter(|line| line["what"] == "refused");
    for rule in [
        "user.u2.orders: no entry of `channels` covers it: `grid.*`, ",
        "grid.a: no entry of `publish` matches it: it is empty",
        "system.stop: no entry of `commands` matches it: `grid.*`, ",
        "limits.subscriptions is 50",
        "limits.messages_per_second is 100",
    ] {
        let detail = refused.next().expect("a refusal")["detail"].as_str().expect("a rule");
        assert!(detail.starts_with(rule), "{detail}, not {rule}");
    }
    let asked = find("in", "market.*")["text"].as_str().expect("text").to_owned();
    assert!(!asked.contains("very-secret") && !asked.contains("1234"), "{asked}");
    assert_eq!(find("out", r#""level":2"#)["channel"], "grid.a");
    let ended = lines.iter().find(|line| line["what"] == "ended").expect("ended");
    assert_eq!(ended["detail"], "4003 disconnected by an operator");

    // A viewer sees that something happened, and not what.
    let viewer = gateway
        .admin_as(Some(VIEWER_KEY), "GET", &format!("/api/traces/{id}"), "", b"")
        .json();
    assert!(
        viewer["lines"]
            .as_array()
            .expect("lines")
            .iter()
            .all(|line| line["text"].is_null())
    );
    let stream = gateway
        .admin("GET", &format!("/api/traces/{id}?format=ndjson"), "")
        .body;
    assert_eq!(stream.lines().count(), lines.len());
    serde_json::from_str::<Value>(stream.lines().next().expect("a line")).expect("JSON");

    assert_eq!(gateway.admin("DELETE", &format!("/api/traces/{id}"), "").status, 204);
    let ended = get(&gateway, &format!("/api/traces/{id}?from={}", lines.len()));
    assert_eq!(
        (&ended["state"], &ended["why"]),
        (&json!("ended"), &json!("an operator ended it"))
    );
    for wrong in [
        r#"{}"#,
        r#"{"user":"a","channel":"b"}"#,
        r#"{"client_id":"x"}"#,
        r#"{"channel":"a..b"}"#,
        r#"{"user":"a","seconds":0}"#,
        r#"{"user":"a","bytes":999999999}"#,
        r#"{"user":"a","other":1}"#,
    ] {
        assert_eq!(gateway.admin("POST", "/api/traces", wrong).status, 400, "{wrong}");
    }
}

#[test]
fn a_trace_of_a_channel_shows_its_events_and_who_asks_for_it() {
    let gateway = start(|_| {});
    let body = json!({"channel": "grid.a"}).to_string();
    let id = gateway.admin("POST", "/api/traces", &body).json()["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let mut client = gateway.client(&gateway.trader("u1"));
    subscribe(&mut client, "grid.*");
    for channel in ["grid.b", "grid.a"] {
        gateway.publish(&json!({"channel": channel, "event": "filled", "data": 7}).to_string());
        while client.json()["channel"] != channel {}
    }
    let lines = || {
        get(&gateway, &format!("/api/traces/{id}"))["lines"]
            .as_array()
            .expect("lines")
            .clone()
    };
    until("the event", || lines().iter().any(|line| line["what"] == "delivered"));
    let lines = lines();
    let of = |what: &str| {
        lines
            .iter()
            .filter(|line| line["what"] == what)
            .cloned()
            .collect::<Vec<_>>()
    };
    let delivered = of("delivered");
    assert_eq!(
        (delivered.len(), &delivered[0]["channel"], &delivered[0]["text"]),
        (1, &json!("grid.a"), &json!("7"))
    );
    assert_eq!(
        (&of("subscribes")[0]["channel"], &of("subscribes")[0]["user"]),
        (&json!("grid.*"), &json!("u1"))
    );
}

#[test]
fn what_operators_do_is_in_the_audit_trail_with_its_reason() {
    let gateway = start(|_| {});
    let mut auditor = auditor(&gateway);
    let mut client = gateway.client(&gateway.trader("u1"));
    subscribe(&mut client, "grid.*");
    let answer = gateway.admin("POST", "/api/channels/grid.a/test", r#"{"reason":"is it heard"}"#);
    assert_eq!(answer.status, 204, "{answer:?}");
    let event = loop {
        let message = client.json();
        if message["channel"] == "grid.a" {
            break message;
        }
    };
    assert_eq!(
        (&event["event"], &event["data"]["by"]),
        (&json!("test"), &json!("admin key"))
    );
    assert_eq!(audited(&mut auditor, "admin.publish_test")["outcome"], "success");
    gateway.publish(r#"{"channel":"grid.a.order","event":"filled","data":1}"#);
    let deleted = gateway.admin("DELETE", "/api/channels/grid.a.order?reason=a%20test", "");
    assert_eq!((deleted.status, &deleted.json()["deleted"]), (200, &json!(1)));
    assert_eq!(audited(&mut auditor, "admin.delete")["outcome"], "success");
    let missing = gateway.admin("DELETE", "/api/users/nobody/connections?reason=x", "");
    assert_eq!(missing.status, 404);
    let line = audited(&mut auditor, "admin.disconnect_user");
    assert_eq!(
        (&line["outcome"], &line["address"]),
        (&json!("refused"), &json!("127.0.0.1"))
    );

    let answer = gateway.admin("POST", "/api/drain", r#"{"reason":"an update"}"#);
    assert_eq!((answer.status, &answer.json()["draining"]), (202, &json!(true)));
    while !matches!(client.receive(), Received::Close(1012) | Received::End) {}
    gateway.gateway.wait().expect("drained");
}

#[test]
fn a_revoked_token_ends_its_connections_and_opens_nothing_any_more() {
    let gateway = start(|_| {});
    let mut auditor = auditor(&gateway);
    let token = gateway.trader("u1");
    let mut client = gateway.client(&token);
    let mut other = gateway.client(&gateway.trader("u2"));
    subscribe(&mut client, "grid.*");
    let body = r#"{"sub":"u1","reason":"a lost phone"}"#;
    let revoked = gateway.admin("POST", "/api/revocations", body).json();
    assert_eq!(
        (&revoked["sub"], &revoked["ended"]),
        (&json!("u1"), &json!(1)),
        "{revoked}"
    );
    assert_eq!(revoked["survives_restart"], false, "there is no snapshot: {revoked}");
    assert_eq!(client.close_code(), Some(4006));
    assert_eq!(audited(&mut auditor, "admin.revoke")["outcome"], "success");
    // The token opens no connection, and no request of the admin API.
    let mut stream = connect(gateway.public);
    let handshake = format!(
        "GET /ws?token={token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(handshake.as_bytes()).expect("sent");
    let refused = answer(&mut stream);
    assert_eq!((refused.status, refused.code().as_str()), (401, "TOKEN_INVALID"));
    let publish = r#"{"channel":"grid.a","event":"e"}"#;
    let refused = gateway.admin_as(Some(&token), "POST", "/api/publish", "", publish.as_bytes());
    assert_eq!((refused.status, refused.code().as_str()), (401, "TOKEN_INVALID"));
    let page = gateway.admin_as(None, "GET", "/metrics", "", b"").body;
    for sample in [
        "tickgate_revocations 1\n",
        "tickgate_tokens_total{outcome=\"revoked\"} 2\n",
    ] {
        assert!(page.contains(sample), "{sample}: {page}");
    }
    let endings = get(&gateway, "/api/endings?user=u1");
    assert_eq!(
        (&endings["recent"][0]["code"], &endings["recent"][0]["blame"]),
        (&json!(4006), &json!("operator"))
    );
    assert_eq!(
        endings["refused"]["token"], 1,
        "the handshake with the token: {endings}"
    );
    // Nobody else is concerned, and a token that is issued later is good.
    other.send(r#"{"type":"ping"}"#);
    while other.json()["type"] != "pong" {}
    let body = json!({"sub": "u3", "issued_before": 1_000}).to_string();
    assert_eq!(gateway.admin("POST", "/api/revocations", &body).status, 200);
    drop(gateway.client(&gateway.trader("u3")));

    let list = |query: &str| get(&gateway, &format!("/api/revocations{query}"));
    assert_eq!(
        (&list("")["total"], &list("?search=u3")["total"]),
        (&json!(2), &json!(1))
    );
    let first = list("?limit=1");
    let next = first["next_cursor"].as_str().expect("a page behind it");
    let second = list(&format!("?limit=1&cursor={next}"));
    assert_ne!(first["revocations"], second["revocations"]);
    assert_eq!(second["next_cursor"], Value::Null);
    let viewer = gateway.admin_as(Some(VIEWER_KEY), "POST", "/api/revocations", "", br#"{"jti":"a"}"#);
    assert_eq!(viewer.status, 403);
    assert_eq!(gateway.admin("POST", "/api/revocations", "{}").status, 400);
}
