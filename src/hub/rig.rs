//! Shared by the hub's tests and its interleavings under the model checker: hubs, numbered events, and the faults that
//! are planted into the way positions are read.

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

/// The deduplication window of a hub made by [`hub_of_ids`].
pub(super) const WINDOW_MS: u64 = 60_000;

/// A hub that keeps a history of the channels below `kept`. The built-in classes apply to all others.
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

/// A hub that remembers at most `ids_max` ids, each for [`WINDOW_MS`].
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

/// Decides a position instead of the [`Inbox`]. It gets the stripe, the position that was read under its lock, and a way
/// to read the end of the inbox again after the lock.
pub(super) type PositionFault = Box<dyn FnMut(u8, u64, &dyn Fn() -> u64) -> u64 + Send>;

/// How a join or a read finds its position: the correct way and two planted faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    UnderLock,
    /// Planted fault: the end of the inbox is read after the unlock. An event in between is not in the state and is not
    /// delivered either: a gap.
    AfterUnlock,
    /// Planted fault: the position is the beginning of the inbox. Events that the state contained are delivered again:
    /// duplicates.
    Nowhere,
}

impl Rule {
    pub(super) fn position(self, under_lock: u64, later: &dyn Fn() -> u64) -> u64 {
        match self {
            Self::UnderLock => under_lock,
            Self::AfterUnlock => later(),
            Self::Nowhere => 0,
        }
    }
}

/// Makes an inbox find its positions by the rule. `after_unlock` is called with the stripe, between the unlock and the
/// point at which a faulty rule reads the end of the inbox.
pub(super) fn plant(inbox: &Inbox, rule: Rule, mut after_unlock: impl FnMut(u8) + Send + 'static) {
    inbox.plant(move |stripe, under_lock, later| {
        after_unlock(stripe);
        rule.position(under_lock, later)
    });
}
