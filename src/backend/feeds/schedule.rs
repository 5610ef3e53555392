//! When one channel is polled. Pure: time and chance are arguments.
//!
//! Invariant: two polls begin at least [`Pace::gap_ms`] apart unless an operator asks; while polls succeed they begin an
//! interval apart on average, however long each takes, as long as that is less than the interval.

use std::time::Duration;

use super::NEWCOMER_GAP;

/// The longest pause of a failing source is ten intervals, and no more than this when the interval is shorter.
const PAUSE_MS_MAX: u64 = 60_000;

/// A feed's rhythm, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    interval_ms: u64,
    gap_ms: u64,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        let ms = |duration: Duration| {
            u64::try_from(duration.as_millis())
                .unwrap_or(u64::MAX / 4)
                .min(u64::MAX / 4)
        };
        Self {
            interval_ms: ms(interval),
            gap_ms: ms((interval / 2).min(NEWCOMER_GAP)),
        }
    }

    /// How long after `failures` in a row, without jitter.
    fn pause_ms(self, failures: u32) -> u64 {
        let longest = (self.interval_ms.saturating_mul(10)).min(PAUSE_MS_MAX.max(self.interval_ms));
        let doubled = self.interval_ms.saturating_mul(1 << failures.saturating_sub(1).min(10));
        doubled.min(longest)
    }
}

/// The turns of one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turns {
    /// When it is due next, in milliseconds of the runner's clock.
    pub(super) due_ms: u64,
    started_ms: Option<u64>,
    failures: u32,
    // The next success is followed by a shorter interval of random length: channels that came together part.
    scatter: bool,
}

impl Turns {
    /// Due at once.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            due_ms: now_ms,
            started_ms: None,
            failures: 0,
            scatter: true,
        }
    }

    /// A poll begins; whether it is late by more than a tenth of the interval.
    pub(super) fn start(&mut self, pace: Pace, now_ms: u64) -> bool {
        self.started_ms = Some(now_ms);
        now_ms.saturating_sub(self.due_ms) > pace.interval_ms / 10
    }

    /// The poll succeeded. `chance` is uniform from 0 to 1.
    pub(super) fn succeeded(&mut self, pace: Pace, now_ms: u64, chance: f64) {
        self.failures = 0;
        let started_ms = self.started_ms.unwrap_or(now_ms);
        // Whoever is behind by more than an interval does not catch up by polling faster.
        let behind = started_ms.saturating_sub(self.due_ms) > pace.interval_ms;
        let from_ms = if behind { started_ms } else { self.due_ms };
        let part = if self.scatter {
            0.5 + chance / 2.0
        } else {
            0.95 + chance / 10.0
        };
        self.scatter = false;
        let next_ms = from_ms + scaled(pace.interval_ms, part);
        self.due_ms = next_ms.max(self.earliest_ms(pace, now_ms));
    }

    /// The poll failed: the pause doubles, and is up to a quarter longer by chance.
    pub(super) fn failed(&mut self, pace: Pace, now_ms: u64, chance: f64) {
        self.failures = self.failures.saturating_add(1);
        self.scatter = true;
        self.due_ms = now_ms + scaled(pace.pause_ms(self.failures), 1.0 + chance / 4.0);
    }

    /// The source is back for others: not after a long pause, but within an interval.
    pub(super) fn encourage(&mut self, pace: Pace, now_ms: u64, chance: f64) {
        if self.failures > 0 {
            self.due_ms = self.due_ms.min(now_ms + scaled(pace.interval_ms, chance));
        }
    }

    /// Somebody new listens. A failing source is not asked earlier for it.
    pub(super) fn hurry(&mut self, pace: Pace, now_ms: u64) {
        if self.failures == 0 {
            self.due_ms = self.due_ms.min(self.earliest_ms(pace, now_ms));
        }
    }

    /// An operator asks.
    pub(super) fn now(&mut self, now_ms: u64) {
        self.due_ms = self.due_ms.min(now_ms);
    }

    /// Nobody listens any more: due when it may be forgotten without being asked too early by the next one.
    pub(super) fn rest(&mut self, pace: Pace, now_ms: u64) {
        self.scatter = true;
        if self.failures == 0 {
            self.due_ms = self.earliest_ms(pace, now_ms);
        }
    }

    fn earliest_ms(&self, pace: Pace, now_ms: u64) -> u64 {
        self.started_ms
            .map_or(now_ms, |started_ms| now_ms.max(started_ms + pace.gap_ms))
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a positive duration of less than 2^53 milliseconds"
)]
fn scaled(ms: u64, by: f64) -> u64 {
    (ms as f64 * by) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACE: Pace = Pace {
        interval_ms: 10_000,
        gap_ms: 1_000,
    };

    #[test]
    fn polls_keep_the_interval_on_average_and_part_after_the_first() {
        let mut turns = Turns::new(0);
        assert!(!turns.start(PACE, 3));
        turns.succeeded(PACE, 20, 0.0);
        assert_eq!(turns.due_ms, 5_000, "scattered");
        for turn in 1u64..100 {
            assert!(!turns.start(PACE, turns.due_ms + 900));
            turns.succeeded(PACE, turns.due_ms + 950, if turn.is_multiple_of(2) { 0.0 } else { 1.0 });
        }
        assert_eq!(
            turns.due_ms,
            5_000 + 99 * 10_000 + 500,
            "from due to due, not from end to start"
        );
    }

    #[test]
    fn whoever_is_late_says_so_and_does_not_catch_up() {
        let mut turns = Turns::new(0);
        turns.scatter = false;
        assert!(turns.start(PACE, 35_000));
        turns.succeeded(PACE, 35_100, 0.5);
        assert_eq!(turns.due_ms, 45_000);
        assert!(!turns.start(PACE, 45_000));
        turns.succeeded(PACE, 58_000, 0.5);
        assert_eq!(
            turns.due_ms, 58_000,
            "a poll longer than the interval is followed by the next"
        );
    }

    #[test]
    fn a_failing_source_is_asked_less_and_less_and_soon_again_when_it_is_back() {
        let mut turns = Turns::new(0);
        let mut pauses = Vec::new();
        for _ in 0..5 {
            turns.start(PACE, 0);
            turns.failed(PACE, 0, 0.0);
            pauses.push(turns.due_ms);
        }
        assert_eq!(pauses, [10_000, 20_000, 40_000, 60_000, 60_000]);
        turns.failed(PACE, 0, 1.0);
        assert_eq!(turns.due_ms, 75_000);
        turns.hurry(PACE, 5_000);
        assert_eq!(turns.due_ms, 75_000, "a newcomer changes nothing");
        turns.encourage(PACE, 5_000, 0.5);
        assert_eq!(turns.due_ms, 10_000);
        let short = Pace::new(Duration::from_millis(200));
        assert_eq!((short.pause_ms(1), short.pause_ms(9), short.gap_ms), (200, 2_000, 100));
        let long = Pace::new(Duration::from_secs(600));
        assert_eq!(
            (long.pause_ms(1), long.pause_ms(9), long.gap_ms),
            (600_000, 600_000, 1_000)
        );
        assert!(Pace::new(Duration::MAX).pause_ms(40) > 0);
    }

    proptest! {
        #[test]
        fn newcomers_and_leavers_cannot_make_polls_come_closer_than_the_gap(
            steps in prop::collection::vec((0u64..3_000, 0u8..3), 1..60),
        ) {
            let (mut turns, mut now_ms, mut last) = (Turns::new(0), 0, None::<u64>);
            for (passed_ms, step) in steps {
                now_ms += passed_ms;
                match step {
                    0 => turns.hurry(PACE, now_ms),
                    1 => turns.rest(PACE, now_ms),
                    _ if turns.due_ms <= now_ms => {
                        turns.start(PACE, now_ms);
                        turns.succeeded(PACE, now_ms, 0.5);
                        if let Some(last) = last.replace(now_ms) {
                            prop_assert!(now_ms - last >= PACE.gap_ms);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}
