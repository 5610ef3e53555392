//! The log of a gateway whose standard error is not read, and the lines that clients write into it.

use serde_json::json;

use super::clients::Told;
use super::harness::{Gateway, token, trader, until};

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// More audit lines than the pipe and the queue of lines hold together.
const COMMANDS: usize = 12_000;

const AUDITED: &str = r#"
[auth.role.reader]
channels = ["*"]
commands = []

[[command]]
match = "*"
http = "http://127.0.0.1:9/"
audit = true

[limits]
messages_per_second = 1000000
commands_per_second = 1000000
"#;

#[tokio::test]
async fn an_unread_log_stops_neither_clients_nor_the_drain() {
    let mut gateway = Gateway::start_with_unread_log("drain = \"1s\"", AUDITED).await;
    let mut other = gateway.connect(&trader()).await;
    other.subscribe(&["grid.*"]).await;
    let mut client = gateway.connect(&token("u2", "reader", HOUR)).await;
    for number in 0..COMMANDS {
        client
            .send(&json!({"type": "command", "id": number.to_string(), "action": "grid.start", "params": {}}))
            .await;
        // Every command is answered, so the shard does not wait for the log.
        let response = client.expect("response").await;
        assert_eq!(response["error"]["code"], "FORBIDDEN", "{response}");
    }
    gateway
        .publish(vec![json!({"channel": "grid.a.status", "event": "update", "data": 1})])
        .await;
    other.expect("event").await;
    until("dropped lines in the metric", async || {
        let (_, metrics) = gateway.metrics().await;
        let name = "tickgate_log_lines_dropped_total ";
        let dropped = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the metric");
        (dropped != "0").then_some(())
    })
    .await;
    gateway.signal("TERM");
    let ended = gateway.ended().await;
    assert!(ended.success(), "{ended}");
    assert!(
        matches!(other.rest().await.1, Told::Closed(1012, _)),
        "closed by the drain"
    );
}
