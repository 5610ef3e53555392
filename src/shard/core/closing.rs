//! From the end of a session to the end of its connection, and everything that time brings.
//!
//! ```text
//! Open --session's Close--> Flushing --all written--> Lingering --peer closed--> gone
//!   \                          \-- peer closed: nobody is left to wait for --------^
//!    \-- lost: nobody is left to write to ------------------------------------------^   (5 s after Close at the latest)
//! ```
//!
//! A socket closed with unread input waiting resets the connection, and the reset swallows the Close frame on its way
//! (10,310 of 200,004 bytes arrived). Therefore the writing side is shut down first and input is thrown away until
//! the peer closes: up to a bound; beyond it nothing more is read and the peer's kernel holds the flood back.

use std::mem;

use super::{Action, ShardCore};
use crate::session::Input;
use crate::shard::connection::{Flags, Stage};
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::Decoder;

impl ShardCore {
    /// When [`ShardCore::run_timers`] has something to do, in monotonic milliseconds.
    #[must_use]
    pub fn next_timer_ms(&self) -> Option<u64> {
        let drain = self.next_drain_ms();
        let timers = self.timers.next_ms();
        timers.into_iter().chain(drain).min()
    }

    /// Does what is due, for at most `limit` connections. Returns whether more is due.
    pub fn run_timers(&mut self, limit: usize, now: Now) -> bool {
        let mut due = mem::take(&mut self.due);
        let more = self.timers.expire(now.mono_ms, limit, &mut due);
        for slot in due.drain(..) {
            self.expire(slot, now);
        }
        self.due = due;
        let more_to_drain = self.run_drain(limit, now);
        more || more_to_drain
    }

    fn expire(&mut self, slot: u32, now: Now) {
        let Some(cold) = &self.cold[slot] else { return };
        let is_past = |deadline_ms: u64| deadline_ms != 0 && deadline_ms <= now.mono_ms;
        if is_past(self.probe_deadline_ms(slot)) {
            self.abandon_candidate(slot);
            return self.arm(slot);
        }
        if self.hot[slot].stage != Stage::Open {
            if is_past(cold.deadline_ms) {
                return self.remove(slot);
            }
        } else if is_past(cold.deadline_ms) {
            // A message that its client never completes.
            return self.tell(slot, Input::End(Disconnect::Policy), now);
        } else if is_past(cold.session.next_deadline_ms()) {
            return self.tell(slot, Input::Timer, now);
        }
        self.arm(slot);
    }

    /// Sets the connection's timer to its nearest deadline.
    pub(super) fn arm(&mut self, slot: u32) {
        let Some(cold) = &self.cold[slot] else { return };
        let or_never = |deadline_ms| match deadline_ms {
            0 => u64::MAX,
            deadline_ms => deadline_ms,
        };
        let own = or_never(cold.deadline_ms).min(or_never(self.probe_deadline_ms(slot)));
        let nearest = if self.hot[slot].stage == Stage::Open {
            own.min(cold.session.next_deadline_ms())
        } else {
            own
        };
        self.timers.arm(slot, nearest);
    }

    /// The session is over. What is queued, the Close frame last, is still written.
    pub(super) fn begin_closing(&mut self, slot: u32, ending: Disconnect, now: Now) {
        self.stats.ended(ending);
        self.forget_input(slot);
        // A loss is told before the Close frame, or not at all.
        self.tell_gap(slot, now);
        let inbox = &mut self.inbox;
        self.table.remove_all(slot, |pattern| inbox.leave(pattern));
        let hot = &mut self.hot[slot];
        hot.stage = Stage::Flushing;
        let was_paused = hot.flags.has(Flags::PAUSED);
        hot.flags.clear(Flags::PAUSED | Flags::GAP);
        // What it was to catch up with it recovers when it comes back.
        self.bury_catch_up(slot);
        if let Some(cold) = &mut self.cold[slot] {
            cold.deadline_ms = now.mono_ms + u64::from(self.settings.closing_ms);
        }
        if ending == Disconnect::Lost || self.end_polls(slot, ending) {
            return self.remove(slot);
        }
        let hot = &self.hot[slot];
        if hot.outbox.is_empty() {
            self.finish_flush(slot);
        }
        if was_paused {
            // What was left unread is thrown away now.
            let id = self.id(slot);
            self.actions.push_back(Action::Resume(id));
        }
    }

    /// All that was queued is written.
    pub(super) fn finish_flush(&mut self, slot: u32) {
        if self.hot[slot].flags.has(Flags::PEER_CLOSED | Flags::POLLING) {
            return self.remove(slot);
        }
        self.hot[slot].stage = Stage::Lingering;
        let id = self.id(slot);
        self.actions.push_back(Action::ShutDown(id));
    }

    /// Input of a connection whose session is over.
    pub(super) fn discard(&mut self, slot: u32, bytes: usize) {
        if let Some(cold) = &mut self.cold[slot] {
            let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            cold.input_bytes = cold.input_bytes.saturating_add(bytes);
            if cold.input_bytes > self.settings.closing_bytes {
                self.hot[slot].flags.set(Flags::PAUSED);
            }
        }
    }

    /// Forgets a connection at once.
    pub(super) fn remove(&mut self, slot: u32) {
        let id = self.id(slot);
        let hot = &mut self.hot[slot];
        self.outgoing.event_frames -= u64::from(hot.outbox.event_frames());
        self.outgoing.event_bytes -= u64::from(hot.outbox.event_bytes());
        hot.outbox.clear(&mut self.outgoing.pool);
        hot.stage = Stage::Vacant;
        self.stats.polling.add(-i64::from(hot.flags.has(Flags::POLLING)));
        hot.flags = Flags::default();
        hot.generation = hot.generation.wrapping_add(1).max(1);
        let endpoint = hot.endpoint;
        self.leave_endpoint(endpoint);
        self.timers.cancel(slot);
        self.cold[slot] = None;
        self.connections -= 1;
        self.stats.connections.add(-1);
        self.actions.push_back(Action::Remove(id));
    }

    // Gives back what is kept of input that nobody will read any more.
    fn forget_input(&mut self, slot: u32) {
        let Some(cold) = &mut self.cold[slot] else { return };
        if cold.input_bytes > 0 {
            self.assembly_bytes -= cold.input_bytes as usize;
            cold.input_bytes = 0;
            let place = cold.assembly_place;
            self.leave_assembling(place);
        }
        let Some(cold) = &mut self.cold[slot] else { return };
        if !self.hot[slot].flags.has(Flags::POLLING) {
            // A socket that is probed may still take over.
            cold.decoder = Decoder::new(0);
        }
        if let Some(extra) = &mut cold.extra {
            extra.held = Vec::new();
        }
    }
}
