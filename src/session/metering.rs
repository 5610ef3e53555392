//! What comes too fast: told at most once a second, counted in seconds, ended when it does not stop.

use crate::session::limits::TokenBucket;

/// So many refused messages make a second an abusive one.
const ABUSE_PER_SECOND: u32 = 100;

/// So many abusive seconds in a row end the connection.
const ABUSE_SECONDS: u32 = 3;

/// Between two `RATE_LIMITED` errors.
const REPORT_INTERVAL_MS: u64 = 1000;

/// The bucket of commands, full until first used.
#[derive(Debug, Default)]
pub(super) struct CommandMeter(Option<(TokenBucket, u64)>);

impl CommandMeter {
    /// Takes one token, or says how many milliseconds until there is one.
    pub(super) fn take(&mut self, rate_per_second: u32, now_mono_ms: u64) -> Result<(), u32> {
        let (bucket, used_ms) = self
            .0
            .get_or_insert_with(|| (TokenBucket::full(rate_per_second, now_mono_ms), now_mono_ms));
        *used_ms = now_mono_ms;
        bucket.take(rate_per_second, now_mono_ms)
    }

    /// Whether it is full again: the burst is one second's worth.
    pub(super) fn is_full(&self, now_mono_ms: u64) -> bool {
        self.0.as_ref().is_none_or(|(_, used_ms)| now_mono_ms >= used_ms + 1000)
    }
}

/// Messages refused for coming too fast.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    // The second that is being counted began here; `None`: nothing was refused lately.
    second_began_ms: Option<u64>,
    // Refused in it.
    in_second: u32,
    // Abusive seconds right before it, in a row.
    abusive_before: u32,
    // Not yet told to the client.
    untold: u32,
    told_ms: Option<u64>,
}

impl Refusals {
    /// Counts one refused message. `true`: that was the last straw.
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

    /// One more that nothing else has told the client about.
    pub(super) fn add_untold(&mut self) {
        self.untold = self.untold.saturating_add(1);
    }

    /// When the next report is due, if there is anything to tell.
    pub(super) fn report_due_ms(&self) -> Option<u64> {
        (self.untold > 0).then(|| self.told_ms.map_or(0, |told_ms| told_ms + REPORT_INTERVAL_MS))
    }

    /// How many to report now; forgets them.
    pub(super) fn take_report(&mut self, now_mono_ms: u64) -> Option<u32> {
        if self.report_due_ms()? > now_mono_ms {
            return None;
        }
        self.told_ms = Some(now_mono_ms);
        Some(std::mem::take(&mut self.untold))
    }

    /// Whether it has no influence on anything to come.
    pub(super) fn is_over(&self, now_mono_ms: u64) -> bool {
        let long_ago = |ms: Option<u64>| ms.is_none_or(|ms| now_mono_ms >= ms + 2 * REPORT_INTERVAL_MS);
        self.untold == 0 && long_ago(self.second_began_ms) && long_ago(self.told_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_abusive_seconds_in_a_row_and_not_one_refusal_less() {
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
    fn a_second_with_fewer_or_none_starts_over() {
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
    fn every_refusal_is_told_at_most_once_a_second() {
        let mut refusals = Refusals::default();
        refusals.add_untold();
        assert_eq!(refusals.take_report(10_000), Some(1));
        for _ in 0..7 {
            refusals.add_untold();
        }
        assert_eq!(refusals.take_report(10_999), None);
        assert_eq!(refusals.report_due_ms(), Some(11_000));
        assert!(!refusals.is_over(60_000));
        assert_eq!(refusals.take_report(11_000), Some(7));
        assert_eq!(refusals.report_due_ms(), None);
        assert!(!refusals.is_over(12_999));
        assert!(refusals.is_over(13_000));
    }
}
