//! Versions: the numbers of everything that happens to the hub's state, which is events that are kept and evictions.
//!
//! Invariant: all stripes share one sequence, and a version is drawn under the lock of the stripe that it belongs to. Two
//! things follow. A client that was given version n was connected when n was drawn or later. And everything that entered an
//! inbox before its channel was evicted lies there before every event with a higher version than the eviction.

use crate::sync::{AtomicU64, Ordering};

/// The one sequence of a hub.
#[derive(Debug, Default)]
pub(super) struct Versions {
    newest: AtomicU64,
    evictions: AtomicU64,
}

impl Versions {
    /// The version that was drawn last; 0 if none was drawn.
    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// Draws the version of an event.
    pub(super) fn next(&self) -> u64 {
        self.newest.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Draws the version of an eviction.
    pub(super) fn next_of_eviction(&self) -> u64 {
        // Counted before it is drawn: a thread that sees a higher version also sees this eviction counted.
        self.evictions.fetch_add(1, Ordering::Relaxed);
        self.next()
    }

    /// How many evictions have drawn a version, or are about to.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Acquire)
    }

    /// Continues the sequence above `newest`, unless it is there already.
    pub(super) fn restore(&self, newest: u64) {
        self.newest.fetch_max(newest, Ordering::AcqRel);
    }
}
