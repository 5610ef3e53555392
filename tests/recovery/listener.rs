//! A client that keeps what it has as `docs/protocol.md` says, over all its connections: a cursor, or its positions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::{Map, Value, json};
use tickgate_protocol::message::Cursor;

use crate::clients::{Bare, text};
use crate::harness::trader;

/// An event: its offset and its number.
pub(crate) type Entry = (u64, u64);

pub(crate) fn entry(event: &Value) -> Entry {
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("no number in {event}"));
    (number(&event["offset"]), number(&event["data"]["n"]))
}

/// What a client gives back when it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Its position in each channel, as `recover`.
    Positions,
    /// The last cursor.
    Cursor,
    /// The last cursor, and in `seen` the offset that it has of each channel.
    CursorAndSeen,
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Positions, Self::Cursor, Self::CursorAndSeen];
}

/// The client's knowledge.
pub(crate) struct Listener {
    pub(crate) patterns: Vec<String>,
    way: Way,
    /// Its position in each channel, which it sends as `recover`.
    at: Map<String, Value>,
    /// The epoch of the connection; `null` until it is known. A client whose channels have no state yet gets no position, and
    /// learns the epoch by a `history` request.
    epoch: Value,
    has_asked: bool,
    /// Whether it received `subscribed` and has a position or a cursor. Otherwise there is nothing to recover.
    has_begun: bool,
    cursor: Option<String>,
    /// The version of the cursor with which it returned, and the newest offset that it has of each channel. Events that are
    /// newer than the one and not newer than the other may come again.
    returned_from: u64,
    has: BTreeMap<String, u64>,
    /// The newest offset of each channel that came on this connection.
    came: BTreeMap<String, u64>,
    /// The position of each channel at the first subscription.
    pub(crate) first: BTreeMap<String, u64>,
    /// All events that it received, over all connections, without those that came again.
    pub(crate) received: BTreeMap<String, Vec<Entry>>,
    /// Whether each channel was recovered, as the last `subscribed` says.
    pub(crate) recovered: Map<String, Value>,
}

impl Listener {
    pub(crate) fn new(patterns: Vec<String>, way: Way) -> Self {
        Self {
            patterns,
            way,
            at: Map::new(),
            epoch: Value::Null,
            has_asked: false,
            has_begun: false,
            cursor: None,
            returned_from: 0,
            has: BTreeMap::new(),
            came: BTreeMap::new(),
            first: BTreeMap::new(),
            received: BTreeMap::new(),
            recovered: Map::new(),
        }
    }

    /// Connects and subscribes, with what it has.
    pub(crate) async fn connect(&mut self, gateway: SocketAddr) -> Bare {
        let mut message = json!({"type": "subscribe", "channels": self.patterns});
        match self.way {
            Way::Positions => self.recover(&mut message),
            Way::Cursor | Way::CursorAndSeen => self.resume(&mut message),
        }
        let mut connection = Bare::upgraded(gateway, &format!("/ws?token={}", trader())).await;
        connection.send(&text(&message)).await.expect("sent");
        connection
    }

    fn recover(&mut self, message: &mut Value) {
        // If the last connection was killed before the epoch was known, its offsets are useless.
        self.at.retain(|_, at| !at["epoch"].is_null());
        if self.at.is_empty() {
            self.begin_anew();
        }
        self.has_asked = false;
        if self.has_begun {
            message["recover"] = Value::Object(self.at.clone());
        }
    }

    fn resume(&mut self, message: &mut Value) {
        self.came.clear();
        let Some(cursor) = &self.cursor else {
            return self.begin_anew();
        };
        self.returned_from = Cursor::parse(cursor).expect("a cursor of the gateway").version;
        message["cursor"] = cursor.as_str().into();
        if self.way == Way::CursorAndSeen {
            message["seen"] = json!(self.has);
        }
    }

    // Without a position or a cursor nothing can be recovered, so the client starts from the beginning.
    fn begin_anew(&mut self) {
        self.has_begun = false;
        self.first.clear();
        self.received.clear();
        self.has.clear();
    }

    pub(crate) fn epoch(&self) -> &Value {
        &self.epoch
    }

    /// Handles one message. A message about a loss or an error is a failure.
    pub(crate) async fn take(&mut self, message: &Value, connection: &mut Bare) {
        match message["type"].as_str() {
            Some("subscribed") => self.subscribed(message),
            Some("event") => self.event(message, connection).await,
            Some("history") if self.way == Way::Positions => {
                self.epoch = message["data"]["epoch"].clone();
                for at in self.at.values_mut() {
                    at["epoch"] = self.epoch.clone();
                }
            }
            Some("cursor") if self.way != Way::Positions => {}
            Some("ping" | "going_away") => {}
            _ => panic!("unexpected message: {message}"),
        }
        if let Some(cursor) = message["cursor"].as_str() {
            self.cursor = Some(cursor.to_owned());
        }
    }

    async fn event(&mut self, message: &Value, connection: &mut Bare) {
        let channel = message["channel"].as_str().expect("a channel");
        let (offset, number) = entry(message);
        if self.way != Way::Positions && self.came_before(channel, offset, message) {
            return;
        }
        self.received
            .entry(channel.to_owned())
            .or_default()
            .push((offset, number));
        if self.way != Way::Positions {
            return;
        }
        let at = json!({"epoch": self.epoch, "offset": offset});
        self.at.insert(channel.to_owned(), at);
        if self.epoch.is_null() && !self.has_asked {
            self.has_asked = true;
            let ask = json!({"type": "history", "channel": channel, "since": offset, "limit": 1});
            // If the connection has ended, the next read reports it.
            let _ = connection.send(&text(&ask)).await;
        }
    }

    // Whether the client has an event. It may come again if the cursor does not cover it and the client did not say that it
    // has it.
    fn came_before(&mut self, channel: &str, offset: u64, message: &Value) -> bool {
        let before = self.came.insert(channel.to_owned(), offset);
        assert!(before < Some(offset), "behind {before:?}: {message}");
        let has = self.has.entry(channel.to_owned()).or_default();
        if offset > *has {
            *has = offset;
            return false;
        }
        let from = self.returned_from;
        let may_come = self.way == Way::Cursor && offset > from;
        assert!(
            may_come,
            "{:?} returned from {from}, and this came again: {message}",
            self.way
        );
        true
    }

    fn subscribed(&mut self, message: &Value) {
        let data = &message["data"];
        let positions = || data["positions"].as_object().into_iter().flatten();
        if !self.has_begun {
            let offset = |position: &Value| position["offset"].as_u64().expect("an offset");
            self.first = positions().map(|(channel, at)| (channel.clone(), offset(at))).collect();
            // The first cursor may be older than these.
            self.has = self.first.clone();
        }
        match self.way {
            Way::Positions => self.recovered_by_positions(message),
            Way::Cursor | Way::CursorAndSeen => self.recovered_by_cursor(message),
        }
        self.has_begun = true;
    }

    fn recovered_by_positions(&mut self, message: &Value) {
        let data = &message["data"];
        let positions = || data["positions"].as_object().into_iter().flatten();
        // After a crash it is unknown which channels were lost. The new epoch says that channels may be lost.
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
            self.epoch = position["epoch"].clone();
            self.at.insert(channel.clone(), position.clone());
        }
    }

    fn recovered_by_cursor(&mut self, message: &Value) {
        let (data, before) = (&message["data"], self.epoch.take());
        let cursor = message["cursor"]
            .as_str()
            .expect("nothing is under way that would forbid it");
        self.epoch = cursor.split('-').next().into();
        let is_new_store = self.has_begun && self.epoch != before;
        assert_eq!(data["positions_complete"] == false, is_new_store, "{message}");
        let known: BTreeSet<String> = self.first.keys().chain(self.received.keys()).cloned().collect();
        let named = &data["recovered"];
        assert_eq!(!named.is_null(), self.has_begun, "{message}");
        let is_whole = |channel: &String| !is_new_store && named[channel] != false;
        self.has.retain(|channel, _| is_whole(channel));
        let told = |channel: &String| (channel.clone(), is_whole(channel).into());
        self.recovered = known.iter().filter(|_| self.has_begun).map(told).collect();
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
            "{channel} from {first}, {:?}: {} events were owed, {} arrived; after the first {same}: owed {:?}, arrived {:?}",
            self.way,
            owed.len(),
            received.len(),
            owed[same..].iter().take(3).collect::<Vec<_>>(),
            received[same..].iter().take(3).collect::<Vec<_>>(),
        );
    }
}
