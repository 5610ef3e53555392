//! Clients that are killed at random and reconnect, while events are published at a high rate.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use tickgate_protocol::channel::Pattern;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::clients::{Bare, Told};
use crate::harness::{Gateway, within};
use crate::listener::{Entry, Listener, Way, entry};

/// This channel has one event, published before any client connects, and every client subscribes to it. Its position proves
/// that a client that reconnects with positions knew this store. Without it, the gateway could not promise anything about
/// channels that began in the meantime.
const FIRST: &str = "grid.first.order";
const EVENTS_PER_SECOND: u64 = 1000;
const EVENTS_PER_REQUEST: u64 = 10;
const GRIDS: u64 = 16;
/// The number of events after which the channels of the next grid begin.
const EVENTS_PER_GRID: u64 = 150;
/// A connection is killed within so many messages or bytes. The client reconnects after at most so many published events.
const LIFE_EVENTS: u64 = 200;
const LIFE_BYTES: u64 = 25_000;
const AWAY_EVENTS: u64 = 100;

pub(crate) fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// The publisher's progress.
#[derive(Clone, Default)]
struct Published {
    count: u64,
    /// The last number of each channel, when everything is published.
    ends: Option<Arc<BTreeMap<String, u64>>>,
}

/// Publishes `total` events on channels that begin one after the other, and reports the last number of each channel.
async fn publish(gateway: &Gateway, mut rng: StdRng, total: u64, progress: &watch::Sender<Published>) {
    let mut ends = BTreeMap::from([(FIRST.to_owned(), 0)]);
    let mut pace = tokio::time::interval(Duration::from_secs(1) * EVENTS_PER_REQUEST as u32 / EVENTS_PER_SECOND as u32);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for request in 0..total / EVENTS_PER_REQUEST {
        pace.tick().await;
        let begun = (2 + request * EVENTS_PER_REQUEST / EVENTS_PER_GRID).min(GRIDS - 1);
        let events = (0..EVENTS_PER_REQUEST).map(|_| {
            let kind = ["order", "trade"].choose(&mut rng).expect("two");
            let channel = format!("grid.g{}.{kind}", rng.random_range(0..=begun));
            let number = ends.get(&channel).map_or(0, |last| last + 1);
            let event = json!({"channel": channel, "event": "filled", "data": {"n": number}});
            ends.insert(channel, number);
            event
        });
        gateway.publish(events.collect()).await;
        progress.send_modify(|published| published.count += EVENTS_PER_REQUEST);
    }
    progress.send_modify(|published| published.ends = Some(Arc::new(ends)));
}

/// How a connection ends.
#[derive(Clone, Copy)]
enum Life {
    /// The connection is closed between two messages, after so many messages.
    Messages(u64),
    /// The connection is cut after so many bytes, possibly within a frame.
    Bytes(u64),
    /// The connection stays until everything is received.
    Complete,
}

/// Counts what happened, so that the test can check that it happened.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    cut_between: u64,
    cut_within: u64,
    too_slow: u64,
    recoveries: u64,
    published_while_away: u64,
    events: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.cut_between += other.cut_between;
        self.cut_within += other.cut_within;
        self.too_slow += other.too_slow;
        self.recoveries += other.recoveries;
        self.published_while_away += other.published_while_away;
        self.events += other.events;
    }
}

struct Member {
    listener: Listener,
    rng: StdRng,
    tally: Tally,
}

impl Member {
    fn new(mut rng: StdRng) -> Self {
        let grid = rng.random_range(0..GRIDS);
        let mut patterns = match rng.random_range(0..8) {
            0 => vec!["grid.*".to_owned(), format!("grid.g{grid}.order")],
            1 => vec!["grid.*.order".to_owned()],
            2..=4 => vec![format!("grid.g{grid}.*")],
            _ => (0..3)
                .map(|more| format!("grid.g{}.order", (grid + more) % GRIDS))
                .collect(),
        };
        patterns.push(FIRST.to_owned());
        let way = *Way::ALL.choose(&mut rng).expect("three");
        Self {
            listener: Listener::new(patterns, way),
            rng,
            tally: Tally::default(),
        }
    }

    /// Connects and is killed again and again until everything is published. Then stays until it has everything.
    async fn run(mut self, gateway: SocketAddr, mut progress: watch::Receiver<Published>) -> Self {
        loop {
            let life = if progress.borrow().ends.is_some() {
                Life::Complete
            } else if self.rng.random() {
                Life::Messages(self.rng.random_range(0..=LIFE_EVENTS))
            } else {
                Life::Bytes(self.rng.random_range(0..=LIFE_BYTES))
            };
            let has_everything = self.connection(gateway, life, &mut progress).await;
            if has_everything {
                return self;
            }
            self.away(&mut progress).await;
        }
    }

    async fn away(&mut self, progress: &mut watch::Receiver<Published>) {
        let before = progress.borrow().count;
        let back_at = before + self.rng.random_range(0..=AWAY_EVENTS);
        let is_time = |published: &Published| published.count >= back_at || published.ends.is_some();
        let now = progress
            .wait_for(is_time)
            .await
            .expect("the publisher is running")
            .count;
        self.tally.published_while_away += now - before;
    }

    /// Runs one connection. Returns whether the client has everything.
    async fn connection(
        &mut self,
        gateway: SocketAddr,
        mut life: Life,
        progress: &mut watch::Receiver<Published>,
    ) -> bool {
        let mut connection = self.listener.connect(gateway).await;
        if let Life::Bytes(bytes) = life {
            connection.cut_after(bytes);
        }
        let mut messages = 0;
        loop {
            if matches!(life, Life::Complete) && self.has_everything(progress) {
                return true;
            }
            if matches!(life, Life::Messages(end) if end == messages) {
                self.tally.cut_between += 1;
                return false;
            }
            let told = if matches!(life, Life::Complete) {
                within("an event that was published", connection.next()).await
            } else {
                tokio::select! {
                    biased;
                    told = connection.next() => told,
                    // There may be too few further messages to reach the end of the connection's life.
                    _ = progress.wait_for(|published| published.ends.is_some()) => {
                        life = Life::Complete;
                        connection.cut_after(u64::MAX);
                        continue;
                    }
                }
            };
            match told {
                Told::Message(message) => {
                    messages += 1;
                    self.take(&message, &mut connection).await;
                }
                Told::Lost if connection.is_cut() => {
                    self.tally.cut_within += 1;
                    connection.reset();
                    return false;
                }
                // This is promised as well: a client that is too slow for a history is closed, and recovers.
                Told::Closed(4008, _) => {
                    self.tally.too_slow += 1;
                    return false;
                }
                other => panic!("{:?}: {other:?}", self.listener.patterns),
            }
        }
    }

    async fn take(&mut self, message: &Value, connection: &mut Bare) {
        self.listener.take(message, connection).await;
        if message["type"] == "event" {
            self.tally.events += 1;
        } else if !message["data"]["recovered"].is_null() {
            self.tally.recoveries += 1;
            let recovered = &self.listener.recovered;
            assert!(recovered.values().all(|recovered| *recovered == true), "{message}");
        }
    }

    /// Whether the client has the last event of each of its channels.
    fn has_everything(&self, progress: &watch::Receiver<Published>) -> bool {
        let published = progress.borrow();
        let ends = published.ends.as_ref().expect("everything is published");
        self.wanted(ends)
            .all(|(channel, end)| self.listener.last_number(channel) >= Some(*end))
    }

    /// The channels of `all` that the client subscribed to.
    fn wanted<'a, T>(&self, all: &'a BTreeMap<String, T>) -> impl Iterator<Item = (&'a String, &'a T)> {
        let parse = |pattern: &String| Pattern::parse(pattern).expect("a pattern");
        let patterns: Vec<Pattern> = self.listener.patterns.iter().map(parse).collect();
        all.iter()
            // Its only event was published before the clients connected.
            .filter(|(channel, _)| *channel != FIRST)
            .filter(move |(channel, _)| patterns.iter().any(|pattern| pattern.matches_name(channel)))
    }
}

/// Reads the history of a channel over the admin API.
pub(crate) async fn history(gateway: &Gateway, channel: &str) -> Vec<Entry> {
    let (mut entries, mut since) = (Vec::new(), 0);
    loop {
        let path = format!("/api/channels/{channel}/history?since={since}");
        let (status, page) = gateway.admin("GET", &path, "").await;
        // The log of a broker begins at a later offset, so nobody knows what was before.
        let is_complete = page["complete"] == true || since == 0 && page["offset"].as_u64() > Some(1 << 32);
        assert!(status == 200 && is_complete, "{channel}: {page}");
        entries.extend(page["events"].as_array().expect("events").iter().map(entry));
        since = page["offset"].as_u64().expect("an offset");
        if page["more"] == false {
            return entries;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_are_killed_at_random_have_every_event_once_and_in_order() {
    let clients = variable("TICKGATE_RECOVERY_CLIENTS", 60);
    let total = variable("TICKGATE_RECOVERY_SECONDS", 3) * EVENTS_PER_SECOND;
    let seed = variable("TICKGATE_SEED", tickgate::time::unix_ms());
    println!("TICKGATE_SEED={seed}: {clients} clients, {total} events");
    // Like the built-in class, but with a history that is long enough for the comparison at the end.
    let class = format!("[[channel]]\nmatch = \"grid.*\"\nhistory = {{ size = {total} }}");
    // Channels may begin late on a slow machine, and heartbeats would hide that no event arrives.
    let heartbeat = "[heartbeat]\ninterval = \"1h\"\ntimeout = \"2h\"";
    let gateway = Gateway::start("shards = 2", &format!("{heartbeat}\n{class}")).await;
    let first = json!({"channel": FIRST, "event": "filled", "data": {"n": 0}});
    gateway.publish(vec![first]).await;
    let (progress, _) = watch::channel(Published::default());
    let mut rng = StdRng::seed_from_u64(seed);
    let members: Vec<_> = (0..clients)
        .map(|_| Member::new(StdRng::seed_from_u64(rng.random())).run(gateway.public, progress.subscribe()))
        .map(tokio::spawn)
        .collect();
    publish(&gateway, rng, total, &progress).await;

    let mut histories = BTreeMap::new();
    for (channel, last) in progress.borrow().ends.clone().expect("published").iter() {
        let history = history(&gateway, channel).await;
        let numbers = history.iter().map(|(_, number)| *number);
        assert!(numbers.eq(0..=*last), "{channel}: {history:?}");
        histories.insert(channel.clone(), history);
    }
    let mut tally = Tally::default();
    for member in members {
        let member = member
            .await
            .unwrap_or_else(|error| panic!("TICKGATE_SEED={seed}: {error}"));
        tally.add(member.tally);
        let wanted: BTreeMap<_, _> = member.wanted(&histories).collect();
        let unexpected = member
            .listener
            .received
            .keys()
            .find(|channel| !wanted.contains_key(channel));
        assert_eq!(unexpected, None, "it did not subscribe to this channel");
        for (channel, history) in wanted {
            member.listener.assert_received_all(channel, history);
        }
    }
    println!("{tally:?}");
    assert!(
        tally.cut_between > clients / 2 && tally.cut_within > clients / 2,
        "{tally:?}"
    );
    assert!(
        tally.recoveries > clients && tally.published_while_away > total,
        "{tally:?}"
    );
}
