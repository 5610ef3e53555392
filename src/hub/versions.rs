//! The numbers that what happens in the hub gets: events that are kept, and evictions.
//!
//! Invariant: one sequence for all stripes, and a number is drawn under the lock of the stripe that it belongs to. So
//! who was told of number n was here when n was drawn; and what was put into an inbox before its channel was evicted
//! lies there before everything with a higher number than that eviction.

use crate::sync::{AtomicU64, Ordering};

/// One for the whole hub.
#[derive(Debug, Default)]
pub(super) struct Versions {
    newest: AtomicU64,
    evictions: AtomicU64,
}

impl Versions {
    /// The newest number.
    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// The next number, for an event.
    pub(super) fn next(&self) -> u64 {
        self.newest.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// The next number, for an eviction.
    pub(super) fn next_of_eviction(&self) -> u64 {
        // Counted before it is numbered: who knows of a higher number sees it counted.
        self.evictions.fetch_add(1, Ordering::Relaxed);
        self.next()
    }

    /// How many evictions have got a number, or are about to.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Acquire)
    }

    /// Goes on above `newest`.
    pub(super) fn restore(&self, newest: u64) {
        self.newest.fetch_max(newest, Ordering::AcqRel);
    }
}
