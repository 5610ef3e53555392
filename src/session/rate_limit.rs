//! Rate limits of one connection: refused messages are reported to the client at most once a second, and a client that
//! does not stop is disconnected.

use crate::session::limits::TokenBucket;

/// A second with at least this many refused messages is abusive.
const ABUSE_PER_SECOND: u32 = 100;

/// This many abusive seconds in a row end the connection.
const ABUSE_SECONDS: u32 = 3;

/// The time between two `RATE_LIMITED` errors.
const REPORT_INTERVAL_MS: u64 = 1000;

/// The token bucket of commands, created full at its first use.
#[derive(Debug, Default)]
pub(super) struct CommandMeter(Option<(TokenBucket, u64)>);

impl CommandMeter {
    /// Takes one token.
    ///
    /// # Errors
    ///
    /// The bucket is empty. The value is the number of milliseconds until the next token.
    pub(super) fn take(&mut self, rate_per_second: u32, now_mono_ms: u64) -> Result<(), u32> {
        let (bucket, used_ms) = self
            .0
            .get_or_insert_with(|| (TokenBucket::full(rate_per_second, now_mono_ms), now_mono_ms));
        *used_ms = now_mono_ms;
        bucket.take(rate_per_second, now_mono_ms)
    }

    /// Whether the bucket is full again. It refills within one second, since the burst equals the rate.
    pub(super) fn is_full(&self, now_mono_ms: u64) -> bool {
        self.0.as_ref().is_none_or(|(_, used_ms)| now_mono_ms >= used_ms + 1000)
    }
}

/// Counts the messages that were refused because they came too fast.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    // The start of the second that is being counted; `None`: no message was refused yet.
    second_began_ms: Option<u64>,
    // Messages refused in that second.
    in_second: u32,
    // The number of abusive seconds directly before it.
    abusive_before: u32,
    // Refused messages that the client has not been told of.
    unreported: u32,
    reported_ms: Option<u64>,
}

impl Refusals {
    /// Counts one refused message. Returns whether the connection must end because of abuse.
    pub(super) fn count(&mut self, now_mono_ms: u64) -> bool {
        let began_ms = *self.second_began_ms.get_or_insert(now_mono_ms);
        let seconds = now_mono_ms.saturating_sub(began_ms) / 1000;
        if seconds > 0 {
            let abusive = self.in_second >= ABUSE_PER_SECOND;
            self.abusive_before = if seconds == 1 && abusive {
                self.abusive_before + 1
            } else {
                0
            };
            self.second_began_ms = Some(began_ms + seconds * 1000);
            self.in_second = 0;
        }
        self.in_second += 1;
        self.in_second >= ABUSE_PER_SECOND && self.abusive_before + 1 >= ABUSE_SECONDS
    }

    /// Adds one message to the next report.
    pub(super) fn add_unreported(&mut self) {
        self.unreported = self.unreported.saturating_add(1);
    }

    /// When the next report is due, in monotonic milliseconds; `None`: there is nothing to report.
    pub(super) fn report_due_ms(&self) -> Option<u64> {
        (self.unreported > 0).then(|| {
            self.reported_ms
                .map_or(0, |reported_ms| reported_ms + REPORT_INTERVAL_MS)
        })
    }

    /// Returns how many messages to report now, and resets the number; `None`: no report is due.
    pub(super) fn take_report(&mut self, now_mono_ms: u64) -> Option<u32> {
        if self.report_due_ms()? > now_mono_ms {
            return None;
        }
        self.reported_ms = Some(now_mono_ms);
        Some(std::mem::take(&mut self.unreported))
    }

    /// Whether the counts can be forgotten without an effect on later decisions.
    pub(super) fn is_idle(&self, now_mono_ms: u64) -> bool {
        let long_ago = |ms: Option<u64>| ms.is_none_or(|ms| now_mono_ms >= ms + 2 * REPORT_INTERVAL_MS);
        self.unreported == 0 && long_ago(self.second_began_ms) && long_ago(self.reported_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_abusive_second_in_a_row_ends_the_connection() {
        let mut refusals = Refusals::default();
        for second in 0..2 {
            for n in 0..100 {
                assert!(!refusals.count(5_000 + second * 1000 + n));
            }
        }
        for n in 0..99 {
            assert!(!refusals.count(7_000 + n));
        }
        assert!(refusals.count(7_999));
    }

    #[test]
    fn a_second_that_is_not_abusive_starts_the_count_again() {
        for quiet in [0, 99] {
            let mut refusals = Refusals::default();
            let mut last = false;
            for (second, refused) in [100, 100, quiet, 100, 100].into_iter().enumerate() {
                for _ in 0..refused {
                    last = refusals.count(second as u64 * 1000);
                }
            }
            assert!(!last, "{quiet}");
        }
    }

    #[test]
    fn refusals_are_reported_at_most_once_a_second_and_none_is_lost() {
        let mut refusals = Refusals::default();
        refusals.add_unreported();
        assert_eq!(refusals.take_report(10_000), Some(1));
        for _ in 0..7 {
            refusals.add_unreported();
        }
        assert_eq!(refusals.take_report(10_999), None);
        assert_eq!(refusals.report_due_ms(), Some(11_000));
        assert!(!refusals.is_idle(60_000));
        assert_eq!(refusals.take_report(11_000), Some(7));
        assert_eq!(refusals.report_due_ms(), None);
        assert!(!refusals.is_idle(12_999));
        assert!(refusals.is_idle(13_000));
    }
}
