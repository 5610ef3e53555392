//! The budget of memory that all clients together may take.
//!
//! Each shard writes what it holds into the budget, in chunks, at most once a turn; everything else is read where it is
//! counted anyway. So no delivery touches a number that threads share.
//!
//! Invariant: the budget only tells how much is held and what has to be given up. Who holds memory gives it up, in this
//! order: new joins are refused, then the most expensive of the stalled connections are closed.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A shard's part is written again when it has changed by this much, in bytes.
const CHUNK_BYTES: u64 = 64 * 1024;

/// From this part of the budget on new joins are refused: nine tenths.
const JOINS_PERCENT: u64 = 90;

/// The part of the budget down to which connections are closed.
const ENOUGH_PERCENT: u64 = 95;

/// The time between two lines of the log, in milliseconds.
const LOG_MS: u64 = 60_000;

/// How long a client that was refused should wait, in milliseconds.
pub const RETRY_AFTER_MS: u32 = 5_000;

/// What has to be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Nothing.
    None,
    /// New joins are refused: connections and subscriptions.
    Joins,
    /// Stalled connections are closed, too.
    Connections,
}

impl Pressure {
    /// One word for `/readyz`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "ok",
            Self::Joins => "refusing_joins",
            Self::Connections => "closing_stalled",
        }
    }
}

/// The budget; see the module's docs.
pub struct Budget {
    limit_bytes: u64,
    // What each shard holds.
    shards: Box<[AtomicU64]>,
    // What is counted elsewhere.
    others: OnceLock<Box<dyn Fn() -> u64 + Send + Sync>>,
    // When the log last said something, in monotonic milliseconds plus 1; 0: never.
    logged_ms: AtomicU64,
}

impl Budget {
    /// A budget for this many shards.
    #[must_use]
    pub fn new(limit_bytes: u64, shards: u16) -> Self {
        Self {
            limit_bytes,
            shards: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            others: OnceLock::new(),
            logged_ms: AtomicU64::new(0),
        }
    }

    /// A budget that is never exceeded.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::new(u64::MAX, 0)
    }

    /// Sets, once, how to count the bytes that no shard holds.
    pub fn count_others(&self, others: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.others.set(Box::new(others));
    }

    /// The most bytes that may be held.
    #[must_use]
    pub const fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// The bytes that are held. Each shard's part may be wrong by a chunk of 64 KiB.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        let others = self.others.get().map_or(0, |others| others());
        self.shards.iter().map(|bytes| bytes.load(Relaxed)).sum::<u64>() + others
    }

    /// A shard holds this many bytes now. Only that shard may call it.
    pub fn report(&self, shard: u16, bytes: u64) {
        if let Some(reported) = self.shards.get(usize::from(shard))
            && reported.load(Relaxed).abs_diff(bytes) >= CHUNK_BYTES
        {
            reported.store(bytes, Relaxed);
        }
    }

    /// What has to be given up now.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        if self.limit_bytes == u64::MAX {
            return Pressure::None;
        }
        let used = self.used_bytes();
        if used > self.limit_bytes {
            Pressure::Connections
        } else if used > part(self.limit_bytes, JOINS_PERCENT) {
            Pressure::Joins
        } else {
            Pressure::None
        }
    }

    /// How many of the `held` bytes of a shard have to be freed: its share of what is above 95 % of the budget.
    #[must_use]
    pub fn to_free(&self, held: u64) -> u64 {
        let used = self.used_bytes().max(1);
        let excess = used.saturating_sub(part(self.limit_bytes, ENOUGH_PERCENT));
        u64::try_from(u128::from(excess) * u128::from(held) / u128::from(used)).unwrap_or(u64::MAX)
    }

    /// Whether the log may say something now, which it may once a minute.
    #[must_use]
    pub fn may_log(&self, now_mono_ms: u64) -> bool {
        let last = self.logged_ms.load(Relaxed);
        let is_due = last == 0 || now_mono_ms + 1 >= last + LOG_MS;
        is_due && (self.logged_ms.compare_exchange(last, now_mono_ms + 1, Relaxed, Relaxed)).is_ok()
    }
}

const fn part(whole: u64, percent: u64) -> u64 {
    whole / 100 * percent
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn joins_are_refused_before_connections_are_closed() {
        let budget = Budget::new(100 * MIB, 2);
        budget.count_others(|| 10 * MIB);
        for (bytes, pressure) in [
            (0, Pressure::None),
            (39 * MIB, Pressure::None),
            (41 * MIB, Pressure::Joins),
            (45 * MIB, Pressure::Joins),
            (46 * MIB, Pressure::Connections),
        ] {
            budget.report(0, bytes);
            budget.report(1, bytes);
            assert_eq!(budget.pressure(), pressure, "{bytes}");
        }
        assert_eq!(budget.used_bytes(), 102 * MIB);
        // 7 MiB are above 95 %. Each shard frees its share.
        assert_eq!(budget.to_free(46 * MIB), 7 * 46 * MIB / 102);
        assert_eq!(budget.to_free(0), 0);
    }

    #[test]
    fn a_shard_writes_in_chunks() {
        let budget = Budget::new(MIB, 1);
        budget.report(0, CHUNK_BYTES - 1);
        assert_eq!(budget.used_bytes(), 0);
        budget.report(0, CHUNK_BYTES);
        assert_eq!(budget.used_bytes(), CHUNK_BYTES);
        budget.report(0, 1);
        assert_eq!(budget.used_bytes(), CHUNK_BYTES);
        budget.report(0, 0);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn a_budget_without_limit_is_never_exceeded() {
        let budget = Budget::unlimited();
        budget.report(0, u64::MAX);
        assert_eq!((budget.pressure(), budget.used_bytes()), (Pressure::None, 0));
    }

    #[test]
    fn the_log_says_something_once_a_minute() {
        let budget = Budget::new(1, 1);
        let said: Vec<bool> = [0, 1, LOG_MS - 1, LOG_MS, LOG_MS + 1, 2 * LOG_MS]
            .into_iter()
            .map(|now| budget.may_log(now))
            .collect();
        assert_eq!(said, [true, false, false, true, false, true]);
    }
}
