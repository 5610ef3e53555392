//! Decides when the shard takes the next events out of the inbox.
//!
//! Most of the cost of fan-out is the kernel's send path, and a send with two frames costs hardly more than one with a
//! single frame. So a busy shard waits between its ticks, and the events that arrive meanwhile share sends, and often frames.
//!
//! A tick takes, delivers and flushes events. From the beginning of one tick to that of the next there is at least
//! `server.coalesce_max` times the share of the time that ticks take: of 10 ms, 4 ms if they take 40 % of the time. So an idle
//! shard delivers at once, events that are far apart do not wait, and a busy shard becomes less busy. The wait follows from the
//! machine and the subscribers; no constant needs to fit all of them. `benches/coalesce.sh` measures the effect;
//! `docs/performance.md` has the figures.

use std::time::Duration;

use super::CoalescePolicy;

/// The load is measured over so many milliseconds or more. What was before counts half after each of them.
const WINDOW_MS: u32 = 50;

/// What one tick did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tick {
    /// When it began, in monotonic milliseconds.
    pub(super) start_ms: u64,
    pub(super) cost: Duration,
    /// Whether it took all events that it wanted. If not, the rest follows without a wait.
    pub(super) took_all: bool,
}

/// Decides when events are taken.
#[derive(Debug)]
pub(super) struct Coalescer {
    policy: CoalescePolicy,
    // From this time on, events are taken.
    next_ms: u64,
    // When the window began, and how long ticks took since.
    window_ms: u64,
    busy: Duration,
    // The part of the time that ticks take.
    load: f64,
}

impl Coalescer {
    pub(super) const fn new(policy: CoalescePolicy) -> Self {
        Self {
            policy,
            next_ms: 0,
            window_ms: 0,
            busy: Duration::ZERO,
            load: 0.0,
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

    /// Reports a tick that took events.
    pub(super) fn ticked(&mut self, tick: Tick) {
        self.note_load(tick);
        if tick.took_all {
            self.next_ms = tick.start_ms + self.gap_ms();
        }
    }

    /// The least time from the beginning of a tick to that of the next, in milliseconds.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is not negative, and at most the longest time"
    )]
    fn gap_ms(&self) -> u64 {
        match self.policy {
            CoalescePolicy::Fixed(gap_ms) => gap_ms.into(),
            CoalescePolicy::Auto { max_ms } => (self.load * f64::from(max_ms)) as u64,
        }
    }

    fn note_load(&mut self, tick: Tick) {
        let elapsed_ms = tick.start_ms.saturating_sub(self.window_ms);
        if elapsed_ms >= WINDOW_MS.into() {
            let elapsed = Duration::from_millis(elapsed_ms);
            let load = self.busy.div_duration_f64(elapsed).min(1.0);
            let windows = elapsed.div_duration_f64(Duration::from_millis(WINDOW_MS.into()));
            self.load = load + (self.load - load) * 0.5f64.powf(windows);
            (self.window_ms, self.busy) = (tick.start_ms, Duration::ZERO);
        }
        self.busy += tick.cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(start_ms: u64, cost_us: u64) -> Tick {
        Tick {
            start_ms,
            cost: Duration::from_micros(cost_us),
            took_all: true,
        }
    }

    /// Ticks for a second, one every 10 ms.
    fn work(coalescer: &mut Coalescer, from_ms: u64, cost_us: u64) {
        for start_ms in (from_ms..from_ms + 1_000).step_by(10) {
            coalescer.ticked(tick(start_ms, cost_us));
        }
    }

    fn auto(max_ms: u32) -> Coalescer {
        Coalescer::new(CoalescePolicy::Auto { max_ms })
    }

    #[test]
    fn ticks_are_apart_by_the_busy_part_of_the_longest_time() {
        let mut coalescer = auto(40);
        assert!(coalescer.is_due(0));
        // The cost of a tick every 10 ms, and the least time between two.
        for (second, (cost_us, gap_ms)) in (0..).zip([(5_200, 20), (200, 0), (10_000, 39), (90_000, 39), (300, 1)]) {
            work(&mut coalescer, 1_000 * second, cost_us);
            let last_ms = 1_000 * second + 990;
            assert_eq!(coalescer.due_ms(), last_ms + gap_ms, "{cost_us} µs");
            assert!(coalescer.is_due(last_ms + gap_ms) && !coalescer.is_due(last_ms + gap_ms - 1));
        }
    }

    #[test]
    fn an_hour_without_a_tick_is_an_hour_without_load() {
        let mut coalescer = auto(40);
        work(&mut coalescer, 0, 9_000);
        let start_ms = 3_600_000;
        coalescer.ticked(tick(start_ms, 9_000));
        assert!(coalescer.is_due(start_ms));
    }

    #[test]
    fn after_a_tick_that_left_events_behind_the_rest_follows_at_once() {
        let mut coalescer = auto(40);
        work(&mut coalescer, 0, 5_000);
        assert!(!coalescer.is_due(1_000));
        let start_ms = coalescer.due_ms();
        coalescer.ticked(Tick {
            took_all: false,
            ..tick(start_ms, 5_000)
        });
        assert!(coalescer.is_due(start_ms));
    }

    #[test]
    fn without_a_longest_time_nothing_waits() {
        let mut coalescer = auto(0);
        work(&mut coalescer, 0, 10_000);
        assert!(coalescer.is_due(990));
    }

    #[test]
    fn a_fixed_gap_counts_from_tick_to_tick_whatever_the_load_is() {
        for cost_us in [0, 5_000] {
            let mut coalescer = Coalescer::new(CoalescePolicy::Fixed(5));
            work(&mut coalescer, 0, cost_us);
            assert_eq!(coalescer.due_ms(), 995);
        }
    }
}
