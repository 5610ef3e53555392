//! Connections that are sent at most so many bytes in a second.
//!
//! Invariant: in any span of `t` seconds, a connection is sent at most `1 + t` times its limit and one frame. While it has
//! used up its limit it is blocked, as if its socket took no more, so the same bounds and losses apply as for a slow client.
//! A session that has ended has no limit any more: its last frames leave at once.

use std::collections::BTreeSet;
use std::io::IoSlice;

use hashbrown::HashMap;

use super::ShardCore;
use crate::metrics::ShardMetrics;
use crate::shard::connection::{Flags, Stage};
use crate::time::Now;

/// A connection goes on when it may be sent what its limit grants in this time. So it is woken at most ten times a second.
const QUANTUM_MS: i64 = 100;

/// The connections of a shard that have a limit.
#[derive(Default)]
pub(super) struct Bandwidth {
    buckets: HashMap<u32, Bucket>,
    // When each connection goes on that has used up its limit, in monotonic milliseconds, and its slot.
    waiting: BTreeSet<(u64, u32)>,
}

/// A token bucket. Its tokens are thousandths of a byte, and negative after a frame that was longer than what was left.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    per_second: i64,
    milli_bytes: i64,
    refilled_ms: u64,
    waits_until_ms: Option<u64>,
}

impl Bucket {
    fn refill(&mut self, now_ms: u64) {
        let elapsed_ms = i64::try_from(now_ms.saturating_sub(self.refilled_ms)).unwrap_or(i64::MAX);
        let grown = self
            .per_second
            .saturating_mul(elapsed_ms)
            .saturating_add(self.milli_bytes);
        self.milli_bytes = grown.min(self.per_second * 1000);
        self.refilled_ms = self.refilled_ms.max(now_ms);
    }

    /// How long it takes until the next quantum is there, in milliseconds.
    fn wait_ms(&self) -> u64 {
        let missing = (self.per_second * QUANTUM_MS).saturating_sub(self.milli_bytes).max(1);
        u64::try_from(missing)
            .unwrap_or(1)
            .div_ceil(self.per_second.unsigned_abs())
    }
}

impl Bandwidth {
    /// Whether no connection of the shard has a limit. This is all that the others pay.
    fn is_unused(&self) -> bool {
        self.buckets.is_empty()
    }

    /// Gives a connection a limit, or another one. 0: it has none.
    fn set(&mut self, slot: u32, per_second: u32, now: Now) {
        let per_second = i64::from(per_second);
        if per_second == 0 {
            self.forget(slot);
            return;
        }
        let full = Bucket {
            per_second,
            milli_bytes: per_second * 1000,
            refilled_ms: now.mono_ms,
            waits_until_ms: None,
        };
        let bucket = self.buckets.entry(slot).or_insert(full);
        bucket.refill(now.mono_ms);
        bucket.per_second = per_second;
        bucket.milli_bytes = bucket.milli_bytes.min(per_second * 1000);
    }

    /// How many bytes a connection with a limit may be sent now. 0: it waits from now on.
    fn allowed(&mut self, slot: u32, metrics: &ShardMetrics, now: Now) -> usize {
        let Some(bucket) = self.buckets.get_mut(&slot) else {
            return usize::MAX;
        };
        if bucket.waits_until_ms.is_some() {
            return 0;
        }
        bucket.refill(now.mono_ms);
        if bucket.milli_bytes > 0 {
            return usize::try_from(bucket.milli_bytes.unsigned_abs().div_ceil(1000)).unwrap_or(usize::MAX);
        }
        let until_ms = now.mono_ms + bucket.wait_ms();
        bucket.waits_until_ms = Some(until_ms);
        self.waiting.insert((until_ms, slot));
        metrics.throttles.bump(1);
        metrics.throttled.add(1);
        0
    }

    /// A connection was sent this many bytes.
    fn spend(&mut self, slot: u32, bytes: usize) {
        if let Some(bucket) = self.buckets.get_mut(&slot) {
            let milli_bytes = i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(1000);
            bucket.milli_bytes = bucket.milli_bytes.saturating_sub(milli_bytes);
        }
    }

    /// Whether a connection has used up its limit.
    fn is_waiting(&self, slot: u32) -> bool {
        self.buckets
            .get(&slot)
            .is_some_and(|bucket| bucket.waits_until_ms.is_some())
    }

    /// The next connection that goes on.
    fn next_ready(&mut self, now: Now) -> Option<u32> {
        let (_, slot) = self
            .waiting
            .first()
            .copied()
            .filter(|(at_ms, _)| *at_ms <= now.mono_ms)?;
        self.waiting.pop_first();
        if let Some(bucket) = self.buckets.get_mut(&slot) {
            bucket.waits_until_ms = None;
        }
        Some(slot)
    }

    /// When the next connection goes on, in monotonic milliseconds.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.waiting.first().map(|(at_ms, _)| *at_ms)
    }

    // A connection has no limit any more; returns whether it was waiting.
    fn forget(&mut self, slot: u32) -> bool {
        let bucket = self.buckets.remove(&slot);
        let until_ms = bucket.and_then(|bucket| bucket.waits_until_ms);
        until_ms.is_some_and(|until_ms| self.waiting.remove(&(until_ms, slot)))
    }
}

impl ShardCore {
    /// Gives a connection a limit of bytes in a second, or another one. 0: it has none.
    pub(super) fn limit_bytes(&mut self, slot: u32, per_second: u32, now: Now) {
        self.connections.change_limit(slot, per_second, self.fanout.inbox());
        if per_second == 0 {
            self.end_limit(slot);
        } else {
            self.bandwidth.set(slot, per_second, now);
        }
    }

    /// A connection has no limit any more.
    pub(super) fn end_limit(&mut self, slot: u32) {
        if self.bandwidth.forget(slot) {
            self.go_on(slot);
        }
    }

    /// Lets the connections go on whose limit grants something again.
    pub(super) fn end_waits(&mut self, now: Now) {
        while let Some(slot) = self.bandwidth.next_ready(now) {
            self.go_on(slot);
        }
    }

    fn go_on(&mut self, slot: u32) {
        self.metrics.throttled.add(-1);
        let hot = self.connections.hot_mut(slot);
        hot.flags.clear(Flags::BLOCKED);
        self.fanout.outgoing_mut().mark_dirty(slot, hot);
    }

    /// How many bytes a connection may be sent now. 0: it is blocked until its limit grants something again.
    #[inline]
    pub(super) fn allowed_bytes(&mut self, slot: u32, now: Now) -> usize {
        if self.bandwidth.is_unused() {
            return usize::MAX;
        }
        self.allowed_by_limit(slot, now)
    }

    fn allowed_by_limit(&mut self, slot: u32, now: Now) -> usize {
        let hot = self.connections.hot(slot);
        if hot.stage != Stage::Open || !self.connections.endpoint(slot).is_limited() {
            return usize::MAX;
        }
        let allowed = self.bandwidth.allowed(slot, &self.metrics, now);
        if allowed == 0 {
            self.connections.hot_mut(slot).flags.set(Flags::BLOCKED);
        }
        allowed
    }

    /// A connection was sent this many bytes.
    #[inline]
    pub(super) fn spend_bytes(&mut self, slot: u32, bytes: usize) {
        if !self.bandwidth.is_unused() && self.connections.endpoint(slot).is_limited() {
            self.bandwidth.spend(slot, bytes);
        }
    }

    /// Whether a connection waits until its limit grants something again.
    pub(super) fn is_throttled(&self, slot: u32) -> bool {
        self.connections.endpoint(slot).is_limited() && self.bandwidth.is_waiting(slot)
    }
}

/// How many of the slices may be sent: those that begin within the bytes that are allowed.
pub(super) fn within(slices: &[IoSlice<'_>], allowed: usize) -> usize {
    let mut begin = 0;
    let begins_within = |slice: &&IoSlice<'_>| {
        let is_within = begin < allowed;
        begin += slice.len();
        is_within
    };
    slices.iter().take_while(begins_within).count()
}
