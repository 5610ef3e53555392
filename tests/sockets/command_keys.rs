//! Keys of commands over broken connections, a drain with a snapshot, and the gateway after it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clients::Client;
use crate::commands::{Node, free_address};
use crate::harness::{Gateway, token, until};

async fn backend(journal: &Path) -> (Node, String) {
    let address = free_address().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sockets/backend.cjs");
    let arguments = vec![
        script.to_owned(),
        address.port().to_string(),
        journal.display().to_string(),
    ];
    let mut backend = Node::new(arguments, &[], address);
    backend.start("node").await;
    let route = format!(
        "[auth.role.tester]\nchannels = []\ncommands = [\"test.*\"]\npublish = []\n\
         [[command]]\nmatch = \"test.*\"\nhttp = \"http://{address}/commands\"\n"
    );
    (backend, route)
}

async fn connect(gateway: &Gateway) -> Client {
    gateway.connect(&token("u1", "tester", Duration::from_secs(600))).await
}

async fn send(client: &mut Client, id: &str, action: &str, params: &Value, key: &str) {
    client
        .send(&json!({"type": "command", "id": id, "action": action, "params": params, "key": key}))
        .await;
}

async fn status(client: &mut Client, key: &str) -> Value {
    client
        .send(&json!({"type": "command_status", "id": "status", "key": key}))
        .await;
    let answer = client.expect("response").await;
    assert_eq!(answer["id"], "status");
    answer
}

fn carried_out(journal: &Path) -> usize {
    std::fs::read_to_string(journal).map_or(0, |journal| journal.lines().count())
}

async fn reaches(journal: &Path, count: usize) {
    until("the backend has the command", async || {
        (carried_out(journal) == count).then_some(())
    })
    .await;
}

#[tokio::test]
async fn keys_survive_lost_connections_and_a_drain_with_a_snapshot() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let journal = directory.path().join("journal");
    let (_backend, route) = backend(&journal).await;
    let state = format!(
        "{route}[state]\nsnapshot = \"{}\"\n",
        directory.path().join("state").display()
    );
    let mut gateway = Gateway::start("shards = 2\ndrain = \"4s\"", &state).await;

    // The connection breaks while the backend works. On the next one, the same command waits for the one in flight.
    let mut client = connect(&gateway).await;
    let slow = json!({"ms": 1000, "n": 1});
    send(&mut client, "c1", "test.delay", &slow, "slow").await;
    reaches(&journal, 1).await;
    drop(client);
    let mut client = connect(&gateway).await;
    assert_eq!(status(&mut client, "slow").await["data"], json!({"state": "running"}));
    send(&mut client, "c2", "test.delay", &slow, "slow").await;
    let answer = client.expect("response").await;
    assert_eq!((&answer["id"], &answer["data"]), (&json!("c2"), &slow));
    send(&mut client, "c3", "test.fail", &json!(3), "failed").await;
    assert_eq!(client.expect("response").await["error"]["code"], "UNKNOWN");

    // A drain waits for the command in flight longer than four fifths of its time, and delivers the response first.
    send(&mut client, "c4", "test.delay", &json!({"ms": 3300}), "late").await;
    reaches(&journal, 3).await;
    gateway.signal("TERM");
    client.expect("going_away").await;
    let answer = client.expect("response").await;
    assert_eq!((&answer["id"], &answer["success"]), (&json!("c4"), &json!(true)));
    assert_eq!(gateway.ended().await.code(), Some(0));

    // The next gateway knows them all.
    let gateway = Gateway::start("", &state).await;
    let mut client = connect(&gateway).await;
    for (id, action, params, key, expected) in [
        ("d1", "test.delay", slow.clone(), "slow", &slow),
        ("d2", "test.fail", json!(3), "failed", &Value::Null),
        ("d3", "test.delay", json!({"ms": 3300}), "late", &json!({"ms": 3300})),
    ] {
        send(&mut client, id, action, &params, key).await;
        let answer = client.expect("response").await;
        assert_eq!((&answer["id"], &answer["data"]), (&json!(id), expected), "{answer}");
        let told = status(&mut client, key).await["data"].clone();
        assert_eq!(
            (&told["state"], &told["response"]["success"]),
            (&json!("done"), &answer["success"]),
            "{told}"
        );
    }
    send(&mut client, "d4", "test.delay", &json!({"ms": 1}), "slow").await;
    assert_eq!(client.expect("response").await["error"]["code"], "KEY_REUSED");
    assert_eq!(status(&mut client, "never").await["error"]["code"], "UNKNOWN_KEY");
    assert_eq!(carried_out(&journal), 3, "each command was carried out once");
}
