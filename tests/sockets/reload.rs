//! SIGHUP: the gateway takes over a changed configuration, or stays as it is.

use serde_json::json;

use super::harness::{Gateway, until};

async fn hang_up(gateway: &Gateway, line: &str) {
    gateway.signal("HUP");
    until(line, async || gateway.log().contains(line).then_some(())).await;
}

#[tokio::test]
async fn a_limit_changes_for_publishers_and_a_bad_file_changes_nothing() {
    let gateway = Gateway::start("", "").await;
    let event = json!({"channel": "grid.a.status", "event": "update", "data": "x".repeat(4_000)}).to_string();
    let publish = async || gateway.admin("POST", "/api/publish", event.clone()).await.0;
    assert_eq!(publish().await, 200);

    gateway.configure("", "[limits]\nevent_bytes = 2048");
    hang_up(&gateway, "the configuration is reloaded").await;
    assert_eq!(publish().await, 413);
    gateway.configure("", "[limits]\nevent_bytes = x");
    hang_up(&gateway, "the configuration is not reloaded").await;
    assert_eq!(publish().await, 413, "the last good configuration stays");
    gateway.configure("shards = 7", "[limits]\nevent_bytes = 8192");
    hang_up(&gateway, "take effect only after a restart").await;
    assert!(gateway.log().contains("server.shards"), "{}", gateway.log());
    assert_eq!(publish().await, 200);
}
