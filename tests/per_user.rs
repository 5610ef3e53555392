//! The limit of connections per user: a new connection is refused, or takes the place of a dead or of the oldest one.

#[path = "support/gateway.rs"]
mod gateway;

use std::net::TcpStream;
use std::thread;

use gateway::{Client, Received, Running, connect, start, until};
use serde_json::json;
use tickgate::ingress::PerUserOverflow;

fn gateway(max: u32) -> Running {
    start(|settings| {
        settings.ingress.max_connections_per_user = max;
        settings.ingress.per_user_overflow = PerUserOverflow::Oldest;
    })
}

/// Sends a sign of life whenever the gateway asks for one, until the connection is closed; returns the code.
fn live(mut client: Client<TcpStream>) -> Option<u16> {
    loop {
        match client.frame() {
            Received::Close(code) => return Some(code),
            Received::End => return None,
            Received::Other(0x89) => client.send(r#"{"type":"pong"}"#),
            Received::Text(_) | Received::Other(_) => {}
        }
    }
}

fn connections(gateway: &Running, user: &str) -> usize {
    let target = format!("/api/websocket/clients?user={user}");
    let clients = gateway.admin("GET", &target, "").json();
    let clients = clients["clients"].as_array().expect("a list").clone();
    clients.iter().filter(|client| client["is_alive"] == true).count()
}

#[test]
fn the_newest_connection_displaces_the_oldest_that_is_alive() {
    let gateway = gateway(1);
    let token = gateway.trader("u1");
    let oldest = gateway.client(&token);
    let oldest = thread::spawn(move || live(oldest));
    let mut newest = gateway.client(&token);
    assert_eq!(oldest.join().expect("ended"), Some(4005));
    newest.subscribe(&["grid.*"]);
    assert_eq!(connections(&gateway, "u1"), 1);
    let endings = gateway.admin("GET", "/api/websocket/stats", "").json()["endings"].clone();
    assert_eq!((&endings["4005"], &endings["4009"]), (&json!(1), &json!(0)));
}

#[test]
fn a_dead_connection_makes_room_and_the_oldest_that_is_alive_stays() {
    let gateway = gateway(2);
    let token = gateway.trader("u1");
    let oldest = gateway.client(&token);
    let oldest = thread::spawn(move || live(oldest));
    // One that never answers, and authenticates by a message as the newest does.
    let by_message = || {
        let mut client = Client::open(connect(gateway.public), "/ws");
        client.send(&json!({ "type": "auth", "token": token }).to_string());
        assert_eq!(client.json()["success"], true);
        client
    };
    let mut dead = by_message();
    let _newest = by_message();
    assert_eq!(dead.close_code(), Some(4009));
    until("two are left", || connections(&gateway, "u1") == 2);
    let endings = gateway.admin("GET", "/api/websocket/stats", "").json()["endings"].clone();
    assert_eq!((&endings["4005"], &endings["4009"]), (&json!(0), &json!(1)));
    assert!(!oldest.is_finished());
    drop(gateway);
}

#[test]
fn a_user_has_at_most_twice_the_limit_of_connections_while_the_others_are_asked() {
    let gateway = gateway(1);
    let token = gateway.trader("u1");
    let _first = gateway.client(&token);
    let _second = gateway.client(&token);
    let mut third = connect(gateway.public);
    let target = format!("/ws?token={token}");
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    std::io::Write::write_all(&mut third, request.as_bytes()).expect("sent");
    let answer = gateway::answer(&mut third);
    assert_eq!((answer.status, answer.code().as_str()), (429, "RATE_LIMITED"));
}
