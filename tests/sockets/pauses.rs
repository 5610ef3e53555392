//! SIGSTOP and SIGCONT: what came while the process was stopped is read before anybody is blamed for silence.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clients::Told;
use crate::harness::{Gateway, event, trader, within};

const CHANNEL: &str = "grid.g.status";
/// More connections than a shard reads from in a turn.
const CLIENTS: usize = 600;
/// Longer than a client may be silent, and longer than a handshake may take.
const STOPPED: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_stopped_process_blames_nobody_for_what_waited_in_the_sockets() {
    let heartbeat = "[heartbeat]\ninterval = \"3s\"\ntimeout = \"6s\"";
    let gateway = Gateway::start("shards = 1\nhandshake_timeout = \"3s\"", heartbeat).await;
    let mut clients = Vec::new();
    for number in 1..=CLIENTS {
        let mut client = gateway.connect(&trader()).await;
        client.subscribe(&[CHANNEL]).await;
        clients.push(client);
        // On a busy machine the first clients would be silent for too long before the last one is connected.
        if number % 100 == 0 {
            for client in &mut clients {
                client.send(&json!({"type": "ping"})).await;
                client.expect("pong").await;
            }
        }
    }
    let mut half = TcpStream::connect(gateway.public).await.expect("connected");
    half.write_all(b"GET /readyz HTTP/1.1\r\nHo").await.expect("sent");

    gateway.signal("STOP");
    for client in &mut clients {
        client.send(&json!({"type": "ping"})).await;
    }
    half.write_all(b"st: x\r\n\r\n").await.expect("sent");
    tokio::time::sleep(STOPPED).await;
    gateway.signal("CONT");

    let mut head = [0; 12];
    within("the response", half.read_exact(&mut head))
        .await
        .expect("answered");
    assert_eq!(&head, b"HTTP/1.1 200");
    for client in &mut clients {
        match client.next().await {
            Told::Message(message) => assert_eq!(message["type"], "pong", "{message}"),
            other => panic!("a client was blamed: {other:?}"),
        }
    }
    gateway.publish(vec![event(CHANNEL, 1)]).await;
    for client in &mut clients {
        client.expect("event").await;
    }
    assert!(gateway.log().contains("the shard did not run"), "{}", gateway.log());
    let (_, metrics) = gateway.metrics().await;
    let of = |name: &str| {
        let line = metrics.lines().find(|line| line.starts_with(name)).expect("a metric");
        line.rsplit(' ')
            .next()
            .expect("a value")
            .parse::<f64>()
            .expect("a number")
    };
    assert!(of("tickgate_pauses_total{") >= 1.0, "{metrics}");
    assert!(of("tickgate_paused_seconds_total{") >= 1.0, "{metrics}");
    assert!(of("tickgate_endings_total{code=\"4009\"") < 0.5, "{metrics}");
}
