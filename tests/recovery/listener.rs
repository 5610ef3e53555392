//! A client that keeps its positions as `docs/protocol.md` says, over all its connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::clients::{Bare, text};
use crate::harness::trader;

/// An event: its offset and its number.
pub(crate) type Entry = (u64, u64);

pub(crate) fn entry(event: &Value) -> Entry {
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {event}"));
    (number(&event["offset"]), number(&event["data"]["n"]))
}

/// The client's knowledge.
#[derive(Default)]
pub(crate) struct Listener {
    pub(crate) patterns: Vec<String>,
    /// Its position in each channel, which it sends as `recover`.
    at: Map<String, Value>,
    /// The epoch of the connection; `null` until it is known. A client whose channels have no state yet gets no position, and
    /// learns the epoch by a `history` request.
    epoch: Value,
    has_asked: bool,
    /// Whether it received `subscribed` and has a position. Otherwise there is nothing to recover.
    has_begun: bool,
    /// The position of each channel at the first subscription.
    pub(crate) first: BTreeMap<String, u64>,
    /// All events that it received, over all connections.
    pub(crate) received: BTreeMap<String, Vec<Entry>>,
    /// The content of `recovered` in the last `subscribed`, by channel.
    pub(crate) recovered: Map<String, Value>,
}

impl Listener {
    pub(crate) fn new(patterns: Vec<String>) -> Self {
        Self {
            patterns,
            ..Self::default()
        }
    }

    /// Connects and subscribes, with `recover` if it has positions.
    pub(crate) async fn connect(&mut self, gateway: SocketAddr) -> Bare {
        // If the last connection was killed before the epoch was known, its offsets are useless.
        self.at.retain(|_, at| !at["epoch"].is_null());
        if self.at.is_empty() {
            // Without a position nothing can be recovered, so the client starts from the beginning.
            self.has_begun = false;
            self.first.clear();
            self.received.clear();
        }
        self.has_asked = false;
        let mut connection = Bare::upgraded(gateway, &format!("/ws?token={}", trader())).await;
        let mut message = json!({"type": "subscribe", "channels": self.patterns});
        if self.has_begun {
            message["recover"] = Value::Object(self.at.clone());
        }
        connection.send(&text(&message)).await.expect("sent");
        connection
    }

    pub(crate) fn epoch(&self) -> &Value {
        &self.epoch
    }

    /// Handles one message. A message about a loss or an error is a failure.
    pub(crate) async fn take(&mut self, message: &Value, connection: &mut Bare) {
        match message["type"].as_str() {
            Some("subscribed") => self.subscribed(message),
            Some("event") => {
                let channel = message["channel"].as_str().expect("a channel");
                let (offset, number) = entry(message);
                self.received
                    .entry(channel.to_owned())
                    .or_default()
                    .push((offset, number));
                let at = json!({"epoch": self.epoch, "offset": offset});
                self.at.insert(channel.to_owned(), at);
                if self.epoch.is_null() && !self.has_asked {
                    self.has_asked = true;
                    let ask = json!({"type": "history", "channel": channel, "since": offset, "limit": 1});
                    // If the connection has ended, the next read reports it.
                    let _ = connection.send(&text(&ask)).await;
                }
            }
            Some("history") => {
                self.epoch = message["data"]["epoch"].clone();
                for at in self.at.values_mut() {
                    at["epoch"] = self.epoch.clone();
                }
            }
            Some("ping" | "going_away") => {}
            _ => panic!("unexpected message: {message}"),
        }
    }

    fn subscribed(&mut self, message: &Value) {
        let data = &message["data"];
        // After a crash it is unknown which channels were lost. The new epoch says that channels may be lost.
        let positions = || data["positions"].as_object().into_iter().flatten();
        let is_new_store = self.has_begun && positions().any(|(_, position)| position["epoch"] != self.epoch);
        assert!(is_new_store || data["positions_complete"] != false, "{message}");
        self.recovered = data["recovered"].as_object().cloned().unwrap_or_default();
        if self.has_begun {
            for (channel, at) in &self.at {
                // A recovered channel continues exactly at the given position.
                let continues = self.recovered[channel] == true && data["positions"][channel] == *at;
                assert!(
                    continues || self.recovered[channel] == false,
                    "{channel} at {at}: {message}"
                );
            }
        }
        // Channels without state have no position and no epoch any more.
        self.at.clear();
        self.epoch = Value::Null;
        for (channel, position) in positions() {
            if !self.has_begun {
                self.first
                    .insert(channel.clone(), position["offset"].as_u64().expect("an offset"));
            }
            self.epoch = position["epoch"].clone();
            self.at.insert(channel.clone(), position.clone());
        }
        self.has_begun = true;
    }

    pub(crate) fn last_number(&self, channel: &str) -> Option<u64> {
        Some(self.received.get(channel)?.last()?.1)
    }

    /// Asserts that the client received every event of a channel since the first subscription, once and in order.
    pub(crate) fn assert_received_all(&self, channel: &str, history: &[Entry]) {
        let first = self.first.get(channel).copied().unwrap_or(0);
        let owed = &history[history.partition_point(|(offset, _)| *offset <= first)..];
        let received = self.received.get(channel).map_or(&[][..], Vec::as_slice);
        let same = owed
            .iter()
            .zip(received)
            .take_while(|(owed, received)| owed == received)
            .count();
        assert!(
            same == owed.len() && same == received.len(),
            "{channel} from {first}: {} events were owed, {} arrived; after the first {same}: owed {:?}, arrived {:?}",
            owed.len(),
            received.len(),
            owed[same..].iter().take(3).collect::<Vec<_>>(),
            received[same..].iter().take(3).collect::<Vec<_>>(),
        );
    }
}
