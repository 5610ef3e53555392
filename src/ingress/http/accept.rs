//! The accept loop, and the polite end of a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::listen::Listener;
use super::socket::{Accepted, Socket};
use crate::metrics::AcceptMetrics;

/// Between attempts while the process or the system is out of descriptors or memory.
const PAUSE_MS_MIN: u64 = 5;
const PAUSE_MS_MAX: u64 = 500;

/// How long and how much a connection that was answered may still send.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Accepts connections, each with one of `slots`, and gives them to `serve`, which must not block. Never ends by
/// itself: an error of one connection is passed over; out of descriptors or memory it pauses and tries again,
/// logged once until it can accept again.
pub async fn accept_forever(
    listener: &Listener,
    slots: &Arc<Semaphore>,
    stats: &AcceptMetrics,
    mut serve: impl FnMut(Accepted, OwnedSemaphorePermit),
) {
    let mut pause_ms = 0;
    loop {
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok(socket) => {
                if pause_ms > 0 {
                    tracing::info!(listener = %listener.address(), "accepting again");
                    pause_ms = 0;
                }
                stats.accepted.add(1);
                serve(socket, slot);
            }
            Err(error) if concerns_one_connection(&error) => stats.aborted.add(1),
            Err(error) => {
                stats.paused.add(1);
                if pause_ms == 0 {
                    tracing::error!(listener = %listener.address(), %error, "cannot accept connections, trying on");
                }
                pause_ms = (pause_ms * 2).clamp(PAUSE_MS_MIN, PAUSE_MS_MAX);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
        }
    }
}

/// Whether an error of `accept` is the new connection's own (`accept(2)`: pending network errors are passed on).
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}

/// Ends a connection whose answer is written: closing a socket with unread input would reset the connection, and
/// the reset can overtake the answer (RFC 9112, section 9.6). So the end is announced first, and what still comes is
/// read and dropped, within bounds.
pub async fn linger(mut socket: Socket) {
    let discard = async {
        socket.shutdown().await?;
        let mut scratch = [0; 2048];
        let mut discarded = 0;
        while discarded < LINGER_BYTES_MAX {
            match socket.read(&mut scratch).await? {
                0 => break,
                n => discarded += n,
            }
        }
        io::Result::Ok(())
    };
    // However it ends, the connection is over.
    let _ = tokio::time::timeout(LINGER, discard).await;
}
