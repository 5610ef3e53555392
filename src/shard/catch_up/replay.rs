//! The channels of which a client missed events, in the order of the next missed one.
//!
//! Invariant: no channel misses an event before the version that it is in here with.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tickgate_protocol::channel::Channel;

/// A replay over several channels; see the module's docs.
#[derive(Debug, Default)]
pub(super) struct Replay(BinaryHeap<Reverse<Missed>>);

// Compared by the version first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Missed {
    next: u64,
    channel: Channel,
}

impl Replay {
    /// A replay of one channel.
    pub(super) fn of(channel: Channel, next: u64) -> Self {
        let mut replay = Self::default();
        replay.push(channel, next);
        replay
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many channels are left.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes in a channel that misses no event before the version `next`.
    pub(super) fn push(&mut self, channel: Channel, next: u64) {
        self.0.push(Reverse(Missed { next, channel }));
    }

    /// The version before which no channel misses an event; `None`: none misses any.
    pub(super) fn next(&self) -> Option<u64> {
        self.0.peek().map(|Reverse(first)| first.next)
    }

    /// Takes out the channel with the lowest next version.
    pub(super) fn pop(&mut self) -> Option<Channel> {
        self.0.pop().map(|Reverse(first)| first.channel)
    }

    /// Forgets the channels that are not `owed`.
    pub(super) fn retain(&mut self, mut owed: impl FnMut(&Channel) -> bool) {
        self.0.retain(|Reverse(missed)| owed(&missed.channel));
    }

    /// The bytes of memory that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Missed>()
    }
}
