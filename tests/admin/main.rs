//! The admin API of a real gateway, over real sockets: access, clients and statistics. The other modules test publishing and
//! the metrics.

mod console;
#[path = "../support/gateway.rs"]
mod gateway;
mod metrics;
mod monitoring;
mod operate;
mod publish;

use gateway::{ADMIN_KEY, Received, VIEWER_KEY, connect, start, until};
use serde_json::{Value, json};
use tickgate_protocol::channel::Pattern;

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
        (Some(""), 401, 401, "UNAUTHENTICATED"),
        (Some(ADMIN_KEY), 200, 200, ""),
        (Some(admin.as_str()), 200, 200, ""),
        (Some(publisher.as_str()), 200, 403, "FORBIDDEN"),
        (Some(trader.as_str()), 403, 403, "FORBIDDEN"),
        (Some(VIEWER_KEY), 403, 200, ""),
    ] {
        let acts = stats == 200 && bearer != Some(VIEWER_KEY);
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
        for (method, target, needs_operator) in [
            ("GET", "/api/websocket/clients", false),
            ("GET", "/api/overview", false),
            ("GET", "/api/load", false),
            ("GET", "/api/endings", false),
            ("GET", "/api/session", false),
            ("GET", "/api/config", false),
            ("GET", "/api/users/u1", false),
            ("GET", "/api/channels", false),
            ("GET", "/api/channels/a", false),
            ("GET", "/api/traces/trace_9", false),
            ("DELETE", "/api/traces/trace_9", true),
            ("POST", "/api/channels/a/test", true),
            ("GET", "/api/channels/a/history", true),
            ("DELETE", "/api/websocket/clients/x", true),
            ("DELETE", "/api/users/u1/connections", true),
            ("POST", "/api/websocket/broadcast/test", true),
            ("GET", "/api/log", true),
        ] {
            let answer = gateway.admin_as(bearer, method, target, "", b"");
            assert_eq!(
                answer.status < 300 || answer.status == 404,
                if needs_operator { acts } else { stats == 200 },
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
        ("a.b", "the token is not a JSON Web Token in compact form"),
    ] {
        let answer = gateway.admin_as(Some(bearer), "GET", "/api/websocket/stats", "", b"");
        assert_eq!(answer.json()["error"]["message"], message, "{bearer}");
    }

    // A proxy could check the one and the gateway the other.
    for second in [ADMIN_KEY, "wrong"] {
        let second = format!("Authorization: Bearer {second}\r\n");
        let answer = gateway.admin_as(Some(ADMIN_KEY), "POST", "/api/publish", &second, EVENT.as_bytes());
        assert_eq!((answer.status, answer.code().as_str()), (400, "INVALID_MESSAGE"));
    }
    let metrics = gateway.admin("GET", "/metrics", "").body;
    assert!(
        metrics.contains("\ntickgate_admin_credentials_refused_total 2\n"),
        "{metrics}"
    );

    let open = start(|settings| settings.admin.key = None);
    assert_eq!(open.publish(EVENT).status, 401);
}

#[test]
fn wrong_paths_methods_and_queries_are_refused() {
    let gateway = start(|_| {});
    for (method, target, status, allow) in [
        ("GET", "/api/nothing", 404, ""),
        ("GET", "/ws", 404, ""),
        ("GET", "/api/publish", 405, "POST"),
        ("POST", "/api/websocket/stats", 405, "GET, HEAD"),
        ("POST", "/metrics", 405, "GET, HEAD"),
        ("DELETE", "/api/log", 405, "GET, HEAD, PUT"),
        ("GET", "/api/log?level=debug", 400, ""),
        ("DELETE", "/healthz", 405, "GET, HEAD, OPTIONS"),
        ("GET", "/api/websocket/clients/x", 405, "DELETE"),
        ("GET", "/api/users/u1/connections", 405, "DELETE"),
        ("GET", "/api/users/nobody", 200, ""),
        ("GET", "/api/users/nobody/explain", 400, ""),
        ("GET", "/api/users/nobody/explain?subscribe=a", 404, ""),
        ("GET", "/api/channels?limit=0", 400, ""),
        ("GET", "/api/channels?pattern=a..b", 400, ""),
        ("GET", "/api/channels?cursor=x", 400, ""),
        ("GET", "/api/channels?sort=bytes", 400, ""),
        ("GET", "/api/traces/trace_1", 404, ""),
        ("POST", "/api/traces", 400, ""),
        ("PUT", "/api/traces/trace_1", 405, "GET, HEAD, DELETE"),
        ("DELETE", "/api/websocket/clients/x", 404, ""),
        ("DELETE", "/api/websocket/clients/client_0123456789abcdef", 404, ""),
        ("DELETE", "/api/users/nobody/connections", 404, ""),
        ("GET", "/api/websocket/clients?limit=0", 400, ""),
        ("GET", "/api/websocket/clients?cursor=x", 400, ""),
        ("GET", "/api/websocket/clients?limit=&cursor=&user=", 200, ""),
        ("GET", "/api/websocket/clients?sort=-dropped", 400, ""),
        ("GET", "/api/websocket/clients?limit=1&limit=1", 400, ""),
        ("GET", "/api/websocket/stats?x", 400, ""),
        ("POST", "/api/publish?x=1", 400, ""),
        ("POST", "/api/websocket/broadcast/test?x=1", 400, ""),
        ("POST", "/api/websocket/push/prices?strategies=a", 400, ""),
        ("DELETE", "/api/websocket/clients/x?x=1", 400, ""),
        ("DELETE", "/api/users/nobody/connections?x=1", 400, ""),
        ("GET", "/api/channels/a?history=1", 400, ""),
        ("GET", "/api/channels/a/history?from=1", 400, ""),
        ("DELETE", "/api/channels/a?x=1", 400, ""),
        ("POST", "/api/channels/a", 405, "GET, HEAD, DELETE"),
        // Probes may add parameters.
        ("GET", "/healthz?x=1", 200, ""),
        ("GET", "/metrics?x=1", 200, ""),
    ] {
        let answer = gateway.admin(method, target, "");
        assert_eq!(answer.status, status, "{method} {target}");
        if status == 200 {
            continue;
        }
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
fn an_unknown_query_parameter_is_named_with_the_known_ones() {
    let gateway = start(|_| {});
    let answer = gateway.admin("GET", "/api/websocket/clients?limit=5&order=-dropped", "");
    assert_eq!(
        answer.json()["error"]["message"],
        "unknown query parameter `order` (known here: limit, cursor, user, search, sort, tenant)"
    );
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
