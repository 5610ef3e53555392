//! For how long the ids of publishers are remembered: the hub's count of generations of them.
//!
//! Invariant: an id belongs to the generation in which it was counted, and is forgotten when the next but one begins. A
//! generation is over when it is as old as the window or as large as its bound, and not before. So whatever stripes the
//! ids are in, one is remembered until the window has passed since it was accepted or a whole bound of others has been
//! accepted since, whichever comes first; and no more than two generations are remembered.

use crate::sync::{AtomicU64, Mutex, Ordering::Relaxed};

/// Most ids that are remembered, in all: half of them in each of two generations.
pub(super) const IDS_MAX: u32 = 1_000_000;

pub(super) struct Generations {
    window_ms: u64,
    ids_max: u32,
    // The number of the one that goes on in the upper half, how many ids are counted in it in the lower: counting an id
    // and learning its generation is one step.
    word: AtomicU64,
    born_ms: AtomicU64,
    turning: Mutex<()>,
}

impl Generations {
    /// Each lasts for the window, but ends with `ids_max` ids.
    pub(super) fn new(window_ms: u64, ids_max: u32) -> Self {
        Self {
            window_ms,
            ids_max,
            word: AtomicU64::new(0),
            born_ms: AtomicU64::new(0),
            turning: Mutex::default(),
        }
    }

    /// The number of the one that goes on. Under a stripe's lock it is never less than what was seen under it before.
    pub(super) fn current(&self) -> u64 {
        self.word.load(Relaxed) >> u32::BITS
    }

    /// Counts an id, and says in which generation.
    pub(super) fn count(&self) -> u64 {
        self.word.fetch_add(1, Relaxed) >> u32::BITS
    }

    /// Begins a new one if this one is over, and says whether it did. To be called without any lock, before an id is
    /// counted: those that count at once may exceed the bound by one each.
    pub(super) fn turn(&self, now_ms: u64) -> bool {
        if !self.is_over(now_ms) {
            return false;
        }
        // One at a time, and only if it is over still: a generation that ended twice would have had a next one of no
        // length. Whoever waits here holds nothing.
        let _turning = self.turning.lock();
        if !self.is_over(now_ms) {
            return false;
        }
        self.born_ms.store(now_ms, Relaxed);
        let next = |word: u64| Some(((word >> u32::BITS) + 1) << u32::BITS);
        let _ = self.word.fetch_update(Relaxed, Relaxed, next);
        true
    }

    fn is_over(&self, now_ms: u64) -> bool {
        let counted = self.word.load(Relaxed) & u64::from(u32::MAX);
        counted >= self.ids_max.into() || now_ms.saturating_sub(self.born_ms.load(Relaxed)) >= self.window_ms
    }
}
