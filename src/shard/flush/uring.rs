//! Writes up to 1024 connections with one system call.
//!
//! Invariants: the kernel uses no buffer any more when a call of [`Ring::flush`] returns; no connection changes between
//! the time when its bytes are gathered and the time when it is told how many of them were sent.
//!
//! The first invariant depends on the kernel. Every send has the flag `MSG_DONTWAIT`, so a message that the kernel has
//! taken has completed. `queue::open` tests that before a ring is used. The kernel may take fewer messages than were
//! pushed (because one is malformed, or for lack of memory), so the submission is repeated until all have completed.
//! Anything else is a [`RingError`], and the ring is abandoned. `writev` then writes the messages that the kernel had
//! not taken. If a message was taken and has no completion, the number of sent bytes is unknown, so its connection
//! fails. The kernel may still use the bytes of such a message, so they and the ring are never freed
//! ([`Ring::abandon`]).

use std::io::IoSlice;
use std::os::fd::AsRawFd;

use libc::iovec;
use rustix::io::Errno;

use super::queue::{DEPTH, Message, Queue};
use super::{Outcome, SLICES, Sockets};
use crate::metrics::ShardMetrics;
use crate::shard::core::{Sent, ShardCore};
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;

/// The maximum number of slices in one submission. They take 128 KiB.
const SLICES_MAX: usize = 8 * 1024;
/// The number of slices that is tried first. Most connections have few frames, and a larger array takes time to clear.
const SLICES_FEW: usize = 8;
/// The maximum number of submissions in a row without progress.
const IDLE_SUBMISSIONS_MAX: u32 = 16;

/// An unexpected behaviour of the kernel, after which the ring is not used any more.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RingError {
    #[error("a submission failed: {0}")]
    Submission(Errno),
    #[error("the kernel takes and completes no messages")]
    NoProgress,
    #[error("the kernel refused a message: {0}")]
    Refused(Errno),
    #[error("a message completed twice, or was never submitted")]
    UnexpectedCompletion,
}

/// Whether more connections are to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatchStatus {
    More,
    Done,
}

/// The state of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SendState {
    /// No completion has arrived.
    Pending,
    Sent(usize),
    Failed(Errno),
}

/// One connection's part of a submission.
#[derive(Debug)]
struct Part {
    id: ConnectionId,
    has_more: bool,
    // The number of bytes in its message.
    bytes: usize,
    state: SendState,
}

/// A ring, and the messages of the current submission. There are none between calls.
pub(super) struct Ring {
    queue: Box<dyn Queue>,
    parts: Vec<Part>,
    // Dirty connections that have nothing to write.
    idle: Vec<ConnectionId>,
    // The slices of all parts, in order. Its capacity never changes, so the slices never move.
    slices: Vec<iovec>,
    messages: Vec<Message>,
    // The kernel took a message whose completion never arrived.
    has_unanswered: bool,
}

impl Ring {
    pub(super) fn new(queue: Box<dyn Queue>) -> Self {
        Self {
            queue,
            parts: Vec::with_capacity(DEPTH),
            idle: Vec::new(),
            slices: Vec::with_capacity(SLICES_MAX),
            messages: Vec::with_capacity(DEPTH),
            has_unanswered: false,
        }
    }

    /// Frees the ring, unless the kernel may still be using a message whose header and slices are in it.
    pub(super) fn abandon(self) {
        if self.has_unanswered {
            std::mem::forget(self);
        }
    }

    /// Writes the next dirty connections, at most `left` of them, and reduces `left` by their number.
    ///
    /// # Errors
    ///
    /// The kernel misbehaved. Connections whose messages were not sent are dirty again.
    pub(super) fn flush(
        &mut self,
        core: &mut ShardCore,
        sockets: &mut impl Sockets,
        left: &mut usize,
        metrics: &ShardMetrics,
        now: Now,
    ) -> Result<BatchStatus, RingError> {
        self.gather(core, sockets, DEPTH.min(*left), now);
        let mut outcome = Ok(());
        if !self.parts.is_empty() {
            *left -= self.parts.len();
            metrics.submitted.bump(self.parts.len() as u64);
            let submitted = self.submit(metrics);
            let answered = self.settle(core, sockets, now);
            outcome = submitted.and(answered);
        }
        for id in self.idle.drain(..) {
            sockets.written(core, id, Outcome::Drained, now);
        }
        outcome?;
        Ok(if *left > 0 && core.has_dirty() {
            BatchStatus::More
        } else {
            BatchStatus::Done
        })
    }

    /// Gathers the messages of up to `limit` dirty connections.
    fn gather(&mut self, core: &mut ShardCore, sockets: &mut impl Sockets, limit: usize, now: Now) {
        while self.parts.len() < limit
            && self.slices.len() + SLICES <= SLICES_MAX
            && let Some(id) = core.next_dirty()
        {
            let Some(socket) = sockets.socket(id).map(|socket| socket.as_raw_fd()) else {
                continue;
            };
            let first = self.slices.len();
            let bytes = self.gather_one(core, id, now);
            let count = self.slices.len() - first;
            if count == 0 {
                self.idle.push(id);
                continue;
            }
            self.messages.push(Message {
                socket,
                slices: self.slices.as_mut_ptr().wrapping_add(first),
                count,
            });
            self.parts.push(Part {
                id,
                has_more: false,
                bytes,
                state: SendState::Pending,
            });
        }
    }

    fn gather_one(&mut self, core: &mut ShardCore, id: ConnectionId, now: Now) -> usize {
        let mut few = [IoSlice::new(&[]); SLICES_FEW];
        let filled = core.pending(id, now, &mut few);
        if filled < few.len() {
            return self.note(&few[..filled]);
        }
        let mut many = [IoSlice::new(&[]); SLICES];
        let filled = core.pending(id, now, &mut many);
        self.note(&many[..filled])
    }

    fn note(&mut self, slices: &[IoSlice<'_>]) -> usize {
        let mut bytes = 0;
        self.slices.extend(slices.iter().map(|slice| {
            bytes += slice.len();
            iovec {
                iov_base: slice.as_ptr().cast_mut().cast(),
                iov_len: slice.len(),
            }
        }));
        bytes
    }

    /// Submits all messages, repeatedly if needed, until they have completed.
    fn submit(&mut self, metrics: &ShardMetrics) -> Result<(), RingError> {
        // SAFETY: the slices are in `self.slices`, which has not moved since (`gather` keeps it within its capacity)
        // and is cleared only by `settle`. The bytes are in frames that the connections' outboxes hold.
        // `ShardCore::pending` promises that they stay valid until the connection is told that they were sent, or
        // changes otherwise. No connection is touched before this call returns. It returns when every message has
        // completed, or when the ring is abandoned. In the second case `settle` and `abandon` leak the bytes, the
        // slices and the headers of messages that were taken and have not completed, so these stay valid for ever.
        unsafe { self.queue.push(&self.messages) };
        let mut outstanding = self.messages.len();
        let mut untaken = outstanding;
        let mut idle_submissions = 0;
        let mut outcome = Ok(());
        while outstanding > 0 {
            // A message that was taken has completed, so waiting takes no time. One that was not taken would never
            // complete.
            let wait_for = if untaken == 0 { outstanding } else { 0 };
            let entered = self.queue.enter(wait_for);
            metrics.sends.bump(1);
            let arrived = self.collect(&mut outcome);
            outstanding -= arrived;
            let still_untaken = self.queue.untaken();
            idle_submissions = if arrived > 0 || still_untaken < untaken {
                0
            } else {
                idle_submissions + 1
            };
            untaken = still_untaken;
            match entered {
                // Temporary errors: too little memory for requests, or too many completions that were not taken out.
                Ok(()) | Err(Errno::INTR | Errno::AGAIN | Errno::BUSY) if idle_submissions < IDLE_SUBMISSIONS_MAX => {}
                _ if outstanding == 0 => {}
                Ok(()) | Err(Errno::INTR | Errno::AGAIN | Errno::BUSY) => return Err(RingError::NoProgress),
                Err(error) => return Err(RingError::Submission(error)),
            }
        }
        outcome
    }

    /// Takes completions out. Returns how many messages have completed.
    fn collect(&mut self, outcome: &mut Result<(), RingError>) -> usize {
        let mut arrived = 0;
        while let Some(completion) = self.queue.completion() {
            match self.parts.get_mut(completion.index) {
                Some(part) if part.state == SendState::Pending => {
                    part.state = completion.result.map_or_else(SendState::Failed, SendState::Sent);
                    arrived += 1;
                }
                _ => *outcome = Err(RingError::UnexpectedCompletion),
            }
        }
        arrived
    }

    /// Tells every connection the result of its message. The sent bytes of all connections are counted first, because
    /// the consequences for one connection may change another.
    fn settle(&mut self, core: &mut ShardCore, sockets: &mut impl Sockets, now: Now) -> Result<(), RingError> {
        for part in &mut self.parts {
            if let SendState::Sent(bytes) = part.state {
                part.has_more = core.count_sent(part.id, bytes) == Sent::More;
            }
        }
        let taken = self.parts.len() - self.queue.untaken();
        let mut refused = Ok(());
        for (index, part) in self.parts.drain(..).enumerate() {
            let id = part.id;
            let outcome = match part.state {
                SendState::Sent(bytes) => {
                    core.after_sent(id, now);
                    if bytes < part.bytes {
                        Outcome::Blocked
                    } else if part.has_more {
                        core.postpone(id);
                        continue;
                    } else {
                        Outcome::Drained
                    }
                }
                SendState::Failed(Errno::AGAIN) => Outcome::Blocked,
                SendState::Failed(Errno::INTR) => {
                    core.postpone(id);
                    continue;
                }
                // The kernel did not try to send the message; `writev` will try.
                SendState::Failed(error @ (Errno::CANCELED | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) => {
                    refused = Err(RingError::Refused(error));
                    core.postpone(id);
                    continue;
                }
                SendState::Failed(_) => Outcome::Failed,
                SendState::Pending if index >= taken => {
                    core.postpone(id);
                    continue;
                }
                SendState::Pending => {
                    core.leak_pending(id);
                    self.has_unanswered = true;
                    Outcome::Failed
                }
            };
            sockets.written(core, id, outcome, now);
        }
        self.slices.clear();
        self.messages.clear();
        refused
    }
}
