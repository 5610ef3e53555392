//! Clients that end their side of the connection behind a whole request, as `nc -N` and many short scripts do.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::harness::{ADMIN_KEY, Gateway, until};

const PUBLISHES: usize = 200;

/// Sends `request` and ends this side. Returns the response.
fn ask_and_shut_down(address: SocketAddr, request: &str) -> String {
    let mut stream = send(address, request);
    stream.shutdown(Shutdown::Write).expect("shut down");
    let mut response = String::new();
    stream.read_to_string(&mut response).expect("a response");
    response
}

fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

fn publish(number: usize) -> String {
    let body = format!(r#"{{"channel":"grid.a.order","event":"filled","data":{number}}}"#);
    format!(
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ADMIN_KEY}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn published(gateway: &Gateway) -> u64 {
    let (_, metrics) = gateway.metrics().await;
    let name = "tickgate_admin_published_total ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    line.expect("the metric").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_answered_when_its_client_ends_its_side() {
    let gateway = Gateway::start("", "").await;
    for _ in 0..20 {
        for (address, path, status) in [
            (gateway.public, "/readyz", "200"),
            (gateway.public, "/healthz", "200"),
            (gateway.public, "/nothing", "404"),
            (gateway.public, "/ws", "426"),
            (gateway.admin, "/api/websocket/stats", "401"),
            (gateway.admin, "/readyz", "200"),
        ] {
            let response = ask_and_shut_down(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
            assert!(
                response.starts_with(&format!("HTTP/1.1 {status} ")),
                "{path}: {response:.200}"
            );
        }
    }
    for number in 0..PUBLISHES {
        let response = ask_and_shut_down(gateway.admin, &publish(number));
        let (_, body) = response.split_once("\r\n\r\n").expect("a whole response");
        let body: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["published"], 1, "{response}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_published_when_its_client_closes_the_connection() {
    let gateway = Gateway::start("", "").await;
    for number in 0..PUBLISHES {
        drop(send(gateway.admin, &publish(number)));
    }
    until("all events", async || {
        (published(&gateway).await == PUBLISHES as u64).then_some(())
    })
    .await;
}
