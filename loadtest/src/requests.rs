//! What clients ask for while they are subscribed, by the clock: commands, and the ending and beginning of subscriptions.
//!
//! Invariant: request number `n` is due at a time that does not depend on any answer (an open loop), and its latency
//! counts from then; a server that falls behind cannot slow the demand down.

use std::time::{Duration, Instant};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The adapter's command.
    Command,
    /// Unsubscribe and subscribe, in turn.
    Toggle,
}

/// One worker's share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    /// When the first is due.
    pub(crate) start: Instant,
    /// Between two requests of this worker.
    pub(crate) interval_ns: u64,
    /// How many.
    pub(crate) count: u64,
    /// The clients of this group take turns.
    pub(crate) group: usize,
}

/// How far a plan is.
#[derive(Debug)]
pub(crate) struct Progress {
    pub(crate) plan: Plan,
    begun: u64,
}

impl Progress {
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, begun: 0 }
    }

    /// When the next request is due, if there is one.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let due = self.plan.start + Duration::from_nanos(self.plan.interval_ns.saturating_mul(self.begun));
        (self.begun < self.plan.count).then_some(due)
    }

    /// The number of a request that is due, and since when.
    pub(crate) fn begin(&mut self, now: Instant) -> Option<(u64, Instant)> {
        let due = self.next_due().filter(|due| *due <= now)?;
        self.begun += 1;
        Some((self.begun - 1, due))
    }
}

/// The shares of `workers` in `per_second` requests for `seconds`, evenly interleaved.
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
    fn shares_together_are_the_whole_and_nothing_waits_for_an_answer() {
        let start = Instant::now();
        let plans = shares(Kind::Command, start, 100, 1, 0, 3);
        assert_eq!(plans.iter().map(|plan| plan.count).sum::<u64>(), 100);
        let mut due: Vec<_> = Vec::new();
        for plan in plans {
            let mut progress = Progress::new(plan);
            assert_eq!(progress.begin(start - Duration::from_nanos(1)), None);
            // A worker that was held up for ten seconds begins everything at once, each counted from its own time.
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
