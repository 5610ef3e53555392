//! The file of `state.snapshot`: damage is refused, repaired or set aside, and a write that fails is told.

use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::json;

use crate::harness::{Gateway, binary, until};

const CHANNEL: &str = "system.kill_switch";
const OTHER: &str = "grid.a.order";

fn section(path: &Path) -> String {
    format!("[state]\nsnapshot = \"{}\"\nsnapshot_interval = \"1s\"", path.display())
}

fn snapshot(command: &str, path: &Path) -> Output {
    let mut process = binary();
    process.args(["snapshot", command]).arg(path).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A drained gateway's file with two last values, of which one was changed afterwards.
async fn damaged(directory: &tempfile::TempDir) -> PathBuf {
    let path = directory.path().join("state");
    let mut gateway = Gateway::start("", &section(&path)).await;
    let event = |channel, data| json!({"channel": channel, "event": "update", "data": data});
    gateway
        .publish(vec![event(CHANNEL, "the old value"), event(OTHER, "another")])
        .await;
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
    let mut bytes = std::fs::read(&path).expect("read");
    let value = b"the old value";
    let places: Vec<_> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(value)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 4..at + 7].copy_from_slice(b"bad");
    }
    std::fs::write(&path, bytes).expect("written");
    path
}

#[tokio::test]
async fn a_changed_snapshot_is_refused_with_a_remedy_and_repaired_by_the_command() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = damaged(&directory).await;
    let before = std::fs::read(&path).expect("read");
    let file = directory.path().join("tickgate.toml");
    let toml = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin_listen = \"127.0.0.1:0\"\n{}\n",
        section(&path)
    );
    std::fs::write(&file, toml).expect("written");
    let refused = binary().args(["serve", "--config"]).arg(&file).output().expect("runs");
    let told = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(
        told.contains("the file is damaged") && told.contains("tickgate snapshot repair"),
        "{told}"
    );
    let checked = snapshot("check", &path);
    assert_eq!(checked.status.code(), Some(1), "{checked:?}");
    assert!(text(&checked.stderr).contains("it is left as it is"), "{checked:?}");
    assert!(std::fs::read(&path).expect("read") == before);

    // The file is that of the configuration.
    let mut repair = binary();
    let repaired = repair
        .args(["snapshot", "repair", "--config"])
        .arg(&file)
        .output()
        .expect("runs");
    let printed = text(&repaired.stdout);
    assert_eq!(repaired.status.code(), Some(0), "{repaired:?}");
    assert!(printed.contains(CHANNEL) && printed.contains("1 channels"), "{printed}");
    assert!(std::fs::read(directory.path().join("state.damaged")).expect("kept") == before);
    assert_eq!(snapshot("check", &path).status.code(), Some(0));

    let gateway = Gateway::start("", &section(&path)).await;
    assert!(gateway.log().contains("a new epoch begins"), "{}", gateway.log());
    let last = async |channel: &str| {
        let (status, kept) = gateway.admin("GET", &format!("/api/channels/{channel}"), "").await;
        assert_eq!(status, 200, "{kept}");
        kept["last"]["data"].clone()
    };
    assert_eq!(last(CHANNEL).await, json!(null));
    assert_eq!(last(OTHER).await, json!("another"));
    let in_use = snapshot("check", &path);
    assert!(
        text(&in_use.stderr).contains("another process uses the file"),
        "{in_use:?}"
    );
}

#[tokio::test]
async fn a_snapshot_that_was_cut_off_is_refused_and_can_be_set_aside() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = damaged(&directory).await;
    std::fs::write(&path, "").expect("cut off");
    assert!(text(&snapshot("check", &path).stderr).contains("it is empty"));
    let dropped = snapshot("drop", &path);
    assert_eq!(dropped.status.code(), Some(0), "{dropped:?}");
    assert!(directory.path().join("state.dropped").exists() && !path.exists());
    let gateway = Gateway::start("", &section(&path)).await;
    assert!(gateway.log().contains("the snapshot is new"), "{}", gateway.log());
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_written_is_told_by_readyz_metrics_and_the_exit_code() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("state");
    let mut gateway = Gateway::start("", &section(&path)).await;
    assert_eq!(
        gateway.admin("GET", "/readyz", "").await.1,
        json!({"status": "ok", "publishing": "ok", "snapshot": "ok", "memory": "ok"})
    );
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir(&path).expect("in its place");
    until("a failed write", async || {
        let (status, ready) = gateway.admin("GET", "/readyz", "").await;
        (status == 200 && ready["snapshot"] == "failing").then_some(())
    })
    .await;
    let (_, metrics) = gateway.metrics().await;
    assert!(metrics.contains("\ntickgate_snapshot_failing 1\n"), "{metrics}");
    assert!(!metrics.contains("\ntickgate_snapshot_failures_total 0\n"), "{metrics}");
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(3));
    assert!(gateway.log().contains("could not be completed"), "{}", gateway.log());
}
