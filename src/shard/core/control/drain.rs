//! The end of a shard: all clients are told, then their connections are closed one by one, over at most the given
//! time. Few connections are closed within moments; one whose command is not answered yet waits for the answer.
//!
//! Invariant: a client is told when its connection will be closed, and it is not closed before that time. The last fifth of
//! the time is for clients that are slow to take what is queued for them, and for commands whose backends are slow.

use super::super::ShardCore;
use crate::session::Input;
use crate::shard::connection::Stage;
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;

/// A client should return after a random time up to this, so that not all of them return at once.
const RECONNECT_AFTER_MS_MAX: u64 = 10_000;

/// The slowest pace of the closes: one connection of the shard in this time. Connections that would take longer than the
/// drain at this pace are closed faster.
const PACE_MS: u64 = 10;

/// How long every client has to read that it will be closed, and to get its last answers.
const GRACE_MS: u64 = 250;

/// How often connections that wait for answers are looked at.
const POSTPONED_INTERVAL_MS: u64 = 20;

/// How long before the deadline connections are closed whose commands are not answered: a twentieth of the time, and at most
/// this.
const UNANSWERED_MS: u64 = 500;

/// How long a connection that is open at the deadline has to take its last frames.
const LAST_FRAMES_MS: u64 = 1_000;

/// A drain in progress.
#[derive(Debug)]
pub(in crate::shard::core) struct Drain {
    start_ms: u64,
    // The time until the last close, and until the first.
    spread_ms: u64,
    grace_ms: u64,
    // Until then, a connection whose command is not answered is not closed.
    patient_until_ms: u64,
    deadline_ms: u64,
    // The slots at the beginning of the drain. They are told and closed in order.
    slots: u32,
    announced: u32,
    closed: u32,
    // Slots whose time has come, but whose connections wait for answers.
    postponed: Vec<u32>,
    postponed_due_ms: u64,
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
    /// Close the connections that were postponed and wait for nothing any more.
    ClosePostponed,
    /// The deadline has passed: end every session that is still open.
    EndAll {
        /// Remove the connections, too, whatever is still queued.
        remove: bool,
    },
}

impl Drain {
    /// `slots`: how many slots have been taken by now; `connections`: how many of them hold a connection.
    pub(super) fn new(over_ms: u64, slots: u32, connections: usize, now: Now) -> Self {
        let spread_max_ms = over_ms / 5 * 4;
        Self {
            start_ms: now.mono_ms,
            spread_ms: spread_max_ms.min(GRACE_MS + PACE_MS.saturating_mul(connections as u64)),
            grace_ms: spread_max_ms.min(GRACE_MS),
            patient_until_ms: now.mono_ms + over_ms - (over_ms / 20).min(UNANSWERED_MS),
            deadline_ms: now.mono_ms + over_ms,
            slots,
            announced: 0,
            closed: 0,
            postponed: Vec::new(),
            postponed_due_ms: 0,
            is_late: false,
        }
    }

    /// Everything happens so much later.
    pub(super) const fn delay(&mut self, by_ms: u64) {
        self.start_ms += by_ms;
        self.patient_until_ms += by_ms;
        self.deadline_ms += by_ms;
    }

    // When the connection in a slot is closed. Slots that were taken after the drain began come last.
    fn close_at_ms(&self, slot: u32) -> u64 {
        let slot = u64::from(slot.min(self.slots));
        let pace_ms = self.spread_ms - self.grace_ms;
        self.start_ms + self.grace_ms + pace_ms * (slot + 1) / (u64::from(self.slots) + 1)
    }

    /// Whether the slot's time to be closed has passed.
    const fn has_closed(&self, slot: u32) -> bool {
        slot < self.closed
    }

    /// Whether connections whose commands are not answered may stay.
    const fn is_patient(&self, now: Now) -> bool {
        now.mono_ms < self.patient_until_ms
    }

    /// The connection in a slot is closed later, when its commands are answered.
    pub(super) fn postpone(&mut self, slot: u32, now: Now) {
        self.postponed.push(slot);
        self.postponed_due_ms = self.patient_until_ms.min(now.mono_ms + POSTPONED_INTERVAL_MS);
    }

    /// Takes the slots that were postponed.
    pub(super) fn take_postponed(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.postponed)
    }

    /// When the drain goes on, in monotonic milliseconds. `slots`: how many slots have been taken by now.
    fn next_ms(&self, slots: u32) -> u64 {
        let next_ms = self.next_close_ms(slots);
        if self.postponed.is_empty() {
            next_ms
        } else {
            next_ms.min(self.postponed_due_ms)
        }
    }

    fn next_close_ms(&self, slots: u32) -> u64 {
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
            self.postponed.clear();
            return Some(DrainStep::EndAll { remove });
        }
        if self.closed < slots && self.close_at_ms(self.closed) <= now.mono_ms {
            self.closed += 1;
            return Some(DrainStep::Close(self.closed - 1));
        }
        if !self.postponed.is_empty() && self.postponed_due_ms <= now.mono_ms {
            return Some(DrainStep::ClosePostponed);
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
                Some(DrainStep::Close(slot)) => self.end_or_postpone(slot, now),
                Some(DrainStep::ClosePostponed) => {
                    for slot in self.control.take_postponed() {
                        self.end_or_postpone(slot, now);
                    }
                }
                Some(DrainStep::EndAll { remove }) => {
                    self.end_all(remove, now);
                    return false;
                }
            }
        }
        self.next_drain_ms().is_some_and(|ms| ms <= now.mono_ms)
    }

    /// Ends the session in a slot, unless it waits for an answer and there is time for it.
    fn end_or_postpone(&mut self, slot: u32, now: Now) {
        let has_requests = self.connections.is_open(slot)
            && self
                .connections
                .cold(slot)
                .is_some_and(|cold| cold.session.has_requests());
        if has_requests && self.control.drain().is_some_and(|drain| drain.is_patient(now)) {
            self.control.postpone(slot, now);
        } else {
            self.end(slot, Disconnect::Restart, now);
        }
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
