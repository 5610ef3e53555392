//! A gateway's beginning and end.

#[path = "support/gateway.rs"]
mod gateway;

use std::io::Write;
use std::os::unix::net::UnixStream;

use gateway::{Client, PATIENCE, answer, connect, start, until};
use serde_json::json;
use tickgate::door::ListenAddress;
use tickgate::gateway::{Error, Gateway};

#[test]
fn a_drain_tells_everybody_and_closes_cleanly() {
    let running = start(|settings| settings.drain_ms = 1_000);
    let mut clients: Vec<_> = (0..20)
        .map(|n| running.client(&running.trader(&format!("u{n}"))))
        .collect();
    for client in &mut clients {
        client.subscribe(&["grid.*"]);
    }
    assert_eq!(running.admin("GET", "/readyz", "").status, 200);
    running.gateway.handle().drain();
    running.gateway.handle().drain();
    let not_ready = running.admin("GET", "/readyz", "");
    assert_eq!((not_ready.status, not_ready.code().as_str()), (503, "NOT_READY"));
    assert_eq!(running.admin("GET", "/healthz", "").status, 200);
    assert_eq!(
        running.admin("GET", "/api/websocket/stats", "").json()["is_running"],
        json!(false)
    );
    // The public listener still answers, so that a proxy goes elsewhere at once.
    let mut stream = connect(running.public);
    let request = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("sent");
    let refused = answer(&mut stream);
    assert_eq!((refused.status, refused.code().as_str()), (503, "DRAINING"));
    assert!(refused.head.to_lowercase().contains("\r\nretry-after: "), "{refused:?}");

    let ended = std::thread::spawn(move || running.gateway.wait());
    for client in &mut clients {
        let told = client.json();
        assert_eq!(
            (&told["type"], &told["data"]["reason"]),
            (&json!("going_away"), &json!("restart"))
        );
        assert_eq!(client.close_code(), Some(1012));
    }
    // Only now do they answer with their own Close.
    drop(clients);
    ended.join().expect("joined").expect("a clean end");
}

#[test]
fn several_gateways_live_side_by_side_and_end_alone() {
    let (first, second) = (start(|_| {}), start(|_| {}));
    let mut client = second.client(&second.trader("u1"));
    client.subscribe(&["grid.*"]);
    first.gateway.stop().expect("a clean end");
    assert!(
        std::net::TcpStream::connect(first.public).is_err(),
        "its listener is closed"
    );
    assert!(std::net::TcpStream::connect(first.admin).is_err());
    second.publish(r#"{"channel":"grid.a","event":"e","data":1}"#);
    assert_eq!(client.json()["data"], 1);
    // Dropped without a word: it ends all the same, and tells its clients.
    drop(second);
    assert!(matches!(client.close_code(), Some(1001 | 1012)));
}

#[test]
fn it_serves_unix_sockets_and_removes_them() {
    let directory = tempfile::tempdir().expect("a directory");
    let (public, admin) = (
        directory.path().join("public.sock"),
        directory.path().join("admin.sock"),
    );
    let mut settings = gateway::settings();
    settings.door.listen = vec![ListenAddress::Unix(public.clone())];
    settings.admin.listen = ListenAddress::Unix(admin.clone());
    let gateway = Gateway::start(settings).expect("started");
    let stream = UnixStream::connect(&public).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    let mut client = Client::open(stream, "/echo");
    client.send("hello");
    assert_eq!(client.text(), "hello");
    let mut stream = UnixStream::connect(&admin).expect("connected");
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
        .expect("sent");
    assert_eq!(answer(&mut stream).status, 200);
    gateway.stop().expect("a clean end");
    assert!(!public.exists() && !admin.exists());
}

#[test]
fn a_gateway_that_cannot_start_says_why_and_leaves_nothing() {
    let running = start(|_| {});
    let taken = ListenAddress::Tcp(running.public);
    let mut settings = gateway::settings();
    settings.door.listen.push(taken.clone());
    match Gateway::start(settings) {
        Err(Error::Listen { address, .. }) => assert_eq!(address, taken),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("the port is taken"),
    }
    let mut settings = gateway::settings();
    settings.node = "two.segments".into();
    assert!(matches!(Gateway::start(settings), Err(Error::Node(_))));
}

#[test]
fn places_come_back_when_connections_end() {
    let running = start(|settings| settings.door.max_connections = 2);
    let token = running.trader("u1");
    let (first, _second) = (running.client(&token), running.client(&token));
    let request = format!(
        "GET /ws?token={token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let status = || {
        let mut stream = connect(running.public);
        stream.write_all(request.as_bytes()).expect("sent");
        answer(&mut stream).status
    };
    assert_eq!(status(), 503);
    drop(first);
    until("a place", || status() == 101);
}

#[test]
fn a_user_has_so_many_connections_however_it_authenticates() {
    let running = start(|settings| settings.door.max_connections_per_user = 1);
    let token = running.trader("u1");
    let _first = running.client(&token);
    let mut second = Client::open(connect(running.public), "/ws");
    second.send(&json!({ "type": "auth", "token": token }).to_string());
    let answer = second.receive();
    let told = matches!(&answer, gateway::Received::Text(text) if text.contains(r#""success":false"#));
    assert!(told || matches!(answer, gateway::Received::Close(_)), "{answer:?}");
    let mut third = Client::open(connect(running.public), "/ws");
    third.send(&json!({ "type": "auth", "token": running.trader("u2") }).to_string());
    assert_eq!(third.json()["success"], true);
}
