//! A queue that carries out sends itself and fails as it is told.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::Flusher;
use super::queue::{Completion, DEPTH, Message, Queue};
use crate::metrics::ShardMetrics;

/// What becomes of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum Fault {
    /// It is sent as far as its socket takes it.
    None,
    /// At most so many of its bytes are sent.
    Short(usize),
    /// Nothing is sent, and this is said.
    Error(Errno),
    /// It is sent, and nothing is said.
    Silent,
    /// It is sent, and said twice.
    Twice,
}

/// What becomes of one submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum Enter {
    /// All is taken.
    All,
    /// At most so many are taken.
    Some(usize),
    /// So many are taken, and it fails.
    Fails(usize, Errno),
}

/// Decides.
pub(in crate::shard) trait Script {
    fn enter(&mut self) -> Enter {
        Enter::All
    }
    fn message(&mut self, place: usize) -> Fault;
}

impl<F: FnMut(usize) -> Fault> Script for F {
    fn message(&mut self, place: usize) -> Fault {
        self(place)
    }
}

/// A flusher whose ring follows a script.
pub(in crate::shard) fn flusher(script: impl Script + 'static, stats: &ShardMetrics) -> Flusher {
    let queue = Faulty {
        script,
        queued: VecDeque::new(),
        completed: VecDeque::new(),
    };
    Flusher::with(0, Some(Box::new(queue)), stats)
}

struct Faulty<S> {
    script: S,
    queued: VecDeque<(usize, Message)>,
    completed: VecDeque<Completion>,
}

impl<S: Script> Faulty<S> {
    fn carry_out(&mut self, place: usize, message: Message) {
        let fault = self.script.message(place);
        let limit = match fault {
            Fault::Error(error) => {
                let result = Err(error);
                return self.completed.push_back(Completion { place, result });
            }
            Fault::Short(bytes) => bytes,
            Fault::None | Fault::Silent | Fault::Twice => usize::MAX,
        };
        // SAFETY: whoever pushed the message promised that its slices and bytes are there; sockets are not closed
        // during a flush.
        let (slices, socket) = unsafe {
            (
                std::slice::from_raw_parts(message.slices, message.count),
                BorrowedFd::borrow_raw(message.socket),
            )
        };
        let mut bytes = Vec::new();
        for slice in slices {
            // SAFETY: as above.
            bytes.extend_from_slice(unsafe { std::slice::from_raw_parts(slice.iov_base.cast::<u8>(), slice.iov_len) });
        }
        bytes.truncate(limit);
        let result = rustix::net::send(socket, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        let answers = match fault {
            Fault::Silent => 0,
            Fault::Twice => 2,
            _ => 1,
        };
        for _ in 0..answers {
            self.completed.push_back(Completion { place, result });
        }
    }
}

impl<S: Script> Queue for Faulty<S> {
    unsafe fn push(&mut self, messages: &[Message]) {
        assert!(self.queued.is_empty() && self.completed.is_empty(), "left from before");
        assert!(messages.len() <= DEPTH);
        self.queued.extend(messages.iter().copied().enumerate());
    }

    fn enter(&mut self, wait_for: usize) -> Result<(), Errno> {
        let (count, outcome) = match self.script.enter() {
            Enter::All => (usize::MAX, Ok(())),
            Enter::Some(count) => (count, Ok(())),
            Enter::Fails(count, error) => (count, Err(error)),
        };
        for _ in 0..count.min(self.queued.len()) {
            if let Some((place, message)) = self.queued.pop_front() {
                self.carry_out(place, message);
            }
        }
        // The kernel would never return.
        let waits_in_vain = outcome.is_ok() && wait_for > self.completed.len() && self.queued.is_empty();
        if waits_in_vain {
            return Err(Errno::TIME);
        }
        outcome
    }

    fn untaken(&mut self) -> usize {
        self.queued.len()
    }

    fn completion(&mut self) -> Option<Completion> {
        self.completed.pop_front()
    }
}
