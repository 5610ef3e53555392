//! Writes with one `sendmsg` for each connection.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};

use super::{Outcome, SLICES, Sockets};
use crate::metrics::ShardMetrics;
use crate::shard::core::{Sent, ShardCore};
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;

/// Writes every dirty connection, with at most `sends` system calls.
pub(super) fn flush(core: &mut ShardCore, sockets: &mut impl Sockets, sends: usize, metrics: &ShardMetrics, now: Now) {
    let mut left = sends;
    while left > 0
        && let Some(id) = core.next_dirty()
    {
        let Some(socket) = sockets.socket(id) else { continue };
        let outcome = write(core, socket, id, &mut left, now);
        match outcome {
            Some(outcome) => sockets.written(core, id, outcome, now),
            None => core.postpone(id),
        }
    }
    metrics.sends.bump((sends - left) as u64);
}

// Writes one connection. Returns `None` if no system call was left before all frames were written.
fn write(
    core: &mut ShardCore,
    socket: BorrowedFd<'_>,
    id: ConnectionId,
    left: &mut usize,
    now: Now,
) -> Option<Outcome> {
    loop {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = core.pending(id, now, &mut slices);
        let slices = &slices[..filled];
        if slices.is_empty() {
            return Some(Outcome::Drained);
        }
        *left = left.checked_sub(1)?;
        let wanted: usize = slices.iter().map(|slice| slice.len()).sum();
        match send(socket, slices) {
            Ok(bytes) => {
                let sent = core.sent(id, bytes, now);
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
