//! When the next events may be taken out of the inbox.
//!
//! The kernel's send path is the cost of fan-out, and two frames in one send cost hardly more than one. So a shard
//! that is busy waits a little after a tick, and what comes meanwhile shares the sends of the next. That hardly
//! costs latency, since queueing shrinks by about the wait: at 500 events/s to 1000 clients a wait of 2 ms took the CPU
//! per delivery from 1.8 to 1.1 µs and left the median at 5.3 and 5.6 ms. `benches/coalesce.sh` measures it again.
//!
//! The rule: a tick that cost less than a quarter of a millisecond is followed by none, one below a millisecond by a
//! wait of 1 ms, any other by 2 ms. So a wait never makes up more than about two thirds of the time of a busy shard,
//! and an idle one delivers at once.

use std::time::Duration;

use super::Coalesce;

const CHEAP: Duration = Duration::from_micros(250);
const DEAR: Duration = Duration::from_millis(1);

/// Says when events are taken.
#[derive(Debug)]
pub(super) struct Coalescer {
    policy: Coalesce,
    next_ms: u64,
}

impl Coalescer {
    pub(super) const fn new(policy: Coalesce) -> Self {
        Self { policy, next_ms: 0 }
    }

    /// Whether events may be taken now.
    pub(super) const fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.next_ms
    }

    /// When events may be taken, in monotonic milliseconds; in the past when they may.
    pub(super) const fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// A tick (taking, delivering and flushing events) that began at `start_ms` took `cost` and ended at `end_ms`.
    pub(super) fn ticked(&mut self, start_ms: u64, cost: Duration, end_ms: u64) {
        self.next_ms = match self.policy {
            Coalesce::Fixed(gap_ms) => start_ms + u64::from(gap_ms),
            Coalesce::Auto if cost < CHEAP => 0,
            Coalesce::Auto if cost < DEAR => end_ms + 1,
            Coalesce::Auto => end_ms + 2,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_shard_does_not_wait_and_a_busy_one_waits_up_to_two_milliseconds() {
        let mut coalescer = Coalescer::new(Coalesce::Auto);
        assert!(coalescer.is_due(0));
        for (cost_us, next_ms) in [
            (20, 0),
            (249, 0),
            (250, 1_001),
            (999, 1_001),
            (1_000, 1_002),
            (80_000, 1_002),
        ] {
            coalescer.ticked(990, Duration::from_micros(cost_us), 1_000);
            assert_eq!(coalescer.next_ms(), next_ms, "{cost_us} µs");
        }
    }

    #[test]
    fn a_fixed_gap_counts_from_tick_to_tick() {
        let mut coalescer = Coalescer::new(Coalesce::Fixed(5));
        coalescer.ticked(100, Duration::from_millis(2), 102);
        assert!(!coalescer.is_due(104));
        assert!(coalescer.is_due(105));
        let mut coalescer = Coalescer::new(Coalesce::Fixed(0));
        coalescer.ticked(100, Duration::from_millis(2), 102);
        assert!(coalescer.is_due(102));
    }
}
