//! Gateways that are drained or killed, and clients that reconnect to the gateways that replace them.

use serde_json::json;

use crate::clients::{Bare, Told};
use crate::crowd::history;
use crate::harness::{Gateway, event, within};
use crate::listener::{Listener, Way};

const CHANNEL: &str = "grid.g.order";

async fn publish(gateway: &Gateway, numbers: std::ops::Range<usize>) {
    gateway
        .publish(numbers.map(|number| event(CHANNEL, number)).collect())
        .await;
}

/// Connects and stays until the event with this number arrives.
async fn listen(gateway: &Gateway, listener: &mut Listener, number: u64) {
    let mut connection = listener.connect(gateway.public).await;
    receive(&mut connection, listener, number).await;
}

/// Stays until the event with this number has arrived and its epoch is known.
async fn receive(connection: &mut Bare, listener: &mut Listener, number: u64) {
    while listener.last_number(CHANNEL) != Some(number) || listener.epoch().is_null() {
        match within("an event", connection.next()).await {
            Told::Message(message) => listener.take(&message, connection).await,
            other => panic!("{other:?} before {number}"),
        }
    }
}

/// Subscribes and reads only the answer.
async fn subscribe(gateway: &Gateway, listener: &mut Listener) -> Bare {
    let mut connection = listener.connect(gateway.public).await;
    let Told::Message(message) = within("the answer", connection.next()).await else {
        panic!("no answer");
    };
    assert_eq!(message["type"], "subscribed", "{message}");
    listener.take(&message, &mut connection).await;
    connection
}

fn numbers(listener: &Listener) -> Vec<u64> {
    let received = listener.received.get(CHANNEL).into_iter().flatten();
    received.map(|(_, number)| *number).collect()
}

/// A client of each way that subscribed before the first event and received the events up to `number`.
async fn listeners_up_to(gateway: &Gateway, number: u64) -> Vec<Listener> {
    let mut clients = Vec::new();
    for way in Way::ALL {
        let mut listener = Listener::new(vec!["grid.*".to_owned(), CHANNEL.to_owned()], way);
        // The client stays connected. Without a position it could not show later that it knew this store.
        let connection = subscribe(gateway, &mut listener).await;
        clients.push((connection, listener));
    }
    publish(gateway, 0..10).await;
    let mut listeners = Vec::new();
    for (mut connection, mut listener) in clients {
        receive(&mut connection, &mut listener, number).await;
        listeners.push(listener);
    }
    listeners
}

/// Reconnect to a gateway that cannot know what the clients have. They are told so, and continue in another epoch.
async fn reconnect_to_a_new_epoch(gateway: &Gateway, listeners: &mut [Listener]) {
    let before: Vec<_> = listeners
        .iter()
        .map(|listener| (listener.epoch().clone(), numbers(listener).len()))
        .collect();
    for listener in &mut *listeners {
        subscribe(gateway, listener).await;
        assert_eq!(listener.recovered, *json!({CHANNEL: false}).as_object().expect("one"));
    }
    publish(gateway, 100..110).await;
    for (listener, (before, received)) in listeners.iter_mut().zip(before) {
        listen(gateway, listener, 109).await;
        let after = listener.epoch();
        assert!(after.is_string() && *after != before, "{after} after {before}");
        assert_eq!(listener.recovered[CHANNEL], true, "from where it reconnected");
        let numbers = &numbers(listener)[received..];
        assert!(numbers.iter().copied().eq(100..110), "{numbers:?}");
    }
}

async fn kill(mut gateway: Gateway) {
    gateway.signal("KILL");
    assert_eq!(gateway.ended().await.code(), None, "it is ended by the signal");
}

async fn drain(gateway: &mut Gateway) {
    gateway.signal("TERM");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

/// A `[state]` table with a snapshot in this directory. The interval is so long that only a drain saves it during a test.
pub(crate) fn snapshot(directory: &tempfile::TempDir) -> String {
    let path = directory.path().join("state.redb");
    format!("[state]\nsnapshot = \"{}\"\nsnapshot_interval = \"1h\"", path.display())
}

#[tokio::test]
async fn a_killed_gateway_without_a_snapshot_comes_back_with_a_new_epoch_and_says_so() {
    let gateway = Gateway::start("", "").await;
    let mut listeners = listeners_up_to(&gateway, 9).await;
    kill(gateway).await;
    let successor = Gateway::start("", "").await;
    reconnect_to_a_new_epoch(&successor, &mut listeners).await;
}

#[tokio::test]
async fn a_drained_gateway_with_a_snapshot_comes_back_with_its_epoch_and_recovery_goes_on() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut gateway = Gateway::start("drain = \"2s\"", &snapshot(&directory)).await;
    let mut listeners = Vec::new();
    for way in Way::ALL {
        for number in [9, 3, 0] {
            let mut listener = Listener::new(vec![CHANNEL.to_owned()], way);
            subscribe(&gateway, &mut listener).await;
            listeners.push((number, listener));
        }
    }
    publish(&gateway, 0..10).await;
    for (number, listener) in &mut listeners {
        listen(&gateway, listener, *number).await;
    }
    // Publish until the gateway refuses. Every event that was answered is kept; the last one may be kept or not.
    let mut answered = 10;
    gateway.signal("TERM");
    while let Ok((200, _)) = gateway
        .try_admin("POST", "/api/publish", event(CHANNEL, answered).to_string())
        .await
    {
        answered += 1;
    }
    assert_eq!(gateway.ended().await.code(), Some(0));

    let successor = Gateway::start("", &snapshot(&directory)).await;
    let kept = history(&successor, CHANNEL).await.len();
    assert!(kept == answered || kept == answered + 1, "{kept} of {answered}");
    publish(&successor, kept..kept + 10).await;
    let history = history(&successor, CHANNEL).await;
    for (_, mut listener) in listeners {
        let epoch = listener.epoch().clone();
        listen(&successor, &mut listener, kept as u64 + 9).await;
        assert_eq!(listener.recovered[CHANNEL], true);
        assert_eq!(*listener.epoch(), epoch, "the same after the restart");
        assert!(numbers(&listener).into_iter().eq(0..kept as u64 + 10));
        listener.assert_received_all(CHANNEL, &history);
    }
}

#[tokio::test]
async fn a_killed_gateway_with_a_snapshot_begins_a_new_epoch_and_says_so() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut first = Gateway::start("", &snapshot(&directory)).await;
    let mut listeners = listeners_up_to(&first, 9).await;
    drain(&mut first).await;
    // The epoch continues, and the gateway gives out offsets that are in no snapshot.
    let second = Gateway::start("", &snapshot(&directory)).await;
    publish(&second, 10..20).await;
    for listener in &mut listeners {
        listen(&second, listener, 19).await;
        assert_eq!(listener.recovered[CHANNEL], true);
    }
    kill(second).await;

    let third = Gateway::start("", &snapshot(&directory)).await;
    let kept: Vec<_> = history_numbers(&third).await;
    assert!(kept.into_iter().eq(0..10), "as of the last snapshot");
    reconnect_to_a_new_epoch(&third, &mut listeners).await;
}

/// The numbers of the events in the history, whether it is complete or not.
async fn history_numbers(gateway: &Gateway) -> Vec<u64> {
    let path = format!("/api/channels/{CHANNEL}/history");
    let (status, page) = gateway.admin("GET", &path, "").await;
    assert_eq!(status, 200, "{page}");
    let events = page["events"].as_array().expect("events");
    events
        .iter()
        .map(|event| event["data"]["n"].as_u64().expect("a number"))
        .collect()
}
