//! The admin API of a real gateway, over real sockets.

#[path = "support/gateway.rs"]
mod gateway;

use std::io::Write;
use std::time::Duration;

use gateway::{ADMIN_KEY, Received, answer, connect, start, until};
use serde_json::{Value, json};
use tickgate::backend::commands::{BackendUrl, HttpSettings, RouteSettings, Target};
use tickgate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};
use tickgate_protocol::channel::Pattern;

#[test]
fn one_event_arrives_byte_for_byte() {
    let gateway = start(|_| {});
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    let data = r#"{"price": 94000.50, "big":123456789012345678901234567890,"e":1e400,"s":"\u0041\/ä", "n":[ ] }"#;
    let answer = gateway.publish(&format!(
        r#" {{"data":{data},"channel":"grid.a.order","event":"filled","timestamp":7}}"#
    ));
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["published"], 1);
    let offset = answer["offset"].as_u64().expect("a channel with history");
    assert_eq!(answer["epoch"].as_str().map(str::len), Some(16));
    assert_eq!(
        client.text(),
        format!(
            r#"{{"type":"event","channel":"grid.a.order","event":"filled","timestamp":7,"offset":{offset},"data":{data}}}"#
        )
    );
    // An event without subscribers is published too. `timestamp` and `data` are optional.
    assert_eq!(
        gateway.publish(r#"{"channel":"x.y","event":"e"}"#).body,
        r#"{"published":1}"#
    );
    gateway.publish(r#"{"channel":"grid.a","event":"e"}"#);
    let event = client.json();
    assert_eq!(event["data"], Value::Null);
    assert!(event["timestamp"].as_u64() > Some(1_700_000_000_000));
}

#[test]
fn an_array_is_published_in_order_without_its_bad_items() {
    let gateway = start(|settings| settings.admin.event_bytes = 64);
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    let long = "x".repeat(100);
    let answer = gateway.publish(
        &json!([
            { "channel": "grid.a", "event": "e", "data": 0 },
            { "channel": "grid..a", "event": "e", "data": 1 },
            { "channel": "grid.a", "event": "", "data": 2 },
            { "channel": "grid.a", "event": "e", "data": 3 },
            { "channel": "grid.a", "event": "e", "data": long },
            17,
            { "channel": "grid.*", "event": "e" },
            { "event": "e" },
            { "channel": "grid.a", "event": "e", "timestamp": "now" },
            { "channel": "grid.a", "event": "e", "data": 9 },
        ])
        .to_string(),
    );
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["published"], 3);
    let errors: Vec<_> = answer["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .map(|error| {
            assert!(!error["message"].as_str().expect("a message").is_empty());
            (
                error["index"].as_u64().expect("an index"),
                error["code"].as_str().expect("a code"),
            )
        })
        .collect();
    assert_eq!(
        errors,
        [
            (1, "INVALID_CHANNEL"),
            (2, "INVALID_MESSAGE"),
            (4, "MESSAGE_TOO_LARGE"),
            (5, "INVALID_MESSAGE"),
            (6, "INVALID_CHANNEL"),
            (7, "INVALID_MESSAGE"),
            (8, "INVALID_MESSAGE"),
        ]
    );
    for data in [0, 3, 9] {
        assert_eq!(client.json()["data"], data);
    }
}

#[test]
fn bad_bodies_are_refused_as_a_whole() {
    let gateway = start(|settings| settings.admin.publish_body_bytes = 4096);
    let eleven_thousand = format!("[{}]", vec!["1"; 10_001].join(","));
    let too_long = format!(r#"{{"channel":"a","event":"e","data":"{}"}}"#, "x".repeat(5000));
    let deep = format!(
        r#"{{"channel":"a","event":"e","data":{}{}}}"#,
        "[".repeat(64),
        "]".repeat(64)
    );
    for (body, status, code) in [
        ("", 400, "INVALID_JSON"),
        ("{", 400, "INVALID_JSON"),
        ("[{]", 400, "INVALID_JSON"),
        (r#"[{"channel":"a","event":"e"}"#, 400, "INVALID_JSON"),
        (r#"{"channel":"a","event":"e"} x"#, 400, "INVALID_JSON"),
        ("17", 400, "INVALID_MESSAGE"),
        (r#"{"event":"e"}"#, 400, "INVALID_MESSAGE"),
        (r#"{"channel":"a","event":"e","channel":"b"}"#, 400, "INVALID_MESSAGE"),
        (r#"{"channel":"a.*","event":"e"}"#, 400, "INVALID_CHANNEL"),
        (deep.as_str(), 400, "INVALID_JSON"),
        (too_long.as_str(), 413, "MESSAGE_TOO_LARGE"),
    ] {
        let answer = gateway.publish(body);
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body:.60}");
    }
    let answer = gateway.admin_as(Some(ADMIN_KEY), "POST", "/api/publish", "", b"{\"channel\":\"\xff\"}");
    assert_eq!((answer.status, answer.code().as_str()), (400, "INVALID_JSON"));
    drop(gateway);

    let gateway = start(|settings| settings.admin.event_bytes = 16);
    let answer = gateway.publish(&eleven_thousand);
    assert_eq!((answer.status, answer.code().as_str()), (400, "INVALID_MESSAGE"));
    assert_eq!(answer.json()["error"]["message"], "more than 10000 items");
    let answer = gateway.publish(r#"{"channel":"a","event":"e","data":"0123456789012345"}"#);
    assert_eq!((answer.status, answer.code().as_str()), (413, "MESSAGE_TOO_LARGE"));
    // An announced length is refused before the body is sent.
    let mut stream = connect(gateway.admin);
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: 16777217\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    assert_eq!(answer_of(&mut stream), 413);
    // A length that is not announced is refused when the body exceeds the limit. The rest of the body does not destroy the
    // response.
    let mut stream = connect(gateway.admin);
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let chunk = [b"100000\r\n".as_slice(), &vec![b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..17 {
        stream.write_all(&chunk).expect("sent");
    }
    assert_eq!(answer_of(&mut stream), 413);
}

fn answer_of(stream: &mut std::net::TcpStream) -> u16 {
    answer(stream).status
}

#[test]
fn lines_are_published_as_they_arrive() {
    let gateway = start(|_| {});
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    let mut stream = connect(gateway.admin);
    let head = format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\n\
         Content-Type: application/x-ndjson; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut send = |text: &str| {
        stream
            .write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
            .expect("sent");
    };
    send("{\"channel\":\"grid.a\",\"event\":\"e\",\"data\":\"first\"}\n{\"channel\":\"grid.a\",");
    assert_eq!(client.json()["data"], "first", "before the request ends");
    send("\"event\":\"e\",\"data\":-1}\r\n\n  \nnonsense\n");
    assert_eq!(client.json()["data"], -1);
    for chunk in 0..20 {
        let lines: String = (0..500)
            .map(|n| {
                format!(
                    "{{\"channel\":\"grid.a\",\"event\":\"e\",\"data\":{}}}\n",
                    chunk * 500 + n
                )
            })
            .collect();
        send(&lines);
        // The client reads meanwhile, since its outbox is bounded.
        for n in 0..500 {
            assert_eq!(client.json()["data"], chunk * 500 + n);
        }
    }
    send("{\"channel\":\"grid.a\",\"event\":\"e\",\"data\":\"last\"}");
    stream.write_all(b"0\r\n\r\n").expect("sent");
    let answer = answer(&mut stream);
    assert_eq!(answer.status, 200);
    let answer = answer.json();
    assert_eq!(answer["published"], 10_003);
    assert_eq!(answer["errors"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&answer["errors"][0]["index"], &answer["errors"][0]["code"]),
        (&json!(2), &json!("INVALID_JSON"))
    );
    assert_eq!(client.json()["data"], "last");
}

#[test]
fn ten_thousand_lines_and_ten_thousand_items_at_once() {
    let gateway = start(|_| {});
    let item = |n: usize| json!({ "channel": format!("c.{}", n % 7), "event": "e", "data": n }).to_string();
    let lines: String = (0..10_000).map(|n| item(n) + "\n").collect();
    let headers = "Content-Type: application/x-ndjson\r\n";
    let answer = gateway.admin_as(Some(ADMIN_KEY), "POST", "/api/publish", headers, lines.as_bytes());
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"published":10000}"#));
    let answer = gateway.publish(&lines);
    assert_eq!((answer.status, answer.code().as_str()), (400, "INVALID_JSON"));
    assert!(answer.body.contains("x-ndjson"), "{}", answer.body);
    let items: Vec<_> = (0..10_000).map(item).collect();
    assert_eq!(
        gateway.publish(&format!("[{}]", items.join(","))).body,
        r#"{"published":10000}"#
    );
    assert_eq!(gateway.publish("[]").body, r#"{"published":0}"#);
}

#[test]
fn a_repeated_id_is_published_once_per_channel() {
    let gateway = start(|_| {});
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    for (channel, id, body) in [
        ("grid.a", json!("x"), r#"{"published":1}"#),
        ("grid.a", json!("x"), r#"{"published":0,"duplicate":true}"#),
        ("grid.b", json!("x"), r#"{"published":1}"#),
        ("grid.a", json!(1), r#"{"published":1}"#),
        ("grid.a", json!("1"), r#"{"published":1}"#),
    ] {
        let event = json!({ "channel": channel, "event": "e", "id": id });
        assert_eq!(gateway.publish(&event.to_string()).body, body, "{event}");
    }
    let event = |id: u64| json!({ "channel": "grid.a", "event": "e", "id": id });
    let answer = gateway.publish(&json!([event(1), event(2), event(2), event(3)]).to_string());
    assert_eq!(answer.body, r#"{"published":2,"duplicates":[0,2]}"#);
    gateway.publish(r#"{"channel":"grid.end","event":"end"}"#);
    let mut events = 0;
    while client.json()["event"] != "end" {
        events += 1;
    }
    assert_eq!(events, 6);
}

#[test]
fn each_route_checks_its_access_rule() {
    let gateway = start(|_| {});
    let admin = gateway.token("boss", |grant| grant.role = Some("admin".into()));
    let publisher = gateway.token("p", |grant| {
        grant.publish = Some(vec![Pattern::parse("grid.*").expect("valid")])
    });
    let trader = gateway.trader("u1");
    const EVENT: &str = r#"{"channel":"grid.a","event":"e"}"#;
    // The bearer, the status of publishing to grid, the status of the statistics, and the code of a refusal.
    for (bearer, publish, stats, code) in [
        (None, 401, 401, "UNAUTHENTICATED"),
        (Some("wrong"), 401, 401, "TOKEN_INVALID"),
        (Some(""), 401, 401, "TOKEN_INVALID"),
        (Some(ADMIN_KEY), 200, 200, ""),
        (Some(admin.as_str()), 200, 200, ""),
        (Some(publisher.as_str()), 200, 403, "FORBIDDEN"),
        (Some(trader.as_str()), 403, 403, "FORBIDDEN"),
    ] {
        let answer = gateway.admin_as(bearer, "POST", "/api/publish", "", EVENT.as_bytes());
        assert_eq!(answer.status, publish, "{bearer:?}");
        let answer = gateway.admin_as(bearer, "GET", "/api/websocket/stats", "", b"");
        assert_eq!(answer.status, stats, "{bearer:?}");
        if stats != 200 {
            assert_eq!(answer.code(), code);
            assert_eq!(
                answer.head.to_lowercase().contains("www-authenticate: bearer"),
                stats == 401
            );
        }
        for (method, target) in [
            ("GET", "/api/websocket/clients"),
            ("DELETE", "/api/websocket/clients/x"),
            ("DELETE", "/api/users/u1/connections"),
            ("POST", "/api/websocket/broadcast/test"),
        ] {
            let answer = gateway.admin_as(bearer, method, target, "", b"");
            assert_eq!(
                answer.status < 300 || answer.status == 404,
                stats == 200,
                "{bearer:?} {target}: {answer:?}"
            );
        }
        for target in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(gateway.admin_as(bearer, "GET", target, "", b"").status, 200);
        }
    }
    let publish = |body: &str| gateway.admin_as(Some(&publisher), "POST", "/api/publish", "", body.as_bytes());
    let answer = publish(r#"{"channel":"market.a","event":"e"}"#);
    assert_eq!((answer.status, answer.code().as_str()), (403, "FORBIDDEN"));
    let answer = publish(&format!(r#"[{EVENT},{{"channel":"market.a","event":"e"}}]"#)).json();
    assert_eq!(
        (&answer["published"], &answer["errors"][0]["code"]),
        (&json!(1), &json!("FORBIDDEN"))
    );

    // The message for a mistyped admin key mentions the admin key, not only tokens.
    for (bearer, message) in [
        ("wrong", "this is neither the admin key nor a JSON Web Token"),
        ("a.b", "the token is no JSON Web Token in compact form"),
    ] {
        let answer = gateway.admin_as(Some(bearer), "GET", "/api/websocket/stats", "", b"");
        assert_eq!(answer.json()["error"]["message"], message, "{bearer}");
    }

    let open = start(|settings| settings.admin.key = None);
    assert_eq!(open.publish(EVENT).status, 401);
}

#[test]
fn wrong_paths_methods_and_queries_are_refused() {
    let gateway = start(|_| {});
    for (method, target, status, allow) in [
        ("GET", "/", 404, ""),
        ("GET", "/api/nothing", 404, ""),
        ("GET", "/ws", 404, ""),
        ("GET", "/api/publish", 405, "POST"),
        ("POST", "/api/websocket/stats", 405, "GET, HEAD"),
        ("POST", "/metrics", 405, "GET, HEAD"),
        ("DELETE", "/healthz", 405, "GET, HEAD"),
        ("GET", "/api/websocket/clients/x", 405, "DELETE"),
        ("GET", "/api/users/u1/connections", 405, "DELETE"),
        ("DELETE", "/api/websocket/clients/x", 404, ""),
        ("DELETE", "/api/websocket/clients/client_0123456789abcdef", 404, ""),
        ("DELETE", "/api/users/nobody/connections", 404, ""),
        ("GET", "/api/websocket/clients?limit=0", 400, ""),
        ("GET", "/api/websocket/clients?cursor=x", 400, ""),
    ] {
        let answer = gateway.admin(method, target, "");
        assert_eq!(answer.status, status, "{method} {target}");
        assert!(!answer.code().is_empty(), "{answer:?}");
        if !allow.is_empty() {
            assert!(
                answer
                    .head
                    .to_lowercase()
                    .contains(&format!("\r\nallow: {}\r\n", allow.to_lowercase())),
                "{answer:?}"
            );
        }
    }
}

#[test]
fn clients_are_listed_page_by_page_and_disconnected() {
    let gateway = start(|_| {});
    let mut clients: Vec<_> = (0..7)
        .map(|n| gateway.client(&gateway.trader(&format!("u{}", n % 2))))
        .collect();
    for client in &mut clients {
        client.subscribe(&["grid.*"]);
    }
    let mut listed = Vec::new();
    let mut cursor = String::new();
    let mut pages = 0;
    loop {
        let page = gateway
            .admin("GET", &format!("/api/websocket/clients?limit=2{cursor}"), "")
            .json();
        let found = page["clients"].as_array().expect("clients").clone();
        assert!(found.len() <= 2);
        listed.extend(found);
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert!((4..=6).contains(&pages), "{pages} pages");
    let mut ids: Vec<_> = listed
        .iter()
        .map(|client| client["client_id"].as_str().expect("an id").to_owned())
        .collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((listed.len(), ids.len()), (7, 7));
    for client in &listed {
        assert_eq!(client["subscriptions"], json!(["grid.*"]));
        assert_eq!(
            (&client["address"], &client["dialect"], &client["is_alive"]),
            (&json!("127.0.0.1"), &json!("native"), &json!(true))
        );
        assert_eq!((&client["pending"], &client["dropped"]), (&json!(0), &json!(0)));
        assert!(client["connected_at"].as_f64() > Some(1.7e9));
    }
    let of_user = gateway.admin("GET", "/api/websocket/clients?user=u1", "").json();
    assert_eq!(of_user["clients"].as_array().map(Vec::len), Some(3));

    // One client by its own id.
    clients[0].send(r#"{"type":"get_status"}"#);
    let id = clients[0].json()["client_id"].as_str().expect("an id").to_owned();
    assert!(ids.contains(&id));
    assert_eq!(
        gateway
            .admin("DELETE", &format!("/api/websocket/clients/{id}"), "")
            .status,
        204
    );
    assert_eq!(clients[0].receive(), Received::Close(4003));
    // All clients of one user.
    assert_eq!(gateway.admin("DELETE", "/api/users/u1/connections", "").status, 204);
    for n in [1, 3, 5] {
        assert_eq!(clients[n].receive(), Received::Close(4003));
    }
    drop(clients.remove(0));
    until("three are left", || {
        gateway.admin("GET", "/api/websocket/clients", "").json()["clients"]
            .as_array()
            .is_some_and(|clients| clients.iter().filter(|client| client["is_alive"] == true).count() == 3)
    });
}

#[test]
fn the_test_broadcast_reaches_authenticated_clients_only() {
    let gateway = start(|_| {});
    let mut subscribed = gateway.client(&gateway.trader("u1"));
    subscribed.subscribe(&["grid.*"]);
    let mut idle = gateway.client(&gateway.trader("u2"));
    idle.send(r#"{"type":"ping"}"#);
    assert_eq!(idle.json()["type"], "pong");
    let mut stranger = gateway::Client::open(connect(gateway.public), "/ws");
    stranger.send(r#"{"type":"ping"}"#);
    assert_eq!(stranger.json()["type"], "pong");

    let answer = gateway.admin("POST", "/api/websocket/broadcast/test", r#"{"message":"hello"}"#);
    assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"queued":2}"#));
    for client in [&mut subscribed, &mut idle] {
        let event = client.json();
        assert_eq!(
            (&event["type"], &event["channel"], &event["event"], &event["data"]),
            (
                &json!("event"),
                &json!("system.test"),
                &json!("test"),
                &json!({ "message": "hello" })
            )
        );
    }
    stranger.send(r#"{"type":"ping"}"#);
    assert_eq!(stranger.json()["type"], "pong", "the broadcast did not reach it");
    for body in ["[]", "x", r#"{"message":7}"#] {
        assert_eq!(gateway.admin("POST", "/api/websocket/broadcast/test", body).status, 400);
    }
}

#[test]
fn the_statistics_count_what_happened() {
    let gateway = start(|_| {});
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*", "market.*"]);
    let mut other = gateway.client(&gateway.trader("u2"));
    other.subscribe(&["grid.*"]);
    gateway.publish(r#"{"channel":"grid.a","event":"e"}"#);
    client.text();
    other.text();
    let mut stats = Value::Null;
    until("both messages counted", || {
        stats = gateway.admin("GET", "/api/websocket/stats", "").json();
        stats["total_messages"].as_u64() >= Some(4)
    });
    for (pointer, value) in [
        ("/active_connections", json!(2)),
        ("/total_connections", json!(2)),
        ("/subscriptions/grid.*", json!(2)),
        ("/subscriptions/market.*", json!(1)),
        ("/subscriptions_total", json!(3)),
        ("/is_running", json!(true)),
        ("/events/published", json!(1)),
        ("/queues/pending_frames", json!(0)),
        ("/dropped", json!(0)),
        ("/endings/4008", json!(0)),
        ("/node", json!("test")),
    ] {
        assert_eq!(stats.pointer(pointer), Some(&value), "{pointer}: {stats}");
    }
    assert_eq!(stats["shards"].as_array().map(Vec::len), Some(2));
}

/// One metric of the page: its type, its help text and the label names of its samples.
#[derive(Debug, Default, PartialEq)]
struct Metric {
    kind: String,
    help: String,
    labels: Vec<String>,
}

/// The metrics of a page, in order. Each must have a help text, a type and then a sample.
fn metrics_of(page: &str) -> Vec<(String, Metric)> {
    let mut metrics: Vec<(String, Metric)> = Vec::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let help = help.to_owned();
            metrics.push((
                name.to_owned(),
                Metric {
                    help,
                    ..Metric::default()
                },
            ));
            continue;
        }
        let (name, metric) = metrics.last_mut().expect("a help text first");
        if let Some((of, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert_eq!((of, metric.kind.as_str()), (name.as_str(), ""), "{line}");
            metric.kind = kind.to_owned();
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        value.parse::<f64>().unwrap_or_else(|_| panic!("not a number: {line}"));
        let (of, labels) = sample.split_once('{').unwrap_or((sample, ""));
        assert_eq!(of, name, "{line}");
        // Label values of this test contain neither commas nor quotes.
        let labels = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty());
        metric.labels = labels
            .map(|label| label.split('=').next().expect("a name").to_owned())
            .collect();
    }
    metrics
}

#[test]
fn the_metrics_page_and_its_documentation_agree() {
    // A command backend and a feed, so that every metric has a sample.
    let gateway = start(|settings| {
        let url = BackendUrl::parse("http://127.0.0.1:9/commands").expect("a URL");
        let target = Target::Http(HttpSettings { url, hmac_secret: None });
        settings.commands.routes = vec![RouteSettings::new(Pattern::parse("*").expect("valid"), target)];
        settings.feeds.feeds = vec![FeedSettings {
            channel: "system.clock".parse().expect("a channel"),
            event: "tick".into(),
            source: SourceSettings::Http("http://127.0.0.1:9/clock".parse().expect("a URL")),
            publish: PublishMode::Everything,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        }];
    });
    let page = gateway.admin_as(None, "GET", "/metrics", "", b"");
    assert!(
        page.head.contains("content-type: text/plain; version=0.0.4"),
        "{}",
        page.head
    );
    let metrics = metrics_of(&page.body);
    let mut names: Vec<_> = metrics.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), metrics.len(), "each metric occurs once");

    // A row is `name{labels}`, the type, and a meaning that begins with the help text.
    let mut wrong = Vec::new();
    let (_, table) = include_str!("../docs/metrics.md")
        .split_once("| metric | kind | meaning |\n|---|---|---|\n")
        .expect("the table of metrics");
    let mut rows = table
        .lines()
        .map_while(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    for (name, metric) in &metrics {
        let labels = metric.labels.join(", ");
        let labels = if labels.is_empty() {
            labels
        } else {
            format!("{{{labels}}}")
        };
        let wanted = format!("{name}{labels}` | {} | {}", metric.kind, metric.help);
        match rows.next() {
            Some(row) if row.starts_with(&wanted) => {}
            row => wrong.push(format!("wanted: {wanted}\n   row: {row:?}")),
        }
    }
    wrong.extend(rows.map(|row| format!("no such metric: {row}")));
    assert!(wrong.is_empty(), "docs/metrics.md:\n{}", wrong.join("\n"));
}

#[test]
fn connections_are_kept_and_pipelined_requests_answered_in_order() {
    let gateway = start(|_| {});
    let mut stream = connect(gateway.admin);
    let request = |n: u32| {
        let body = format!(r#"{{"channel":"grid.a","event":"e","data":{n}}}"#);
        format!(
            "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    let all: String = (0..50).map(request).collect();
    stream.write_all(all.as_bytes()).expect("sent");
    for n in 0..50 {
        assert_eq!(answer_of(&mut stream), 200);
        assert_eq!(client.json()["data"], n);
    }
}
