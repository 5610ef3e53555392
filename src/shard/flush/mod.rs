//! Writing: each dirty connection once a tick, with as few system calls as there can be.
//!
//! Invariant: a connection whose socket takes no more is not tried again before the socket says that it takes more
//! (keeping it among the dirty ones burned a core).
//!
//! Two ways stand beside each other: `uring` hands up to 1024 connections to the kernel at once, `writev` one after
//! the other. Which one a shard uses is found out when it starts ([`Flusher::open`]); a ring that does anything odd is
//! given up for good, in the middle of a flush if need be.

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
use uring::{Progress, Ring};

/// Frames of one connection in one message. With 16 KiB of unsent bytes allowed in a socket, more would hardly ever be
/// taken. (The kernel's bound is 1024, `UIO_MAXIOV`.)
const SLICES: usize = 64;

/// How a shard's frames reach its sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMethod {
    /// By io_uring where the kernel allows it and behaves as expected, else by `writev`.
    Auto,
    /// By io_uring; a shard that cannot does not start.
    IoUring,
    /// By `writev`.
    Writev,
}

/// How far one connection was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Completely.
    Drained,
    /// Until its socket took no more.
    Blocked,
    /// The socket failed.
    Failed,
}

/// Where the sockets are, and who is told how their writing went.
pub(super) trait Sockets {
    /// The socket of a connection that is not gone.
    fn socket(&self, id: ConnectionId) -> Option<BorrowedFd<'_>>;
    /// Called once for each connection that was written. No socket may be closed by it: others are still to be told.
    fn written(&mut self, engine: &mut ShardCore, id: ConnectionId, outcome: Outcome, now: Now);
}

/// Writes for one shard; made and used on its thread.
pub(super) struct Flusher {
    shard: u16,
    ring: Option<Ring>,
}

impl Flusher {
    /// Finds out how to write, and says so once.
    pub(super) fn open(shard: u16, wanted: FlushMethod, stats: &ShardMetrics) -> io::Result<Self> {
        let ring = match wanted {
            FlushMethod::Writev => None,
            FlushMethod::Auto | FlushMethod::IoUring => match queue::open() {
                Ok(queue) => Some(queue),
                Err(error) if wanted == FlushMethod::IoUring => {
                    let message = format!("server.flush is \"io_uring\", but io_uring cannot be used here: {error}");
                    return Err(io::Error::new(error.kind(), message));
                }
                Err(error) => {
                    tracing::info!(shard, reason = %error, "io_uring cannot be used here, frames go out by writev");
                    None
                }
            },
        };
        if ring.is_some() || wanted == FlushMethod::Writev {
            let by = if ring.is_some() { "io_uring" } else { "writev" };
            tracing::info!(shard, by, "frames go out");
        }
        Ok(Self::with(shard, ring, stats))
    }

    fn with(shard: u16, queue: Option<Box<dyn Queue>>, stats: &ShardMetrics) -> Self {
        stats.io_uring.set(queue.is_some().into());
        Self {
            shard,
            ring: queue.map(Ring::new),
        }
    }

    /// Writes every dirty connection, with at most about `sends` messages. Whoever is left stays dirty.
    pub(super) fn flush(
        &mut self,
        engine: &mut ShardCore,
        sockets: &mut impl Sockets,
        sends: usize,
        stats: &ShardMetrics,
        now: Now,
    ) {
        let mut left = sends;
        while let Some(ring) = &mut self.ring {
            match ring.flush(engine, sockets, &mut left, stats, now) {
                Ok(Progress::More) => {}
                Ok(Progress::Done) => return,
                Err(oddity) => {
                    tracing::warn!(shard = self.shard, %oddity, "io_uring is given up, frames go out by writev from now on");
                    stats.io_uring.set(0);
                    if let Some(ring) = self.ring.take() {
                        ring.give_up();
                    }
                }
            }
        }
        writev::flush(engine, sockets, left, stats, now);
    }
}
