//! The first hour with the gateway: what it prints, what it warns of, and how fast it ends.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::clients::{Client, Told};
use crate::harness::{Gateway, binary, trader, until};

#[tokio::test]
async fn few_clients_are_drained_within_moments() {
    for count in [1, 3] {
        // The default time to drain is 20 s.
        let mut gateway = Gateway::start("shards = 1", "").await;
        let mut clients = Vec::new();
        for _ in 0..count {
            let mut client = gateway.connect(&trader()).await;
            client.subscribe(&["grid.*"]).await;
            clients.push(client);
        }
        let begin = Instant::now();
        gateway.signal("INT");
        for mut client in clients {
            let (messages, end) = client.rest().await;
            assert_eq!(messages.last().map(|told| &told["type"]), Some(&json!("going_away")));
            assert_eq!(end, Told::Closed(1012, "gateway restarting".to_owned()));
        }
        assert_eq!(gateway.ended().await.code(), Some(0));
        let took = begin.elapsed();
        // It is a third of a second. The bound leaves space for a busy machine, and is below what a spread drain takes.
        assert!(took < Duration::from_secs(5), "{count} clients took {took:?}");
    }
}

#[tokio::test]
async fn without_tokens_the_printed_lines_work() {
    let gateway = Gateway::start_without_keys("", "[auth]\nmode = \"off\"\n").await;
    let printed = until("the lines to paste", async || {
        let printed = gateway.printed();
        printed.contains("curl").then_some(printed)
    })
    .await;
    assert!(!printed.contains("token="), "{printed}");
    let between = |begin: &str, end: &str| {
        let (_, rest) = printed
            .split_once(begin)
            .unwrap_or_else(|| panic!("no {begin} in {printed}"));
        rest.split_once(end).expect("an end").0.to_owned()
    };
    let mut client = Client::connect(gateway.public, "/ws").await.expect("connected");
    let subscribe = serde_json::from_str(&between("-x '", "'")).expect("JSON");
    client.send(&subscribe).await;
    client.expect("subscribed").await;
    // The harness has an admin key of its own, so the printed one is used here.
    let key = between("Bearer ", "'");
    let event = between("-d '", "'");
    let sent = std::process::Command::new("curl")
        .args(["-sS", &format!("http://{}/api/publish", gateway.admin)])
        .args(["-H", &format!("Authorization: Bearer {key}")])
        .args(["-H", "Content-Type: application/json", "-d", &event])
        .output()
        .expect("curl runs");
    assert_eq!(String::from_utf8_lossy(&sent.stdout).trim(), "{\"published\":1}");
    let told = client.expect("event").await;
    assert_eq!(told["data"]["current_price"], 94000.5, "{told}");
}

#[tokio::test]
async fn a_start_without_a_snapshot_restores_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let state = format!("[state]\nsnapshot = \"{}/state\"\n", directory.path().display());
    for (message, other) in [
        ("the snapshot is new: the state begins empty", "is restored"),
        ("the state of the last run is restored", "is new"),
    ] {
        let mut gateway = Gateway::start("", &state).await;
        let log = gateway.log();
        assert!(log.contains(message) && !log.contains(other), "{log}");
        gateway.signal("TERM");
        assert_eq!(gateway.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn only_a_chosen_number_of_connections_causes_a_warning() {
    for (server, warns) in [("", false), ("max_connections = 60000000", true)] {
        let gateway = Gateway::start(server, "").await;
        let log = gateway.log();
        let has_warning = log
            .lines()
            .any(|line| line.contains("WARN") && line.contains("RLIMIT_NOFILE"));
        assert_eq!(has_warning, warns, "{server:?}: {log}");
    }
}

#[test]
fn a_snapshot_without_its_folder_is_refused_by_check_and_serve() {
    for command in ["check", "serve"] {
        let ended = binary()
            .arg(command)
            .env("TICKGATE_STATE__SNAPSHOT", "/nonexistent/state")
            .output()
            .expect("runs");
        // 2: systemd does not start it again.
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(
            told.contains("the folder /nonexistent does not exist: create it"),
            "{told}"
        );
    }
}
