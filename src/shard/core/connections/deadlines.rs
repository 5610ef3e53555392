//! The timer of each connection: its nearest deadline.

use std::mem;

use super::Connections;
use crate::shard::connection::{Cold, Stage};
use crate::shard::core::polling::PROBE_MS;
use crate::shard::mailbox::ConnectionId;
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
        let own = or_never(self.own_deadline_ms(slot, cold)).min(or_never(self.probe_deadline_ms(cold)));
        let nearest = if self.hot[slot].stage == Stage::Open {
            own.min(cold.session.next_deadline_ms())
        } else {
            own
        };
        self.timers.arm(slot, nearest);
    }

    /// The shard goes on after a pause in which it read nothing. Every deadline that was set before begins again.
    pub(in crate::shard::core) const fn end_pause(&mut self, now: Now) {
        self.resumed_ms = now.mono_ms;
    }

    /// A deadline that ends a time of `span_ms`, which begins at the end of the last pause at the earliest. 0: there is none.
    fn after_pauses(&self, deadline_ms: u64, span_ms: u64) -> u64 {
        match deadline_ms {
            0 => 0,
            deadline_ms => deadline_ms.max(self.resumed_ms + span_ms),
        }
    }

    /// When a half-received message must be complete, or a closing connection be closed; 0: there is no such deadline.
    fn own_deadline_ms(&self, slot: u32, cold: &Cold) -> u64 {
        let span_ms = if self.hot[slot].stage == Stage::Open {
            self.assembly.duration_ms()
        } else {
            self.closing_ms
        };
        self.after_pauses(cold.deadline_ms, span_ms.into())
    }

    fn probe_deadline_ms(&self, cold: &Cold) -> u64 {
        self.after_pauses(cold.probe_deadline_ms(), PROBE_MS)
    }

    /// When the next timer expires, in monotonic milliseconds.
    pub(in crate::shard::core) fn next_timer_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// Disarms at most `limit` timers that have expired, and notes their slots. Returns whether there are more.
    pub(in crate::shard::core) fn expire(&mut self, limit: usize, now: Now) -> bool {
        let limit = limit.saturating_sub(self.due.len());
        self.timers.expire(now.mono_ms, limit, &mut self.due)
    }

    /// The slots that were noted. The list is to be given back with [`Connections::reuse_due`].
    pub(in crate::shard::core) fn take_due(&mut self) -> Vec<u32> {
        mem::take(&mut self.due)
    }

    /// Keeps the memory of a list that [`Connections::take_due`] returned.
    pub(in crate::shard::core) fn reuse_due(&mut self, mut due: Vec<u32>) {
        due.clear();
        self.due = due;
    }

    /// The noted slots whose connections are about to end because something did not come, from `index` on. Returns the
    /// connection, and the index behind it.
    pub(in crate::shard::core) fn next_suspect(&mut self, mut index: usize, now: Now) -> Option<(ConnectionId, usize)> {
        while let Some(&slot) = self.due.get(index) {
            index += 1;
            let misses_input = match self.passed_deadline(slot, now) {
                Some(Deadline::Assembly) => true,
                Some(Deadline::Session) => self.get(slot).is_some_and(|connection| {
                    let context = connection.context(now);
                    connection.cold.session.misses_input(&context)
                }),
                _ => false,
            };
            if misses_input {
                return Some((self.id(slot), index));
            }
        }
        None
    }

    /// A deadline of the connection that has passed. `None`: the timer expired early and must be armed again.
    pub(in crate::shard::core) fn passed_deadline(&self, slot: u32, now: Now) -> Option<Deadline> {
        let cold = self.cold[slot].as_ref()?;
        let is_open = self.hot[slot].stage == Stage::Open;
        let is_past = |deadline_ms: u64| deadline_ms != 0 && deadline_ms <= now.mono_ms;
        if is_past(self.probe_deadline_ms(cold)) {
            Some(Deadline::Probe)
        } else if is_past(self.own_deadline_ms(slot, cold)) {
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
