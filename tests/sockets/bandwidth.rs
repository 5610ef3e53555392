//! A connection with a limit of bytes, over a real socket.

use std::time::Instant;

use serde_json::json;

use super::harness::{Gateway, event, trader};

const PER_SECOND: usize = 40_000;

/// Events of each channel, a thousand bytes long.
const EVENTS: usize = 60;

#[tokio::test]
async fn a_client_gets_no_more_bytes_than_its_limit_and_misses_nothing() {
    let limits = format!("[limits]\nbytes_per_second = {PER_SECOND}");
    let gateway = Gateway::start("", &limits).await;
    let begin = Instant::now();
    let mut client = gateway.connect(&trader()).await;
    client.subscribe(&["grid.a.order", "market.a.price"]).await;
    client.send(&json!({"type": "get_status"})).await;
    assert_eq!(client.expect("status").await["bytes_per_second"], json!(PER_SECOND));
    for number in 1..=EVENTS {
        let events = ["grid.a.order", "market.a.price"].map(|channel| {
            let mut event = event(channel, number);
            event["data"]["pad"] = "x".repeat(1000).into();
            event
        });
        gateway.publish(events.into()).await;
    }
    // Every event of the history, and of the price whatever fits, the newest one at the end.
    let (mut orders, mut price, mut bytes) = (Vec::new(), 0, 0);
    while orders.len() < EVENTS || price < EVENTS as u64 {
        let message = client.expect("event").await;
        bytes += message.to_string().len();
        let number = message["data"]["n"].as_u64().expect("a number");
        if message["channel"] == "grid.a.order" {
            orders.push(number);
        } else {
            assert!(number > price, "{number} after {price}");
            price = number;
        }
    }
    assert_eq!(orders, (1..=EVENTS as u64).collect::<Vec<_>>());
    #[expect(clippy::cast_precision_loss, reason = "few bytes")]
    let most = PER_SECOND as f64 * (1.0 + begin.elapsed().as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "few bytes")]
    let sent = bytes as f64;
    assert!(sent < most + 2_000.0, "{sent} bytes, and {most} are allowed");
    let (_, metrics) = gateway.metrics().await;
    let throttles = { metrics.lines() }.filter_map(|line| line.strip_prefix("tickgate_throttles_total{"));
    let throttles = throttles.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok());
    assert!(throttles.sum::<u64>() > 0, "the limit was reached");
}
