//! How much is kept in all, and what goes when that is too much.
//!
//! Invariant: what is held is counted where it changes, under the lock of the stripe that it lies in; whoever adds
//! something lets go of as much afterwards, without that lock, from whichever stripe holds what was used least
//! recently.

use super::state::{Channels, Garbage};
use super::{Hub, StripeState};
use crate::sync::{AtomicUsize, Ordering::Relaxed};
use crate::time::Now;

/// Most that one caller lets go of at a time; the next one goes on.
const EVICTIONS_MAX: usize = 256;

/// `[state]`: how much is kept of all channels together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSettings {
    /// Channels.
    pub channels: usize,
    /// Bytes, all that is kept of channels together. Ids are bounded by themselves.
    pub bytes: usize,
    /// Names of evicted channels that are remembered, of those with a history.
    pub tombstones: usize,
    /// How long the id of a published event is remembered at least, in milliseconds, unless 500,000 came after it.
    pub dedup_window_ms: u64,
}

impl Default for StateSettings {
    fn default() -> Self {
        Self {
            channels: 100_000,
            bytes: 256 << 20,
            tombstones: 64 * 1024,
            dedup_window_ms: 5 * 60 * 1000,
        }
    }
}

/// What is held, over all stripes.
#[derive(Debug, Default)]
pub(super) struct Held {
    channels: AtomicUsize,
    bytes: AtomicUsize,
    ids: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Weight {
    channels: usize,
    bytes: usize,
    ids: usize,
}

impl Weight {
    fn of(channels: &Channels) -> Self {
        Self {
            channels: channels.len(),
            bytes: channels.bytes(),
            ids: channels.ids(),
        }
    }
}

impl Held {
    /// Channels, bytes of them, and ids.
    pub(super) fn now(&self) -> (usize, usize, usize) {
        let now = |count: &AtomicUsize| count.load(Relaxed);
        (now(&self.channels), now(&self.bytes), now(&self.ids))
    }

    fn note(&self, before: Weight, after: Weight) {
        let note = |count: &AtomicUsize, before: usize, after: usize| {
            if before != after {
                // Wraps: what goes is added as its complement.
                count.fetch_add(after.wrapping_sub(before), Relaxed);
            }
        };
        note(&self.channels, before.channels, after.channels);
        note(&self.bytes, before.bytes, after.bytes);
        note(&self.ids, before.ids, after.ids);
    }
}

impl Hub {
    /// Changes a stripe's state under its lock, and counts what that changes.
    pub(super) fn with_state<R>(&self, stripe: u8, change: impl FnOnce(&mut StripeState) -> R) -> R {
        let stripe = &self.stripes[usize::from(stripe)];
        let mut state = stripe.lock();
        let before = Weight::of(&state.channels);
        let result = change(&mut state);
        let after = Weight::of(&state.channels);
        self.held.note(before, after);
        stripe
            .oldest_use_ms
            .store(state.channels.oldest_use_ms().unwrap_or(u64::MAX), Relaxed);
        result
    }

    /// Lets go of what is over the bounds. To be called without any lock, after something was added.
    pub(super) fn enforce_bounds(&self) {
        for _ in 0..EVICTIONS_MAX {
            let (channels, bytes, _) = self.held.now();
            if channels <= self.limits.channels && bytes <= self.limits.bytes || !self.evict_one(channels == 1) {
                break;
            }
        }
    }

    /// Begins a new generation of ids if the last one is over; then every stripe drops what is forgotten by that. (One
    /// that is asked in between does so by itself.) To be called without any lock, before an id is noted.
    pub(super) fn turn_ids(&self, now: Now) {
        if self.generations.turn(now.mono_ms) {
            for stripe in (0u8..).take(self.stripes.len()) {
                self.with_state(stripe, |state| state.channels.forget_ids(&self.generations));
            }
        }
    }

    /// Evicts what was not used for the longest time. The last channel of all is only trimmed as long as that helps.
    fn evict_one(&self, only_trim: bool) -> bool {
        let oldest = (0u8..)
            .zip(&self.stripes)
            .map(|(number, stripe)| (stripe.oldest_use_ms.load(Relaxed), number))
            .min();
        let Some((used_ms, stripe)) = oldest else { return false };
        if used_ms == u64::MAX {
            return false;
        }
        let mut garbage = Garbage::default();
        self.with_state(stripe, |state| state.channels.evict(only_trim, &mut garbage))
    }

    /// Lets go of events and ids that are too old. What is read or published to sheds them by itself; this is for the
    /// rest, to be called now and then.
    pub fn expire(&self, now: Now) {
        self.turn_ids(now);
        for stripe in (0u8..).take(self.stripes.len()) {
            self.with_state(stripe, |state| state.channels.expire_all(now));
        }
    }
}
