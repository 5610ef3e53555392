//! What a worker has counted: what the clients received, when, and what they asked for.
//!
//! Invariant: counters only grow, so two readings give what lies between them; histograms are taken away by the reader
//! (exchanged for empty ones), so every value is in exactly one lap.

use std::sync::{Mutex, MutexGuard};

use hdrhistogram::Histogram;

/// What takes longer is counted as ten minutes.
const LATENCY_US_MAX: u64 = 600_000_000;

/// An empty histogram of microseconds, exact to three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are constant and good")
}

/// Clients whose latencies are the figure, and the ones that disturb them: storming, churning, stalled.
pub(crate) const GROUPS: usize = 2;
pub(crate) const MEASURED: usize = 0;
pub(crate) const OTHERS: usize = 1;

/// Latencies since they were last taken.
pub(crate) struct Lap {
    /// From when an event was due to its arrival, by group.
    pub(crate) events_us: [Histogram<u64>; GROUPS],
    /// From when a request was due to its answer.
    pub(crate) requests_us: Histogram<u64>,
    /// From when a connection was due to its being subscribed, by group.
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
            // Most laps have nothing in most histograms, and adding one walks through all its buckets.
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
    /// Of one group of clients.
    Group {
        /// Clients that became subscribed.
        ready,
        /// Clients that ended without being told to.
        ended,
        /// Live clients that the tool has cut off.
        left,
        /// Bytes that came over the sockets, heads and frames and all.
        bytes,
        /// Events, of which some may be doubles.
        events,
        /// Events that were skipped by a sequence number.
        missing,
        /// Events behind or equal to one that had come before.
        out_of_order,
        /// Losses that the server told.
        told_dropped,
        /// Events of a channel that was not subscribed any more.
        stray,
    }
}

counters! {
    /// Of what clients ask for while they are subscribed, and of the publisher.
    Requests {
        /// Requests that were sent.
        sent,
        /// Those that were answered.
        answered,
        /// Answers that were refusals.
        failed,
        /// Error messages that are no answer to a request.
        errors,
        /// Events that were given to the server.
        published,
    }
}

/// Everything that is counted.
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

    /// Clients that are subscribed now.
    pub(crate) fn live(&self) -> u64 {
        self.sum(|group| group.ready)
            .saturating_sub(self.sum(|group| group.ended + group.left))
    }

    pub(crate) fn sum(&self, of: impl Fn(&Group) -> u64) -> u64 {
        self.groups.iter().map(of).sum()
    }
}

/// One worker's, shared with whoever reads it.
pub(crate) struct Measured(Mutex<Inside>);

pub(crate) struct Inside {
    pub(crate) lap: Lap,
    pub(crate) counters: Counters,
    /// When the last event arrived, nanoseconds since the start.
    pub(crate) last_arrival_ns: u64,
    /// The longest time an event waited in the tool, since publishing began.
    pub(crate) late_ns_max: u64,
    /// Whether everything that was to be published is given to the server.
    pub(crate) is_published: bool,
}

impl Measured {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Inside {
            lap: Lap::new(),
            counters: Counters::default(),
            last_arrival_ns: 0,
            late_ns_max: 0,
            is_published: true,
        }))
    }

    /// Held for a few events by the worker, and for an exchange of pointers by the reader.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().expect("no thread panics with it")
    }

    /// Takes the lap away; `spare`, empty, takes its place.
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
    fn two_readings_give_what_lies_between() {
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
