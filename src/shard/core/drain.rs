//! The end of a shard: everybody is told, then closed one by one over the time given.
//!
//! Invariant: a connection is told when it will be closed before it is closed, and not before the time it was told.
//! The last fifth of the time belongs to those who are slow to take what is queued for them.

use std::mem;

use super::ShardCore;
use crate::session::Input;
use crate::shard::connection::Stage;
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;

/// A client should come back after a random time up to this, so that not all come at once.
const RECONNECT_AFTER_MS_MAX: u64 = 10_000;

/// What is open at the deadline has so long to take its last frames.
const LAST_WORDS_MS: u64 = 1_000;

/// A drain in progress.
#[derive(Debug)]
pub(super) struct Drain {
    start_ms: u64,
    // Over which the closes are spread.
    spread_ms: u64,
    deadline_ms: u64,
    // Slots when it began; they are announced and closed in order.
    slots: u32,
    announced: u32,
    closed: u32,
    is_late: bool,
}

impl Drain {
    // When the connection in this slot is closed. Later ones than it began with come last.
    fn close_at_ms(&self, slot: u32) -> u64 {
        let slot = u64::from(slot.min(self.slots));
        self.start_ms + self.spread_ms * (slot + 1) / (u64::from(self.slots) + 1)
    }
}

impl ShardCore {
    /// Whether a drain has begun and nobody is left, nor an event that one of them published.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.drain.is_some() && self.connections == 0 && self.parked.is_empty()
    }

    pub(super) fn begin_drain(&mut self, over_ms: u64, now: Now) {
        if self.drain.is_none() {
            self.drain = Some(Drain {
                start_ms: now.mono_ms,
                spread_ms: over_ms / 5 * 4,
                deadline_ms: now.mono_ms + over_ms,
                slots: self.slots,
                announced: 0,
                closed: 0,
                is_late: false,
            });
        }
    }

    /// One that came too late for its turn goes at once.
    pub(super) fn drain_latecomer(&mut self, slot: u32, now: Now) {
        self.announce_drain(slot, now);
        if self.drain.as_ref().is_some_and(|drain| slot < drain.closed) {
            self.end_open(slot, Disconnect::Restart, now);
        }
    }

    /// Tells one connection when it will be closed.
    fn announce_drain(&mut self, slot: u32, now: Now) {
        let reconnect_after_ms = self.random() % RECONNECT_AFTER_MS_MAX;
        if self.hot[slot].stage != Stage::Open {
            return;
        }
        if let Some(drain) = &self.drain {
            let close_in_ms = drain.close_at_ms(slot).saturating_sub(now.mono_ms);
            let input = Input::GoingAway {
                close_in_ms,
                reconnect_after_ms,
            };
            self.tell(slot, input, now);
        }
    }

    /// When the drain goes on; `None`: no drain, or nothing left of it.
    pub(super) fn next_drain_ms(&self) -> Option<u64> {
        let drain = self.drain.as_ref()?;
        if self.connections == 0 {
            return None;
        }
        if drain.announced < drain.slots {
            return Some(drain.start_ms);
        }
        if drain.closed < self.slots {
            return Some(drain.close_at_ms(drain.closed));
        }
        Some(if drain.is_late {
            drain.deadline_ms + LAST_WORDS_MS
        } else {
            drain.deadline_ms
        })
    }

    /// Announces, then closes, at most `limit` connections; returns whether more is due.
    pub(super) fn run_drain(&mut self, limit: usize, now: Now) -> bool {
        for _ in 0..limit {
            let all = self.slots;
            let Some(drain) = &mut self.drain else { return false };
            if drain.announced < drain.slots {
                let slot = drain.announced;
                drain.announced += 1;
                self.announce_drain(slot, now);
            } else if now.mono_ms >= drain.deadline_ms {
                self.pass_deadline(now);
                return false;
            } else if drain.closed < all && drain.close_at_ms(drain.closed) <= now.mono_ms {
                let slot = drain.closed;
                drain.closed += 1;
                self.end_open(slot, Disconnect::Restart, now);
            } else {
                return false;
            }
        }
        self.next_drain_ms().is_some_and(|ms| ms <= now.mono_ms)
    }

    // The time is over: whoever is still open is told so; a second later nobody is waited for any more.
    fn pass_deadline(&mut self, now: Now) {
        let Some(drain) = &mut self.drain else { return };
        let give_up = now.mono_ms >= drain.deadline_ms + LAST_WORDS_MS;
        if mem::replace(&mut drain.is_late, true) && !give_up {
            return;
        }
        drain.closed = self.slots;
        for slot in 0..self.slots {
            self.end_open(slot, Disconnect::DrainDeadline, now);
            if give_up && self.hot[slot].stage != Stage::Vacant {
                self.remove(slot);
            }
        }
    }

    fn end_open(&mut self, slot: u32, ending: Disconnect, now: Now) {
        if self.hot[slot].stage == Stage::Open {
            self.tell(slot, Input::End(ending), now);
        }
    }
}
