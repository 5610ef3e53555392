//! From the end of a session to the removal of its connection.
//!
//! ```text
//! Open --session's Close--> Flushing --all written--> Lingering --peer closed--> removed
//!   \                          \-- the peer has closed its side ----------------------^
//!    \-- connection lost: nothing can be written -------------------------------------^   (5 s after Close at the latest)
//! ```
//!
//! Closing a socket with unread input resets the connection, and the reset can discard the Close frame on its way (10,310
//! of 200,004 bytes arrived). Therefore the writing side is shut down first, and input is discarded until the peer closes.
//! Beyond a bound nothing more is read, and the peer's kernel holds the rest back.

use super::super::{Action, ShardCore};
use crate::session::Input;
use crate::shard::connection::{Cold, Flags, Stage};
use crate::shard::core::connections::Deadline;
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;

impl ShardCore {
    /// When [`ShardCore::run_timers`] has something to do, in monotonic milliseconds.
    #[must_use]
    pub fn next_timer_ms(&self) -> Option<u64> {
        let timers = self.connections.next_timer_ms();
        let others = [self.next_drain_ms(), self.shedding.next_look_ms()];
        timers.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// The driver goes on after a pause of `paused_ms`: it could not run, so that nothing was read until now. Nobody is
    /// blamed for it: the times of all clients begin again, and a drain goes on where it was.
    pub const fn end_pause(&mut self, paused_ms: u64, now: Now) {
        self.connections.end_pause(now);
        self.control.delay_drain(paused_ms);
    }

    /// Finds what is due, for at most `limit` connections. [`ShardCore::run_timers`] does it.
    pub fn find_due(&mut self, limit: usize, now: Now) {
        self.connections.expire(limit, now);
    }

    /// A connection that [`ShardCore::run_timers`] would end because something did not come in time, and the index of the
    /// next one; the first has the index 0. What it waits for may lie in the socket. So the driver reads from it before.
    pub fn next_suspect(&mut self, index: usize, now: Now) -> Option<(ConnectionId, usize)> {
        self.connections.next_suspect(index, now)
    }

    /// Does what is due, for at most `limit` connections. Returns whether more is due.
    pub fn run_timers(&mut self, limit: usize, now: Now) -> bool {
        if self
            .shedding
            .next_look_ms()
            .is_some_and(|look_ms| look_ms <= now.mono_ms)
        {
            self.keep_budget(now);
        }
        let has_more = self.connections.expire(limit, now);
        let due = self.connections.take_due();
        for &slot in &due {
            self.expire(slot, now);
        }
        self.connections.reuse_due(due);
        let has_more_to_drain = self.run_drain(limit, now);
        has_more || has_more_to_drain
    }

    fn expire(&mut self, slot: u32, now: Now) {
        match self.connections.passed_deadline(slot, now) {
            Some(Deadline::Assembly) => return self.tell(slot, Input::End(Disconnect::Policy), now),
            Some(Deadline::Session) => return self.tell(slot, Input::Timer, now),
            Some(Deadline::Closing) => return self.remove(slot),
            Some(Deadline::Probe) => self.abandon_candidate(slot),
            None => {}
        }
        self.connections.arm(slot);
    }

    /// Ends the session in a slot, if it is alive.
    pub(in crate::shard::core) fn end(&mut self, slot: u32, ending: Disconnect, now: Now) {
        if self.connections.is_open(slot) {
            self.tell(slot, Input::End(ending), now);
        }
    }

    /// Ends all sessions, and forgets how far the shard has come with the events of its hub.
    pub(in crate::shard::core) fn resync(&mut self, now: Now) {
        for slot in self.connections.slots() {
            if self.connections.is_open(slot) {
                self.tell(slot, Input::End(Disconnect::Resync), now);
            }
        }
        self.fanout.forget_progress();
    }

    /// Ends the connections that are meant, and counts them.
    pub(in crate::shard::core) fn end_those(
        &mut self,
        is_meant: impl Fn(&Cold) -> bool,
        ending: Disconnect,
        now: Now,
    ) -> usize {
        let mut count = 0;
        for slot in self.connections.slots() {
            if self.connections.is_open(slot) && self.connections.cold(slot).is_some_and(&is_meant) {
                self.tell(slot, Input::End(ending), now);
                count += 1;
            }
        }
        count
    }

    /// Ends the connections that were noted as slow consumers.
    pub(in crate::shard::core) fn end_too_slow(&mut self) {
        while let Some(id) = self.fanout.outgoing_mut().pop_too_slow() {
            if let Some(slot) = self.connections.open_slot(id) {
                self.tell(slot, Input::End(Disconnect::SlowConsumer), self.now);
            }
        }
    }

    /// The session has ended. Everything that is queued is still written; the Close frame is the last of it.
    pub(in crate::shard::core) fn begin_closing(&mut self, slot: u32, ending: Disconnect, now: Now) {
        let tenant = self.connections.endpoint(slot).settings.tenant;
        self.metrics.ended(tenant, ending);
        self.journal.ended(&self.connections, slot, ending, now);
        self.troubles.ended(&self.connections, slot, ending, now);
        if self.connections.hot(slot).flags.has(Flags::TRACED) {
            self.trace_ended(slot, ending, now);
        }
        self.connections.forget_input(slot);
        // A loss is told before the Close frame, or not at all.
        if let Some(connection) = self.connections.get(slot) {
            self.fanout.tell_gap(connection, now);
        }
        self.fanout.unsubscribe_all(slot);
        let was_paused = self.connections.begin_closing(slot, now);
        self.end_limit(slot);
        // The client recovers what it has not caught up with when it returns.
        self.recovery.forget(slot, &mut self.connections, &mut self.fanout);
        if ending == Disconnect::Lost || self.end_polls(slot, ending) {
            return self.remove(slot);
        }
        if self.connections.hot(slot).outbox.is_empty() {
            self.finish_flush(slot);
        }
        if was_paused {
            // The input that was left unread is discarded now.
            self.control.act(Action::Resume(self.connections.id(slot)));
        }
    }

    /// Everything that was queued is written.
    pub(in crate::shard::core) fn finish_flush(&mut self, slot: u32) {
        let hot = self.connections.hot_mut(slot);
        if hot.flags.has(Flags::PEER_CLOSED | Flags::POLLING) {
            return self.remove(slot);
        }
        hot.stage = Stage::Lingering;
        self.control.act(Action::ShutDown(self.connections.id(slot)));
    }

    /// Removes a connection at once.
    pub(in crate::shard::core) fn remove(&mut self, slot: u32) {
        let id = self.connections.id(slot);
        self.fanout.outgoing_mut().clear(self.connections.hot_mut(slot));
        self.connections.remove(slot, self.fanout.inbox());
        self.troubles.forget(slot);
        self.control.act(Action::Remove(id));
    }
}
