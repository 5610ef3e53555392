//! When the next events may be taken out of the inbox.
//!
//! The kernel's send path is the cost of fan-out, and two frames in one send cost hardly more than one. So a shard
//! that is busy waits a little after a tick, and what comes meanwhile shares the sends of the next. That costs latency
//! the wait at most, and nothing where queueing shrinks by as much. `benches/coalesce.sh` measures it;
//! docs/performance.md has the curves.
//!
//! The rule: a tick that cost less than a quarter of a millisecond is followed by no wait, one below a millisecond by
//! 1 ms, any other by 2 ms. With few events waiting even then (fewer than [`COMPANY`]), the next send would cost each
//! of them much, so it waits on for more, at most as long as the tick took. So an idle shard delivers at once, a busy
//! one is never made to idle for longer than it works, and how long that is follows from the machine and from the
//! number of subscribers, not from a constant that was right somewhere else.

use std::time::Duration;

use super::CoalescePolicy;

const CHEAP: Duration = Duration::from_micros(250);
const DEAR: Duration = Duration::from_millis(1);

/// So many events share a send well enough: with sixteen, a send's own cost (7 µs where a further frame costs 0.2) is
/// below 0.5 µs for each.
const COMPANY: usize = 16;
const WAIT_MS_MAX: u64 = 8;

/// Says when events are taken.
#[derive(Debug)]
pub(super) struct Coalescer {
    policy: CoalescePolicy,
    // From when on events are taken if enough of them wait.
    next_ms: u64,
    // From when on they are taken however few they are; not before `next_ms`.
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

    /// Whether events may be taken now, of which so many wait.
    pub(super) const fn is_due(&self, now_ms: u64, waiting: usize) -> bool {
        now_ms >= self.due_ms(waiting)
    }

    /// When events may be taken, in monotonic milliseconds, should no more than `waiting` come; in the past when they
    /// may.
    pub(super) const fn due_ms(&self, waiting: usize) -> u64 {
        if waiting < COMPANY {
            self.latest_ms
        } else {
            self.next_ms
        }
    }

    /// A tick (taking, delivering and flushing events) that began at `start_ms` took `cost` and ended at `end_ms`.
    pub(super) fn ticked(&mut self, start_ms: u64, cost: Duration, end_ms: u64) {
        (self.next_ms, self.latest_ms) = match self.policy {
            CoalescePolicy::Fixed(gap_ms) => {
                let next_ms = start_ms + u64::from(gap_ms);
                (next_ms, next_ms)
            }
            CoalescePolicy::Auto if cost < CHEAP => (0, 0),
            CoalescePolicy::Auto if cost < DEAR => (end_ms + 1, end_ms + 1),
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
        for (cost_us, with_company_ms, with_few_ms) in [
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
            assert_eq!(coalescer.due_ms(COMPANY), with_company_ms, "{cost_us} µs");
            assert_eq!(coalescer.due_ms(COMPANY - 1), with_few_ms, "{cost_us} µs");
        }
        assert!(!coalescer.is_due(1_007, COMPANY - 1));
        assert!(coalescer.is_due(1_007, COMPANY));
        assert!(coalescer.is_due(1_008, 1));
    }

    #[test]
    fn a_fixed_gap_counts_from_tick_to_tick() {
        let mut coalescer = Coalescer::new(CoalescePolicy::Fixed(5));
        coalescer.ticked(100, Duration::from_millis(2), 102);
        for waiting in [1, COMPANY] {
            assert!(!coalescer.is_due(104, waiting));
            assert!(coalescer.is_due(105, waiting));
        }
        let mut coalescer = Coalescer::new(CoalescePolicy::Fixed(0));
        coalescer.ticked(100, Duration::from_millis(2), 102);
        assert!(coalescer.is_due(102, 1));
    }
}
