//! The timer of each connection: its nearest deadline.

use std::mem;

use super::Connections;
use crate::shard::connection::{Cold, Stage};
use crate::time::Now;

/// A deadline of a connection that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard::core) enum Deadline {
    /// The candidate socket of a polling session has not completed its probe.
    Probe,
    /// The message that is being received is not complete.
    Assembly,
    /// The session's own deadline.
    Session,
    /// The closing connection has not flushed its frames, or the peer has not closed its side.
    Closing,
}

impl Connections {
    /// Arms the connection's timer for its nearest deadline.
    pub(in crate::shard::core) fn arm(&mut self, slot: u32) {
        let Some(cold) = &self.cold[slot] else { return };
        let or_never = |deadline_ms| match deadline_ms {
            0 => u64::MAX,
            deadline_ms => deadline_ms,
        };
        let own = or_never(cold.deadline_ms).min(or_never(cold.probe_deadline_ms()));
        let nearest = if self.hot[slot].stage == Stage::Open {
            own.min(cold.session.next_deadline_ms())
        } else {
            own
        };
        self.timers.arm(slot, nearest);
    }

    /// When the next timer expires, in monotonic milliseconds.
    pub(in crate::shard::core) fn next_timer_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// Disarms at most `limit` timers that have expired. Returns their slots, and whether there are more. The list is to
    /// be given back with [`Connections::reuse_due`].
    pub(in crate::shard::core) fn expire(&mut self, limit: usize, now: Now) -> (Vec<u32>, bool) {
        let mut due = mem::take(&mut self.due);
        let has_more = self.timers.expire(now.mono_ms, limit, &mut due);
        (due, has_more)
    }

    /// Keeps the memory of a list that [`Connections::expire`] returned.
    pub(in crate::shard::core) fn reuse_due(&mut self, mut due: Vec<u32>) {
        due.clear();
        self.due = due;
    }

    /// A deadline of the connection that has passed. `None`: the timer expired early and must be armed again.
    pub(in crate::shard::core) fn passed_deadline(&self, slot: u32, now: Now) -> Option<Deadline> {
        let cold = self.cold[slot].as_ref()?;
        let is_open = self.hot[slot].stage == Stage::Open;
        let is_past = |deadline_ms: u64| deadline_ms != 0 && deadline_ms <= now.mono_ms;
        if is_past(cold.probe_deadline_ms()) {
            Some(Deadline::Probe)
        } else if is_past(cold.deadline_ms) {
            Some(if is_open { Deadline::Assembly } else { Deadline::Closing })
        } else if is_open && is_past(cold.session.next_deadline_ms()) {
            Some(Deadline::Session)
        } else {
            None
        }
    }

    /// Whether the session's deadline has passed and its timer has not expired yet.
    pub(in crate::shard::core) fn is_overdue(&self, slot: u32, now: Now) -> bool {
        let is_past = |cold: &Cold| cold.session.next_deadline_ms() <= now.mono_ms;
        self.is_open(slot) && self.cold[slot].as_ref().is_some_and(is_past)
    }
}
