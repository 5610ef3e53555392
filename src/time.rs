//! Time as an argument: only the threads and tasks that drive the gateway read a clock.
//!
//! A [`Now`] is one reading of both clocks. Deadlines are in monotonic milliseconds; clients see Unix milliseconds.
//! Milliseconds are precise enough, because the finest limit is 100 messages a second.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since `start`, for the log.
#[must_use]
pub fn elapsed_us(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// One reading of the monotonic and of the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds on the monotonic clock, since the start of the [`Clock`].
    pub mono_ms: u64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub unix_ms: u64,
}

impl Now {
    /// The reading of both clocks `ms` milliseconds later.
    #[must_use]
    pub const fn after_ms(self, ms: u64) -> Self {
        Self {
            mono_ms: self.mono_ms + ms,
            unix_ms: self.unix_ms + ms,
        }
    }
}

/// The real clocks. One is made when the process starts and copied to every thread, so that their monotonic readings can
/// be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Makes a clock whose monotonic reading starts near zero.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Reads both clocks.
    #[must_use]
    pub fn now(&self) -> Now {
        Now {
            mono_ms: u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX),
            unix_ms: unix_ms(),
        }
    }
}

/// Reads the monotonic clock, in microseconds since the first call, modulo 2^32: 71 minutes.
#[must_use]
pub fn monotonic_us() -> u32 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_micros() as u32
}

/// Measures how long something takes.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins to measure.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time since the start.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Reads the wall clock, in milliseconds since 1970-01-01T00:00:00Z; 0 if it is set to an earlier time.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
