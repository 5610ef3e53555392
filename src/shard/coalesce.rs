//! Decides when the shard takes the next events out of the inbox.
//!
//! Most of the cost of fan-out is the kernel's send path, and a send with two frames costs hardly more than one with a
//! single frame. So a busy shard waits a little after a tick, and the events that arrive meanwhile share the sends of
//! the next tick. The wait adds at most its own length to the latency, and less where it makes queues shorter.
//! `benches/coalesce.sh` measures the effect; `docs/performance.md` has the curves.
//!
//! A tick takes, delivers and flushes events. After a tick of less than 0.25 ms there is no wait, after one of less
//! than 1 ms the shard waits 1 ms, and after any other 2 ms. If fewer than [`EVENTS_ENOUGH`] events wait then, the next
//! send would be expensive for each of them, so the shard waits longer: as long as the tick took, and at most 8 ms. So
//! an idle shard delivers at once, and a busy one never waits longer than it works. The wait follows from the machine
//! and the number of subscribers; no constant needs to fit all of them.

use std::time::Duration;

use super::CoalescePolicy;

const CHEAP: Duration = Duration::from_micros(250);
const EXPENSIVE: Duration = Duration::from_millis(1);

/// With this many events, their share in the cost of a send is small enough. A send costs 7 µs and each further frame
/// 0.2 µs, so with 16 events the send costs each of them less than 0.5 µs.
const EVENTS_ENOUGH: usize = 16;
const WAIT_MS_MAX: u64 = 8;

/// Decides when events are taken.
#[derive(Debug)]
pub(super) struct Coalescer {
    policy: CoalescePolicy,
    // From this time on, events are taken if enough of them wait.
    next_ms: u64,
    // From this time on, events are taken however few they are. Not before `next_ms`.
    latest_ms: u64,
}

impl Coalescer {
    pub(super) const fn new(policy: CoalescePolicy) -> Self {
        Self {
            policy,
            next_ms: 0,
            latest_ms: 0,
        }
    }

    /// Whether events may be taken now, while `waiting` of them are in the inbox.
    pub(super) const fn is_due(&self, now_ms: u64, waiting: usize) -> bool {
        now_ms >= self.due_ms(waiting)
    }

    /// When events may be taken, in monotonic milliseconds, if no more than `waiting` arrive. A time in the past: now.
    pub(super) const fn due_ms(&self, waiting: usize) -> u64 {
        if waiting < EVENTS_ENOUGH {
            self.latest_ms
        } else {
            self.next_ms
        }
    }

    /// Reports a tick that began at `start_ms`, took `cost` and ended at `end_ms`.
    pub(super) fn ticked(&mut self, start_ms: u64, cost: Duration, end_ms: u64) {
        (self.next_ms, self.latest_ms) = match self.policy {
            CoalescePolicy::Fixed(gap_ms) => {
                let next_ms = start_ms + u64::from(gap_ms);
                (next_ms, next_ms)
            }
            CoalescePolicy::Auto if cost < CHEAP => (0, 0),
            CoalescePolicy::Auto if cost < EXPENSIVE => (end_ms + 1, end_ms + 1),
            CoalescePolicy::Auto => {
                let cost_ms = u64::try_from(cost.as_millis()).unwrap_or(u64::MAX);
                (end_ms + 2, end_ms + cost_ms.clamp(2, WAIT_MS_MAX))
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_shard_does_not_wait_and_a_busy_one_waits_no_longer_than_it_works() {
        let mut coalescer = Coalescer::new(CoalescePolicy::Auto);
        assert!(coalescer.is_due(0, 0));
        for (cost_us, with_enough_ms, with_few_ms) in [
            (20, 0, 0),
            (249, 0, 0),
            (250, 1_001, 1_001),
            (999, 1_001, 1_001),
            (1_000, 1_002, 1_002),
            (2_999, 1_002, 1_002),
            (5_000, 1_002, 1_005),
            (80_000, 1_002, 1_008),
        ] {
            coalescer.ticked(990, Duration::from_micros(cost_us), 1_000);
            assert_eq!(coalescer.due_ms(EVENTS_ENOUGH), with_enough_ms, "{cost_us} µs");
            assert_eq!(coalescer.due_ms(EVENTS_ENOUGH - 1), with_few_ms, "{cost_us} µs");
        }
        assert!(!coalescer.is_due(1_007, EVENTS_ENOUGH - 1));
        assert!(coalescer.is_due(1_007, EVENTS_ENOUGH));
        assert!(coalescer.is_due(1_008, 1));
    }

    #[test]
    fn a_fixed_gap_counts_from_tick_to_tick() {
        let mut coalescer = Coalescer::new(CoalescePolicy::Fixed(5));
        coalescer.ticked(100, Duration::from_millis(2), 102);
        for waiting in [1, EVENTS_ENOUGH] {
            assert!(!coalescer.is_due(104, waiting));
            assert!(coalescer.is_due(105, waiting));
        }
        let mut coalescer = Coalescer::new(CoalescePolicy::Fixed(0));
        coalescer.ticked(100, Duration::from_millis(2), 102);
        assert!(coalescer.is_due(102, 1));
    }
}
