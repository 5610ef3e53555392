//! Every close code, as a real client receives it.
//!
//! The codes 1002, 1007, 1008, 1009 and 4029 are in `hostile`, and 1001 and 1012 in `drain`. 1011 stands for a fault of the
//! gateway itself and cannot be caused from outside.

use std::time::Duration;

use fastwebsockets::{CloseCode, Frame, Payload};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::clients::{Told, masked, text};
use crate::harness::{Gateway, token, trader, until, within};

fn closed(code: u16, reason: &str) -> Told {
    Told::Closed(code, reason.to_owned())
}

#[tokio::test]
async fn a_client_that_closes_is_answered_with_its_own_code() {
    let gateway = Gateway::start("", "").await;
    let mut client = gateway.connect(&trader()).await;
    client
        .send_frame(Frame::close(CloseCode::Normal.into(), b"bye"))
        .await
        .expect("sent");
    assert!(matches!(client.next().await, Told::Closed(1000, _)));
}

#[tokio::test]
async fn binary_on_a_text_dialect_is_1003() {
    let gateway = Gateway::start("", "").await;
    let mut client = gateway.connect(&trader()).await;
    client
        .send_frame(Frame::binary(Payload::Borrowed(b"\x01")))
        .await
        .expect("sent");
    assert_eq!(client.next().await, closed(1003, "binary messages are not supported"));
}

#[tokio::test]
async fn a_message_above_the_limit_is_1009_and_one_at_the_limit_is_not() {
    let gateway = Gateway::start("", "[limits]\nmessage_bytes = 200").await;
    let mut client = gateway.connect_bare(&format!("/ws?token={}", trader())).await;
    let mut fits = json!({"type": "get_status"}).to_string();
    fits.push_str(&" ".repeat(200 - fits.len()));
    client.send(&masked(true, 1, fits.as_bytes())).await.expect("sent");
    client
        .send(&masked(true, 1, format!("{fits} ").as_bytes()))
        .await
        .expect("sent");
    let (messages, end) = client.rest().await;
    assert_eq!(end, closed(1009, "message too big"));
    assert_eq!(messages.len(), 1, "{messages:?}");
}

#[tokio::test]
async fn long_echoed_messages_do_not_end_the_connection() {
    const BYTES: usize = 16 << 20;
    const MESSAGES: usize = 4;
    // A busy machine takes longer than the usual time between two pings.
    let echo = "[[endpoint]]\npath = \"/echo\"\ndialect = \"echo\"\nanonymous = true\nmessage_bytes = 33554432\n\
                [heartbeat]\ninterval = \"10m\"\ntimeout = \"20m\"";
    let gateway = Gateway::start("shards = 1", echo).await;
    let (mut reading, mut writing) = gateway.connect_bare("/echo").await.into_stream().0.into_split();
    // All messages are sent before the first reply is read.
    let sending = tokio::spawn(async move {
        for number in 0..MESSAGES {
            let message = masked(true, 2, &vec![u8::try_from(number).expect("few"); BYTES]);
            writing.write_all(&message).await.expect("taken");
        }
        writing
    });
    for number in 0..MESSAGES {
        let mut header = [0; 10];
        within("an echo", reading.read_exact(&mut header)).await.expect("read");
        assert_eq!((header[0], header[1]), (0x82, 127), "message {number}");
        let mut payload = vec![0; BYTES];
        within("an echo", reading.read_exact(&mut payload)).await.expect("read");
        assert!(payload.iter().all(|byte| usize::from(*byte) == number));
    }
    sending.await.expect("sent");
}

#[tokio::test]
async fn half_sent_messages_over_the_gateways_budget_are_1013() {
    let echo = "[[endpoint]]\npath = \"/echo\"\ndialect = \"echo\"\nanonymous = true\nmessage_bytes = 100000000";
    let gateway = Gateway::start("shards = 1", echo).await;
    // Three times 24 MiB are more than the 64 MiB that a shard allows for incomplete messages.
    let part = masked(false, 2, &vec![0; 24 << 20]);
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect_bare("/echo").await;
        // The last client may be closed before its part is complete.
        let _ = client.send(&part).await;
        clients.push(client);
    }
    until("the end of a connection", async || {
        let (_, metrics) = gateway.metrics().await;
        let is_counted = |line: &str| line.starts_with("tickgate_endings_total{code=\"1013\"") && !line.ends_with(" 0");
        metrics.lines().any(is_counted).then_some(())
    })
    .await;
    let mut ended = 0;
    for client in &mut clients {
        if let Some((_, end)) = client.ended_within(Duration::from_secs(1)).await {
            assert_eq!(end, closed(1013, "gateway overloaded"));
            ended += 1;
        }
    }
    assert_eq!(ended, 1, "only as many as must go");
}

#[tokio::test]
async fn an_expiring_token_is_announced_and_then_closed_with_4001() {
    let gateway = Gateway::start("", "[auth]\nleeway = \"0s\"").await;
    let mut client = gateway.connect(&token("u1", "trader", Duration::from_secs(3))).await;
    let warning = client.expect("auth_expiring").await;
    assert!(warning["data"]["expires_at"].is_u64(), "{warning}");
    assert_eq!(client.next().await, closed(4001, "token expired"));
}

#[tokio::test]
async fn a_client_that_does_not_authenticate_in_time_is_closed_with_4002() {
    // Enough for the first message, however busy the machine is.
    let gateway = Gateway::start("", "[auth]\ntimeout = \"3s\"").await;
    let mut client = gateway.connect_to("/ws").await.expect("upgraded");
    client
        .send(&json!({"type": "subscribe", "channels": ["grid.*"], "id": 1}))
        .await;
    let refused = client.expect("error").await;
    assert_eq!(
        (&refused["error"]["code"], &refused["id"]),
        (&json!("UNAUTHENTICATED"), &json!(1))
    );
    assert_eq!(client.next().await, closed(4002, "authentication timeout"));
}

#[tokio::test]
async fn an_operator_closes_one_connection_or_all_of_a_user_with_4003() {
    let gateway = Gateway::start("", "").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect(&trader()).await;
        client.send(&json!({"type": "get_status"})).await;
        let id = client.expect("status").await["client_id"]
            .as_str()
            .expect("an id")
            .to_owned();
        clients.push((client, id));
    }
    let mut other = gateway.connect(&token("u2", "trader", Duration::from_secs(3600))).await;
    let (mut first, id) = clients.remove(0);
    assert_eq!(
        gateway
            .admin("DELETE", &format!("/api/websocket/clients/{id}"), "")
            .await
            .0,
        204
    );
    assert_eq!(first.next().await, closed(4003, "disconnected by an operator"));
    assert_eq!(
        gateway
            .admin("DELETE", &format!("/api/websocket/clients/{id}"), "")
            .await
            .0,
        404
    );
    assert_eq!(gateway.admin("DELETE", "/api/users/u1/connections", "").await.0, 204);
    for (mut client, _) in clients {
        assert_eq!(client.next().await, closed(4003, "disconnected by an operator"));
    }
    assert_eq!(gateway.admin("DELETE", "/api/users/u1/connections", "").await.0, 404);
    other.subscribe(&["grid.*"]).await;
}

#[tokio::test]
async fn a_bad_handshake_token_gives_401_or_an_error_and_a_close() {
    let expired = token("u1", "trader", Duration::from_secs(0));
    for (bad, error, code, reason) in [
        ("not.a.token", "TOKEN_INVALID", 4004, "token invalid"),
        (&expired, "TOKEN_EXPIRED", 4001, "token expired"),
    ] {
        let close = Gateway::start("", "[auth]\nrefuse = \"close\"\nleeway = \"0s\"").await;
        let mut client = close.connect(bad).await;
        let result = client.expect("auth_result").await;
        assert_eq!(
            (&result["success"], &result["error"]["code"]),
            (&json!(false), &json!(error)),
            "{result}"
        );
        assert_eq!(client.next().await, closed(code, reason));
        let http = Gateway::start("", "[auth]\nleeway = \"0s\"").await;
        let refused = http.connect_to(&format!("/ws?token={bad}")).await;
        assert!(matches!(
            refused,
            Err(fastwebsockets::WebSocketError::InvalidStatusCode(401))
        ));
        for gateway in [close, http] {
            assert!(!gateway.log().contains(bad), "the log shows a token");
        }
    }
}

#[tokio::test]
async fn unread_replies_are_closed_with_4008() {
    let limits = "[limits]\nmessages_per_second = 1000000\nreply_frames = 8";
    let gateway = Gateway::start("shards = 1", limits).await;
    let mut client = gateway.connect_bare(&format!("/ws?token={}", trader())).await;
    let long = |number: usize| format!("grid.{number}.{}", "x".repeat(200));
    let patterns: Vec<String> = (0..50).map(long).collect();
    client
        .send(&text(&json!({"type": "subscribe", "channels": patterns})))
        .await
        .expect("sent");
    // Each reply has 12 KB. 8000 of them are far more than the kernel's buffers of both sides hold.
    let request = text(&json!({"type": "get_status"})).repeat(100);
    for _ in 0..80 {
        if client.send(&request).await.is_err() {
            break;
        }
    }
    // A client that reads meanwhile may be faster than the gateway, and is then no slow consumer.
    until("the gateway ends the connection", async || {
        let (_, metrics) = gateway.metrics().await;
        metrics
            .contains("tickgate_endings_total{code=\"4008\",reason=\"slow_consumer\"} 1\n")
            .then_some(())
    })
    .await;
    let (_, end) = client.rest().await;
    assert_eq!(end, closed(4008, "slow consumer"));
}
