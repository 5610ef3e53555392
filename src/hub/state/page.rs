//! What the hub says about a channel's state.

use std::sync::Arc;

use super::channel::ChannelState;
use crate::event::Event;
use tickgate_protocol::channel::{Channel, Class};

/// The state of a channel as a join sees it, under the stripe's lock.
#[derive(Clone, Copy, Debug)]
pub struct ChannelView<'a> {
    /// The channel.
    pub channel: &'a Channel,
    /// Its class.
    pub class: &'a Arc<Class>,
    /// The version of its newest event. For a channel without state, the newest version in the hub: a client at this
    /// position has missed nothing.
    pub latest: u64,
    /// Events with versions at or below the floor may be missing.
    pub floor: u64,
    /// The newest version in the hub. A valid position is not above it, and a client at it has missed nothing.
    pub head: u64,
    /// Whether the channel has state.
    pub is_kept: bool,
    /// Whether the channel was deleted, and nothing was published since.
    pub is_deleted: bool,
    /// Whether nothing was published for too long (`fresh_within`).
    pub is_stale: bool,
    /// Whether a newcomer gets a last value, by `Newest { above: 0 }`.
    pub has_last: bool,
    pub(super) state: Option<&'a ChannelState>,
}

impl ChannelView<'_> {
    /// Whether every event after the version `since` is available, if the client's epoch is the hub's. 0 is the
    /// channel's beginning.
    #[must_use]
    pub const fn covers(&self, since: u64) -> bool {
        self.floor <= since && since <= self.head
    }

    /// The estimated size of what is kept of it, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.state.map_or(0, ChannelState::bytes)
    }

    /// Events that are kept of it.
    #[must_use]
    pub fn events(&self) -> usize {
        self.state.map_or(0, ChannelState::events)
    }

    /// The version of the first event of the history after the version `since`; `None`: there is none.
    #[must_use]
    pub fn first_after(&self, since: u64) -> Option<u64> {
        self.state?.first_after(since)
    }
}

/// What a read asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The channel's value.
    ///
    /// This is the newest event. If records are merged, it is one event with all records that changed after `above`. It is
    /// preceded by the last event that replaced the whole value, if that event is also newer than `above`.
    Newest {
        /// The version that the client has. 0 is a newcomer: it gets the complete value, unless that is too old for
        /// newcomers.
        above: u64,
    },
    /// Every event of the history with a higher offset.
    After(u64),
    /// Those of them with an offset below a bound. Later ones count as more.
    Between {
        /// The offset before the first event.
        after: u64,
        /// The offset behind the last event.
        below: u64,
    },
}

/// Bounds on one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// Most events. 0 means 1.
    pub events: usize,
    /// The page ends as soon as its events have so many bytes of data. It has at least one event, however large.
    pub bytes: usize,
}

/// The answer to a read, or the first part of it.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The events, oldest first.
    pub events: Vec<Arc<Event>>,
    /// An inbox index: the state that was read contains the channel's live events with a lower index, and no others.
    pub at: u64,
    /// The version that a client has reached when it has these events. The next page begins here. A live event of the
    /// channel is new to the client if and only if its version is higher.
    pub last: u64,
    /// Whether there are more events.
    pub more: bool,
    /// If there are more: the version of the first of them.
    pub next: u64,
    /// Whether events that were asked for are gone: trimmed, expired or evicted. `events` is empty then.
    pub overtaken: bool,
    /// Whether the channel was deleted, so that a newcomer gets no value.
    pub deleted: bool,
}
