//! What the hub tells of a channel's state.

use std::sync::Arc;

use crate::event::Event;
use tickgate_protocol::channel::{Channel, Class};

/// A channel's state as a join sees it, under its stripe's lock.
#[derive(Clone, Copy, Debug)]
pub struct ChannelView<'a> {
    /// The channel.
    pub channel: &'a Channel,
    /// Its class.
    pub class: &'a Arc<Class>,
    /// Version of its newest event. Of a channel without state: the newest there is, so that whoever holds this position
    /// has missed nothing.
    pub latest: u64,
    /// Events at or below it may be missing.
    pub floor: u64,
    /// The newest version there is: no position can be above it, and at it nothing is missed.
    pub head: u64,
    /// Whether it has state at all.
    pub is_kept: bool,
    /// Whether a newcomer has to get a last value: `Newest { above: 0 }`.
    pub has_last: bool,
}

impl ChannelView<'_> {
    /// Whether everything after `since` is there, given that the client's epoch is the hub's. 0 stands for the
    /// channel's beginning.
    #[must_use]
    pub const fn covers(&self, since: u64) -> bool {
        self.floor <= since && since <= self.head
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The channel's value: the newest event or, of merged records, one event with those changed after `above`;
    /// before it the value that stood for the whole, if the records began anew behind one after `above`.
    Newest {
        /// The version that the client has. 0: a newcomer, who gets the whole value unless that is too old for
        /// newcomers.
        above: u64,
    },
    /// Every event of the history with an offset above this one.
    After(u64),
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// So many events at most, at least 1.
    pub events: usize,
    /// Stops when the events have so many bytes of data; the first one is always given.
    pub bytes: usize,
}

/// What was asked for, or the first part of it.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Oldest first.
    pub events: Vec<Arc<Event>>,
    /// Live events of the channel with an inbox index below it are contained in the state that was read; all others
    /// are not.
    pub at: u64,
    /// Up to which version the client is served when it has these events: the next page begins there, and a live event
    /// of the channel is new to the client iff its version is above.
    pub last: u64,
    /// There is more.
    pub more: bool,
    /// Events that were asked for are gone: trimmed, expired or evicted. `events` is empty then.
    pub overtaken: bool,
}
