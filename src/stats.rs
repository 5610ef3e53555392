//! Counters that one thread writes and others read.
//!
//! Invariant: a counter has one writer (its shard, or the door); readers see each one exactly but not all at the
//! same instant.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::disconnect::Disconnect;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; any number of writers.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    /// Adds `n` without a locked instruction. Correct only from the counter's single writer.
    pub fn bump(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n` (negative: subtracts); any number of writers.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }
    /// Sets it.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }
    /// Its value.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// What one shard counts. Written by its thread (by [`Counter::bump`]), read by the admin API and the gateway's pulse.
#[derive(Debug, Default)]
pub struct ShardStats {
    /// Connections adopted and not yet gone.
    pub connections: Gauge,
    /// Connections ever adopted.
    pub connections_total: Counter,
    /// Patterns held, over all connections (automatic ones too).
    pub subscriptions: Gauge,
    /// Data messages received.
    pub messages_in: Counter,
    /// Bytes read from sockets.
    pub bytes_in: Counter,
    /// Messages refused by a rate limit.
    pub rate_limited: Counter,
    /// Events put into outboxes.
    pub deliveries: Counter,
    /// Messages of any kind written completely to sockets.
    pub messages_out: Counter,
    /// Bytes written to sockets.
    pub bytes_out: Counter,
    /// Events dropped from full outboxes.
    pub dropped: Counter,
    /// Event bytes waiting in outboxes.
    pub pending_bytes: Gauge,
    /// Event frames waiting in outboxes.
    pub pending_frames: Gauge,
    /// Events waiting in the shard's inbox.
    pub inbox: Gauge,
    /// Send system calls.
    pub sends: Counter,
    /// Turns of the shard's loop.
    pub turns: Counter,
    /// CPU time of the shard's thread, in microseconds.
    pub cpu_us: Counter,
    endings: [Counter; Disconnect::ALL.len()],
}

impl ShardStats {
    /// Counts one ending; only from the shard's thread.
    pub fn ended(&self, ending: Disconnect) {
        self.endings[ending as usize].bump(1);
    }
    /// How many connections ended so.
    #[must_use]
    pub fn endings(&self, ending: Disconnect) -> u64 {
        self.endings[ending as usize].get()
    }
}
