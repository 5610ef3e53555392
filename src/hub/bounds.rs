//! How much is kept in all, and what goes when that is too much.
//!
//! Invariant: what is held is counted where it changes, under the lock of the stripe that it lies in; whoever adds
//! something lets go of as much afterwards, without that lock, from whichever stripe holds what was used least
//! recently.

use super::state::{Channels, Garbage, ID_BYTES};
use super::{Hub, StripeState};
use crate::sync::{AtomicUsize, Ordering::Relaxed};
use crate::time::Now;

/// Most ids of publishers that are remembered, in all.
const IDS_MAX: usize = 1_000_000;

/// Most that one caller lets go of at a time; the next one goes on.
const EVICTIONS_MAX: usize = 256;

/// `[state]`: how much is kept of all channels together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSettings {
    /// Channels.
    pub channels: usize,
    /// Bytes, all that is kept of channels together.
    pub bytes: usize,
    /// How long the id of a published event is remembered at least, in milliseconds.
    pub dedup_window_ms: u64,
}

impl Default for StateSettings {
    fn default() -> Self {
        Self {
            channels: 100_000,
            bytes: 256 << 20,
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
    /// Channels, bytes (those of ids too) and ids.
    pub(super) fn now(&self) -> (usize, usize, usize) {
        let ids = self.ids.load(Relaxed);
        (
            self.channels.load(Relaxed),
            self.bytes.load(Relaxed) + ids * ID_BYTES,
            ids,
        )
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
        stripe.ids.store(after.ids, Relaxed);
        result
    }

    /// Lets go of what is over the bounds. To be called without any lock, after something was added.
    pub(super) fn enforce_bounds(&self, now: Now) {
        for _ in 0..EVICTIONS_MAX {
            let (channels, bytes, _) = self.held.now();
            if channels <= self.limits.channels && bytes <= self.limits.bytes || !self.evict_one(channels == 1) {
                break;
            }
        }
        if self.held.ids.load(Relaxed) > IDS_MAX {
            let largest = (0u8..)
                .zip(&self.stripes)
                .max_by_key(|(_, stripe)| stripe.ids.load(Relaxed));
            if let Some((stripe, _)) = largest {
                self.with_state(stripe, |state| state.channels.forget_half_of_ids(now));
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

    /// Lets go of events that are too old. What is read or published to sheds them by itself; this is for the rest, to
    /// be called now and then.
    pub fn expire(&self, now: Now) {
        for stripe in (0u8..).take(self.stripes.len()) {
            self.with_state(stripe, |state| state.channels.expire_all(now));
        }
    }
}
