//! How long the ids of publishers are remembered: the hub counts its ids in generations.
//!
//! Invariant: an id belongs to the generation in which it was counted. It is forgotten when the generation after the next
//! one begins. A generation ends when it is as old as the window or has as many ids as its bound, and not before.
//! Therefore an id is remembered, in whichever stripe it is, until one of two things has happened: the window has passed,
//! or as many other ids as the bound have been accepted. At most two generations are remembered at a time.

use crate::sync::{AtomicU64, Mutex, Ordering::Relaxed};

/// Most ids that are remembered in all, half of them in each of two generations.
pub(super) const IDS_MAX: u32 = 1_000_000;

pub(super) struct Generations {
    window_ms: u64,
    ids_max: u32,
    // The number of the current generation in the upper half, and how many ids it has in the lower half. So counting an
    // id and learning its generation is one atomic step.
    word: AtomicU64,
    began_ms: AtomicU64,
    rotation: Mutex<()>,
}

impl Generations {
    /// A generation lasts `window_ms`, or until it has `ids_max` ids.
    pub(super) fn new(window_ms: u64, ids_max: u32) -> Self {
        Self {
            window_ms,
            ids_max,
            word: AtomicU64::new(0),
            began_ms: AtomicU64::new(0),
            rotation: Mutex::default(),
        }
    }

    /// The number of the current generation. Under one stripe's lock it never decreases.
    pub(super) fn current(&self) -> u64 {
        self.word.load(Relaxed) >> u32::BITS
    }

    /// Counts an id, and returns the number of its generation.
    pub(super) fn count_id(&self) -> u64 {
        self.word.fetch_add(1, Relaxed) >> u32::BITS
    }

    /// Begins a new generation if the current one is over, and returns whether it did. To be called without any lock,
    /// before an id is counted. Threads that count at the same time may each exceed the bound by one.
    pub(super) fn rotate(&self, now_ms: u64) -> bool {
        if !self.is_over(now_ms) {
            return false;
        }
        // Two threads may find the same generation over. Only the first of them may end it: the second would end the new
        // generation at once. A thread that waits here holds no other lock.
        let _rotation = self.rotation.lock();
        if !self.is_over(now_ms) {
            return false;
        }
        self.began_ms.store(now_ms, Relaxed);
        let next = |word: u64| Some(((word >> u32::BITS) + 1) << u32::BITS);
        let _ = self.word.fetch_update(Relaxed, Relaxed, next);
        true
    }

    fn is_over(&self, now_ms: u64) -> bool {
        let counted = self.word.load(Relaxed) & u64::from(u32::MAX);
        counted >= self.ids_max.into() || now_ms.saturating_sub(self.began_ms.load(Relaxed)) >= self.window_ms
    }
}
