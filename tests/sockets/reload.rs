//! SIGHUP: the gateway takes over a changed configuration, or stays as it is.

use std::io::Write as _;
use std::time::Duration;

use serde_json::json;

use super::harness::{Gateway, token_by, trader, until};
use super::identity::status;

async fn hang_up(gateway: &Gateway, line: &str) {
    gateway.signal("HUP");
    until(line, async || gateway.log().contains(line).then_some(())).await;
}

/// How many reloads were taken over, how many were refused, and whether the last one was.
async fn reloads(gateway: &Gateway) -> [String; 3] {
    let (_, metrics) = gateway.metrics().await;
    ["reloads_total", "reloads_refused_total", "reload_failing"].map(|name| {
        let begin = format!("tickgate_{name} ");
        let value = metrics.lines().find_map(|line| line.strip_prefix(&begin));
        value.expect("the metric").to_owned()
    })
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
    assert_eq!(reloads(&gateway).await, ["1", "1", "1"]);
    gateway.configure("shards = 7", "[limits]\nevent_bytes = 8192");
    hang_up(&gateway, "take effect only after a restart").await;
    assert_eq!(reloads(&gateway).await, ["2", "1", "0"]);
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

#[tokio::test]
async fn keys_roles_origins_endpoints_and_commands_change_together_or_not_at_all() {
    const NEW_SECRET: &str = "fedcba9876543210fedcba9876543210";
    let gateway = Gateway::start("", "").await;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, NEW_SECRET).expect("written");
    let new = token_by(NEW_SECRET, "u1", "trader", Duration::from_secs(3600));
    let origin = "Origin: https://app.example.com\r\n";
    let statuses = async || {
        let targets = [
            (format!("/ws?token={}", trader()), ""),
            (format!("/ws?token={new}"), ""),
            (format!("/ws?token={new}"), origin),
            (format!("/more?token={new}"), ""),
        ];
        let mut statuses = Vec::new();
        for (target, header) in targets {
            statuses.push(status(&gateway, &target, header).await);
        }
        statuses
    };
    let before = [101, 401, 403, 404];
    assert_eq!(statuses().await, before);

    let server = "allowed_origins = [\"https://app.example.com\"]";
    let tables = format!(
        "[[auth.key]]\nalgorithm = \"HS256\"\nsecret_file = \"{}\"\n\
         [auth.role.trader]\nchannels = [\"news.*\"]\ncommands = [\"test.*\"]\n\
         [[endpoint]]\npath = \"/ws\"\ndialect = \"native\"\n\
         [[endpoint]]\npath = \"/more\"\ndialect = \"native\"\n\
         [[command]]\nmatch = \"test.*\"\nhttp = \"http://127.0.0.1:9/\"\n",
        secret.display()
    );
    // One wrong value among them.
    gateway.configure(server, &format!("{tables}[limits]\nsubscriptions = -1\n"));
    hang_up(&gateway, "the configuration is not reloaded").await;
    assert_eq!(statuses().await, before);

    gateway.configure(server, &tables);
    hang_up(&gateway, "the configuration is reloaded").await;
    assert_eq!(statuses().await, [401, 101, 101, 101]);
    let mut client = gateway.connect(&new).await;
    client.subscribe(&["news.a"]).await;
    client
        .send(&json!({"type": "command", "id": "c", "action": "test.x"}))
        .await;
    let answer = client.expect("response").await;
    assert_eq!(
        answer["error"]["code"], "BACKEND_UNAVAILABLE",
        "it has a route now: {answer}"
    );
    let log = gateway.log();
    for key in [
        "auth.key[0]",
        "auth.role.trader",
        "endpoint[",
        "command[0]",
        "server.allowed_origins",
    ] {
        assert!(log.contains(key), "{key} is not told: {log}");
    }
}

/// Adds a level to a configuration, whose last section is `[log]`.
fn set_level(gateway: &Gateway, level: &str) {
    gateway.configure("", "");
    let mut file = std::fs::OpenOptions::new()
        .append(true)
        .open(gateway.configuration())
        .expect("opened");
    writeln!(file, "level = \"{level}\"").expect("written");
}

#[tokio::test]
async fn the_level_of_the_log_changes_with_the_file_and_a_wrong_one_changes_nothing() {
    const REFUSED: &str = "request refused";
    let gateway = Gateway::start("", "").await;
    let level_becomes = async |level: &str| {
        until(level, async || {
            let (_, reply) = gateway.admin("GET", "/api/log", "").await;
            (reply["configured"] == level && reply["level"] == level).then_some(())
        })
        .await;
    };
    let lines = |text: &str| gateway.log().matches(text).count();
    let request = async || assert_eq!(status(&gateway, "/nothing", "").await, 404);
    request().await;

    set_level(&gateway, "warn,ingress=debug");
    hang_up(&gateway, "the configuration is reloaded").await;
    level_becomes("warn,ingress=debug").await;
    assert_eq!(lines(REFUSED), 0, "the first request came before the reload");
    request().await;
    until("the line", async || (lines(REFUSED) == 1).then_some(())).await;

    set_level(&gateway, "loud");
    hang_up(&gateway, "the configuration is not reloaded").await;
    level_becomes("warn,ingress=debug").await;

    // A level that was set over the API ends with a reload, which is told although the file allows no such line before it.
    let change = json!({"level": "error"}).to_string();
    assert_eq!(gateway.admin("PUT", "/api/log", change).await.0, 200);
    set_level(&gateway, "info");
    gateway.signal("HUP");
    let reloaded = "the configuration is reloaded";
    until("the second reload", async || (lines(reloaded) == 2).then_some(())).await;
    level_becomes("info").await;
    request().await;

    // The lines are in order, so the last request would have left its line before this one. The reload is told although the
    // new level lets no such line through.
    set_level(&gateway, "error");
    gateway.signal("HUP");
    until("the third reload", async || (lines(reloaded) == 3).then_some(())).await;
    assert_eq!(lines(REFUSED), 1);
    level_becomes("error").await;
}
