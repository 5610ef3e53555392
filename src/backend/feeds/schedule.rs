//! When a channel is polled. Pure: time and chance are arguments.
//!
//! Invariant: two polls begin at least [`Pace::gap_ms`] apart unless an operator asks for one. While polls succeed, they
//! begin one interval apart on average, however long each takes, as long as that is less than the interval.

use std::time::Duration;

use super::NEWCOMER_GAP;

/// The longest pause of a failing source is ten intervals, but at most this long, or one interval if that is longer.
const PAUSE_MS_MAX: u64 = 60_000;

/// The interval of a feed and the shortest gap between polls, in milliseconds.
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

    /// The pause after this many failures in a row, without jitter.
    fn pause_ms(self, failures: u32) -> u64 {
        let longest = (self.interval_ms.saturating_mul(10)).min(PAUSE_MS_MAX.max(self.interval_ms));
        let doubled = self.interval_ms.saturating_mul(1 << failures.saturating_sub(1).min(10));
        doubled.min(longest)
    }
}

/// The polls of one channel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Schedule {
    /// When the next poll is due, in milliseconds of the runner's clock.
    pub(super) due_ms: u64,
    started_ms: Option<u64>,
    failures: u32,
    // A shorter interval of random length follows the next success, so that channels that started together spread out.
    scatter: bool,
}

impl Schedule {
    /// The feed has another interval: the next poll is due within it.
    pub(super) fn pace_changed(&mut self, pace: Pace, now_ms: u64) {
        self.due_ms = self.due_ms.min(now_ms + pace.interval_ms);
    }

    /// The channel was due, but another gateway polls it.
    pub(super) fn passed_over(&mut self, pace: Pace, now_ms: u64) {
        self.due_ms = now_ms + pace.interval_ms;
    }

    /// A channel that is due at once.
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            due_ms: now_ms,
            started_ms: None,
            failures: 0,
            scatter: true,
        }
    }

    /// A poll begins. Returns whether it is late by more than a tenth of the interval.
    pub(super) fn started(&mut self, pace: Pace, now_ms: u64) -> bool {
        self.started_ms = Some(now_ms);
        now_ms.saturating_sub(self.due_ms) > pace.interval_ms / 10
    }

    /// The poll succeeded. `chance` is uniform from 0 to 1.
    pub(super) fn succeeded(&mut self, pace: Pace, now_ms: u64, chance: f64) {
        self.failures = 0;
        let started_ms = self.started_ms.unwrap_or(now_ms);
        // A channel that is late by more than an interval does not catch up by polling faster.
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

    /// The poll failed. The pause doubles, and chance makes it up to a quarter longer.
    pub(super) fn failed(&mut self, pace: Pace, now_ms: u64, chance: f64) {
        self.failures = self.failures.saturating_add(1);
        self.scatter = true;
        self.due_ms = now_ms + scaled(pace.pause_ms(self.failures), 1.0 + chance / 4.0);
    }

    /// The source answers other channels again. A failing channel is polled within one interval, not after its long pause.
    pub(super) fn source_recovered(&mut self, pace: Pace, now_ms: u64, chance: f64) {
        if self.failures > 0 {
            self.due_ms = self.due_ms.min(now_ms + scaled(pace.interval_ms, chance));
        }
    }

    /// A subscriber joined. A failing source is not polled earlier for it.
    pub(super) fn subscriber_joined(&mut self, pace: Pace, now_ms: u64) {
        if self.failures == 0 {
            self.due_ms = self.due_ms.min(self.earliest_ms(pace, now_ms));
        }
    }

    /// An operator asks for a poll.
    pub(super) fn push_requested(&mut self, now_ms: u64) {
        self.due_ms = self.due_ms.min(now_ms);
    }

    /// The last subscriber left. The channel becomes due when it can be forgotten: a new subscriber then causes no poll
    /// too early.
    pub(super) fn last_subscriber_left(&mut self, pace: Pace, now_ms: u64) {
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
    fn polls_keep_the_interval_on_average_and_spread_out_after_the_first() {
        let mut schedule = Schedule::new(0);
        assert!(!schedule.started(PACE, 3));
        schedule.succeeded(PACE, 20, 0.0);
        assert_eq!(schedule.due_ms, 5_000, "scattered");
        for poll in 1u64..100 {
            assert!(!schedule.started(PACE, schedule.due_ms + 900));
            schedule.succeeded(
                PACE,
                schedule.due_ms + 950,
                if poll.is_multiple_of(2) { 0.0 } else { 1.0 },
            );
        }
        assert_eq!(
            schedule.due_ms,
            5_000 + 99 * 10_000 + 500,
            "from due to due, not from end to start"
        );
    }

    #[test]
    fn a_late_channel_does_not_catch_up() {
        let mut schedule = Schedule::new(0);
        schedule.scatter = false;
        assert!(schedule.started(PACE, 35_000));
        schedule.succeeded(PACE, 35_100, 0.5);
        assert_eq!(schedule.due_ms, 45_000);
        assert!(!schedule.started(PACE, 45_000));
        schedule.succeeded(PACE, 58_000, 0.5);
        assert_eq!(
            schedule.due_ms, 58_000,
            "a poll longer than the interval is followed by the next"
        );
    }

    #[test]
    fn a_failing_source_is_polled_less_often_and_soon_after_it_recovers() {
        let mut schedule = Schedule::new(0);
        let mut pauses = Vec::new();
        for _ in 0..5 {
            schedule.started(PACE, 0);
            schedule.failed(PACE, 0, 0.0);
            pauses.push(schedule.due_ms);
        }
        assert_eq!(pauses, [10_000, 20_000, 40_000, 60_000, 60_000]);
        schedule.failed(PACE, 0, 1.0);
        assert_eq!(schedule.due_ms, 75_000);
        schedule.subscriber_joined(PACE, 5_000);
        assert_eq!(schedule.due_ms, 75_000, "a new subscriber changes nothing");
        schedule.source_recovered(PACE, 5_000, 0.5);
        assert_eq!(schedule.due_ms, 10_000);
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
        fn subscribers_that_join_and_leave_do_not_cause_polls_within_the_gap(
            steps in prop::collection::vec((0u64..3_000, 0u8..3), 1..60),
        ) {
            let (mut schedule, mut now_ms, mut last) = (Schedule::new(0), 0, None::<u64>);
            for (passed_ms, step) in steps {
                now_ms += passed_ms;
                match step {
                    0 => schedule.subscriber_joined(PACE, now_ms),
                    1 => schedule.last_subscriber_left(PACE, now_ms),
                    _ if schedule.due_ms <= now_ms => {
                        schedule.started(PACE, now_ms);
                        schedule.succeeded(PACE, now_ms, 0.5);
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
