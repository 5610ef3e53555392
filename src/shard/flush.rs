//! Writing: each dirty connection once a tick, with as few system calls as its frames allow.
//!
//! Invariant: a connection whose socket takes no more is not tried again before the socket says that it takes more
//! (keeping it among the dirty ones burned a core).
//!
//! [`flush`] is handed the whole tick, so that another way to submit many sends at once can stand beside this one.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::engine::{Engine, Sent};
use crate::mailbox::ConnectionId;
use crate::stats::ShardStats;
use crate::time::Now;

/// Frames per system call. With 16 KiB of unsent bytes allowed in a socket, more would hardly ever be taken.
const SLICES: usize = 64;

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
    /// Called once for each connection that was written.
    fn written(&mut self, engine: &mut Engine, id: ConnectionId, outcome: Outcome, now: Now);
}

/// Writes every dirty connection, with at most about `sends` system calls. Whoever is left stays dirty.
pub(super) fn flush(engine: &mut Engine, sockets: &mut impl Sockets, sends: usize, stats: &ShardStats, now: Now) {
    let mut left = sends;
    while left > 0
        && let Some(id) = engine.next_dirty()
    {
        let Some(socket) = sockets.socket(id) else { continue };
        let outcome = write(engine, socket, id, &mut left, now);
        match outcome {
            Some(outcome) => sockets.written(engine, id, outcome, now),
            None => engine.postpone(id),
        }
    }
    stats.sends.bump((sends - left) as u64);
}

// `None`: the bound was reached before the end.
fn write(engine: &mut Engine, socket: BorrowedFd<'_>, id: ConnectionId, left: &mut usize, now: Now) -> Option<Outcome> {
    loop {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = engine.pending(id, now, &mut slices);
        let slices = &slices[..filled];
        if slices.is_empty() {
            return Some(Outcome::Drained);
        }
        *left = left.checked_sub(1)?;
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        match send(socket, slices) {
            Ok(bytes) => {
                let sent = engine.sent(id, bytes, now);
                if bytes < wanted {
                    return Some(Outcome::Blocked);
                }
                if sent == Sent::Drained {
                    return Some(Outcome::Drained);
                }
            }
            Err(Errno::AGAIN) => return Some(Outcome::Blocked),
            Err(Errno::INTR) => {}
            Err(_) => return Some(Outcome::Failed),
        }
    }
}

fn send(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> Result<usize, Errno> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket.as_fd(), slices, &mut SendAncillaryBuffer::default(), flags)
}
