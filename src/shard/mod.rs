//! A shard: one thread that owns its sockets, sessions, subscription table, outboxes and timers.
//!
//! Invariants: only the inbox, the mailbox and the metrics are shared with other threads. A turn (one pass of the loop)
//! is bounded, whatever clients and publishers do. A delivery takes no lock and allocates nothing.
//!
//! From the inside out:
//!
//! - `table`: the subscriptions.
//! - `frame`, `outbox` and `pool`: the frames that wait to be written.
//! - `catch_up` and `numbers`: the channels whose events are still to be read from the hub.
//! - `timers`: the timer wheel.
//! - `slots`: storage by slot number.
//! - `connection`: the state of one connection.
//! - [`core`]: all of these and the sessions, without sockets and without a clock.
//! - `flush`, `coalesce` and `reactor`: the thread, which has the sockets and the clock.
//! - [`mailbox`]: the messages from other threads.

mod catch_up;
mod coalesce;
mod connection;
pub mod core;
mod flush;
mod frame;
pub mod mailbox;
mod numbers;
mod outbox;
mod pace;
mod paced;
mod pool;
mod reactor;
mod slots;
mod table;
mod timers;

use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::{self, JoinHandle};

use crate::broker::Broker;
use crate::hub::Inbox;
use crate::shard::mailbox::{Mailbox, Services};
use crate::time::Clock;
pub use flush::FlushMethod;
use reactor::Reactor;

/// How long events may wait for further events before they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoalescePolicy {
    /// The time from tick to tick is `max_ms` times the share of the time that ticks take.
    Auto {
        /// The longest time from tick to tick, which only a shard without any time left reaches, in milliseconds.
        max_ms: u32,
    },
    /// Ticks are at least this many milliseconds apart; 0: every event is sent at once.
    Fixed(u32),
}

impl CoalescePolicy {
    /// [`CoalescePolicy::Auto`] with the longest wait that is the default.
    pub const AUTO: Self = Self::Auto { max_ms: 10 };
}

/// What the requests of one connection may cost: steps, each of which is a channel that is looked at, or an event that is
/// read from the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanBudget {
    /// Steps in a second.
    pub per_second: u32,
    /// Steps at one time, after a pause.
    pub burst: u32,
}

impl Default for ScanBudget {
    fn default() -> Self {
        Self {
            per_second: 50_000,
            burst: 250_000,
        }
    }
}

/// The settings of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The number of the shard, from 0. It is the number of its inbox too.
    pub shard: u16,
    /// `[server] coalesce`.
    pub coalesce: CoalescePolicy,
    /// `[server] flush`.
    pub flush: FlushMethod,
    /// The maximum number of bytes in incomplete messages, over all connections of the shard. If it is exceeded, the
    /// connection with the longest such message is closed with code 1013.
    pub assembly_bytes: usize,
    /// The time in milliseconds from the first byte of a message to its last. A client that takes longer is closed with
    /// code 1008.
    pub assembly_ms: u32,
    /// How long a closing connection may take to be written and to answer the Close frame, in milliseconds.
    pub closing_ms: u32,
    /// The maximum number of bytes that are read from a closing connection and discarded.
    pub closing_bytes: u32,
    /// The bound on the work of subscribe requests in one turn, in steps. Looking at a channel is one step, and each
    /// four patterns that it is compared with are one more.
    pub subscribe_steps: u32,
    /// `limits.scan_rate` and `limits.scan_burst`.
    pub scan_budget: ScanBudget,
}

impl Settings {
    /// The default settings of shard number `shard`.
    #[must_use]
    pub const fn new(shard: u16) -> Self {
        Self {
            shard,
            coalesce: CoalescePolicy::AUTO,
            flush: FlushMethod::Auto,
            assembly_bytes: 64 * 1024 * 1024,
            assembly_ms: 30_000,
            closing_ms: 5_000,
            closing_bytes: 1024 * 1024,
            // 1 to 2 ms of CPU time where there are very many channels.
            subscribe_steps: 4 * 1024,
            scan_budget: ScanBudget {
                per_second: 50_000,
                burst: 250_000,
            },
        }
    }
}

/// Starts the shard's thread. It runs until a [`crate::shard::mailbox::ShardMessage::Drain`] is done; then the handle
/// can be joined. A panic in it is logged and aborts the process: otherwise its inbox would withhold credits from all
/// publishers.
///
/// # Errors
///
/// The poll or the thread cannot be created, or the method of [`Settings::flush`] cannot be used.
pub fn spawn(
    settings: Settings,
    clock: Clock,
    inbox: Inbox,
    mailbox: Mailbox,
    services: Arc<dyn Services>,
    broker: Arc<dyn Broker>,
) -> io::Result<JoinHandle<()>> {
    let poll = reactor::open_poll(inbox.doorbell())?;
    let (ready, started) = sync_channel(1);
    let run = move || {
        // The reactor is built on this thread, because parts of it cannot move between threads.
        let run = || match Reactor::new(settings, clock, poll, inbox, mailbox, services, broker) {
            Ok(mut reactor) => {
                let _ = ready.send(Ok(()));
                reactor.run()
            }
            Err(error) => {
                let _ = ready.send(Err(error));
                Ok(())
            }
        };
        let end = match panic::catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(())) => return tracing::debug!(shard = settings.shard, "drained"),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "panic".to_owned(),
        };
        tracing::error!(shard = settings.shard, error = %end, "a shard failed; the gateway is aborting");
        std::process::abort();
    };
    let thread = thread::Builder::new()
        .name(format!("shard-{}", settings.shard))
        .spawn(run)?;
    // An error of `recv` means that the thread panicked, which aborts the process.
    match started.recv() {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Ok(thread),
    }
}
