//! The accept loop, and the lingering close of a connection.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::gate::Passage;
use super::listen::Listener;
use super::places::{Place, Places};
use super::socket::{Accepted, Socket};
use crate::metrics::AcceptMetrics;
use crate::pause::timeout;

/// Pause between two attempts while the process or the system is out of descriptors or memory. It doubles from the
/// minimum to the maximum.
const PAUSE_MS_MIN: u64 = 5;
const PAUSE_MS_MAX: u64 = 500;

/// How often it is logged at most that connections cannot be accepted.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// How long a client may still send after its last response. Many clients read the response only when they have sent
/// their whole body.
const LINGER: Duration = Duration::from_secs(30);
/// The longest pause between two chunks of that.
const LINGER_PAUSE: Duration = Duration::from_secs(2);
/// How many bytes a client may still send.
const LINGER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The buffer for what is discarded, and the one for a client that sends much.
const LINGER_BUFFER: usize = 2048;
const LINGER_BUFFER_MAX: usize = 64 * 1024;

/// Accepts connections and passes each to `serve` with one of `places`. `serve` must not block.
///
/// The loop runs until its gate is closed, and serves every connection that it has accepted. It ignores an error of one connection. When the process or the system is out
/// of descriptors or memory, the loop closes the connection that has been silent longest, pauses and tries again; it logs
/// this once a minute at most. While every
/// place is taken by a connection that is being served, one accepted connection waits, and the others wait in the
/// kernel's accept queue.
///
/// The address of a connection is not known yet: a proxy may name it.
pub async fn accept_until_closed(
    listener: &Listener,
    places: &Arc<Places>,
    metrics: &AcceptMetrics,
    mut gate: Passage,
    mut serve: impl FnMut(Accepted, Place),
) {
    let mut pause_ms = 0;
    let mut reported: Option<Instant> = None;
    let mut is_reported = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = gate.closed(listener.is_inherited()) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(socket) => {
                pause_ms = 0;
                if std::mem::take(&mut is_reported) {
                    tracing::info!(listener = %listener.address(), "accepting again");
                }
                metrics.accepted.add(1);
                serve(socket, places.take(None).await);
            }
            Err(error) if concerns_one_connection(&error) => metrics.aborted.add(1),
            Err(error) => {
                metrics.paused.add(1);
                if reported.is_none_or(|at| at.elapsed() >= REPORT_INTERVAL) {
                    tracing::error!(listener = %listener.address(), %error, "cannot accept connections, retrying");
                    (reported, is_reported) = (Some(Instant::now()), true);
                }
                // Its descriptor is of more use to a newer connection.
                places.make_room();
                pause_ms = (pause_ms * 2).clamp(PAUSE_MS_MIN, PAUSE_MS_MAX);
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
        }
    }
}

/// Whether an error of `accept` belongs to the new connection alone: Linux reports its pending network errors there
/// (`accept(2)`).
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

/// Closes a connection whose last response is written.
///
/// Closing a socket with unread input resets the connection, and the reset can destroy the response before the client
/// reads it (RFC 9112, section 9.6). So the write half is closed first, and further input is read and discarded, within
/// bounds of time and bytes.
pub async fn linger(mut socket: Socket) {
    // After an error or the timeout the connection is closed as well.
    let _ = timeout(LINGER, discard(&mut socket)).await;
}

async fn discard(socket: &mut Socket) -> io::Result<()> {
    socket.shutdown().await?;
    let mut scratch = vec![0; LINGER_BUFFER];
    let mut discarded = 0;
    while discarded < LINGER_BYTES_MAX {
        match timeout(LINGER_PAUSE, socket.read(&mut scratch)).await?? {
            0 => break,
            n => discarded += n,
        }
        if discarded > LINGER_BUFFER_MAX {
            scratch.resize(LINGER_BUFFER_MAX, 0);
        }
    }
    Ok(())
}
