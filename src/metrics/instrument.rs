//! The two instruments, and what can be read from them.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use super::Kind;

/// A number that only grows. It wraps around at 2^64.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Any number of threads may call it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Adds `n` without a locked instruction. Correct only if a single thread writes this counter.
    pub fn bump(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n`, which may be negative. Any number of threads may call it.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    /// The current value.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Something whose value can be read, such as a counter or a struct of counters.
pub trait Readable {
    /// A value that was read.
    type Reading;

    /// Reads the current value.
    fn read(&self) -> Self::Reading;

    /// Adds a reading to `total`, such as that of a second shard.
    fn sum(total: &mut Self::Reading, other: &Self::Reading);
}

/// A counter or a gauge, as a field of a `metrics!` block.
pub trait Instrument: Readable {
    /// The type of its metric.
    const KIND: Kind;
}

impl Readable for Counter {
    type Reading = u64;

    fn read(&self) -> u64 {
        self.get()
    }

    fn sum(total: &mut u64, other: &u64) {
        *total = total.wrapping_add(*other);
    }
}

impl Instrument for Counter {
    const KIND: Kind = Kind::Counter;
}

impl Readable for Gauge {
    type Reading = i64;

    fn read(&self) -> i64 {
        self.get()
    }

    fn sum(total: &mut i64, other: &i64) {
        *total = total.wrapping_add(*other);
    }
}

impl Instrument for Gauge {
    const KIND: Kind = Kind::Gauge;
}

/// One gauge for each tenant.
impl<const N: usize> Readable for [Gauge; N] {
    type Reading = [i64; N];

    fn read(&self) -> [i64; N] {
        std::array::from_fn(|index| self[index].get())
    }

    fn sum(total: &mut [i64; N], other: &[i64; N]) {
        for (total, other) in total.iter_mut().zip(other) {
            *total = total.wrapping_add(*other);
        }
    }
}

/// One counter for each variant of an enum, or for each tenant.
impl<const N: usize> Readable for [Counter; N] {
    type Reading = [u64; N];

    fn read(&self) -> [u64; N] {
        std::array::from_fn(|index| self[index].get())
    }

    fn sum(total: &mut [u64; N], other: &[u64; N]) {
        for (total, other) in total.iter_mut().zip(other) {
            *total = total.wrapping_add(*other);
        }
    }
}

/// A row of counters for each tenant.
impl<const N: usize, const M: usize> Readable for [[Counter; N]; M] {
    type Reading = [[u64; N]; M];

    fn read(&self) -> [[u64; N]; M] {
        std::array::from_fn(|index| self[index].read())
    }

    fn sum(total: &mut [[u64; N]; M], other: &[[u64; N]; M]) {
        for (total, other) in total.iter_mut().zip(other) {
            <[Counter; N]>::sum(total, other);
        }
    }
}
