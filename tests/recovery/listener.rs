//! A client that keeps its books as `docs/protocol.md` says, over all its connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Map, Value, json};

use crate::clients::{Bare, text};
use crate::harness::trader;

/// An event as a client or the history gives it: offset and number.
pub(crate) type Entry = (u64, u64);

pub(crate) fn entry(event: &Value) -> Entry {
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {event}"));
    (number(&event["offset"]), number(&event["data"]["n"]))
}

/// What a client knows.
#[derive(Default)]
pub(crate) struct Listener {
    pub(crate) patterns: Vec<String>,
    /// Where it is in each channel: what it gives as `recover`.
    at: Map<String, Value>,
    /// The connection's; `null` until told: who subscribes where nothing is kept has no position, and asks by `history`.
    epoch: Value,
    has_asked: bool,
    /// Whether it was told `subscribed` and knows a position: without that there is nothing to recover.
    has_begun: bool,
    /// Where each channel stood at its first subscription.
    pub(crate) first: BTreeMap<String, u64>,
    /// All events, over all connections.
    pub(crate) heard: BTreeMap<String, Vec<Entry>>,
    /// What the last `subscribed` said, by channel.
    pub(crate) recovered: Map<String, Value>,
}

impl Listener {
    pub(crate) fn new(patterns: Vec<String>) -> Self {
        Self {
            patterns,
            ..Self::default()
        }
    }

    /// Connects, and subscribes, with `recover` when it was there before.
    pub(crate) async fn connect(&mut self, gateway: SocketAddr) -> Bare {
        // Killed before it knew the epoch: such offsets are worth nothing.
        self.at.retain(|_, at| !at["epoch"].is_null());
        if self.at.is_empty() {
            // Without a position nothing can be recovered: it comes for the first time, once more.
            self.has_begun = false;
            self.first.clear();
            self.heard.clear();
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

    /// Takes one message into the books; one that tells of a loss or an error must not come.
    pub(crate) async fn take(&mut self, message: &Value, connection: &mut Bare) {
        match message["type"].as_str() {
            Some("subscribed") => self.subscribed(message),
            Some("event") => {
                let channel = message["channel"].as_str().expect("a channel");
                let (offset, number) = entry(message);
                self.heard.entry(channel.to_owned()).or_default().push((offset, number));
                let at = json!({"epoch": self.epoch, "offset": offset});
                self.at.insert(channel.to_owned(), at);
                if self.epoch.is_null() && !self.has_asked {
                    self.has_asked = true;
                    let ask = json!({"type": "history", "channel": channel, "since": offset, "limit": 1});
                    // When the connection has ended, the next reading tells.
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
            _ => panic!("not what a client of histories is told: {message}"),
        }
    }

    fn subscribed(&mut self, message: &Value) {
        let data = &message["data"];
        // After a crash nobody knows which channels were lost; the new epoch says that they may have been.
        let positions = || data["positions"].as_object().into_iter().flatten();
        let is_new_store = self.has_begun && positions().any(|(_, position)| position["epoch"] != self.epoch);
        assert!(is_new_store || data["positions_complete"] != false, "{message}");
        self.recovered = data["recovered"].as_object().cloned().unwrap_or_default();
        if self.has_begun {
            for (channel, at) in &self.at {
                // What is recovered goes on from the very position that was given.
                let goes_on = self.recovered[channel] == true && data["positions"][channel] == *at;
                assert!(
                    goes_on || self.recovered[channel] == false,
                    "{channel} at {at}: {message}"
                );
            }
        }
        // Where nothing is kept, there is no position any more, nor an epoch.
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
        Some(self.heard.get(channel)?.last()?.1)
    }

    /// Every event of a channel since the first subscription, once and in order, is what it must have heard.
    pub(crate) fn assert_heard_all(&self, channel: &str, history: &[Entry]) {
        let first = self.first.get(channel).copied().unwrap_or(0);
        let owed = &history[history.partition_point(|(offset, _)| *offset <= first)..];
        let heard = self.heard.get(channel).map_or(&[][..], Vec::as_slice);
        let same = owed.iter().zip(heard).take_while(|(owed, heard)| owed == heard).count();
        assert!(
            same == owed.len() && same == heard.len(),
            "{channel} from {first}: {} events were owed, {} came; after the first {same}: owed {:?}, came {:?}",
            owed.len(),
            heard.len(),
            owed[same..].iter().take(3).collect::<Vec<_>>(),
            heard[same..].iter().take(3).collect::<Vec<_>>(),
        );
    }
}
