//! The end of a shard: all clients are told, then their connections are closed one by one over the given time.
//!
//! Invariant: a client is told when its connection will be closed, and it is not closed before that time. The last fifth of
//! the time is for clients that are slow to take what is queued for them.

use super::super::ShardCore;
use crate::session::Input;
use crate::shard::connection::Stage;
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;

/// A client should return after a random time up to this, so that not all of them return at once.
const RECONNECT_AFTER_MS_MAX: u64 = 10_000;

/// How long a connection that is open at the deadline has to take its last frames.
const LAST_FRAMES_MS: u64 = 1_000;

/// A drain in progress.
#[derive(Debug)]
pub(in crate::shard::core) struct Drain {
    start_ms: u64,
    // The time over which the closes are spread.
    spread_ms: u64,
    deadline_ms: u64,
    // The slots at the beginning of the drain. They are told and closed in order.
    slots: u32,
    announced: u32,
    closed: u32,
    // The deadline has passed, and the connections that were open then have been ended.
    is_late: bool,
}

/// What a drain does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard::core) enum DrainStep {
    /// Tell the client in this slot when its connection will be closed.
    Announce(u32),
    /// Close the connection in this slot.
    Close(u32),
    /// The deadline has passed: end every session that is still open.
    EndAll {
        /// Remove the connections, too, whatever is still queued.
        remove: bool,
    },
}

impl Drain {
    pub(super) const fn new(over_ms: u64, slots: u32, now: Now) -> Self {
        Self {
            start_ms: now.mono_ms,
            spread_ms: over_ms / 5 * 4,
            deadline_ms: now.mono_ms + over_ms,
            slots,
            announced: 0,
            closed: 0,
            is_late: false,
        }
    }

    // When the connection in a slot is closed. Slots that were taken after the drain began come last.
    fn close_at_ms(&self, slot: u32) -> u64 {
        let slot = u64::from(slot.min(self.slots));
        self.start_ms + self.spread_ms * (slot + 1) / (u64::from(self.slots) + 1)
    }

    /// Whether the slot's time to be closed has passed.
    const fn has_closed(&self, slot: u32) -> bool {
        slot < self.closed
    }

    /// When the drain goes on, in monotonic milliseconds. `slots`: how many slots have been taken by now.
    fn next_ms(&self, slots: u32) -> u64 {
        if self.announced < self.slots {
            self.start_ms
        } else if self.closed < slots {
            self.close_at_ms(self.closed)
        } else if self.is_late {
            self.deadline_ms + LAST_FRAMES_MS
        } else {
            self.deadline_ms
        }
    }

    /// What to do next; `None`: nothing for now.
    pub(super) fn next_step(&mut self, slots: u32, now: Now) -> Option<DrainStep> {
        if self.announced < self.slots {
            self.announced += 1;
            return Some(DrainStep::Announce(self.announced - 1));
        }
        if now.mono_ms >= self.deadline_ms {
            let remove = now.mono_ms >= self.deadline_ms + LAST_FRAMES_MS;
            if std::mem::replace(&mut self.is_late, true) && !remove {
                return None;
            }
            self.closed = slots;
            return Some(DrainStep::EndAll { remove });
        }
        if self.closed < slots && self.close_at_ms(self.closed) <= now.mono_ms {
            self.closed += 1;
            return Some(DrainStep::Close(self.closed - 1));
        }
        None
    }
}

impl ShardCore {
    /// Whether a drain has begun, no connection is left, and every event that a client published is published.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.control.drain().is_some() && self.connections.len() == 0 && self.publishing.is_empty()
    }

    /// A connection that arrives during the drain is told at once. If its slot's time has passed, it is closed, too.
    pub(in crate::shard::core) fn drain_latecomer(&mut self, slot: u32, now: Now) {
        if self.control.drain().is_some() {
            self.announce_drain(slot, now);
        }
        if self.control.drain().is_some_and(|drain| drain.has_closed(slot)) {
            self.end(slot, Disconnect::Restart, now);
        }
    }

    /// When the drain goes on, in monotonic milliseconds; `None`: there is no drain, or it is done.
    pub(in crate::shard::core) fn next_drain_ms(&self) -> Option<u64> {
        let drain = self.control.drain()?;
        (self.connections.len() > 0).then(|| drain.next_ms(self.connections.slots().end))
    }

    /// Tells, then closes, at most `limit` connections; returns whether more is due.
    pub(in crate::shard::core) fn run_drain(&mut self, limit: usize, now: Now) -> bool {
        for _ in 0..limit {
            match self.control.next_drain_step(self.connections.slots().end, now) {
                None => return false,
                Some(DrainStep::Announce(slot)) => self.announce_drain(slot, now),
                Some(DrainStep::Close(slot)) => self.end(slot, Disconnect::Restart, now),
                Some(DrainStep::EndAll { remove }) => {
                    self.end_all(remove, now);
                    return false;
                }
            }
        }
        self.next_drain_ms().is_some_and(|ms| ms <= now.mono_ms)
    }

    fn announce_drain(&mut self, slot: u32, now: Now) {
        let reconnect_after_ms = self.control.random() % RECONNECT_AFTER_MS_MAX;
        if !self.connections.is_open(slot) {
            return;
        }
        if let Some(drain) = self.control.drain() {
            let close_in_ms = drain.close_at_ms(slot).saturating_sub(now.mono_ms);
            let input = Input::GoingAway {
                close_in_ms,
                reconnect_after_ms,
            };
            self.tell(slot, input, now);
        }
    }

    fn end_all(&mut self, remove: bool, now: Now) {
        for slot in self.connections.slots() {
            self.end(slot, Disconnect::DrainDeadline, now);
            if remove && self.connections.hot(slot).stage != Stage::Vacant {
                self.remove(slot);
            }
        }
    }
}
