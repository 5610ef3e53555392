//! One thread, one owner of everything in it: sockets, sessions, subscription table, outboxes, timers.
//!
//! Invariants: nothing here is shared with another thread but the inbox, the mailbox and the counters; a turn of the
//! loop is bounded, whatever clients and publishers do; a delivery takes no lock and allocates nothing.

mod connection;
pub mod engine;
mod outbox;
mod pool;
mod slab;
mod table;
mod timers;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::hub::{Broker, Inbox};
use crate::mailbox::{Mailbox, Services};
use crate::time::Clock;

/// How long events may wait for company before they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coalesce {
    /// No wait while the shard is idle, up to 2 ms between ticks under load.
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
    pub coalesce: Coalesce,
    /// Bytes of half-received messages, over all connections of the shard. Over it the largest one's connection is
    /// closed with 1013.
    pub assembly_bytes: usize,
    /// A message must be complete so many milliseconds after its first byte, else 1008.
    pub assembly_ms: u32,
    /// How long a closing connection may take to flush and to answer the Close frame, in milliseconds.
    pub closing_ms: u32,
    /// How much input of a closing connection is read and thrown away, in bytes.
    pub closing_bytes: u32,
}

impl Settings {
    /// What shard number `shard` gets when nothing is configured.
    #[must_use]
    pub const fn new(shard: u16) -> Self {
        Self {
            shard,
            coalesce: Coalesce::Auto,
            assembly_bytes: 64 * 1024 * 1024,
            assembly_ms: 30_000,
            closing_ms: 5_000,
            closing_bytes: 1024 * 1024,
        }
    }
}

/// Starts the shard's thread. It runs until a [`crate::mailbox::ShardMessage::Drain`] is done; then the handle can be
/// joined. A panic in it is logged and aborts the process: its inbox would withhold credits from all publishers.
pub fn spawn(
    settings: Settings,
    clock: Clock,
    inbox: Inbox,
    mailbox: Mailbox,
    services: Arc<dyn Services>,
    broker: Arc<dyn Broker>,
) -> io::Result<JoinHandle<()>> {
    let _ = (settings, clock, inbox, mailbox, services, broker);
    unimplemented!()
}
