//! The console's sessions, its WebSocket, and what it shows of clients that have trouble or have left.

use std::io::Write as _;
use std::net::TcpStream;

use serde_json::{Value, json};

use super::gateway::{ADMIN_KEY, Answer, Client, Received, Running, VIEWER_KEY, answer, connect, start, until};

/// The host that requests of these tests name, and the origin of its pages.
const ORIGIN: &str = "Origin: http://x\r\n";

fn sign_in(gateway: &Running, key: &str, headers: &str) -> Answer {
    let body = json!({ "key": key }).to_string();
    gateway.admin_as(None, "POST", "/api/session", headers, body.as_bytes())
}

/// The header by which a browser that has signed in names its session.
fn cookie(gateway: &Running, key: &str) -> String {
    let answer = sign_in(gateway, key, ORIGIN);
    assert_eq!(answer.status, 200, "{answer:?}");
    let set = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
    let set = set.expect("a cookie");
    for attribute in ["; HttpOnly", "; SameSite=Strict", "; Path=/", "; Max-Age=43200"] {
        assert!(set.contains(attribute), "{set}");
    }
    assert!(!set.contains("Secure"), "plain HTTP: {set}");
    format!("Cookie: {}\r\n", set.split(';').next().expect("a pair"))
}

/// The answer to a WebSocket handshake of the console, and the connection.
fn handshake(gateway: &Running, headers: &str) -> (Answer, TcpStream) {
    let mut stream = connect(gateway.admin);
    let request = format!(
        "GET /console/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{headers}\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    (answer(&mut stream), stream)
}

#[test]
fn a_session_of_the_console_has_the_rights_of_its_key_and_ends_at_sign_out() {
    let gateway = start(|_| {});
    for (key, role) in [(ADMIN_KEY, "operator"), (VIEWER_KEY, "viewer")] {
        let cookie = cookie(&gateway, key);
        let ask = |method: &str, target: &str, headers: &str| {
            gateway.admin_as(None, method, target, &format!("{cookie}{headers}"), b"")
        };
        let who = ask("GET", "/api/session", "").json();
        assert_eq!((&who["role"], &who["node"]), (&json!(role), &json!("test")));
        assert_eq!(ask("GET", "/api/overview", "").status, 200);
        // With the page's origin an operator finds no such client; a viewer may not even ask.
        let expected = if role == "operator" { 404 } else { 403 };
        assert_eq!(ask("DELETE", "/api/websocket/clients/x", ORIGIN).status, expected);
        assert_eq!(ask("DELETE", "/api/session", ORIGIN).status, 204);
        assert_eq!(ask("GET", "/api/overview", "").code(), "UNAUTHENTICATED");
    }
    let admin = gateway.token("boss", |grant| grant.role = Some("admin".into()));
    let cookie = cookie(&gateway, &admin);
    let who = gateway.admin_as(None, "GET", "/api/session", &cookie, b"").json();
    assert_eq!((&who["role"], &who["user"]), (&json!("operator"), &json!("boss")));
    for (key, status) in [("wrong", 401), ("", 401), (&gateway.trader("u1"), 403)] {
        assert_eq!(sign_in(&gateway, key, ORIGIN).status, status, "{key}");
    }
}

#[test]
fn pages_of_other_origins_cannot_use_the_session_of_the_console() {
    let gateway = start(|_| {});
    let cookie = cookie(&gateway, ADMIN_KEY);
    for origin in [
        "",
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: http://x:81\r\n",
    ] {
        assert_eq!(sign_in(&gateway, ADMIN_KEY, origin).status, 403, "{origin}");
        let headers = format!("{cookie}{origin}");
        for (method, target) in [
            ("DELETE", "/api/websocket/clients/x"),
            ("POST", "/api/publish"),
            ("POST", "/api/websocket/broadcast/test"),
            ("DELETE", "/api/session"),
        ] {
            let answer = gateway.admin_as(None, method, target, &headers, b"");
            assert_eq!(answer.status, 403, "{origin} {target}: {answer:?}");
        }
        assert_eq!(handshake(&gateway, &headers).0.status, 403, "{origin}");
    }
    assert_eq!(gateway.admin_as(None, "GET", "/api/overview", &cookie, b"").status, 200);
}

#[test]
fn the_console_gets_the_reports_of_the_gateway_over_its_own_websocket() {
    let gateway = start(|_| {});
    assert_eq!(handshake(&gateway, ORIGIN).0.code(), "UNAUTHENTICATED");
    let plain = gateway.admin_as(None, "GET", "/console/ws", ORIGIN, b"");
    assert_eq!(plain.status, 426);
    for (key, other) in [(ADMIN_KEY, "subscribed"), (VIEWER_KEY, "FORBIDDEN")] {
        let (answer, stream) = handshake(&gateway, &format!("{}{ORIGIN}", cookie(&gateway, key)));
        assert_eq!(answer.status, 101, "{answer:?}");
        let mut client = Client { stream };
        client.send(r#"{"type":"subscribe","channels":["system.gateway.*"]}"#);
        while client.json()["type"] != "subscribed" {}
        client.send(r#"{"type":"subscribe","channels":["grid.*"]}"#);
        let mut text = client.text();
        while !text.contains("subscribed") && !text.contains("error") {
            text = client.text();
        }
        assert!(text.contains(other), "{key}: {text}");
        client.send(r#"{"type":"publish","channel":"grid.a","event":"e","id":"1"}"#);
        while !text.contains("\"1\"") {
            text = client.text();
        }
        assert_eq!(text.contains("FORBIDDEN"), key == VIEWER_KEY, "{text}");
        let report = loop {
            let message = client.json();
            if message["channel"] == "system.gateway.test" {
                break message;
            }
        };
        assert_eq!(report["data"]["node"], "test");
    }
}

#[test]
fn the_overview_and_the_load_tell_of_this_gateway() {
    let gateway = start(|_| {});
    let overview = gateway.admin("GET", "/api/overview", "").json();
    assert_eq!(
        (&overview["node"], &overview["status"]),
        (&json!("test"), &json!("ok")),
        "{overview}"
    );
    until("the first window", || {
        let load = gateway.admin("GET", "/api/load", "").json();
        load["times"].as_array().is_some_and(|times| !times.is_empty())
    });
    let load = gateway.admin("GET", "/api/load", "").json();
    let points = load["times"].as_array().expect("a list").len();
    for series in load["series"].as_object().expect("series").values() {
        assert_eq!(series.as_array().expect("a list").len(), points);
    }
    assert_eq!(load["shards"].as_array().expect("shards").len(), 2);
    let newest = load["times"][points - 1].as_u64().expect("a time");
    let later = gateway.admin("GET", &format!("/api/load?since={newest}"), "").json();
    assert!(later["times"].as_array().expect("a list").len() <= 1, "{later}");
    assert_eq!(gateway.admin("GET", "/api/load?since=x", "").status, 400);
}

#[test]
fn operators_see_why_clients_left_and_who_sends_too_fast() {
    let gateway = start(|_| {});
    let mut fast = gateway.client(&gateway.trader("fast"));
    for _ in 0..150 {
        fast.send(r#"{"type":"ping"}"#);
    }
    let limited = || {
        gateway
            .admin("GET", "/api/websocket/clients?sort=rate_limited", "")
            .json()
    };
    until("a refused message", || {
        limited()["clients"][0]["rate_limited"].as_u64() > Some(0)
    });
    let answer = limited();
    assert_eq!(answer["clients"][0]["user"], "fast", "{answer}");
    assert_eq!(answer["clients"].as_array().expect("a list").len(), 1);
    for sort in ["pending", "waiting", "dropped"] {
        let answer = gateway.admin("GET", &format!("/api/websocket/clients?sort={sort}"), "");
        assert_eq!((answer.status, &answer.json()["clients"]), (200, &json!([])), "{sort}");
    }

    assert_eq!(gateway.admin("DELETE", "/api/users/fast/connections", "").status, 204);
    while !matches!(fast.receive(), Received::Close(_) | Received::End) {}
    drop(gateway.client(&gateway.trader("gone")));
    let endings = |query: &str| gateway.admin("GET", &format!("/api/endings?{query}"), "").json();
    until("both endings", || {
        endings("")["recent"].as_array().map(Vec::len) == Some(2)
    });
    let by_user = |user: &str| endings(&format!("user={user}"))["recent"][0].clone();
    let fast = by_user("fast");
    assert_eq!(
        (&fast["code"], &fast["blame"]),
        (&json!(4003), &json!("operator")),
        "{fast}"
    );
    assert_eq!(by_user("gone")["code"], 1006);
    assert_eq!(by_user("nobody"), Value::Null);
    assert_eq!(endings("code=4003")["recent"].as_array().map(Vec::len), Some(1));
    assert_eq!(endings("blame=client")["recent"][0]["user"], "gone");
    let counts = endings("")["counts"].clone();
    let of = |code: u64| {
        let found = counts
            .as_array()
            .expect("a list")
            .iter()
            .find(|count| count["code"] == code);
        found.expect("a code")["count"].clone()
    };
    assert_eq!((of(4003), of(1006), of(4008)), (json!(1), json!(1), json!(0)));
}

#[test]
fn the_page_is_served_with_a_strict_policy() {
    let gateway = start(|_| {});
    for (path, kind) in [
        ("/console/", "text/html"),
        ("/console/app.js", "text/javascript"),
        ("/console/client.js", "text/javascript"),
        ("/console/style.css", "text/css"),
    ] {
        let answer = gateway.admin_as(None, "GET", path, "", b"");
        assert_eq!(answer.status, 200, "{path}");
        for part in [
            kind,
            "content-security-policy: default-src 'none'; script-src 'self'",
            "nosniff",
        ] {
            assert!(answer.head.contains(part), "{path}: {}", answer.head);
        }
    }
    for path in ["/", "/console"] {
        let answer = gateway.admin_as(None, "GET", path, "", b"");
        assert_eq!(answer.status, 302);
        assert!(answer.head.contains("location: console/"), "{}", answer.head);
    }
    assert_eq!(
        gateway.admin_as(None, "GET", "/console/nothing.js", "", b"").status,
        404
    );
}
