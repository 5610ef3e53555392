//! SIGTERM: the gateway is not ready, tells, flushes and closes every client, and exits with 0.

use std::net::TcpListener;

use serde_json::json;

use crate::clients::{Client, Told, text};
use crate::harness::{Gateway, brief, event, numbers, trader, until};

const CHANNEL: &str = "grid.g.status";

#[tokio::test]
async fn every_client_is_notified_flushed_and_closed_with_1012() {
    let mut gateway = Gateway::start("shards = 2\ndrain = \"2s\"", "").await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = gateway.connect(&trader()).await;
        client.subscribe(&[CHANNEL]).await;
        clients.push(client);
    }
    assert_eq!(gateway.admin("GET", "/readyz", "").await.0, 200);
    gateway
        .publish((0..100).map(|number| event(CHANNEL, number)).collect())
        .await;
    gateway.signal("TERM");
    until("not being ready", async || {
        (gateway.admin("GET", "/readyz", "").await.0 == 503).then_some(())
    })
    .await;
    assert_eq!(gateway.admin("GET", "/healthz", "").await.0, 200, "alive all the same");
    for mut client in clients {
        let (messages, end) = client.rest().await;
        assert_eq!(
            end,
            Told::Closed(1012, "gateway restarting".to_owned()),
            "{}",
            brief(&messages)
        );
        assert!(
            numbers(&messages, CHANNEL).into_iter().eq(0..100),
            "{}",
            brief(&messages)
        );
        let told = messages.last().expect("told");
        let data = &told["data"];
        assert_eq!(
            (&told["type"], &data["reason"]),
            (&json!("going_away"), &json!("restart")),
            "{told}"
        );
        assert!(
            data["close_in_ms"].as_u64() <= Some(2000) && data["reconnect_after_ms"].is_u64(),
            "{told}"
        );
    }
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn queued_frames_of_a_slow_client_are_flushed_before_its_close() {
    const EVENTS: usize = 40;
    let mut gateway = Gateway::start("shards = 1\ndrain = \"4s\"", "[limits]\noutbox_bytes = 67108864").await;
    let mut slow = gateway.connect_bare(&format!("/ws?token={}", trader())).await;
    slow.send(&text(&json!({"type": "subscribe", "channels": [CHANNEL]})))
        .await
        .expect("sent");
    until("the subscription", async || {
        (gateway.stats().await["subscriptions"][CHANNEL] == 1).then_some(())
    })
    .await;
    let padding = "x".repeat(250_000);
    for number in 0..EVENTS {
        let event = json!({"channel": CHANNEL, "event": "update", "data": {"n": number, "padding": padding}});
        gateway.publish(vec![event]).await;
    }
    let waiting = gateway.stats().await["queues"]["pending_frames"].as_u64();
    assert!(waiting > Some(0), "10 MB should not fit into the kernel's buffers");
    gateway.signal("TERM");
    let (messages, end) = slow.rest().await;
    assert!(
        numbers(&messages, CHANNEL).into_iter().eq(0..EVENTS),
        "{} came",
        messages.len()
    );
    assert_eq!(end, Told::Closed(1012, "gateway restarting".to_owned()));
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn without_time_to_drain_every_client_is_closed_with_1001() {
    let mut gateway = Gateway::start("drain = \"0s\"", "").await;
    let mut client = gateway.connect(&trader()).await;
    client.subscribe(&[CHANNEL]).await;
    gateway.signal("INT");
    let (messages, end) = client.rest().await;
    assert_eq!(
        end,
        Told::Closed(1001, "gateway going away".to_owned()),
        "{}",
        brief(&messages)
    );
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn an_idle_gateway_drains_at_once_by_each_signal_that_ends_it() {
    for signal in ["TERM", "INT", "QUIT"] {
        let mut gateway = Gateway::start("drain = \"1h\"", "").await;
        gateway.signal(signal);
        assert_eq!(gateway.ended().await.code(), Some(0), "SIG{signal}");
    }
}

#[tokio::test]
async fn signals_that_reload_and_restart_do_not_cut_a_drain_short() {
    let mut gateway = Gateway::start("drain = \"1m\"", "").await;
    // It reads nothing, so the drain takes its time.
    let mut client = gateway.connect_bare(&format!("/ws?token={}", trader())).await;
    gateway.signal("TERM");
    until("the drain", async || gateway.log().contains("draining").then_some(())).await;
    for signal in ["HUP", "USR2"] {
        let ignored = "SIGHUP and SIGUSR2 have no effect while the gateway drains";
        let before = gateway.log().matches(ignored).count();
        gateway.signal(signal);
        until(ignored, async || {
            (gateway.log().matches(ignored).count() > before).then_some(())
        })
        .await;
    }
    let (_, end) = client.rest().await;
    assert_eq!(end, Told::Closed(1012, "gateway restarting".to_owned()));
    drop(client);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// The use of `deploy/tickgate.socket`.
#[tokio::test]
async fn a_passed_socket_survives_a_restart_and_new_clients_wait() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("bound");
    let mut old = Gateway::start_on(&socket, "drain = \"500ms\"").await;
    assert_eq!(old.public, socket.local_addr().expect("an address"));
    let mut client = old.connect(&trader()).await;
    old.signal("TERM");
    let (_, end) = client.rest().await;
    assert_eq!(end, Told::Closed(1012, "gateway restarting".to_owned()));
    assert_eq!(old.ended().await.code(), Some(0));
    // No process accepts now. The kernel keeps the handshake for the next one.
    let (address, target) = (old.public, format!("/ws?token={}", trader()));
    let waiting = tokio::spawn(async move { Client::connect(address, &target).await.expect("served") });
    let _new = Gateway::start_on(&socket, "").await;
    waiting.await.expect("connected").subscribe(&[CHANNEL]).await;
}
