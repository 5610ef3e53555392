//! Clients that stop reading, and clients that reconnect, over real sockets. Each ends up with what the classes of its
//! channels promise.

use serde_json::{Value, json};

use crate::clients::{Bare, text};
use crate::harness::{Gateway, numbers, trader, until};

const PRICE: &str = "grid.big.status";
const ORDER: &str = "grid.big.order";

/// 40 MB are more than the outbox and the kernel's buffers of both sides hold together.
const EVENTS: usize = 800;
const PADDING: usize = 50_000;

async fn subscribed(gateway: &Gateway, message: &Value) -> Bare {
    let mut client = gateway.connect_bare(&format!("/ws?token={}", trader())).await;
    client.send(&text(message)).await.expect("sent");
    client
}

async fn publish(gateway: &Gateway, channel: &str) {
    let padding = "x".repeat(PADDING);
    for number in 0..EVENTS {
        let data = json!({"n": number, "padding": padding});
        gateway
            .publish(vec![json!({"channel": channel, "event": "update", "data": data})])
            .await;
    }
}

async fn holds(gateway: &Gateway, pattern: &str) {
    let what = format!("the subscription to {pattern}");
    until(&what, async || {
        (gateway.stats().await["subscriptions"][pattern] == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_client_gets_the_newest_value_when_it_reads_again() {
    let gateway = Gateway::start("shards = 1", "[limits]\noutbox_bytes = 300000").await;
    let mut stalled = subscribed(&gateway, &json!({"type": "subscribe", "channels": [PRICE]})).await;
    holds(&gateway, PRICE).await;
    publish(&gateway, PRICE).await;
    let messages = stalled.until_event(EVENTS - 1).await;
    let heard = numbers(&messages, PRICE);
    assert!(
        heard.windows(2).all(|pair| pair[0] < pair[1]),
        "out of order: {heard:?}"
    );
    assert!(heard.len() < EVENTS, "it read everything: nothing was conflated");
    assert_eq!(heard.last(), Some(&(EVENTS - 1)));
    // After the events that were queued or in the kernel, the newest value follows, without those in between.
    let jump = heard.windows(2).last().map(|pair| pair[1] - pair[0]);
    assert!(jump.is_some_and(|jump| jump > 1), "{heard:?}");
    assert!(messages.iter().all(|message| message["type"] != "dropped"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_too_slow_for_a_lossless_channel_is_closed_and_recovers_everything() {
    let gateway = Gateway::start("shards = 1", "[limits]\noutbox_bytes = 300000").await;
    let message = json!({"type": "subscribe", "channels": [ORDER]});
    let mut slow = subscribed(&gateway, &message).await;
    holds(&gateway, ORDER).await;
    publish(&gateway, ORDER).await;
    let (mut heard, mut at) = (Vec::new(), Value::Null);
    let mut connections = 0;
    while heard.last() != Some(&(EVENTS - 1)) {
        connections += 1;
        assert!(connections < 20, "it comes back for ever: {heard:?}");
        let messages = if connections == 1 {
            slow.rest().await.0
        } else {
            let recover = json!({"type": "subscribe", "channels": [ORDER], "recover": {ORDER: at}});
            let mut back = subscribed(&gateway, &recover).await;
            back.until_event(EVENTS - 1).await
        };
        for message in &messages {
            if let Some(position) = message["data"]["positions"].get(ORDER) {
                at = position.clone();
            }
            if connections > 1 && message["type"] == "subscribed" {
                assert_eq!(message["data"]["recovered"][ORDER], true, "{message}");
            }
            if message["type"] == "event" {
                at["offset"] = message["offset"].clone();
            }
        }
        heard.extend(numbers(&messages, ORDER));
    }
    assert!(connections > 1, "it was never closed");
    assert_eq!(heard, (0..EVENTS).collect::<Vec<_>>(), "once each, in order");
    assert!(gateway.stats().await["endings"]["4008"] == 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_values_are_not_published() {
    let channels = "[[channel]]\nmatch = \"grid.*.status\"\ncache = \"last\"\nonly_changed = true\n\
                    [[channel]]\nmatch = \"grid.*.rows\"\ncache = \"last\"\nrecord_key = \"code\"\nonly_changed = true";
    let gateway = Gateway::start("shards = 1", channels).await;
    let mut client = gateway.connect(&trader()).await;
    client.subscribe(&["grid.*"]).await;
    let publish = async |channel: &str, data: Value| {
        let event = json!({"channel": channel, "event": "update", "data": data});
        let (status, answer) = gateway.admin("POST", "/api/publish", event.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let unchanged = json!({"published": 0, "unchanged": true});
    for number in 0..3 {
        let first = publish(PRICE, json!({"n": number, "as": [1.0, {}]})).await;
        assert_eq!(first["published"], 1, "{first}");
        // The same value in another notation.
        assert_eq!(publish(PRICE, json!({"as": [1, {}], "n": number})).await, unchanged);
    }
    let row = |code: &str, price: u32| json!({"code": code, "price": price});
    let rows = |b: u32| json!([row("a", 1), row("b", b)]);
    publish("grid.big.rows", rows(1)).await;
    assert_eq!(publish("grid.big.rows", rows(1)).await, unchanged);
    publish("grid.big.rows", rows(2)).await;
    // This event is the last one.
    publish("grid.big.status", json!({"n": 99})).await;
    let mut heard = Vec::new();
    while heard.last() != Some(&json!({"n": 99})) {
        heard.push(client.expect("event").await["data"].clone());
    }
    let statuses = (0..3).map(|number| json!({"n": number, "as": [1.0, {}]}));
    let mut expected: Vec<Value> = statuses.collect();
    expected.extend([rows(1), json!([row("b", 2)]), json!({"n": 99})]);
    assert_eq!(heard, expected);
}
