//! Requests of subscribed clients at a fixed rate: commands, or unsubscribing and subscribing.
//!
//! Invariant: Request number `n` is due at a time that does not depend on any answer (an open loop), and its latency is
//! measured from then. So a slow server does not reduce the load.

use std::time::{Duration, Instant};

/// The kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The adapter's command.
    Command,
    /// Alternately unsubscribe and subscribe.
    Toggle,
}

/// One worker's share of the requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// When the first request is due.
    pub(crate) start: Instant,
    /// Time between two requests of this worker.
    pub(crate) interval_ns: u64,
    /// Number of requests.
    pub(crate) count: u64,
    /// The group whose clients send them, in rotation.
    pub(crate) group: usize,
}

/// The progress of a plan.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) plan: Plan,
    begun: u64,
}

impl Progress {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, begun: 0 }
    }

    /// When the next request is due, or `None` after the last one.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = self.plan.start + Duration::from_nanos(self.plan.interval_ns.saturating_mul(self.begun));
        (self.begun < self.plan.count).then_some(due)
    }

    /// Begins the next request if it is due. Returns its number and the time at which it was due.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.next_due().filter(|due| *due <= now)?;
        self.begun += 1;
        Some((self.begun - 1, due))
    }
}

/// Splits `per_second` requests for `seconds` evenly among `workers`, interleaved in time.
pub(crate) fn shares(
    kind: Kind,
    start: Instant,
    per_second: u64,
    seconds: u64,
    group: usize,
    workers: usize,
) -> Vec<Plan> {
    let (workers, all) = (workers as u64, per_second * seconds);
    let interval_ns = 1_000_000_000 / per_second.max(1);
    (0..workers)
        .map(|worker| Plan {
            kind,
            start: start + Duration::from_nanos(interval_ns * worker),
            interval_ns: interval_ns * workers,
            count: all / workers + u64::from(worker < all % workers),
            group,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_no_request_waits_for_an_answer() {
        let start = Instant::now();
        let plans = shares(Kind::Command, start, 100, 1, 0, 3);
        assert_eq!(plans.iter().map(|plan| plan.count).sum::<u64>(), 100);
        let mut due: Vec<_> = Vec::new();
        for plan in plans {
            let mut progress = Progress::new(plan);
            assert_eq!(progress.begin(start - Duration::from_nanos(1)), None);
            // A worker that was delayed by ten seconds begins all requests at once, each with its own due time.
            while let Some((_, at)) = progress.begin(start + Duration::from_secs(10)) {
                due.push(at - start);
            }
            assert_eq!(progress.next_due(), None);
        }
        due.sort();
        let expected: Vec<_> = (0..100).map(|number| Duration::from_millis(10) * number).collect();
        assert_eq!(due, expected);
    }
}
