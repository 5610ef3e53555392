//! Decides when the shard takes the next events out of the inbox, and how long they wait for others in an outbox.
//!
//! Most of the cost of fan-out is the kernel's send path, and a send with two frames costs hardly more than one with a
//! single frame. So a busy shard lets events share sends, in two ways:
//!
//! - After a tick it waits a millisecond before it takes events out of the inbox again. Where all events go to the same
//!   connections, those that arrive meanwhile also share frames.
//! - An event waits for others that go to its connection. Where each connection has a few of many channels, it hardly ever gets
//!   two of them in a tick.
//!
//! A tick takes, delivers and flushes events. After a tick of less than 0.25 ms there is no wait in the inbox. For the wait in
//! an outbox there is a budget: of `server.coalesce_max`, the part of the time for which ticks kept the shard busy. The ticks
//! themselves delay an event: it comes in during one, and another one flushes it. So the budget is first spent on these, and
//! what is left of it is the wait. A shard that is idle delivers at once, one that is busy becomes less busy, and where ticks
//! are long, since all events go to all connections, an event waits for the next tick only.
//! `benches/coalesce.sh` measures the effect; `docs/performance.md` has the figures.

use std::time::Duration;

use super::CoalescePolicy;

/// After a tick that took less, events do not wait.
const CHEAP: Duration = Duration::from_micros(250);

/// How long events wait in the inbox after a tick, in milliseconds.
const INBOX_WAIT_MS: u32 = 1;

/// Ticks are averaged over so many milliseconds or more.
const WINDOW_MS: u64 = 50;

/// How much of the averages is that of the last window.
const NEWEST: f64 = 0.5;

/// What one tick did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tick {
    /// When it began, in monotonic milliseconds.
    pub(super) start_ms: u64,
    /// When it ended, in monotonic milliseconds.
    pub(super) end_ms: u64,
    pub(super) cost: Duration,
    /// Whether it took events out of the inbox, and as many as it wanted.
    pub(super) took_events: bool,
}

/// Decides when events are taken and written.
#[derive(Debug)]
pub(super) struct Coalescer {
    policy: CoalescePolicy,
    // From this time on, events are taken.
    next_ms: u64,
    // When the window began, and the ticks since.
    window_ms: u64,
    busy: Duration,
    ticks: u32,
    // The part of the time that ticks take.
    load: f64,
    // How long a tick takes, in milliseconds.
    tick_ms: f64,
}

impl Coalescer {
    pub(super) const fn new(policy: CoalescePolicy) -> Self {
        Self {
            policy,
            next_ms: 0,
            window_ms: 0,
            busy: Duration::ZERO,
            ticks: 0,
            load: 0.0,
            tick_ms: 0.0,
        }
    }

    /// Whether events may be taken now.
    pub(super) const fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.next_ms
    }

    /// When events may be taken, in monotonic milliseconds. A time in the past: now.
    pub(super) const fn due_ms(&self) -> u64 {
        self.next_ms
    }

    /// How long an event may wait for others in an outbox, in milliseconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is not negative, and at most the longest wait"
    )]
    pub(super) fn wait_ms(&self) -> u32 {
        match self.policy {
            CoalescePolicy::Auto { max_ms } => {
                let budget_ms = self.load * f64::from(max_ms);
                2.0f64.mul_add(-self.tick_ms, budget_ms).max(0.0) as u32
            }
            CoalescePolicy::Fixed(_) => 0,
        }
    }

    /// Reports a tick that wrote or took something.
    pub(super) fn ticked(&mut self, tick: Tick) {
        self.note(tick);
        if !tick.took_events {
            return;
        }
        self.next_ms = match self.policy {
            CoalescePolicy::Fixed(gap_ms) => tick.start_ms + u64::from(gap_ms),
            CoalescePolicy::Auto { .. } if tick.cost < CHEAP => 0,
            CoalescePolicy::Auto { max_ms } => tick.end_ms + u64::from(max_ms.min(INBOX_WAIT_MS)),
        };
    }

    fn note(&mut self, tick: Tick) {
        self.busy += tick.cost;
        self.ticks += 1;
        let elapsed_ms = tick.end_ms.saturating_sub(self.window_ms);
        if elapsed_ms < WINDOW_MS {
            return;
        }
        let load = self.busy.div_duration_f64(Duration::from_millis(elapsed_ms)).min(1.0);
        let tick_ms = 1000.0 * self.busy.as_secs_f64() / f64::from(self.ticks);
        self.load += NEWEST * (load - self.load);
        self.tick_ms += NEWEST * (tick_ms - self.tick_ms);
        (self.window_ms, self.busy, self.ticks) = (tick.end_ms, Duration::ZERO, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks for a second, one every 10 ms.
    fn work(coalescer: &mut Coalescer, from_ms: u64, cost_us: u64, took_events: bool) {
        for start_ms in (from_ms..from_ms + 1_000).step_by(10) {
            let cost = Duration::from_micros(cost_us);
            coalescer.ticked(Tick {
                start_ms,
                end_ms: start_ms + 10,
                cost,
                took_events,
            });
        }
    }

    fn auto(max_ms: u32) -> Coalescer {
        Coalescer::new(CoalescePolicy::Auto { max_ms })
    }

    #[test]
    fn events_wait_in_the_inbox_for_a_millisecond_after_a_tick_that_was_not_cheap() {
        let mut coalescer = auto(20);
        assert!(coalescer.is_due(0));
        for (cost_us, due_ms) in [(20, 0), (249, 0), (250, 1_001), (80_000, 1_001)] {
            work(&mut coalescer, 0, cost_us, true);
            assert_eq!(coalescer.due_ms(), due_ms, "{cost_us} µs");
        }
        assert!(!coalescer.is_due(1_000) && coalescer.is_due(1_001));
        work(&mut coalescer, 1_000, 80_000, false);
        assert_eq!(coalescer.due_ms(), 1_001, "no event was taken");
    }

    #[test]
    fn the_wait_for_company_is_the_busy_part_of_the_longest_time_without_two_ticks() {
        let mut coalescer = auto(60);
        assert_eq!(coalescer.wait_ms(), 0);
        // A tick of 5.2 ms every 10 ms: 31.2 ms less 10.4 ms. The averages come close to that.
        for (second, (cost_us, wait_ms)) in (0..).zip([(5_200, 20), (400, 1), (10_000, 39), (30_000, 0), (100, 0)]) {
            work(&mut coalescer, 1_000 * second, cost_us, second % 2 == 0);
            assert_eq!(coalescer.wait_ms(), wait_ms, "{cost_us} µs");
        }
        // Two hours without a tick are without work, whatever was before.
        work(&mut coalescer, 10_000, 5_200, true);
        for hour in [1, 2] {
            work(&mut coalescer, hour * 3_600_000, 5, true);
        }
        assert_eq!(coalescer.wait_ms(), 0);
    }

    #[test]
    fn without_a_longest_time_nothing_waits() {
        let mut coalescer = auto(0);
        work(&mut coalescer, 0, 5_000, true);
        assert_eq!((coalescer.due_ms(), coalescer.wait_ms()), (1_000, 0));
    }

    #[test]
    fn a_fixed_gap_counts_from_tick_to_tick_and_is_the_only_wait() {
        let mut coalescer = Coalescer::new(CoalescePolicy::Fixed(5));
        work(&mut coalescer, 0, 5_000, true);
        assert_eq!((coalescer.due_ms(), coalescer.wait_ms()), (995, 0));
        let mut coalescer = Coalescer::new(CoalescePolicy::Fixed(0));
        work(&mut coalescer, 0, 5_000, true);
        assert!(coalescer.is_due(990));
    }
}
