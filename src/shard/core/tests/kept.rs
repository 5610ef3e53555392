//! What tests of kept channels share: classes, small outboxes, and sockets that take a page.

use serde_json::{Value, json};

use super::*;
use crate::hub::StateSettings;
use tickgate_protocol::channel::{Class, Classes};

/// Small outboxes.
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

/// The `data` of the events among what was received, and whatever else came by its type.
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

/// Subscribes again, from an offset.
pub(super) fn recover(rig: &mut Rig, id: ConnectionId, pattern: &str, keys: &Value) {
    let message = json!({"type": "subscribe", "channels": [pattern], "recover": keys});
    rig.say(id, &message.to_string());
}

pub(super) fn offsets(frames: &[Received]) -> Vec<u64> {
    let texts = frames.iter().filter(|frame| frame.kind() == "event");
    texts.filter_map(|frame| frame.text()["offset"].as_u64()).collect()
}

impl Rig {
    pub(super) fn with_classes(entries: Vec<(&str, Class)>) -> Self {
        let entries = entries.into_iter();
        let entries = entries.map(|(pattern, class)| (Pattern::parse(pattern).expect("valid"), class));
        Self::of(
            Settings::new(0),
            hub::Settings {
                credits: 16_384,
                classes: Arc::new(Classes::new(entries.collect())),
                ..hub::Settings::default()
            },
        )
    }

    pub(super) fn with_state(state: StateSettings) -> Self {
        Self::of(
            Settings::new(0),
            hub::Settings {
                credits: 16_384,
                state,
                ..hub::Settings::default()
            },
        )
    }

    /// What its socket takes in the rest of this turn.
    pub(super) fn read_page(&mut self, id: ConnectionId) -> Vec<Received> {
        self.core.begin_turn(self.now);
        let mut bytes = Vec::new();
        self.core.postpone(id);
        while let Some(dirty) = self.core.next_dirty() {
            while dirty == id && self.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) {}
        }
        received(&bytes)
    }

    /// Everything that waits, unread.
    pub(super) fn read_bytes(&mut self, id: ConnectionId) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) {}
        bytes
    }

    /// As a driver's flush: everybody who is dirty; how many frames each of these got.
    pub(super) fn flush_turn(&mut self, of: &[ConnectionId]) -> Vec<(usize, usize)> {
        let mut counts = Vec::new();
        while let Some(dirty) = self.core.next_dirty() {
            let bytes = self.read_bytes(dirty);
            if let Some(place) = of.iter().position(|id| *id == dirty) {
                counts.push((place, received(&bytes).len()));
            }
        }
        counts
    }

    pub(super) fn has_no_extra(&self, id: ConnectionId) -> bool {
        let cold = self.core.cold[id.slot].as_ref();
        cold.is_some_and(|cold| cold.extra.is_none()) && !self.core.hot[id.slot].flags.has(Flags::CATCH_UP)
    }
}
