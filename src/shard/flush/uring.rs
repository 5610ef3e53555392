//! Up to 1024 connections in one system call.
//!
//! Invariants: no buffer is in the kernel's hands when a call of [`Ring::flush`] returns; no connection changes between
//! the time its bytes were gathered and the time it is told how many of them were sent.
//!
//! The first rests on the kernel: every send carries `MSG_DONTWAIT`, so it keeps none, and when it has taken a message,
//! the message has completed. Whether it does so is tried before a ring is used (`queue::open`). What can go wrong is that
//! it takes fewer than there are (a message that it finds malformed, no memory for a request), so the submission is
//! repeated until all have completed. Anything else is an [`Oddity`]: the ring is given up. Messages it had not taken
//! are written by `writev` then; of one that it took without an answer nobody knows how much was sent, and its
//! connection fails. Nor does anybody know whether the kernel has done with such a message's bytes, so they are never
//! freed, and neither is the ring ([`Ring::give_up`]).

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

/// Slices in one submission: 128 KiB of them.
const SLICES_MAX: usize = 8 * 1024;
/// Most connections have few frames, and room for many costs time to clear.
const SLICES_FEW: usize = 8;
/// Submissions in a row that may come to nothing.
const FUTILE_MAX: u32 = 16;

/// What the kernel did that it should not do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Oddity {
    #[error("a submission failed: {0}")]
    Submission(Errno),
    #[error("submissions come to nothing")]
    Futile,
    #[error("a message was not carried out: {0}")]
    Refused(Errno),
    #[error("a message completed twice, or none was submitted under its number")]
    Unasked,
}

/// Whether there is more to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    More,
    Done,
}

/// How one message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The kernel has not said.
    Unknown,
    Sent(usize),
    Failed(Errno),
}

/// One connection's part of a submission.
#[derive(Debug)]
struct Part {
    id: ConnectionId,
    has_more: bool,
    // Of its message.
    bytes: usize,
    fate: Fate,
}

/// A ring, and what is being submitted; empty between calls.
pub(super) struct Ring {
    queue: Box<dyn Queue>,
    parts: Vec<Part>,
    // Dirty connections that had nothing to write.
    idle: Vec<ConnectionId>,
    // The slices of all parts, one behind the other. Never grows, so that it never moves.
    slices: Vec<iovec>,
    messages: Vec<Message>,
    // A message was taken and never answered.
    has_lost: bool,
}

impl Ring {
    pub(super) fn new(queue: Box<dyn Queue>) -> Self {
        Self {
            queue,
            parts: Vec::with_capacity(DEPTH),
            idle: Vec::new(),
            slices: Vec::with_capacity(SLICES_MAX),
            messages: Vec::with_capacity(DEPTH),
            has_lost: false,
        }
    }

    /// Frees the ring, unless the kernel may still be at work on a message, with a header and slices that lie in it.
    pub(super) fn give_up(self) {
        if self.has_lost {
            std::mem::forget(self);
        }
    }

    /// Writes the next dirty connections, at most `left` of them.
    pub(super) fn flush(
        &mut self,
        engine: &mut ShardCore,
        sockets: &mut impl Sockets,
        left: &mut usize,
        stats: &ShardMetrics,
        now: Now,
    ) -> Result<Progress, Oddity> {
        self.gather(engine, sockets, DEPTH.min(*left), now);
        let mut outcome = Ok(());
        if !self.parts.is_empty() {
            *left -= self.parts.len();
            stats.submitted.bump(self.parts.len() as u64);
            let submitted = self.submit(stats);
            let answered = self.settle(engine, sockets, now);
            outcome = submitted.and(answered);
        }
        for id in self.idle.drain(..) {
            sockets.written(engine, id, Outcome::Drained, now);
        }
        outcome?;
        Ok(if *left > 0 && engine.has_dirty() {
            Progress::More
        } else {
            Progress::Done
        })
    }

    /// Notes what up to `limit` dirty connections have to write.
    fn gather(&mut self, engine: &mut ShardCore, sockets: &mut impl Sockets, limit: usize, now: Now) {
        while self.parts.len() < limit
            && self.slices.len() + SLICES <= SLICES_MAX
            && let Some(id) = engine.next_dirty()
        {
            let Some(socket) = sockets.socket(id).map(|socket| socket.as_raw_fd()) else {
                continue;
            };
            let first = self.slices.len();
            let bytes = self.gather_one(engine, id, now);
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
                fate: Fate::Unknown,
            });
        }
    }

    fn gather_one(&mut self, engine: &mut ShardCore, id: ConnectionId, now: Now) -> usize {
        let mut few = [IoSlice::new(&[]); SLICES_FEW];
        let filled = engine.pending(id, now, &mut few);
        if filled < few.len() {
            return self.note(&few[..filled]);
        }
        let mut many = [IoSlice::new(&[]); SLICES];
        let filled = engine.pending(id, now, &mut many);
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

    /// Has all messages carried out.
    fn submit(&mut self, stats: &ShardMetrics) -> Result<(), Oddity> {
        // SAFETY: the slices lie in `self.slices`, which has not grown since (`gather` keeps it within its capacity) and
        // is emptied by `settle` only. The bytes lie in frames that the connections' outboxes hold ([`ShardCore::pending`]
        // promises that they stay until the connection is told that they were sent, or changes otherwise); no
        // connection is touched before this call has returned. It returns when every message has completed, or when
        // the ring is given up. A message that was taken and has not completed then keeps its bytes, its slices and its
        // header for ever: `settle` and `give_up` leak them.
        unsafe { self.queue.push(&self.messages) };
        let mut outstanding = self.messages.len();
        let mut untaken = outstanding;
        let mut futile = 0;
        let mut odd = Ok(());
        while outstanding > 0 {
            // What was taken has completed, so waiting for it takes no time; what was not taken never would.
            let wait_for = if untaken == 0 { outstanding } else { 0 };
            let entered = self.queue.enter(wait_for);
            stats.sends.bump(1);
            let arrived = self.collect(&mut odd);
            outstanding -= arrived;
            let still_untaken = self.queue.untaken();
            futile = if arrived > 0 || still_untaken < untaken {
                0
            } else {
                futile + 1
            };
            untaken = still_untaken;
            match entered {
                // Too little memory for requests, too many completions not taken out: for now.
                Ok(()) | Err(Errno::INTR | Errno::AGAIN | Errno::BUSY) if futile < FUTILE_MAX => {}
                _ if outstanding == 0 => {}
                Ok(()) | Err(Errno::INTR | Errno::AGAIN | Errno::BUSY) => return Err(Oddity::Futile),
                Err(error) => return Err(Oddity::Submission(error)),
            }
        }
        odd
    }

    /// Takes completions out; returns how many messages they are of.
    fn collect(&mut self, odd: &mut Result<(), Oddity>) -> usize {
        let mut arrived = 0;
        while let Some(completion) = self.queue.completion() {
            match self.parts.get_mut(completion.place) {
                Some(part) if part.fate == Fate::Unknown => {
                    part.fate = completion.result.map_or_else(Fate::Failed, Fate::Sent);
                    arrived += 1;
                }
                _ => *odd = Err(Oddity::Unasked),
            }
        }
        arrived
    }

    /// Tells every connection how its message ended. First all of them how much was sent: what follows from that for
    /// one connection may change another.
    fn settle(&mut self, engine: &mut ShardCore, sockets: &mut impl Sockets, now: Now) -> Result<(), Oddity> {
        for part in &mut self.parts {
            if let Fate::Sent(bytes) = part.fate {
                part.has_more = engine.count_sent(part.id, bytes) == Sent::More;
            }
        }
        let taken = self.parts.len() - self.queue.untaken();
        let mut refused = Ok(());
        for (place, part) in self.parts.drain(..).enumerate() {
            let id = part.id;
            let outcome = match part.fate {
                Fate::Sent(bytes) => {
                    engine.after_sent(id, now);
                    if bytes < part.bytes {
                        Outcome::Blocked
                    } else if part.has_more {
                        engine.postpone(id);
                        continue;
                    } else {
                        Outcome::Drained
                    }
                }
                Fate::Failed(Errno::AGAIN) => Outcome::Blocked,
                Fate::Failed(Errno::INTR) => {
                    engine.postpone(id);
                    continue;
                }
                // Nothing was tried: `writev` shall say what it finds.
                Fate::Failed(error @ (Errno::CANCELED | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)) => {
                    refused = Err(Oddity::Refused(error));
                    engine.postpone(id);
                    continue;
                }
                Fate::Failed(_) => Outcome::Failed,
                Fate::Unknown if place >= taken => {
                    engine.postpone(id);
                    continue;
                }
                Fate::Unknown => {
                    engine.leak_pending(id);
                    self.has_lost = true;
                    Outcome::Failed
                }
            };
            sockets.written(engine, id, outcome, now);
        }
        self.slices.clear();
        self.messages.clear();
        refused
    }
}
