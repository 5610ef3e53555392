//! What the tests of kept channels share: classes, small outboxes, and sockets that take one page.

use serde_json::{Value, json};

use super::*;
use crate::hub::StateSettings;
use tickgate_protocol::channel::{Class, Classes};

/// The settings of an endpoint with small outboxes.
pub(super) fn few(outbox_frames: u32) -> Arc<session::Settings> {
    let limits = Limits {
        outbox_frames,
        ..Limits::default()
    };
    session_settings(Mode::Off, limits)
}

pub(super) fn narrow(rig: &mut Rig, outbox_frames: u32) -> ConnectionId {
    rig.connect_with(few(outbox_frames), Ok(None), true)
}

/// The `data` of each event that was received, and the type of each other message.
pub(super) fn told(frames: &[Received]) -> Vec<Value> {
    let told = |frame: &Received| match frame {
        Received::Text(message) if message["type"] == "event" => message["data"].clone(),
        other => other.kind().into(),
    };
    frames.iter().map(told).collect()
}

pub(super) fn epoch(rig: &Rig) -> String {
    rig.hub.epoch().to_string()
}

/// Subscribes again, with these positions.
pub(super) fn recover(rig: &mut Rig, id: ConnectionId, pattern: &str, keys: &Value) {
    let message = json!({"type": "subscribe", "channels": [pattern], "recover": keys});
    rig.say(id, &message.to_string());
}

pub(super) fn offsets(frames: &[Received]) -> Vec<u64> {
    let texts = frames.iter().filter(|frame| frame.kind() == "event");
    texts.filter_map(|frame| frame.text()["offset"].as_u64()).collect()
}

/// The whole frames at the beginning of what a client received.
pub(super) fn whole(bytes: &[u8]) -> &[u8] {
    let mut end = 0;
    while let Some([_, length, rest @ ..]) = bytes.get(end..) {
        let (header, length) = match (*length, rest) {
            (126, [high, low, ..]) => (4, usize::from(u16::from_be_bytes([*high, *low]))),
            (126, _) => break,
            (short, _) => (2, usize::from(short)),
        };
        if bytes.len() < end + header + length {
            break;
        }
        end += header + length;
    }
    &bytes[..end]
}

impl Rig {
    pub(super) fn with_classes(entries: Vec<(&str, Class)>) -> Self {
        let entries = entries.into_iter();
        let entries = entries.map(|(pattern, class)| (Pattern::parse(pattern).expect("valid"), class));
        Self::of(
            shard_settings(),
            hub::Settings {
                credits: 16_384,
                classes: Arc::new(Classes::new(entries.collect())),
                ..hub::Settings::default()
            },
        )
    }

    pub(super) fn with_state(state: StateSettings) -> Self {
        Self::of(
            shard_settings(),
            hub::Settings {
                credits: 16_384,
                state,
                ..hub::Settings::default()
            },
        )
    }

    /// Reads what the socket takes in the rest of this turn.
    pub(super) fn read_page(&mut self, id: ConnectionId) -> Vec<Received> {
        self.core.begin_turn(self.now);
        let mut bytes = Vec::new();
        self.core.postpone(id);
        while let Some(dirty) = self.core.next_dirty() {
            while dirty == id && self.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) {}
        }
        received(&bytes)
    }

    /// Reads everything that is queued, as bytes.
    pub(super) fn read_bytes(&mut self, id: ConnectionId) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) {}
        bytes
    }

    /// Writes to every dirty connection, as a driver does; returns how many frames each of these got.
    pub(super) fn flush_turn(&mut self, of: &[ConnectionId]) -> Vec<(usize, usize)> {
        let mut counts = Vec::new();
        while let Some(dirty) = self.core.next_dirty() {
            let bytes = self.read_bytes(dirty);
            if let Some(index) = of.iter().position(|id| *id == dirty) {
                counts.push((index, received(&bytes).len()));
            }
        }
        counts
    }

    pub(super) fn has_no_extra(&self, id: ConnectionId) -> bool {
        let cold = self.core.connections.cold(id.slot);
        cold.is_some_and(|cold| cold.extra.is_none()) && !self.core.connections.hot(id.slot).flags.has(Flags::CATCH_UP)
    }
}
