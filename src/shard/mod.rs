//! One thread, one owner of everything in it: sockets, sessions, subscription table, outboxes, timers.
//!
//! Invariants: nothing here is shared with another thread but the inbox, the mailbox and the counters; a turn of the
//! loop is bounded, whatever clients and publishers do; a delivery takes no lock and allocates nothing.
//!
//! From the inside out: `table` (who wants what), `frame`, `outbox` and `pool` (what waits to be written), `catch_up` (what is
//! still to be read from the hub), `timers`, `connection` (what is kept of one), [`core`] (all of that with the
//! sessions, without a socket or a clock), `flush` and `reactor` (the thread that has both), `coalesce` (when events are
//! taken).

mod catch_up;
mod coalesce;
mod connection;
pub mod core;
mod flush;
mod frame;
pub mod mailbox;
mod outbox;
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

/// How long events may wait for company before they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CoalescePolicy {
    /// No wait while the shard is idle; under load 2 ms after a tick, and while few events wait as long as it took.
    Auto,
    /// Ticks are at least so many milliseconds apart; 0: every event at once.
    Fixed(u32),
}

/// The settings of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Its number, from 0; the same as its inbox's.
    pub shard: u16,
    /// `[server] coalesce`.
    pub coalesce: CoalescePolicy,
    /// `[server] flush`.
    pub flush: FlushMethod,
    /// Bytes of half-received messages, over all connections of the shard. Over it the largest one's connection is
    /// closed with 1013.
    pub assembly_bytes: usize,
    /// A message must be complete so many milliseconds after its first byte, else 1008.
    pub assembly_ms: u32,
    /// How long a closing connection may take to flush and to answer the Close frame, in milliseconds.
    pub closing_ms: u32,
    /// How much input of a closing connection is read and thrown away, in bytes.
    pub closing_bytes: u32,
    /// What the joins of one turn may cost: a channel looked at is a step, and one more for every four patterns that
    /// it is compared with.
    pub join_steps: u32,
}

impl Settings {
    /// What shard number `shard` gets when nothing is configured.
    #[must_use]
    pub const fn new(shard: u16) -> Self {
        Self {
            shard,
            coalesce: CoalescePolicy::Auto,
            flush: FlushMethod::Auto,
            assembly_bytes: 64 * 1024 * 1024,
            assembly_ms: 30_000,
            closing_ms: 5_000,
            closing_bytes: 1024 * 1024,
            // 5 to 10 ms of a core.
            join_steps: 64 * 1024,
        }
    }
}

/// Starts the shard's thread. It runs until a [`crate::shard::mailbox::ShardMessage::Drain`] is done; then the handle can be
/// joined. A panic in it is logged and aborts the process: its inbox would withhold credits from all publishers.
///
/// # Errors
///
/// When its poll or its thread cannot be made, or it cannot write as [`Settings::flush`] demands.
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
        // Built here: what a shard owns stays on its thread.
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
        tracing::error!(shard = settings.shard, error = %end, "a shard failed; the gateway cannot go on");
        std::process::abort();
    };
    let thread = thread::Builder::new()
        .name(format!("shard-{}", settings.shard))
        .spawn(run)?;
    // Nothing is sent by a shard that panicked: it aborts the process.
    match started.recv() {
        Ok(Err(error)) => Err(error),
        Ok(Ok(())) | Err(_) => Ok(thread),
    }
}
