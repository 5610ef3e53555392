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
    let (_, reply) = gateway.admin("GET", "/api/config", "").await;
    let keys = reply["keys"].as_array().expect("a list");
    let shards = keys.iter().find(|key| key["key"] == "server.shards").expect("the key");
    let why = "the shards are started with it";
    assert_eq!(
        (&shards["waits_for_restart"], &shards["restart_reason"]),
        (&json!("7"), &json!(why))
    );
    let log = gateway.log();
    assert!(log.contains("server.shards") && log.contains(why), "{log}");
    assert_eq!(publish().await, 200);
}

#[tokio::test]
async fn bounds_of_a_class_change_at_once_and_another_lane_is_told() {
    let history = |size: u32| format!("[[channel]]\nmatch = \"fx.*\"\nhistory = {{ size = {size} }}");
    let gateway = Gateway::start("", &history(100)).await;
    let event = |number: u32| json!({"channel": "fx.eur", "event": "e", "data": number}).to_string();
    let kept = async || {
        let (_, reply) = gateway.admin("GET", "/api/channels/fx.eur", "").await;
        (
            reply["kept"]["events"].clone(),
            reply["class"]["history"]["length"].clone(),
        )
    };
    for number in 0..10 {
        assert_eq!(gateway.admin("POST", "/api/publish", event(number)).await.0, 200);
    }
    assert_eq!(kept().await, (json!(10), json!(100)));

    gateway.configure("", &history(4));
    hang_up(&gateway, "the configuration is reloaded").await;
    assert!(gateway.log().contains("channel[0].history"), "{}", gateway.log());
    assert_eq!(kept().await, (json!(4), json!(4)));

    gateway.configure(
        "",
        "[[channel]]\nmatch = \"fx.*\"\ncache = \"last\"\n[limits]\nsubscriptions = 7",
    );
    hang_up(&gateway, "classes of channels and feeds stay as they are").await;
    let why = "`cache` changes for the channel fx.eur, of which something is kept";
    assert!(gateway.log().contains(why), "{}", gateway.log());
    assert_eq!(kept().await, (json!(4), json!(4)));
}
