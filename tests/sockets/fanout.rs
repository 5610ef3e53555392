//! Thousands of clients on several shards receive the events of each channel in order, without duplicates or gaps.

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::clients::{Client, Told};
use crate::harness::{Gateway, event, trader};

const CLIENTS: usize = 2000;
const LATECOMERS: usize = 100;
const CHANNELS: usize = 20;
/// Events of each channel. One more ends the channel.
const EVENTS: usize = 100;
const PUBLISHERS: usize = 4;

fn channel(number: usize) -> String {
    format!("grid.g{number}.status")
}

/// The patterns that client number `client` subscribes to, and the channels that they match. Most clients have one channel,
/// some by two patterns, and some have all channels.
fn wish(client: usize) -> (Vec<String>, Vec<usize>) {
    let own = client % CHANNELS;
    match client / CHANNELS {
        0 => (vec!["grid.*".to_owned(), channel(own)], (0..CHANNELS).collect()),
        1 => (vec!["grid.*.status".to_owned()], (0..CHANNELS).collect()),
        2..10 => (vec![format!("grid.g{own}.*"), channel(own)], vec![own]),
        _ => (vec![channel(own)], vec![own]),
    }
}

/// Reads until the last event of every channel has arrived, and then until no further one can follow. Returns the numbers
/// of each channel in the order of arrival.
async fn listen(mut client: Client, patterns: Vec<String>, channels: Vec<usize>) -> Vec<Vec<usize>> {
    let mut heard = vec![Vec::new(); CHANNELS];
    let mut ended = 0;
    while ended < channels.len() {
        ended += usize::from(note(&mut heard, client.expect("event").await) == EVENTS);
    }
    // All messages that were sent before arrive before this response.
    client.send(&json!({"type": "unsubscribe", "channels": patterns})).await;
    loop {
        match client.next().await {
            Told::Message(message) if message["type"] == "event" => {
                note(&mut heard, message);
            }
            Told::Message(message) if message["type"] == "unsubscribed" => return heard,
            other => panic!("{other:?}"),
        }
    }
}

fn note(heard: &mut [Vec<usize>], event: Value) -> usize {
    let channel = event["channel"]
        .as_str()
        .and_then(|name| name.strip_prefix("grid.g")?.strip_suffix(".status"));
    let channel: usize = channel
        .and_then(|number| number.parse().ok())
        .expect("a channel of this test");
    let number = event["data"]["n"]
        .as_u64()
        .and_then(|number| usize::try_from(number).ok())
        .expect("a number");
    heard[channel].push(number);
    number
}

async fn subscribe(gateway: &Gateway, number: usize, token: &str) -> (Client, Vec<String>, Vec<usize>) {
    let mut client = gateway.connect(token).await;
    let (patterns, channels) = wish(number);
    client
        .subscribe(&patterns.iter().map(String::as_str).collect::<Vec<_>>())
        .await;
    (client, patterns, channels)
}

/// Each publisher has its own channels and sends their events in order, in batches over all of them.
async fn publish(gateway: &Gateway, publisher: usize) {
    for first in (0..EVENTS).step_by(5) {
        let own = (publisher..CHANNELS).step_by(PUBLISHERS);
        let events = own.flat_map(|number| (first..first + 5).map(move |n| event(&channel(number), n)));
        gateway.publish(events.collect()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_receive_everything_once_and_in_order_by_writev() {
    every_client_receives_everything("writev").await;
}

/// With io_uring where the test environment allows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_clients_receive_everything_once_and_in_order_by_auto() {
    every_client_receives_everything("auto").await;
}

async fn every_client_receives_everything(flush: &str) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )
    .expect("raised up to the hard limit");
    // Under a sanitizer a late client waits long to be served.
    let server = format!("shards = 4\nmax_connections = 4000\nhandshake_timeout = \"60s\"\nflush = \"{flush}\"");
    let gateway = Arc::new(Gateway::start(&server, "").await);
    let token = trader();
    let mut listeners = Vec::new();
    for number in 0..CLIENTS {
        let (client, patterns, channels) = subscribe(&gateway, number, &token).await;
        listeners.push((tokio::spawn(listen(client, patterns, channels.clone())), channels, true));
    }
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let gateway = gateway.clone();
            tokio::spawn(async move { publish(&gateway, publisher).await })
        })
        .collect();
    // A client that connects while events flow receives a channel from some event on, without gaps.
    for number in 0..LATECOMERS {
        let (client, patterns, channels) = subscribe(&gateway, number, &token).await;
        listeners.push((
            tokio::spawn(listen(client, patterns, channels.clone())),
            channels,
            false,
        ));
    }
    let stats = gateway.stats().await;
    assert_eq!(stats["active_connections"], CLIENTS + LATECOMERS);
    for shard in stats["shards"].as_array().expect("shards") {
        let by = shard["flush"].as_str().expect("a way");
        assert!(
            by == "writev" || (by == "io_uring" && flush == "auto"),
            "{by} with {flush}"
        );
    }
    let shares: Vec<_> = stats["shards"]
        .as_array()
        .expect("shards")
        .iter()
        .map(|shard| &shard["connections"])
        .collect();
    assert!(
        shares.len() == 4 && shares.iter().all(|share| share.as_u64() > Some(0)),
        "{shares:?}"
    );
    for publisher in publishers {
        publisher.await.expect("published");
    }
    gateway
        .publish((0..CHANNELS).map(|number| event(&channel(number), EVENTS)).collect())
        .await;
    for (number, (listener, channels, from_the_start)) in listeners.into_iter().enumerate() {
        let heard = listener.await.expect("heard to the end");
        for (channel, numbers) in heard.iter().enumerate() {
            if !channels.contains(&channel) {
                assert!(numbers.is_empty(), "client {number} heard channel {channel}");
                continue;
            }
            let first = if from_the_start { 0 } else { numbers[0] };
            assert!(
                numbers.iter().copied().eq(first..=EVENTS),
                "client {number}, channel {channel}: {numbers:?}"
            );
        }
    }
}
