//! Writes each dirty connection once a tick, with as few system calls as possible. A connection is dirty while it has
//! frames to write that its socket has not refused.
//!
//! Invariant: a connection whose socket is full is not tried again before the socket reports that it is writable.
//! (Keeping such connections dirty used up a core.)
//!
//! There are two methods. `uring` submits the messages of up to 1024 connections with one system call; `writev` makes
//! one system call for each connection. A shard chooses when it starts ([`Flusher::open`]). If a ring misbehaves, the
//! shard abandons it for good, even in the middle of a flush, and goes on with `writev`.

#[cfg(test)]
pub(super) mod faults;
mod queue;
mod uring;
mod writev;

use std::io;
use std::os::fd::BorrowedFd;

use super::core::ShardCore;
use crate::metrics::ShardMetrics;
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;
use queue::Queue;
use uring::{BatchStatus, Ring};

/// The maximum number of frames in one message. A socket holds at most 16 KiB of unsent bytes, so it would rarely take
/// more frames. (The kernel's bound is 1024, `UIO_MAXIOV`.)
const SLICES: usize = 64;

/// How a shard writes frames to its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMethod {
    /// With io_uring if the kernel allows it and behaves as expected, else with `writev`.
    Auto,
    /// With io_uring. A shard that cannot use it does not start.
    IoUring,
    /// With `writev`.
    Writev,
}

/// How far one connection was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All its frames were written.
    Drained,
    /// Its socket is full.
    Blocked,
    /// Its socket failed.
    Failed,
}

/// Gives access to the sockets of connections, and takes the results of writing to them.
pub(super) trait Sockets {
    /// The socket of a connection; `None`: the connection has ended.
    fn socket(&self, id: ConnectionId) -> Option<BorrowedFd<'_>>;
    /// Called once for each connection that was written. It must not close a socket: results for others may follow.
    fn written(&mut self, core: &mut ShardCore, id: ConnectionId, outcome: Outcome, now: Now);
}

/// Writes the frames of one shard. Created and used on its thread.
pub(super) struct Flusher {
    shard: u16,
    ring: Option<Ring>,
}

impl Flusher {
    /// Chooses how to write, and logs the choice.
    ///
    /// # Errors
    ///
    /// `wanted` is [`FlushMethod::IoUring`] and io_uring cannot be used.
    pub(super) fn open(shard: u16, wanted: FlushMethod, metrics: &ShardMetrics) -> io::Result<Self> {
        let ring = match wanted {
            FlushMethod::Writev => None,
            FlushMethod::Auto | FlushMethod::IoUring => match queue::open() {
                Ok(queue) => Some(queue),
                Err(error) if wanted == FlushMethod::IoUring => {
                    let message = format!("server.flush is \"io_uring\", but io_uring cannot be used here: {error}");
                    return Err(io::Error::new(error.kind(), message));
                }
                Err(error) => {
                    tracing::info!(shard, reason = %error, "io_uring cannot be used here; frames are written with writev");
                    None
                }
            },
        };
        if ring.is_some() || wanted == FlushMethod::Writev {
            let method = if ring.is_some() { "io_uring" } else { "writev" };
            tracing::info!(shard, method, "chose how to write frames");
        }
        Ok(Self::with(shard, ring, metrics))
    }

    fn with(shard: u16, queue: Option<Box<dyn Queue>>, metrics: &ShardMetrics) -> Self {
        metrics.io_uring.set(queue.is_some().into());
        Self {
            shard,
            ring: queue.map(Ring::new),
        }
    }

    /// Writes every dirty connection, with at most about `sends` messages. Connections beyond that stay dirty.
    pub(super) fn flush(
        &mut self,
        core: &mut ShardCore,
        sockets: &mut impl Sockets,
        sends: usize,
        metrics: &ShardMetrics,
        now: Now,
    ) {
        let mut left = sends;
        while let Some(ring) = &mut self.ring {
            match ring.flush(core, sockets, &mut left, metrics, now) {
                Ok(BatchStatus::More) => {}
                Ok(BatchStatus::Done) => return,
                Err(error) => {
                    tracing::warn!(shard = self.shard, %error, "io_uring failed; frames are written with writev from now on");
                    metrics.io_uring.set(0);
                    if let Some(ring) = self.ring.take() {
                        ring.abandon();
                    }
                }
            }
        }
        writev::flush(core, sockets, left, metrics, now);
    }
}
