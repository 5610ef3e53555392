//! The frames that wait to be written to one connection.
//!
//! Invariants: frames leave in the order in which they were queued. Replies and control messages are never dropped, and
//! neither is a frame of which a part was sent. Events stay within their bounds; a single event longer than the byte
//! bound is accepted if no other event is queued, because it could never be sent otherwise.
//!
//! Events and replies are two lists, and a sequence number gives their common order. So the oldest event is found
//! without a search. Several events with the same recipients may be one frame, a run. Before a decision about one of
//! them the run is split, so each event is counted, dropped and passed over individually. Events read from the hub for
//! a channel that catches up go into the list of replies: their number was bounded when they were read, they are never
//! dropped, and they count against no bound. All entries lie in the shard's [`Pool`].

use std::io::IoSlice;
use std::rc::Rc;

use super::frame::{Content, Frame};
use super::pool::{EntryId, NONE, Pool};

/// The number of bytes for which a longer reply counts. The answer to one `subscribe` may name a thousand long channels
/// and cannot be split. If such an answer alone exceeded the bound, its client would reconnect, send the same request
/// and be closed again, for ever. So a long reply counts for this much, which bounds the number of such replies.
const REPLY_BYTES_COUNTED: u32 = 64 * 1024;

/// The bounds of an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Events.
    pub(super) event_frames: u32,
    /// Bytes of events.
    pub(super) event_bytes: u32,
    /// Replies and control messages.
    pub(super) reply_frames: u32,
    /// Bytes of replies and control messages. A longer one counts for [`REPLY_BYTES_COUNTED`].
    pub(super) reply_bytes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    head: EntryId,
    tail: EntryId,
}

const EMPTY: Queue = Queue { head: NONE, tail: NONE };

/// The outbox of one connection (40 bytes).
#[derive(Debug)]
pub(super) struct Outbox {
    events: Queue,
    replies: Queue,
    // The number of bytes of the first frame that were sent.
    sent: u32,
    next_sequence: u32,
    event_frames: u32,
    event_bytes: u32,
    reply_frames: u32,
    reply_bytes: u32,
}

impl Default for Outbox {
    fn default() -> Self {
        Self {
            events: EMPTY,
            replies: EMPTY,
            sent: 0,
            next_sequence: 0,
            event_frames: 0,
            event_bytes: 0,
            reply_frames: 0,
            reply_bytes: 0,
        }
    }
}

/// Frames that were sent completely, or passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Finished {
    /// Events, replies and control messages.
    pub(super) frames: u32,
    /// The events among them.
    pub(super) event_frames: u32,
    /// Bytes of those events.
    pub(super) event_bytes: u32,
}

impl Outbox {
    pub(super) const fn is_empty(&self) -> bool {
        self.events.head == NONE && self.replies.head == NONE
    }
    pub(super) const fn event_frames(&self) -> u32 {
        self.event_frames
    }
    pub(super) const fn event_bytes(&self) -> u32 {
        self.event_bytes
    }
    pub(super) const fn reply_frames(&self) -> u32 {
        self.reply_frames
    }
    /// The bytes of the first frame that were sent.
    pub(super) const fn sent(&self) -> u32 {
        self.sent
    }
    /// The sequence number of the next frame that is queued.
    pub(super) const fn next_sequence(&self) -> u32 {
        self.next_sequence
    }
    /// Whether the first queued frame was queued before the frame with this sequence number.
    pub(super) fn begins_before(&self, sequence: u32, pool: &Pool) -> bool {
        !self.is_empty() && precedes(pool.entry(self.first(pool)).sequence, sequence)
    }
    /// Bytes of all frames, as they are counted against the bounds.
    pub(super) fn bytes(&self) -> u64 {
        u64::from(self.event_bytes) + u64::from(self.reply_bytes)
    }

    /// Whether replies exceed half of one of their bounds.
    pub(super) const fn is_half_full_of_replies(&self, bounds: &Bounds) -> bool {
        self.reply_frames > bounds.reply_frames / 2 || self.reply_bytes > bounds.reply_bytes / 2
    }
    /// Whether replies exceed their bounds. A single reply never exceeds the byte bound.
    pub(super) const fn has_too_many_replies(&self, bounds: &Bounds) -> bool {
        self.reply_frames > bounds.reply_frames || (self.reply_bytes > bounds.reply_bytes && self.reply_frames > 1)
    }

    /// Queues an event or a run if it fits. Returns `false` if it does not; [`Outbox::drop_oldest`] makes space.
    #[inline]
    pub(super) fn push_event(&mut self, pool: &mut Pool, frame: &Rc<Frame>, bounds: &Bounds) -> bool {
        let count = frame.count();
        let bytes = self.event_bytes.saturating_add(frame.len());
        let frames = self.event_frames.saturating_add(count);
        if frames > bounds.event_frames || bytes > bounds.event_bytes {
            // A single event is always accepted if no other is queued.
            if self.event_frames > 0 || count > 1 {
                return false;
            }
        }
        self.event_bytes = bytes;
        self.event_frames = frames;
        let sequence = self.next_sequence;
        // Each event of a run gets a number of its own, which it needs when the run is split.
        self.next_sequence = sequence.wrapping_add(count);
        append(&mut self.events, pool, frame.clone(), sequence);
        true
    }

    /// Removes the oldest event of which nothing was sent. Returns it with its sequence number.
    pub(super) fn drop_oldest(&mut self, pool: &mut Pool) -> Option<(Rc<Frame>, u32)> {
        let (previous, victim) = self.oldest(pool);
        if victim == NONE {
            return None;
        }
        self.split(pool, victim);
        let sequence = pool.entry(victim).sequence;
        let (frame, _) = self.unlink_event(pool, previous, victim);
        Some((frame, sequence))
    }

    // The oldest event or run of which nothing was sent, and the entry before it in the list of events.
    fn oldest(&self, pool: &Pool) -> (EntryId, EntryId) {
        let head = self.events.head;
        if head != NONE && self.sent > 0 && self.first(pool) == head {
            (head, pool.entry(head).next)
        } else {
            (NONE, head)
        }
    }

    // Splits a run of which nothing was sent: its events become entries at its position. Does nothing for an event.
    fn split(&mut self, pool: &mut Pool, id: EntryId) {
        if id == NONE {
            return;
        }
        let entry = pool.entry(id);
        let (run, mut sequence) = (entry.shared_frame().clone(), entry.sequence);
        let Content::Run(events) = &run.content else { return };
        let mut last = id;
        for (index, event) in events.iter().enumerate() {
            if index == 0 {
                pool.replace(id, event.clone());
                continue;
            }
            sequence = sequence.wrapping_add(1);
            let new = pool.insert(event.clone(), sequence);
            pool.entry_mut(new).next = pool.entry(last).next;
            pool.entry_mut(last).next = new;
            last = new;
        }
        if self.events.tail == id {
            self.events.tail = last;
        }
    }

    // Removes an event (not a run) that follows `previous`. Returns it and the entry that followed it.
    fn unlink_event(&mut self, pool: &mut Pool, previous: EntryId, id: EntryId) -> (Rc<Frame>, EntryId) {
        let (frame, next) = pool.remove(id);
        if previous == NONE {
            self.events.head = next;
        } else {
            pool.entry_mut(previous).next = next;
        }
        if self.events.tail == id {
            self.events.tail = previous;
        }
        self.event_frames -= 1;
        self.event_bytes -= frame.len();
        (frame, next)
    }

    /// Uses up a sequence number, for an event that is dropped instead of queued.
    pub(super) const fn take_sequence(&mut self) -> u32 {
        self.take_sequences(1)
    }

    /// Uses up `count` consecutive sequence numbers. Returns the first.
    pub(super) const fn take_sequences(&mut self, count: u32) -> u32 {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(count);
        sequence
    }

    /// Queues a reply or control message.
    ///
    /// # Errors
    ///
    /// A bound is reached. The frame is handed back.
    pub(super) fn push_reply(&mut self, pool: &mut Pool, frame: Rc<Frame>, bounds: &Bounds) -> Result<(), Rc<Frame>> {
        let bytes = self.reply_bytes.saturating_add(counted(&frame));
        if self.reply_frames >= bounds.reply_frames || (bytes > bounds.reply_bytes && self.reply_frames > 0) {
            return Err(frame);
        }
        self.push_last(pool, frame);
        Ok(())
    }

    /// Queues a reply even if a bound is reached: the last messages of a session that ends.
    pub(super) fn push_last(&mut self, pool: &mut Pool, frame: Rc<Frame>) {
        self.reply_bytes = self.reply_bytes.saturating_add(counted(&frame));
        self.reply_frames += 1;
        let sequence = self.take_sequence();
        append(&mut self.replies, pool, frame, sequence);
    }

    /// Queues a reply at the position of a dropped event, but not within a partly sent frame.
    pub(super) fn push_at_gap(&mut self, pool: &mut Pool, frame: Rc<Frame>, sequence: u32) {
        let mut sequence = sequence;
        if self.sent > 0 {
            // If the next frame has the same number, the reply goes before it.
            let behind_first = pool.entry(self.first(pool)).sequence.wrapping_add(1);
            if precedes(sequence, behind_first) {
                sequence = behind_first;
            }
            // A page that was read while nothing was queued has the number of the next event, which must stay behind the
            // reply.
            if precedes(self.next_sequence, sequence) {
                self.next_sequence = sequence;
            }
        }
        self.reply_bytes = self.reply_bytes.saturating_add(counted(&frame));
        self.reply_frames += 1;
        let mut previous = NONE;
        let mut next = self.replies.head;
        while next != NONE && precedes(pool.entry(next).sequence, sequence) {
            previous = next;
            next = pool.entry(next).next;
        }
        let new = pool.insert(frame, sequence);
        pool.entry_mut(new).next = next;
        if previous == NONE {
            self.replies.head = new;
        } else {
            pool.entry_mut(previous).next = new;
        }
        if next == NONE {
            self.replies.tail = new;
        }
    }

    /// Queues events that were read from the hub before all queued frames. No queued frame may have a sequence number
    /// before `sequence`, and no part of a queued frame may have been sent.
    pub(super) fn push_page(&mut self, pool: &mut Pool, page: &mut Vec<Rc<Frame>>, sequence: u32) {
        debug_assert!(self.sent == 0, "a page within a partly sent frame");
        for frame in page.drain(..).rev() {
            let new = pool.insert(frame, sequence);
            pool.entry_mut(new).next = self.replies.head;
            if self.replies.tail == NONE {
                self.replies.tail = new;
            }
            self.replies.head = new;
        }
    }

    /// The event that [`Outbox::drop_oldest`] would remove.
    pub(super) fn oldest_event<'p>(&mut self, pool: &'p mut Pool) -> Option<&'p Frame> {
        let (_, victim) = self.oldest(pool);
        self.split(pool, victim);
        (victim != NONE).then(|| pool.entry(victim).frame())
    }

    /// Removes queued events for which `is_passed_over` is true, oldest first, until `limit` events were kept. Only
    /// events of which nothing was sent are considered.
    pub(super) fn pass_over(
        &mut self,
        pool: &mut Pool,
        limit: usize,
        mut is_passed_over: impl FnMut(&Rc<Frame>) -> bool,
    ) -> Finished {
        let mut passed = Finished::default();
        let (mut previous, mut id) = self.oldest(pool);
        let mut left = limit;
        while id != NONE && left > 0 {
            self.split(pool, id);
            if is_passed_over(pool.entry(id).shared_frame()) {
                let (frame, next) = self.unlink_event(pool, previous, id);
                passed.event_frames += 1;
                passed.event_bytes += frame.len();
                id = next;
            } else {
                left -= 1;
                previous = id;
                id = pool.entry(id).next;
            }
        }
        passed
    }

    /// The sequence number of the first frame.
    pub(super) fn first_sequence(&self, pool: &Pool) -> Option<u32> {
        (!self.is_empty()).then(|| pool.entry(self.first(pool)).sequence)
    }

    /// Fills `slices` with the bytes to write next, in order, and stops before the sequence number `until`. Returns how
    /// many slices it filled.
    pub(super) fn gather<'p>(&self, pool: &'p Pool, until: Option<u32>, slices: &mut [IoSlice<'p>]) -> usize {
        let (mut event, mut reply) = (self.events.head, self.replies.head);
        let mut skip = self.sent as usize;
        let mut filled = 0;
        for slice in slices {
            let is_event = takes_event(pool, event, reply);
            let next = if is_event { event } else { reply };
            if next == NONE {
                break;
            }
            let entry = pool.entry(next);
            if until.is_some_and(|until| !precedes(entry.sequence, until)) {
                break;
            }
            if is_event {
                event = entry.next;
            } else {
                reply = entry.next;
            }
            *slice = IoSlice::new(&entry.frame().bytes[skip..]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    /// Removes the first `bytes` bytes, which were written. Returns the frames that were sent completely by that.
    pub(super) fn advance(&mut self, pool: &mut Pool, bytes: usize) -> Finished {
        let mut finished = Finished::default();
        let mut left = bytes as u64 + u64::from(self.sent);
        while !self.is_empty() {
            let is_event = takes_event(pool, self.events.head, self.replies.head);
            let queue = if is_event { &mut self.events } else { &mut self.replies };
            let frame = pool.entry(queue.head).frame();
            let (length, reply_bytes) = (frame.len(), counted(frame));
            let count = frame.count();
            let is_page = !is_event && frame.event().is_some();
            if left < u64::from(length) {
                break;
            }
            left -= u64::from(length);
            let (_, next) = pool.remove(queue.head);
            queue.head = next;
            if next == NONE {
                queue.tail = NONE;
            }
            finished.frames += count;
            if is_event {
                self.event_frames -= count;
                self.event_bytes -= length;
                finished.event_frames += count;
                finished.event_bytes += length;
            } else if !is_page {
                self.reply_frames -= 1;
                self.reply_bytes = self.reply_bytes.saturating_sub(reply_bytes);
            }
        }
        self.sent = u32::try_from(left).unwrap_or(0);
        finished
    }

    /// Leaks the frames that are queued now: their memory is never freed, not even when they have been sent.
    pub(super) fn leak(&self, pool: &Pool) {
        for queue in [self.events, self.replies] {
            let mut id = queue.head;
            while id != NONE {
                let entry = pool.entry(id);
                std::mem::forget(Rc::clone(entry.shared_frame()));
                id = entry.next;
            }
        }
    }

    /// Calls `each` for every frame that is complete when the next `bytes` are sent, in order.
    pub(super) fn completed(&self, pool: &Pool, bytes: usize, mut each: impl FnMut(&Frame)) {
        let (mut event, mut reply) = (self.events.head, self.replies.head);
        let mut left = bytes as u64 + u64::from(self.sent);
        loop {
            let is_event = takes_event(pool, event, reply);
            let id = if is_event { event } else { reply };
            if id == NONE {
                return;
            }
            let entry = pool.entry(id);
            let length = u64::from(entry.frame().len());
            if length > left {
                return;
            }
            left -= length;
            each(entry.frame());
            *(if is_event { &mut event } else { &mut reply }) = entry.next;
        }
    }

    /// Removes all frames.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        for queue in [self.events, self.replies] {
            let mut id = queue.head;
            while id != NONE {
                (_, id) = pool.remove(id);
            }
        }
        *self = Self {
            next_sequence: self.next_sequence,
            ..Self::default()
        };
    }

    fn first(&self, pool: &Pool) -> EntryId {
        if takes_event(pool, self.events.head, self.replies.head) {
            self.events.head
        } else {
            self.replies.head
        }
    }
}

fn counted(reply: &Frame) -> u32 {
    reply.len().min(REPLY_BYTES_COUNTED)
}

#[inline]
fn append(queue: &mut Queue, pool: &mut Pool, frame: Rc<Frame>, sequence: u32) {
    let id = pool.insert(frame, sequence);
    if queue.tail == NONE {
        queue.head = id;
    } else {
        pool.entry_mut(queue.tail).next = id;
    }
    queue.tail = id;
}

// Whether the event comes before the reply; `false` if there is no event.
fn takes_event(pool: &Pool, event: EntryId, reply: EntryId) -> bool {
    event != NONE && (reply == NONE || precedes(pool.entry(event).sequence, pool.entry(reply).sequence))
}

// Whether `left` comes before `right`. A queue holds far fewer than 2^31 frames, so the wrapping distance gives the
// order.
pub(super) const fn precedes(left: u32, right: u32) -> bool {
    left.wrapping_sub(right) > u32::MAX / 2
}

#[cfg(test)]
mod tests;
