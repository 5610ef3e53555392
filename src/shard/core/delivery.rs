//! From the inbox to outboxes, and from outboxes to whoever writes them.

use std::io::IoSlice;
use std::sync::Arc;

use super::frames::{Frames, RunFrames};
use super::overflow::Queued;
use super::{Outgoing, ShardCore};
use crate::auth;
use crate::event::Event;
use crate::hub::Popped;
use crate::metrics::ShardMetrics;
use crate::session::Input;
use crate::shard::catch_up::Progress;
use crate::shard::connection::{Cold, Flags, Hot, Stage};
use crate::shard::frame::Frame;
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::Reply;

/// After so many deliveries no further event is begun: some milliseconds' worth, as the other bounds of a turn.
pub(super) const DELIVERIES: u64 = 256 * 1024;

/// What [`ShardCore::sent`] left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing more waits.
    Drained,
    /// There is more to write.
    More,
}

impl ShardCore {
    /// Takes at most `limit` events out of the inbox into the outboxes of their subscribers; returns how many. Fewer,
    /// when they have very many subscribers, and when an outbox that its socket has yet to be offered is half full
    /// ([`ShardCore::is_pressed`]): a burst must wait in the inbox, where its publishers feel it, and not overflow the
    /// outbox of a client that reads.
    pub fn deliver(&mut self, limit: usize) -> usize {
        let (mut count, mut deliveries) = (0, 0);
        let bounds = self.run_bounds();
        let mut run = std::mem::take(&mut self.run);
        self.outgoing.is_pressed = false;
        let (evictions, newest) = (self.inbox.evictions(), self.inbox.newest_version());
        while count < limit
            && deliveries < DELIVERIES
            && !self.outgoing.is_pressed
            && self.take_run(limit - count, &bounds, &mut run)
        {
            // Of a run its first: what steps aside in the middle has the rest of it queued behind.
            let passed = run.iter().map(|popped| popped.event.version);
            self.progress.version = self.progress.version.max(passed.clone().next().unwrap_or_default());
            deliveries += self.deliver_run(&run);
            self.progress.version = passed.fold(self.progress.version, u64::max);
            // At once: a shorter event behind the one that did not fit might.
            self.end_too_slow();
            count += run.len();
            run.clear();
        }
        self.run = run;
        if self.inbox.is_empty() {
            // Asked before: what was there by then, and what was evicted by then, is out.
            self.progress = Progress {
                version: self.progress.version.max(newest),
                evictions,
            };
        }
        self.stats.deliveries.bump(deliveries);
        self.settle_catch_ups(self.inbox.position());
        count
    }

    /// Whether the last [`ShardCore::deliver`] stopped because what it queued must be written first.
    #[must_use]
    pub const fn is_pressed(&self) -> bool {
        self.outgoing.is_pressed
    }

    // Visits every subscriber once with all events of a run.
    fn deliver_run(&mut self, run: &[Popped]) -> u64 {
        let Some(first) = run.first() else { return 0 };
        let number = self.next_event_number();
        let mut frames = RunFrames::of(run);
        let mut deliveries = 0;
        // A wide pattern such as `system.*` may be held by everybody; what is for admins only is kept back here.
        let admins_only = auth::is_admin_only(first.event.channel.as_str());
        for &node in &self.nodes {
            for subscriber in self.table.subscribers(node) {
                let slot = subscriber.slot;
                // Only where the run is a single event is anybody unsettled, or the channel for admins: see `take_run`.
                if subscriber.is_unsettled()
                    && !(self.table).includes(slot, node, &first.event.channel, first.stripe, first.index)
                {
                    continue;
                }
                let hot = &mut self.hot[slot];
                if hot.stamp == number {
                    continue;
                }
                hot.stamp = number;
                if admins_only && !self.cold[slot].as_ref().is_some_and(is_admin) {
                    continue;
                }
                let endpoint = &self.endpoints[usize::from(hot.endpoint)];
                let Some(form) = endpoint.form else { continue };
                if !hot.flags.has(Flags::CATCH_UP)
                    && let Some(whole) = frames.whole(form, endpoint, &self.inbox)
                    && self.outgoing.queue_fitting(slot, hot, whole, endpoint)
                {
                    frames.note_whole(form);
                    deliveries += run.len() as u64;
                    continue;
                }
                for (popped, frames) in run.iter().zip(frames.each()) {
                    if hot.flags.has(Flags::CATCH_UP) && is_withheld(&mut self.cold[slot], popped, &self.stats) {
                        continue;
                    }
                    deliveries += 1;
                    let frame = frames.get(form, endpoint, &self.inbox);
                    let queued = self
                        .outgoing
                        .queue_event(slot, hot, &mut self.cold, frame, endpoint, &self.stats);
                    if queued == Queued::TooSlow {
                        self.too_slow.push(self.id(slot));
                        break;
                    }
                }
            }
        }
        frames.count(&self.stats);
        deliveries
    }

    /// Queues an event to every authenticated connection; returns to how many.
    pub(super) fn broadcast(&mut self, event: &Arc<Event>) -> usize {
        let mut frames = Frames::of(event);
        let mut count = 0;
        for slot in 0..self.slots {
            let hot = &mut self.hot[slot];
            let endpoint = &self.endpoints[usize::from(hot.endpoint)];
            let is_authenticated = |cold: &Cold| cold.session.identity().is_some();
            if hot.stage != Stage::Open || !self.cold[slot].as_ref().is_some_and(is_authenticated) {
                continue;
            }
            let Some(form) = endpoint.form else { continue };
            count += 1;
            let frame = frames.get(form, endpoint, &self.inbox);
            let queued = self
                .outgoing
                .queue_event(slot, hot, &mut self.cold, frame, endpoint, &self.stats);
            if queued == Queued::TooSlow {
                self.too_slow.push(self.id(slot));
            }
        }
        frames.count(&self.stats);
        self.stats.deliveries.bump(count as u64);
        self.end_too_slow();
        count
    }

    // Numbers wrap after 2^32 events; then nobody may still carry the number of an event of the round before.
    pub(super) fn next_event_number(&mut self) -> u32 {
        self.event_number = self.event_number.wrapping_add(1);
        if self.event_number == 0 {
            for slot in 0..self.slots {
                self.hot[slot].stamp = 0;
            }
            self.event_number = 1;
        }
        self.event_number
    }

    /// The next connection with something to write, each once until it is dirty again.
    pub fn next_dirty(&mut self) -> Option<ConnectionId> {
        while let Some(slot) = self.outgoing.dirty.pop_front() {
            let flags = &mut self.hot[slot].flags;
            if flags.has(Flags::DIRTY) && !flags.has(Flags::POLLING) {
                flags.clear(Flags::DIRTY);
                return Some(self.id(slot));
            }
        }
        None
    }

    /// Whether [`ShardCore::next_dirty`] may find one.
    #[must_use]
    pub fn has_dirty(&self) -> bool {
        !self.outgoing.dirty.is_empty()
    }

    /// Fills `slices` with what to write next to a connection, in order; returns how many it filled.
    ///
    /// The bytes stay where they are, unchanged, until [`ShardCore::sent`] for this connection or any other call that is
    /// not `pending` or `next_dirty`: frames are shared and never edited. So several connections can be gathered and
    /// written at once, by those who can do without the borrow.
    pub fn pending<'e>(&'e mut self, id: ConnectionId, now: Now, slices: &mut [IoSlice<'e>]) -> usize {
        let Some(slot) = self.slot(id) else { return 0 };
        let until = if self.hot[slot].flags.has(Flags::CATCH_UP) {
            self.read_ahead(slot, slices.len())
        } else {
            None
        };
        let hot = &self.hot[slot];
        // Not while the replies are at their bound: then when there is room among them.
        let has_room = hot.outbox.reply_frames() < self.endpoints[usize::from(hot.endpoint)].bounds.reply_frames;
        if hot.flags.has(Flags::GAP) && (has_room || hot.outbox.is_empty()) {
            self.tell_gap(slot, now);
        }
        self.hot[slot].outbox.gather(&self.outgoing.pool, until, slices)
    }

    /// Never frees what [`ShardCore::pending`] gave: someone else may still read it.
    pub fn leak_pending(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slot(id) {
            self.hot[slot].outbox.leak(&self.outgoing.pool);
        }
    }

    /// So many bytes of what [`ShardCore::pending`] gave were written. What was held back until there was room among the
    /// replies is taken up.
    pub fn sent(&mut self, id: ConnectionId, bytes: usize, now: Now) -> Sent {
        let sent = self.count_sent(id, bytes);
        self.after_sent(id, now);
        sent
    }

    /// The first half of [`ShardCore::sent`], which concerns this connection only. Who wrote to several at once calls it
    /// for each of them before [`ShardCore::after_sent`] for any.
    pub fn count_sent(&mut self, id: ConnectionId, bytes: usize) -> Sent {
        self.stats.bytes_out.bump(bytes as u64);
        let Some(slot) = self.slot(id) else {
            return Sent::Drained;
        };
        let hot = &mut self.hot[slot];
        let finished = hot.outbox.advance(&mut self.outgoing.pool, bytes);
        hot.delivered += u64::from(finished.frames);
        self.stats.messages_out.bump(finished.frames.into());
        self.outgoing.event_frames -= u64::from(finished.event_frames);
        self.outgoing.event_bytes -= u64::from(finished.event_bytes);
        let reads_on = hot.flags.has(Flags::CATCH_UP) && self.cold[slot].as_mut().is_some_and(has_turns);
        let has_more = !hot.outbox.is_empty() || hot.flags.has(Flags::GAP) || reads_on;
        if !has_more && hot.stage == Stage::Flushing {
            self.finish_flush(slot);
        }
        if has_more { Sent::More } else { Sent::Drained }
    }

    /// The second half of [`ShardCore::sent`]: takes up what was held back.
    pub fn after_sent(&mut self, id: ConnectionId, now: Now) {
        if let Some(slot) = self.slot(id) {
            self.resume(slot, now);
        }
    }

    /// The socket takes no more: the connection is not dirty again before [`ShardCore::writable`]. A client that has more
    /// replies pending than it may is too slow for what it asks.
    pub fn blocked(&mut self, id: ConnectionId, now: Now) {
        let Some(slot) = self.slot(id) else { return };
        let hot = &mut self.hot[slot];
        hot.flags.set(Flags::BLOCKED);
        let endpoint = &self.endpoints[usize::from(hot.endpoint)];
        if hot.stage == Stage::Open && !endpoint.is_echo() && hot.outbox.has_too_many_replies(&endpoint.bounds) {
            self.tell(slot, Input::End(Disconnect::SlowConsumer), now);
        } else {
            self.resume(slot, now);
        }
    }

    /// The socket takes more again. `false`: nothing was waiting for that.
    pub fn writable(&mut self, id: ConnectionId) -> bool {
        let Some(slot) = self.slot(id) else { return false };
        let hot = &mut self.hot[slot];
        // What waits for a poll does not wait for a socket that is only being probed.
        if !hot.flags.has(Flags::BLOCKED) || hot.flags.has(Flags::POLLING) {
            return false;
        }
        hot.flags.clear(Flags::BLOCKED);
        self.outgoing.mark_dirty(slot, hot);
        true
    }

    /// Bytes still to be written were not: the turn's bound was reached. They are first in the next.
    pub fn postpone(&mut self, id: ConnectionId) {
        if let Some(slot) = self.slot(id) {
            self.outgoing.mark_dirty(slot, &mut self.hot[slot]);
        }
    }

    /// Puts the `dropped` message where the events are missing.
    pub(super) fn tell_gap(&mut self, slot: u32, now: Now) {
        let hot = &mut self.hot[slot];
        let endpoint = &self.endpoints[usize::from(hot.endpoint)];
        hot.flags.clear(Flags::GAP);
        let extra = self.cold[slot].as_mut().and_then(|cold| cold.extra.as_mut());
        let Some(gap) = extra.and_then(|extra| extra.gap.take()) else {
            return;
        };
        let reply = Reply::Dropped {
            count: gap.count,
            channels: &gap.channels,
        };
        let dialect = &endpoint.settings.dialect;
        let mut bytes = Vec::new();
        if let Some(range) = dialect.encode_reply(&reply, now.unix_ms, &mut bytes) {
            let frame = Frame::reply(endpoint.reply(&bytes[range], &self.inbox, &self.stats));
            hot.outbox.push_at_gap(&mut self.outgoing.pool, frame, gap.sequence);
        }
    }
}

impl Outgoing {
    /// Puts a connection on the list of those to flush, unless it is there or its socket takes nothing.
    pub(super) fn mark_dirty(&mut self, slot: u32, hot: &mut Hot) {
        if !hot.flags.has(Flags::DIRTY | Flags::BLOCKED) {
            hot.flags.set(Flags::DIRTY);
            if hot.flags.has(Flags::POLLING) {
                self.polls.push_back(slot);
            } else {
                self.dirty.push_back(slot);
            }
        }
    }
}

fn has_turns(cold: &mut Cold) -> bool {
    let catch_up = cold.catch_up_if_any();
    catch_up.is_some_and(|catch_up| catch_up.next_due().is_some())
}

fn is_withheld(cold: &mut Option<Cold>, popped: &Popped, stats: &ShardMetrics) -> bool {
    let Some(catch_up) = cold.as_mut().and_then(Cold::catch_up_if_any) else {
        return false;
    };
    let channel = &popped.event.channel;
    if catch_up.is_joining(channel) {
        stats.catch_ups.bump(catch_up.owe(&popped.event).into());
        return true;
    }
    catch_up.withholds(channel, popped.index)
}

pub(super) fn is_admin(cold: &Cold) -> bool {
    cold.session
        .identity()
        .is_some_and(|identity| identity.permissions.admin)
}
