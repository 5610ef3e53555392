//! Bounds on the whole state, and eviction when they are exceeded.
//!
//! Invariant: the size of the state is counted where it changes, under the lock of the stripe that changes. A thread that
//! adds something afterwards evicts as much as exceeds the bounds, and as much as exceeds what its tenant may have. It does
//! so without that lock, and from the stripe with the least recently used channel.

use super::interest::{Stripes, stripe_of};
use super::publishers::{Claim, Publisher, Quota};
use super::scan::PAGE_STEPS;
use super::state::{Channels, Claimed, Garbage, Passed, Prefixes};
use super::{ChannelView, Hub, StripeState};
use crate::sync::{AtomicUsize, Ordering::Relaxed};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};

/// Most evictions by one caller at a time. If more are needed, the next caller continues.
const EVICTIONS_MAX: usize = 256;

/// How many channels of a publisher that were used since they were last looked at are spared before one is evicted all the
/// same.
const SECOND_CHANCES_MAX: u32 = 32;

/// How many claims are looked at with one event when many are of channels that are gone. More than one, so that their
/// number falls.
const STALE_CLAIMS_PER_PUBLISH: usize = 4;

/// Bounds on the state of all channels together (`[state]` in the configuration).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateSettings {
    /// Most channels that have state.
    pub channels: usize,
    /// Most bytes of state, estimated. Ids are not included; they are bounded in number.
    pub bytes: usize,
    /// The part of the state that one publisher may have while these bounds are exceeded.
    pub per_publisher: Quota,
    /// Most evicted channels with a history whose names are remembered.
    pub tombstones: usize,
    /// How long the id of a published event is remembered at least, in milliseconds, unless 500,000 further ids are
    /// accepted before.
    pub dedup_window_ms: u64,
}

impl Default for StateSettings {
    fn default() -> Self {
        Self {
            channels: 100_000,
            bytes: 256 << 20,
            per_publisher: Quota::default(),
            tombstones: 64 * 1024,
            dedup_window_ms: 5 * 60 * 1000,
        }
    }
}

/// The size of the state over all stripes.
#[derive(Debug, Default)]
pub(super) struct Totals {
    channels: AtomicUsize,
    bytes: AtomicUsize,
    ids: AtomicUsize,
}

/// The size of one stripe's state.
#[derive(Clone, Copy)]
struct Size {
    channels: usize,
    bytes: usize,
    ids: usize,
}

impl Size {
    fn of(channels: &Channels) -> Self {
        Self {
            channels: channels.len(),
            bytes: channels.bytes(),
            ids: channels.ids(),
        }
    }
}

impl Totals {
    /// The number of channels, their size in bytes, and the number of ids.
    pub(super) fn read(&self) -> (usize, usize, usize) {
        let read = |count: &AtomicUsize| count.load(Relaxed);
        (read(&self.channels), read(&self.bytes), read(&self.ids))
    }

    fn update(&self, before: Size, after: Size) {
        let update = |count: &AtomicUsize, before: usize, after: usize| {
            if before != after {
                // Both operations wrap, so this also subtracts.
                count.fetch_add(after.wrapping_sub(before), Relaxed);
            }
        };
        update(&self.channels, before.channels, after.channels);
        update(&self.bytes, before.bytes, after.bytes);
        update(&self.ids, before.ids, after.ids);
    }
}

impl Hub {
    /// Changes a stripe's state under its lock, and counts how its size changes.
    pub(super) fn with_state<R>(&self, stripe: u8, change: impl FnOnce(&mut StripeState) -> R) -> R {
        let stripe = &self.stripes[usize::from(stripe)];
        let mut state = stripe.lock();
        let before = Size::of(&state.channels);
        let result = change(&mut state);
        let after = Size::of(&state.channels);
        self.totals.update(before, after);
        stripe
            .oldest_use_ms
            .store(state.channels.oldest_use_ms().unwrap_or(u64::MAX), Relaxed);
        result
    }

    /// Evicts what exceeds the bounds. To be called without any lock, after something was added.
    pub(super) fn enforce_bounds(&self) {
        for _ in 0..EVICTIONS_MAX {
            let Some(tenant) = self.publishers.tenant_over_quota() else {
                break;
            };
            if !self.evict_of(&tenant) {
                break;
            }
        }
        for _ in 0..EVICTIONS_MAX {
            let (channels, bytes, _) = self.totals.read();
            if channels <= self.limits.channels && bytes <= self.limits.bytes {
                break;
            }
            let of_publisher = self
                .publishers
                .over_quota()
                .is_some_and(|publisher| self.evict_of(&publisher));
            if !of_publisher && !self.evict_one(channels == 1) {
                break;
            }
        }
    }

    /// Begins a new generation of ids if the current one is over, and makes every stripe drop the ids that are forgotten
    /// with it. A stripe that is used in between drops them by itself. To be called without any lock, before an id is
    /// noted.
    pub(super) fn rotate_ids(&self, now: Now) {
        if self.generations.rotate(now.mono_ms) {
            for stripe in (0u8..).take(self.stripes.len()) {
                self.with_state(stripe, |state| state.channels.forget_ids(&self.generations));
            }
        }
    }

    /// Evicts the least recently used channel of all stripes. If only one channel is left, `only_trim` says to drop its
    /// oldest events first. Returns `false` if there is nothing to evict.
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

    /// Evicts a channel of this publisher. Returns `false` if it has none.
    fn evict_of(&self, publisher: &Publisher) -> bool {
        let mut chances = SECOND_CHANCES_MAX;
        while let Some(claim) = publisher.pop() {
            match self.settle_claim(claim, true, chances == 0) {
                Claimed::Evicted => return true,
                Claimed::Gone => {}
                Claimed::Kept(seen_ms) => {
                    chances -= 1;
                    publisher.push(Claim { seen_ms, ..claim });
                }
            }
        }
        false
    }

    /// Drops some claims of channels that are gone, if there are many. To be called without any lock.
    pub(super) fn forget_stale_claims(&self, publisher: &Publisher) {
        for _ in 0..STALE_CLAIMS_PER_PUBLISH {
            if !publisher.has_stale_claims() {
                return;
            }
            let Some(claim) = publisher.pop() else { return };
            if self.settle_claim(claim, false, false) != Claimed::Gone {
                publisher.push(claim);
            }
        }
    }

    fn settle_claim(&self, claim: Claim, evicts: bool, even_if_used: bool) -> Claimed {
        let mut garbage = Garbage::default();
        self.with_state(claim.stripe, |state| {
            state.channels.settle_claim(claim, evicts, even_if_used, &mut garbage)
        })
    }

    /// Drops events and ids that are too old. Channels that are read or published to drop their old events by themselves.
    /// This is for all others, and is to be called from time to time.
    pub fn expire(&self, now: Now) {
        self.rotate_ids(now);
        for stripe in (0u8..).take(self.stripes.len()) {
            self.with_state(stripe, |state| state.channels.expire_all(now));
        }
    }

    /// Removes what is left of channels that were deleted a while ago. Returns the channels whose last values have ended
    /// (`last_ttl`), whose [deletions](crate::event::NewEvent::deletion) are to be published, and those that became stale or
    /// fresh. To be called about once a second.
    #[must_use]
    pub fn pass_time(&self, now: Now) -> Passed {
        let mut passed = Passed::default();
        for stripe in (0u8..).take(self.stripes.len()) {
            let mut pass = || {
                let mut garbage = Garbage::default();
                self.with_state(stripe, |state| state.channels.pass(now, &mut passed, &mut garbage))
            };
            while pass() {}
        }
        passed
    }

    /// Confirms the last values of the channels that a pattern matches without an event, so that they neither end nor become
    /// stale. Returns how many channels there are.
    pub fn keep_alive(&self, pattern: &Pattern, now: Now) -> usize {
        let kept = self.kept(pattern, now);
        for channel in &kept {
            self.with_state(stripe_of(channel), |state| state.channels.renew(channel, None, now));
        }
        kept.len()
    }

    /// The channels with state that a pattern matches, without those that were deleted.
    #[must_use]
    pub fn kept(&self, pattern: &Pattern, now: Now) -> Vec<Channel> {
        let patterns = std::slice::from_ref(pattern);
        let prefixes = Prefixes::of(patterns.iter());
        let mut kept = Vec::new();
        for stripe in Stripes::of(pattern).iter() {
            let mut after = None;
            loop {
                let matching = (&prefixes, patterns);
                let mut view = |view: ChannelView<'_>| {
                    if !view.is_deleted {
                        kept.push(view.channel.clone());
                    }
                };
                let page = self.with_state(stripe, |state| {
                    (state.channels).scan(matching, after.as_ref(), PAGE_STEPS, now, &mut view)
                });
                match page.last {
                    Some(last) => after = Some(last),
                    None => break,
                }
            }
        }
        kept
    }
}
