//! What waits to be written to one connection.
//!
//! Invariants: frames leave in the order in which they were put in; replies and control messages are never dropped;
//! a frame of which a part was sent is never dropped; events stay within their bounds (a lone event longer than the
//! byte bound is let through, or it could never be sent).
//!
//! Events and replies are two lists that a sequence number merges, so that the oldest event is found without a
//! search. Events that went the same way so far may be one frame, a run; it is parted before anything is decided about one of
//! them, so each is counted, dropped and passed over by itself. What was read from the hub for a channel that catches up goes among the replies: it was bounded when it was
//! read, it is not dropped, and it counts against no bound. All entries lie in the shard's [`Pool`].

use std::io::IoSlice;
use std::rc::Rc;

use super::frame::{Content, Frame};
use super::pool::{EntryId, NONE, Pool};

/// What a longer reply counts as. The answer to one `subscribe` names a thousand channels of any length and cannot be cut
/// into several; if it alone were too much, its client would come back, ask the same and be closed again, for ever. So the
/// bound is on how many such answers wait.
const REPLY_BYTES_COUNTED: u32 = 64 * 1024;

/// The bounds of an outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Event frames.
    pub(super) event_frames: u32,
    /// Event bytes.
    pub(super) event_bytes: u32,
    /// Replies and control messages.
    pub(super) reply_frames: u32,
    /// Their bytes; a long one counts as [`REPLY_BYTES_COUNTED`].
    pub(super) reply_bytes: u32,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    head: EntryId,
    tail: EntryId,
}

const EMPTY: Queue = Queue { head: NONE, tail: NONE };

/// One connection's outbox: 40 bytes.
#[derive(Debug)]
pub(super) struct Outbox {
    events: Queue,
    replies: Queue,
    // Bytes of the first frame that were sent already.
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

/// What [`Outbox::advance`] finished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Finished {
    /// Messages of both kinds.
    pub(super) frames: u32,
    /// Events among them.
    pub(super) event_frames: u32,
    /// Bytes of those.
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

    /// Whether replies fill more than half of their bounds.
    pub(super) const fn is_half_full_of_replies(&self, bounds: &Bounds) -> bool {
        self.reply_frames > bounds.reply_frames / 2 || self.reply_bytes > bounds.reply_bytes / 2
    }
    /// Whether there are more replies than their bounds allow. A lone one always goes.
    pub(super) const fn has_too_many_replies(&self, bounds: &Bounds) -> bool {
        self.reply_frames > bounds.reply_frames || (self.reply_bytes > bounds.reply_bytes && self.reply_frames > 1)
    }

    /// Queues an event, or a run of them, when it fits. `false`: see [`Outbox::drop_oldest`].
    #[inline]
    pub(super) fn push_event(&mut self, pool: &mut Pool, frame: &Rc<Frame>, bounds: &Bounds) -> bool {
        let count = frame.count();
        let bytes = self.event_bytes.saturating_add(frame.len());
        let frames = self.event_frames.saturating_add(count);
        if frames > bounds.event_frames || bytes > bounds.event_bytes {
            // A lone event always goes.
            if self.event_frames > 0 || count > 1 {
                return false;
            }
        }
        self.event_bytes = bytes;
        self.event_frames = frames;
        let sequence = self.next_sequence;
        // Each event of a run has its place, should the run be parted.
        self.next_sequence = sequence.wrapping_add(count);
        append(&mut self.events, pool, frame.clone(), sequence);
        true
    }

    /// Takes out the oldest event of which nothing was sent, with its sequence number.
    pub(super) fn drop_oldest(&mut self, pool: &mut Pool) -> Option<(Rc<Frame>, u32)> {
        let (previous, victim) = self.oldest(pool);
        if victim == NONE {
            return None;
        }
        self.part(pool, victim);
        let sequence = pool.entry(victim).sequence;
        let (frame, _) = self.unlink_event(pool, previous, victim);
        Some((frame, sequence))
    }

    // The oldest event, or run, of which nothing was sent, behind the one of which a part was.
    fn oldest(&self, pool: &Pool) -> (EntryId, EntryId) {
        let head = self.events.head;
        if head != NONE && self.sent > 0 && self.first(pool) == head {
            (head, pool.entry(head).next)
        } else {
            (NONE, head)
        }
    }

    // Puts the events of a run, of which nothing was sent, in its place: something is to be decided about one of them.
    fn part(&mut self, pool: &mut Pool, id: EntryId) {
        if id == NONE {
            return;
        }
        let entry = pool.entry(id);
        let (run, mut sequence) = (entry.shared_frame().clone(), entry.sequence);
        let Content::Run(events) = &run.content else { return };
        let mut last = id;
        for (place, event) in events.iter().enumerate() {
            if place == 0 {
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

    // Takes out an event, not a run, that follows `previous`; returns it and what followed it.
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

    /// Uses up a place in the order, for an event that is dropped before it was queued.
    pub(super) const fn take_sequence(&mut self) -> u32 {
        self.take_sequences(1)
    }

    /// Uses up so many places, one behind the other; returns the first.
    pub(super) const fn take_sequences(&mut self, count: u32) -> u32 {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(count);
        sequence
    }

    /// Queues a reply or control message, or hands it back: the bound is reached.
    pub(super) fn push_reply(&mut self, pool: &mut Pool, frame: Rc<Frame>, bounds: &Bounds) -> Result<(), Rc<Frame>> {
        let bytes = self.reply_bytes.saturating_add(counted(&frame));
        if self.reply_frames >= bounds.reply_frames || (bytes > bounds.reply_bytes && self.reply_frames > 0) {
            return Err(frame);
        }
        self.push_last(pool, frame);
        Ok(())
    }

    /// Queues a reply without asking for bounds: what a session says when it ends.
    pub(super) fn push_last(&mut self, pool: &mut Pool, frame: Rc<Frame>) {
        self.reply_bytes = self.reply_bytes.saturating_add(counted(&frame));
        self.reply_frames += 1;
        let sequence = self.take_sequence();
        append(&mut self.replies, pool, frame, sequence);
    }

    /// Queues a reply where the event with `sequence` was dropped, but not inside a partly sent frame.
    pub(super) fn push_at_gap(&mut self, pool: &mut Pool, frame: Rc<Frame>, sequence: u32) {
        let mut sequence = sequence;
        if self.sent > 0 {
            // The frame that follows may have the same number: then the reply goes first.
            let behind_first = pool.entry(self.first(pool)).sequence.wrapping_add(1);
            if precedes(sequence, behind_first) {
                sequence = behind_first;
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

    /// Queues what was read from the hub, before everything that is queued: nothing of that may have a place before
    /// `sequence`, and no part of it may have been sent.
    pub(super) fn push_page(&mut self, pool: &mut Pool, page: &mut Vec<Rc<Frame>>, sequence: u32) {
        debug_assert!(self.sent == 0, "inside a partly sent frame");
        for frame in page.drain(..).rev() {
            let new = pool.insert(frame, sequence);
            pool.entry_mut(new).next = self.replies.head;
            if self.replies.tail == NONE {
                self.replies.tail = new;
            }
            self.replies.head = new;
        }
    }

    /// The oldest event of which nothing was sent: what [`Outbox::drop_oldest`] would take out.
    pub(super) fn oldest_event<'p>(&mut self, pool: &'p mut Pool) -> Option<&'p Frame> {
        let (_, victim) = self.oldest(pool);
        self.part(pool, victim);
        (victim != NONE).then(|| pool.entry(victim).frame())
    }

    /// Takes out events that `is_passed_over`, of those before the first `limit` that are not.
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
            self.part(pool, id);
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

    /// The place of the first frame in the order of frames.
    pub(super) fn first_sequence(&self, pool: &Pool) -> Option<u32> {
        (!self.is_empty()).then(|| pool.entry(self.first(pool)).sequence)
    }

    /// Fills `slices` with what to write next, in order, but nothing from the place `until` on; returns how many it
    /// filled.
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

    /// Takes out what was written: `bytes` from the front.
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

    /// Never frees the frames that are queued now, even when they have left.
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

    /// Gives every entry back to the pool.
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

// Whether the event comes first (`false` also when there is none).
fn takes_event(pool: &Pool, event: EntryId, reply: EntryId) -> bool {
    event != NONE && (reply == NONE || precedes(pool.entry(event).sequence, pool.entry(reply).sequence))
}

// A queue holds far fewer than 2^31 frames, so the wrapping distance tells the order.
pub(super) const fn precedes(left: u32, right: u32) -> bool {
    left.wrapping_sub(right) > u32::MAX / 2
}

#[cfg(test)]
mod tests;
