//! What all outboxes of a shard share: the pool of their entries, the lists of connections to flush, and the totals.
//!
//! Invariants: [`Outgoing::event_frames`] and [`Outgoing::event_bytes`] are the sums over all outboxes, so events enter and
//! leave an outbox only through this type. A connection is listed at most once, exactly while it has [`Flags::DIRTY`].

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use crate::metrics::ShardMetrics;
use crate::shard::connection::{Flags, Hot};
use crate::shard::core::connections::Endpoint;
use crate::shard::frame::{self, Frame};
use crate::shard::mailbox::ConnectionId;
use crate::shard::numbers::Numbers;
use crate::shard::outbox::Bounds;
use crate::shard::pool::Pool;

/// The shared state of the outboxes; see the module's docs.
#[derive(Default)]
pub(in crate::shard::core) struct Outgoing {
    pool: Pool,
    // The channels whose values some connection has yet to read.
    numbers: Numbers,
    // Connections to flush.
    dirty: VecDeque<u32>,
    // Connections to flush that are polled.
    polls: VecDeque<u32>,
    // Connections to be ended as slow consumers.
    too_slow: Vec<ConnectionId>,
    event_frames: u64,
    event_bytes: u64,
    // Connections with `Flags::CATCH_UP`.
    catching_up: u64,
    // The sum of what their catch-up states were counted for.
    catch_up_bytes: u64,
    // An outbox that is not blocked is half full.
    is_pressed: bool,
}

impl Outgoing {
    /// Whether an outbox that is not blocked was half full when an event was queued.
    pub(in crate::shard::core) const fn is_pressed(&self) -> bool {
        self.is_pressed
    }

    /// Forgets that an outbox was half full.
    pub(super) const fn reset_pressed(&mut self) {
        self.is_pressed = false;
    }

    /// The numbers of the channels whose values some connection has yet to read.
    pub(in crate::shard::core) const fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// The same, to be changed.
    pub(in crate::shard::core) const fn numbers_mut(&mut self) -> &mut Numbers {
        &mut self.numbers
    }

    /// Frames in all outboxes, events and replies.
    pub(in crate::shard::core) const fn queued_frames(&self) -> usize {
        self.pool.used()
    }

    /// The entries of all outboxes.
    pub(in crate::shard::core) const fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Frames that the pool has memory for.
    #[cfg(test)]
    pub(in crate::shard::core) fn capacity(&self) -> usize {
        self.pool.capacity()
    }

    /// Lists a connection to be flushed, unless it is listed already or its socket is blocked.
    pub(in crate::shard::core) fn mark_dirty(&mut self, slot: u32, hot: &mut Hot) {
        if !hot.flags.has(Flags::DIRTY | Flags::BLOCKED) {
            hot.flags.set(Flags::DIRTY);
            if hot.flags.has(Flags::POLLING) {
                self.polls.push_back(slot);
            } else {
                self.dirty.push_back(slot);
            }
        }
    }

    /// The slot that has been listed for the longest time. It may not be dirty any more.
    pub(in crate::shard::core) fn pop_dirty(&mut self) -> Option<u32> {
        self.dirty.pop_front()
    }

    /// Whether a connection is listed.
    pub(in crate::shard::core) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Like [`Outgoing::pop_dirty`], of the connections that are polled.
    pub(in crate::shard::core) fn pop_poll(&mut self) -> Option<u32> {
        self.polls.pop_front()
    }

    /// How many connections that are polled are listed.
    pub(in crate::shard::core) fn polls(&self) -> usize {
        self.polls.len()
    }

    /// Notes that a connection is to be ended as a slow consumer.
    pub(in crate::shard::core) fn note_too_slow(&mut self, id: ConnectionId) {
        self.too_slow.push(id);
    }

    /// A connection that is to be ended as a slow consumer.
    pub(in crate::shard::core) fn pop_too_slow(&mut self) -> Option<ConnectionId> {
        self.too_slow.pop()
    }

    /// Whether a connection is to be ended as a slow consumer.
    pub(in crate::shard::core) fn has_too_slow(&self) -> bool {
        !self.too_slow.is_empty()
    }

    /// Sets or clears [`Flags::CATCH_UP`], and counts the connections that have it.
    pub(in crate::shard::core) fn note_catching_up(&mut self, hot: &mut Hot, is_catching_up: bool) {
        match (hot.flags.has(Flags::CATCH_UP), is_catching_up) {
            (false, true) => {
                hot.flags.set(Flags::CATCH_UP);
                self.catching_up += 1;
            }
            (true, false) => {
                hot.flags.clear(Flags::CATCH_UP);
                self.catching_up -= 1;
            }
            _ => {}
        }
    }

    /// A catch-up state takes so many bytes more, or fewer if negative.
    pub(in crate::shard::core) const fn count_catch_up(&mut self, change: i64) {
        self.catch_up_bytes = self.catch_up_bytes.saturating_add_signed(change);
    }

    /// The bytes of all catch-up states, and of the names that they share.
    pub(in crate::shard::core) fn catch_up_bytes(&self) -> u64 {
        self.catch_up_bytes + self.numbers.bytes() as u64
    }

    /// The bytes of all that is queued.
    pub(in crate::shard::core) fn outbox_bytes(&self) -> u64 {
        frame::held_bytes() + self.pool.bytes() as u64
    }

    /// Queues an event, or a run of events, if it fits.
    #[inline]
    pub(super) fn queue_fitting(&mut self, slot: u32, hot: &mut Hot, frame: &Rc<Frame>, endpoint: &Endpoint) -> bool {
        let bounds = &endpoint.bounds;
        if !self.push_event(hot, frame, bounds) {
            return false;
        }
        let is_half_full =
            hot.outbox.event_frames() > bounds.event_frames / 2 || hot.outbox.event_bytes() > endpoint.pressed_bytes;
        self.is_pressed |= is_half_full && !hot.flags.has(Flags::BLOCKED);
        self.mark_dirty(slot, hot);
        true
    }

    /// Puts an event, or a run of events, into an outbox if it fits.
    #[inline]
    pub(super) fn push_event(&mut self, hot: &mut Hot, frame: &Rc<Frame>, bounds: &Bounds) -> bool {
        let is_queued = hot.outbox.push_event(&mut self.pool, frame, bounds);
        if is_queued {
            self.event_frames += u64::from(frame.count());
            self.event_bytes += u64::from(frame.len());
        }
        is_queued
    }

    /// The oldest event in an outbox of which nothing was sent.
    pub(super) fn oldest_event(&mut self, hot: &mut Hot) -> Option<(&Frame, &Numbers)> {
        let oldest = hot.outbox.oldest_event(&mut self.pool)?;
        Some((oldest, &self.numbers))
    }

    /// Takes the oldest event of which nothing was sent out of an outbox, with its sequence number.
    pub(super) fn drop_oldest(&mut self, hot: &mut Hot) -> Option<(Rc<Frame>, u32)> {
        let (oldest, sequence) = hot.outbox.drop_oldest(&mut self.pool)?;
        self.event_frames -= 1;
        self.event_bytes -= u64::from(oldest.len());
        Some((oldest, sequence))
    }

    /// Takes out the events that `is_passed_over`, of those before the first `limit` that are not; returns how many.
    pub(in crate::shard::core) fn pass_over(
        &mut self,
        hot: &mut Hot,
        limit: usize,
        mut is_passed_over: impl FnMut(&Numbers, &Rc<Frame>) -> bool,
    ) -> u32 {
        let numbers = &self.numbers;
        let is_passed_over = |frame: &Rc<Frame>| is_passed_over(numbers, frame);
        let passed = hot.outbox.pass_over(&mut self.pool, limit, is_passed_over);
        self.event_frames -= u64::from(passed.event_frames);
        self.event_bytes -= u64::from(passed.event_bytes);
        passed.event_frames
    }

    /// Queues a reply; returns whether the bounds allow it. `is_last`: it is queued in any case.
    pub(super) fn queue_reply(
        &mut self,
        slot: u32,
        hot: &mut Hot,
        frame: Rc<Frame>,
        endpoint: &Endpoint,
        is_last: bool,
    ) -> bool {
        if is_last {
            hot.outbox.push_last(&mut self.pool, frame);
        } else if let Err(frame) = hot.outbox.push_reply(&mut self.pool, frame, &endpoint.bounds) {
            if hot.flags.has(Flags::BLOCKED) && !endpoint.waits_for_readers() {
                return false;
            }
            // The answers of backends can come many at once. The connection is ended when its socket turns out to be
            // blocked: see `ShardCore::blocked`.
            hot.outbox.push_last(&mut self.pool, frame);
        }
        self.mark_dirty(slot, hot);
        true
    }

    /// Puts a reply into an outbox if the bounds allow it, and does not list the connection.
    pub(super) fn push_reply(&mut self, hot: &mut Hot, frame: Rc<Frame>, endpoint: &Endpoint) {
        let _ = hot.outbox.push_reply(&mut self.pool, frame, &endpoint.bounds);
    }

    /// Queues the last frame of a connection, whatever the bounds are.
    pub(in crate::shard::core) fn push_last(&mut self, hot: &mut Hot, frame: Rc<Frame>) {
        hot.outbox.push_last(&mut self.pool, frame);
    }

    /// Queues a reply at the position of the event with this sequence number.
    pub(super) fn push_at_gap(&mut self, hot: &mut Hot, frame: Rc<Frame>, sequence: u32) {
        hot.outbox.push_at_gap(&mut self.pool, frame, sequence);
    }

    /// Queues events that were read from the hub, before everything else; see [`Outbox::push_page`].
    ///
    /// [`Outbox::push_page`]: crate::shard::outbox::Outbox::push_page
    pub(in crate::shard::core) fn push_page(&mut self, hot: &mut Hot, page: &mut Vec<Rc<Frame>>, sequence: u32) {
        hot.outbox.push_page(&mut self.pool, page, sequence);
    }

    /// The sequence number of the first frame in an outbox.
    pub(in crate::shard::core) fn first_sequence(&self, hot: &Hot) -> Option<u32> {
        hot.outbox.first_sequence(&self.pool)
    }

    /// Fills `slices` with the bytes to write next, but with nothing from the sequence number `until` on; returns how many
    /// it filled.
    pub(in crate::shard::core) fn gather<'p>(
        &'p self,
        hot: &Hot,
        until: Option<u32>,
        slices: &mut [IoSlice<'p>],
    ) -> usize {
        hot.outbox.gather(&self.pool, until, slices)
    }

    /// Takes out what was written: `bytes` from the front of an outbox. Returns how many messages were completed.
    pub(super) fn advance(&mut self, hot: &mut Hot, bytes: usize) -> u32 {
        let finished = hot.outbox.advance(&mut self.pool, bytes);
        hot.delivered += u64::from(finished.frames);
        self.event_frames -= u64::from(finished.event_frames);
        self.event_bytes -= u64::from(finished.event_bytes);
        finished.frames
    }

    /// Never frees the frames that are in an outbox now.
    pub(in crate::shard::core) fn leak(&self, hot: &Hot) {
        hot.outbox.leak(&self.pool);
    }

    /// Empties an outbox.
    pub(in crate::shard::core) fn clear(&mut self, hot: &mut Hot) {
        self.event_frames -= u64::from(hot.outbox.event_frames());
        self.event_bytes -= u64::from(hot.outbox.event_bytes());
        hot.outbox.clear(&mut self.pool);
    }

    /// Writes the totals to the gauges.
    pub(super) fn update_gauges(&self, metrics: &ShardMetrics) {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        metrics.pending_frames.set(signed(self.event_frames));
        metrics.pending_bytes.set(signed(self.event_bytes));
        metrics.catching_up.set(signed(self.catching_up));
    }
}
