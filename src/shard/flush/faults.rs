//! A queue for tests. It carries out sends itself and fails according to a script.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use rustix::net::SendFlags;

use super::Flusher;
use super::queue::{Completion, DEPTH, Message, Queue};
use crate::metrics::ShardMetrics;

/// The fault of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum Fault {
    /// As much is sent as the socket takes.
    None,
    /// At most this many bytes are sent.
    Short(usize),
    /// No byte is sent, and the message completes with this error.
    Error(Errno),
    /// The message is sent and never completes.
    Silent,
    /// The message is sent and completes twice.
    Twice,
}

/// The result of one submission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) enum Enter {
    /// All messages are taken.
    All,
    /// At most this many messages are taken.
    Some(usize),
    /// At most this many messages are taken, and the submission fails.
    Fails(usize, Errno),
}

/// Decides about faults.
pub(in crate::shard) trait Script {
    fn enter(&mut self) -> Enter {
        Enter::All
    }
    fn message(&mut self, index: usize) -> Fault;
}

impl<F: FnMut(usize) -> Fault> Script for F {
    fn message(&mut self, index: usize) -> Fault {
        self(index)
    }
}

/// A flusher whose ring follows a script.
pub(in crate::shard) fn flusher(script: impl Script + 'static, metrics: &ShardMetrics) -> Flusher {
    let queue = Faulty {
        script,
        queued: VecDeque::new(),
        completed: VecDeque::new(),
    };
    Flusher::with(0, Some(Box::new(queue)), metrics)
}

struct Faulty<S> {
    script: S,
    queued: VecDeque<(usize, Message)>,
    completed: VecDeque<Completion>,
}

impl<S: Script> Faulty<S> {
    fn carry_out(&mut self, index: usize, message: Message) {
        let fault = self.script.message(index);
        let limit = match fault {
            Fault::Error(error) => {
                let result = Err(error);
                return self.completed.push_back(Completion { index, result });
            }
            Fault::Short(bytes) => bytes,
            Fault::None | Fault::Silent | Fault::Twice => usize::MAX,
        };
        // SAFETY: the caller of `push` promised that the slices and bytes are valid. Sockets are not closed during a
        // flush.
        let (slices, socket) = unsafe {
            (
                std::slice::from_raw_parts(message.slices, message.count),
                BorrowedFd::borrow_raw(message.socket),
            )
        };
        let mut bytes = Vec::new();
        for slice in slices {
            // SAFETY: the caller of `push` promised that the bytes are valid.
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
            self.completed.push_back(Completion { index, result });
        }
    }
}

impl<S: Script> Queue for Faulty<S> {
    unsafe fn push(&mut self, messages: &[Message]) {
        assert!(
            self.queued.is_empty() && self.completed.is_empty(),
            "a message of an earlier push has not completed"
        );
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
            if let Some((index, message)) = self.queued.pop_front() {
                self.carry_out(index, message);
            }
        }
        // The kernel would wait for ever.
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
