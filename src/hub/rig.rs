//! What the hub's tests and its interleavings under the model checker have in common: a hub, numbered events, and the
//! faults that are planted into finding a position.

use std::sync::Arc;

use bytes::Bytes;

use super::{Encode, Hub, Inbox, PageLimit, Settings, StateSettings};
use crate::event::{NewEvent, PublishOptions};
use tickgate_protocol::channel::{Channel, Class, Classes, History, Overflow, Pattern};

pub(super) const NO_FRAME: Encode = |_, _| Bytes::new();

pub(super) const NO_LIMIT: PageLimit = PageLimit {
    events: usize::MAX,
    bytes: usize::MAX,
};

/// Of a hub that is made by [`hub_of_ids`].
pub(super) const WINDOW_MS: u64 = 60_000;

/// A hub that keeps a history of the channels below `kept`, and of others what classes keep without configuration.
pub(super) fn hub(credits: u32, shards: usize, encode: Encode) -> (Arc<Hub>, Vec<Inbox>) {
    let history = Class {
        cache_last: true,
        history: Some(History {
            size: 100,
            ttl_ms: 60_000,
        }),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    let settings = Settings {
        credits,
        classes: Arc::new(Classes::new(vec![(pattern("kept.*"), history)])),
        ..Settings::default()
    };
    Hub::new(settings, shards, encode)
}

/// A hub that remembers so many ids at most, and each of them for a minute.
pub(super) fn hub_of_ids(ids_max: u32) -> Arc<Hub> {
    let settings = Settings {
        state: StateSettings {
            dedup_window_ms: WINDOW_MS,
            ..StateSettings::default()
        },
        ..Settings::default()
    };
    Hub::with_ids_max(settings, 1, NO_FRAME, ids_max).0
}

pub(super) fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("valid")
}

pub(super) fn channel(text: &str) -> Channel {
    Channel::parse(text).expect("valid")
}

pub(super) fn event(on: &str, number: u64) -> NewEvent {
    NewEvent {
        channel: channel(on),
        name: "n".into(),
        data: number.to_string().into(),
        timestamp_ms: 0,
        options: PublishOptions::default(),
    }
}

/// How a join or a read finds its position: the right way and two wrong ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    UnderLock,
    /// Planted fault: the inbox's length is read after the unlock. An event in between is in nobody's state and is
    /// not delivered either: a gap.
    AfterUnlock,
    /// Planted fault: no position at all. What the state held already is delivered again: a duplicate.
    Nowhere,
}

impl Rule {
    pub(super) fn place(self, under_lock: u64, later: &dyn Fn() -> u64) -> u64 {
        match self {
            Self::UnderLock => under_lock,
            Self::AfterUnlock => later(),
            Self::Nowhere => 0,
        }
    }
}
