//! A distribution of durations.

use std::time::Duration;

use parking_lot::Mutex;

use super::{Counter, Readable};
use crate::time::unix_ms;

/// The upper bounds of the buckets, in microseconds. Durations above the last one are in one more bucket.
pub const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Counts durations by their length.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Counter; BOUNDS_US.len() + 1],
    sum_us: Counter,
}

impl Histogram {
    /// Counts one duration. Any number of threads may call it.
    pub fn add(&self, duration: Duration) {
        let us = microseconds(duration);
        self.buckets[bucket(us)].add(1);
        self.sum_us.add(us);
    }

    /// Counts one duration without a locked instruction. Correct only if a single thread writes this histogram.
    pub fn bump(&self, duration: Duration) {
        let us = microseconds(duration);
        self.buckets[bucket(us)].bump(1);
        self.sum_us.bump(us);
    }
}

/// Counts durations by their length, and remembers for each bucket the newest one that belongs to a sampled trace.
#[derive(Debug, Default)]
pub struct TracedHistogram {
    histogram: Histogram,
    exemplars: Mutex<Exemplars>,
}

/// The exemplar of each bucket, if it has one.
pub type Exemplars = [Option<Exemplar>; BOUNDS_US.len() + 1];

/// A duration that belongs to a sampled trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exemplar {
    /// The trace.
    pub trace_id: u128,
    /// The duration, in microseconds.
    pub us: u64,
    /// When it was counted, in milliseconds since 1970.
    pub unix_ms: u64,
}

impl TracedHistogram {
    /// Counts one duration. `trace_id` names its trace if that is sampled. Any number of threads may call it.
    pub fn add(&self, duration: Duration, trace_id: Option<u128>) {
        self.histogram.add(duration);
        if let Some(trace_id) = trace_id {
            let us = microseconds(duration);
            self.exemplars.lock()[bucket(us)] = Some(Exemplar {
                trace_id,
                us,
                unix_ms: unix_ms(),
            });
        }
    }

    /// Reads it.
    #[must_use]
    pub fn read(&self) -> TracedSample {
        TracedSample {
            histogram: self.histogram.read(),
            exemplars: *self.exemplars.lock(),
        }
    }
}

/// One reading of a [`TracedHistogram`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TracedSample {
    /// All durations.
    pub histogram: HistogramSample,
    /// Those that belong to a trace.
    pub exemplars: Exemplars,
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The bucket of a duration, whose bound is the first one that is not below it.
fn bucket(us: u64) -> usize {
    BOUNDS_US.partition_point(|bound| *bound < us)
}

/// One reading of a histogram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HistogramSample {
    /// The durations in each bucket.
    pub buckets: [u64; BOUNDS_US.len() + 1],
    /// The sum of all durations, in microseconds.
    pub sum_us: u64,
}

impl HistogramSample {
    /// The number of durations.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The duration that the given part of those counted since `earlier` do not exceed, in milliseconds, interpolated
    /// within its bucket; `None` when none were counted.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a bucket is much wider than the rounding")]
    pub fn quantile_ms(&self, earlier: &Self, part: f64) -> Option<f64> {
        let counted = |index: usize| self.buckets[index].saturating_sub(earlier.buckets[index]);
        let total: u64 = (0..self.buckets.len()).map(counted).sum();
        let mut rank = total as f64 * part;
        for index in 0..self.buckets.len() {
            let count = counted(index) as f64;
            if count > 0.0 && rank <= count {
                let below = index.checked_sub(1).map_or(0, |below| BOUNDS_US[below]) as f64;
                // The last bucket has no bound.
                let bound = BOUNDS_US.get(index).map_or(below, |bound| *bound as f64);
                return Some((below + (bound - below) * rank / count) / 1000.0);
            }
            rank -= count;
        }
        None
    }
}

impl Readable for Histogram {
    type Reading = HistogramSample;

    fn read(&self) -> HistogramSample {
        HistogramSample {
            buckets: self.buckets.read(),
            sum_us: self.sum_us.read(),
        }
    }

    fn sum(total: &mut HistogramSample, other: &HistogramSample) {
        <[Counter; BOUNDS_US.len() + 1]>::sum(&mut total.buckets, &other.buckets);
        Counter::sum(&mut total.sum_us, &other.sum_us);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_in_the_bucket_of_its_rank() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read().quantile_ms(&HistogramSample::default(), 0.5), None);
        for _ in 0..99 {
            histogram.add(Duration::from_micros(700));
        }
        histogram.add(Duration::from_millis(80));
        let first = histogram.read();
        let of = |part| first.quantile_ms(&HistogramSample::default(), part).expect("counted");
        assert!(
            (0.5..1.0).contains(&of(0.5)) && (0.5..=1.0).contains(&of(0.99)),
            "{}",
            of(0.99)
        );
        assert!((50.0..=100.0).contains(&of(0.999)));
        histogram.add(Duration::from_secs(60));
        assert_eq!(
            histogram.read().quantile_ms(&first, 0.5),
            Some(10_000.0),
            "the last bound"
        );
    }

    #[test]
    fn a_duration_is_in_the_bucket_of_the_first_bound_that_is_not_below_it() {
        let histogram = Histogram::default();
        for us in [0, 100, 101, 10_000_000, 10_000_001] {
            histogram.add(Duration::from_micros(us));
        }
        histogram.bump(Duration::MAX);
        let sample = histogram.read();
        assert_eq!((sample.buckets[0], sample.buckets[1]), (2, 1));
        assert_eq!((sample.buckets[15], sample.buckets[16]), (1, 2));
        assert_eq!(sample.count(), 6);
    }

    #[test]
    fn a_bucket_remembers_its_newest_duration_with_a_trace() {
        let histogram = TracedHistogram::default();
        for (us, trace_id) in [
            (700, Some(1)),
            (800, None),
            (900, Some(2)),
            (80_000, None),
            (90_000, Some(3)),
        ] {
            histogram.add(Duration::from_micros(us), trace_id);
        }
        let sample = histogram.read();
        assert_eq!(sample.histogram.count(), 5);
        let exemplars = sample.exemplars.iter().flatten();
        let exemplars: Vec<_> = exemplars.map(|exemplar| (exemplar.trace_id, exemplar.us)).collect();
        assert_eq!(exemplars, [(2, 900), (3, 90_000)]);
    }
}
