//! The end of connections and of the shard, what operators ask, and what the driver has to do.
//!
//! Per file: `closing` (from the end of a session to the removal of its connection), `drain` (the end of the shard),
//! `query` (what operators ask).

mod closing;
mod drain;
pub(super) mod query;

use std::collections::VecDeque;

use super::Action;
use crate::shard::mailbox::scramble;
use crate::time::Now;
use drain::Drain;
pub(super) use drain::DrainStep;

/// Actions for the driver, and the drain; see the module's docs.
#[derive(Default)]
pub(super) struct Control {
    actions: VecDeque<Action>,
    drain: Option<Drain>,
    // Random bits that only the nonces of arriving connections decide.
    entropy: u64,
}

impl Control {
    /// Tells the driver to do something.
    pub(super) fn act(&mut self, action: Action) {
        self.actions.push_back(action);
    }

    /// What the driver has to do next.
    pub(super) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Takes in random bits.
    pub(super) const fn add_entropy(&mut self, nonce: u64) {
        self.entropy = scramble(self.entropy ^ nonce);
    }

    /// Random bits.
    pub(super) const fn random(&mut self) -> u64 {
        self.entropy = self.entropy.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.entropy)
    }

    /// Begins the drain, unless it has begun. `slots`: how many slots have been taken; `connections`: how many of them hold
    /// a connection.
    pub(super) fn begin_drain(&mut self, over_ms: u64, slots: u32, connections: usize, now: Now) {
        self.drain
            .get_or_insert_with(|| Drain::new(over_ms, slots, connections, now));
    }

    /// The drain, if it has begun, ends later.
    pub(in crate::shard::core) const fn delay_drain(&mut self, by_ms: u64) {
        if let Some(drain) = &mut self.drain {
            drain.delay(by_ms);
        }
    }

    /// The drain, if it has begun.
    pub(super) const fn drain(&self) -> Option<&Drain> {
        self.drain.as_ref()
    }

    /// The drain closes the connection in a slot later.
    pub(super) fn postpone(&mut self, slot: u32, now: Now) {
        if let Some(drain) = &mut self.drain {
            drain.postpone(slot, now);
        }
    }

    /// Takes the slots whose connections the drain postponed.
    pub(super) fn take_postponed(&mut self) -> Vec<u32> {
        self.drain.as_mut().map(Drain::take_postponed).unwrap_or_default()
    }

    /// What the drain does next.
    pub(super) fn next_drain_step(&mut self, slots: u32, now: Now) -> Option<DrainStep> {
        self.drain.as_mut()?.next_step(slots, now)
    }
}
