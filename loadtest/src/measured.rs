//! The measurements of one worker: events that clients received, their latencies, and requests.
//!
//! Invariant: Counters only grow, so the difference of two readings belongs to the time between them. The reader takes
//! histograms away and leaves empty ones, so every value is in exactly one lap.

use std::sync::{Mutex, MutexGuard};

use hdrhistogram::Histogram;

/// Longer times are counted as this: ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// An empty histogram of microseconds, exact to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constant and good")
}

/// Number of groups: the clients that are measured, and those that disturb them by storming, churning or stalling.
pub(crate) const GROUPS: usize = 2;
pub(crate) const MEASURED: usize = 0;
pub(crate) const OTHERS: usize = 1;

/// Latencies since they were last taken, in microseconds.
pub(crate) struct Lap {
    /// From the time an event was due to its arrival, by group.
    pub(crate) events_us: [Histogram<u64>; GROUPS],
    /// From the time a request was due to its answer.
    pub(crate) requests_us: Histogram<u64>,
    /// From the time a connection was due to its subscription, by group.
    pub(crate) live_us: [Histogram<u64>; GROUPS],
}

impl Lap {
    pub(crate) fn new() -> Self {
        Self {
            events_us: std::array::from_fn(|_| histogram()),
            requests_us: histogram(),
            live_us: std::array::from_fn(|_| histogram()),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Histogram<u64>> {
        self.events_us.iter().chain([&self.requests_us]).chain(&self.live_us)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut Histogram<u64>> {
        let requests_us = std::iter::once(&mut self.requests_us);
        self.events_us.iter_mut().chain(requests_us).chain(&mut self.live_us)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (to, from) in self.all_mut().zip(other.all()) {
            // Most histograms of a lap are empty, and adding one visits all its buckets.
            if !from.is_empty() {
                to.add(from).expect("all histograms have the same bounds");
            }
        }
    }

    pub(crate) fn reset(&mut self) {
        self.all_mut()
            .filter(|histogram| !histogram.is_empty())
            .for_each(Histogram::reset);
    }
}

/// Declares a struct of numbers that can be added and subtracted.
macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(crate) struct $name { $($(#[$doc])* pub(crate) $field: u64),* }

        impl $name {
            fn add(&mut self, other: &Self) { $(self.$field += other.$field;)* }
            fn since(&self, earlier: &Self) -> Self { Self { $($field: self.$field - earlier.$field),* } }
        }
    };
}

counters! {
    /// Counters of one group of clients.
    Group {
        /// Clients that became subscribed.
        ready,
        /// Clients whose connection ended unexpectedly.
        ended,
        /// Live clients that the tool has disconnected.
        left,
        /// Bytes read from the sockets, including HTTP heads and frame headers.
        bytes,
        /// Events, including duplicates.
        events,
        /// Gaps in the sequence numbers, in events.
        missing,
        /// Events whose sequence number is not above the highest one received.
        out_of_order,
        /// Lost events that the server reported.
        told_dropped,
        /// Events of a channel after its subscription had ended.
        stray,
    }
}

counters! {
    /// Counters of the requests of subscribed clients, and of the publisher.
    Requests {
        /// Requests that were sent.
        sent,
        /// Requests that were answered.
        answered,
        /// Answers that report a failure.
        failed,
        /// Error messages that do not belong to a request.
        errors,
        /// Events that were sent to the server.
        published,
    }
}

/// All counters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    pub(crate) groups: [Group; GROUPS],
    pub(crate) requests: Requests,
}

impl Counters {
    pub(crate) fn add(&mut self, other: &Self) {
        for (to, from) in self.groups.iter_mut().zip(&other.groups) {
            to.add(from);
        }
        self.requests.add(&other.requests);
    }

    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            groups: std::array::from_fn(|group| self.groups[group].since(&earlier.groups[group])),
            requests: self.requests.since(&earlier.requests),
        }
    }

    /// The number of clients that are subscribed now.
    pub(crate) fn live(&self) -> u64 {
        self.sum(|group| group.ready)
            .saturating_sub(self.sum(|group| group.ended + group.left))
    }

    pub(crate) fn sum(&self, of: impl Fn(&Group) -> u64) -> u64 {
        self.groups.iter().map(of).sum()
    }
}

/// The measurements of one worker, shared with the threads that read them.
pub(crate) struct Measured(Mutex<Measurements>);

pub(crate) struct Measurements {
    pub(crate) lap: Lap,
    pub(crate) counters: Counters,
    /// When the last event arrived, in nanoseconds since the start.
    pub(crate) last_arrival_ns: u64,
    /// The longest time that an event waited in the tool since publishing began, in nanoseconds.
    pub(crate) late_ns_max: u64,
    /// Whether the server has accepted everything that was to be published.
    pub(crate) is_published: bool,
}

impl Measured {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Measurements {
            lap: Lap::new(),
            counters: Counters::default(),
            last_arrival_ns: 0,
            late_ns_max: 0,
            is_published: true,
        }))
    }

    /// Locks the measurements. The worker holds the lock for a few events, the reader for an exchange of pointers.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Measurements> {
        self.0.lock().expect("no thread panics with it")
    }

    /// Takes the lap and leaves `spare`, which must be empty.
    pub(crate) fn take_lap(&self, spare: &mut Lap) {
        std::mem::swap(&mut self.lock().lap, spare);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_one_lap_only() {
        let (measured, mut spare, mut sum) = (Measured::new(), Lap::new(), Lap::new());
        for value in 1..=10 {
            measured.lock().lap.events_us[MEASURED].record(value).unwrap();
            if value % 3 == 0 {
                measured.take_lap(&mut spare);
                sum.add(&spare);
                spare.reset();
            }
        }
        assert_eq!(sum.events_us[MEASURED].len(), 9);
        assert_eq!(measured.lock().lap.events_us[MEASURED].len(), 1);
        assert!(sum.events_us[OTHERS].is_empty() && sum.requests_us.is_empty());
    }

    #[test]
    fn the_difference_of_two_readings_belongs_to_the_time_between() {
        let (mut now, mut worker) = (Counters::default(), Counters::default());
        worker.groups[MEASURED].events = 5;
        worker.groups[OTHERS].events = 2;
        worker.requests.sent = 7;
        now.add(&worker);
        let earlier = now;
        now.add(&worker);
        let between = now.since(&earlier);
        assert_eq!((between.sum(|group| group.events), between.requests.sent), (7, 7));
    }
}
