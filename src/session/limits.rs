//! The limits of one connection, the token bucket that enforces its rates, and the limit of log lines.

/// The limits of one connection (`[limits]`), with one endpoint's overrides applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Data messages per second; the burst is the same number.
    pub messages_per_second: u32,
    /// Commands per second; the burst is the same number.
    pub commands_per_second: u32,
    /// Bytes that the client is sent in a second, unless its identity says otherwise; 0: no limit.
    pub bytes_per_second: u32,
    /// Distinct patterns that a client may hold.
    pub subscriptions: u32,
    /// The longest message that a client may send, in bytes, after reassembly and decompression.
    pub message_bytes: u32,
    /// The longest event that a client may publish, in bytes of `data`.
    pub event_bytes: u32,
    /// Events that may wait in the outbox.
    pub outbox_frames: u32,
    /// Bytes of events that may wait in the outbox.
    pub outbox_bytes: u32,
    /// Replies and control messages that may wait in the outbox.
    pub reply_frames: u32,
    /// Bytes of replies and control messages that may wait in the outbox.
    pub reply_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            messages_per_second: 100,
            commands_per_second: 10,
            bytes_per_second: 0,
            subscriptions: 50,
            message_bytes: 64 * 1024,
            event_bytes: 256 * 1024,
            outbox_frames: 1000,
            outbox_bytes: 1024 * 1024,
            reply_frames: 256,
            reply_bytes: 256 * 1024,
        }
    }
}

/// A token bucket of eight bytes. It counts thousandths of a token in integers, so it does not drift.
///
/// Invariant: in any span of `t` milliseconds it grants at most `burst + rate * t / 1000` tokens, rounded down.
#[derive(Clone, Copy, Debug)]
pub struct TokenBucket {
    milli_tokens: u32,
    refilled_ms: u32,
}

impl TokenBucket {
    /// A full bucket. `rate_per_second` tokens are also the burst. `now_mono_ms` is monotonic milliseconds.
    #[must_use]
    pub const fn full(rate_per_second: u32, now_mono_ms: u64) -> Self {
        Self {
            milli_tokens: rate_per_second.saturating_mul(1000),
            refilled_ms: low(now_mono_ms),
        }
    }

    /// Takes one token.
    ///
    /// # Errors
    ///
    /// The bucket is empty. The value is the number of milliseconds until the next token; `u32::MAX` when the rate is
    /// 0.
    pub const fn take(&mut self, rate_per_second: u32, now_mono_ms: u64) -> Result<(), u32> {
        self.refill(rate_per_second, now_mono_ms);
        if self.milli_tokens >= 1000 {
            self.milli_tokens -= 1000;
            return Ok(());
        }
        if rate_per_second == 0 {
            return Err(u32::MAX);
        }
        Err((1000 - self.milli_tokens).div_ceil(rate_per_second))
    }

    // The time of the last refill is kept in 32 bits. After a pause of more than 49 days the bucket may refill too
    // little once, which is harmless.
    const fn refill(&mut self, rate_per_second: u32, now_mono_ms: u64) {
        let elapsed_ms = low(now_mono_ms).wrapping_sub(self.refilled_ms);
        self.refilled_ms = low(now_mono_ms);
        let cap = rate_per_second.saturating_mul(1000);
        let grown = self
            .milli_tokens
            .saturating_add(rate_per_second.saturating_mul(elapsed_ms));
        self.milli_tokens = if grown < cap { grown } else { cap };
    }
}

/// Bounds how many lines of one kind are logged: at most [`LINES_PER_SECOND`](Self::LINES_PER_SECOND). A storm, such as a
/// network that fails, must not fill the log.
#[derive(Clone, Copy, Debug)]
pub struct LineLimit {
    bucket: TokenBucket,
    left_out: u64,
}

impl LineLimit {
    /// Most lines of one kind in a second.
    pub const LINES_PER_SECOND: u32 = 20;

    /// A limit that nothing has used yet. `now_mono_ms` is monotonic milliseconds.
    #[must_use]
    pub const fn new(now_mono_ms: u64) -> Self {
        Self {
            bucket: TokenBucket::full(Self::LINES_PER_SECOND, now_mono_ms),
            left_out: 0,
        }
    }

    /// Asks for a line. The value is how many were left out since the last one. `None`: this one is left out, too.
    pub const fn take(&mut self, now_mono_ms: u64) -> Option<u64> {
        if self.bucket.take(Self::LINES_PER_SECOND, now_mono_ms).is_ok() {
            let left_out = self.left_out;
            self.left_out = 0;
            return Some(left_out);
        }
        self.left_out += 1;
        None
    }

    /// Asks for a line about those that were left out. The value is their number. `None`: there are none, or it is too early.
    pub const fn take_left_out(&mut self, now_mono_ms: u64) -> Option<u64> {
        if self.left_out == 0 || self.bucket.take(Self::LINES_PER_SECOND, now_mono_ms).is_err() {
            return None;
        }
        let left_out = self.left_out;
        self.left_out = 0;
        Some(left_out)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the bucket's clock wraps by design")]
const fn low(ms: u64) -> u32 {
    ms as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_full_bucket_grants_its_burst_and_then_returns_the_wait() {
        let mut bucket = TokenBucket::full(10, 5_000);
        for _ in 0..10 {
            assert_eq!(bucket.take(10, 5_000), Ok(()));
        }
        assert_eq!(bucket.take(10, 5_000), Err(100));
        assert_eq!(bucket.take(10, 5_099), Err(1));
        assert_eq!(bucket.take(10, 5_100), Ok(()));
    }

    #[test]
    fn a_rate_of_zero_grants_nothing() {
        let mut bucket = TokenBucket::full(0, 0);
        assert_eq!(bucket.take(0, 60_000), Err(u32::MAX));
    }

    #[test]
    fn lines_above_the_limit_are_left_out_and_counted() {
        let mut lines = LineLimit::new(0);
        let granted = (0..100).filter(|_| lines.take(0) == Some(0)).count();
        assert_eq!(granted, LineLimit::LINES_PER_SECOND as usize);
        assert_eq!(lines.take_left_out(0), None, "it is too early");
        assert_eq!(lines.take(1_000), Some(80));
        assert_eq!(lines.take_left_out(1_000), None, "none was left out since then");
        while lines.take(1_000).is_some() {}
        assert_eq!(lines.take_left_out(2_000), Some(1));
    }

    proptest! {
        #[test]
        fn never_grants_more_than_burst_plus_rate(rate in 1u32..500, steps in prop::collection::vec(0u64..50, 1..400)) {
            let (start, mut now, mut granted) = (1_000u64, 1_000u64, 0u64);
            let mut bucket = TokenBucket::full(rate, start);
            for step in steps {
                now += step;
                granted += u64::from(bucket.take(rate, now).is_ok());
                prop_assert!(granted <= u64::from(rate) + u64::from(rate) * (now - start) / 1000);
            }
        }

        #[test]
        fn a_token_is_available_after_the_returned_wait(rate in 1u32..500, gap in 0u64..30) {
            let mut bucket = TokenBucket::full(rate, 0);
            let mut now = 0;
            loop {
                match bucket.take(rate, now) {
                    Ok(()) => now += gap.min(1),
                    Err(wait) => { prop_assert!(bucket.take(rate, now + u64::from(wait)).is_ok()); break; }
                }
                if now > 2_000 { break; }
            }
        }
    }
}
