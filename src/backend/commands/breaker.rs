//! The circuit breaker of one backend. Pure: time is an argument.
//!
//! Invariant: an open breaker allows no attempt, and a half-open one allows a single probe at a time. The result of an
//! attempt that began before the last change of state is ignored.

use crate::time::Now;

/// This many failures in a row open the breaker.
pub const FAILURES_IN_ROW: u32 = 5;
/// The breaker also opens when half of this many last attempts failed.
pub const WINDOW: u32 = 32;
/// How long the breaker stays open at first, in milliseconds. Each failed probe doubles the time.
pub const OPEN_MS: u64 = 2_000;
/// The longest time the breaker stays open, in milliseconds.
pub const OPEN_MS_MAX: u64 = 30_000;

/// The state of a circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CircuitState {
    /// Attempts are allowed.
    Closed,
    /// Attempts are refused.
    Open,
    /// One probe is allowed, and its result decides.
    HalfOpen,
}

impl CircuitState {
    /// `closed`, `open` or `half_open`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Permission to make one attempt. It is handed back with the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptPermit {
    epoch: u64,
}

/// A circuit breaker. It starts closed.
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    state: CircuitState,
    // Grows with every change of state, so that late results are recognised.
    epoch: u64,
    failures_in_row: u32,
    // One bit for each attempt, the newest lowest; set for a failure.
    window: u32,
    // Attempts in the window, at most `WINDOW`.
    attempts: u32,
    open_ms: u64,
    half_opens_at_ms: u64,
    opened_total: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: CircuitState::Closed,
            epoch: 0,
            failures_in_row: 0,
            window: 0,
            attempts: 0,
            open_ms: OPEN_MS,
            half_opens_at_ms: 0,
            opened_total: 0,
        }
    }
}

impl Breaker {
    /// Asks for permission to make an attempt.
    ///
    /// # Errors
    ///
    /// The number of milliseconds after which another request may succeed.
    pub fn enter(&mut self, now: Now) -> Result<AttemptPermit, u64> {
        match self.state {
            CircuitState::Closed => {}
            CircuitState::Open if now.mono_ms < self.half_opens_at_ms => {
                return Err(self.half_opens_at_ms - now.mono_ms);
            }
            CircuitState::Open => self.change(CircuitState::HalfOpen),
            CircuitState::HalfOpen => return Err(OPEN_MS),
        }
        Ok(AttemptPermit { epoch: self.epoch })
    }

    /// Reports the result of an attempt. An attempt that is given up must be reported too.
    pub fn leave(&mut self, permit: AttemptPermit, healthy: bool, now: Now) {
        if permit.epoch != self.epoch {
            return;
        }
        match (self.state, healthy) {
            (CircuitState::Closed, healthy) => self.count(healthy, now),
            (CircuitState::HalfOpen, true) => {
                self.open_ms = OPEN_MS;
                self.change(CircuitState::Closed);
            }
            (CircuitState::HalfOpen, false) => {
                self.open_ms = (self.open_ms * 2).min(OPEN_MS_MAX);
                self.open(now);
            }
            (CircuitState::Open, _) => {}
        }
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> CircuitState {
        self.state
    }

    /// How often the breaker has opened.
    #[must_use]
    pub fn opened_total(&self) -> u64 {
        self.opened_total
    }

    fn count(&mut self, healthy: bool, now: Now) {
        self.failures_in_row = if healthy { 0 } else { self.failures_in_row + 1 };
        self.window = self.window << 1 | u32::from(!healthy);
        self.attempts = (self.attempts + 1).min(WINDOW);
        let half_failed = self.attempts == WINDOW && self.window.count_ones() * 2 >= WINDOW;
        if self.failures_in_row >= FAILURES_IN_ROW || half_failed {
            self.open(now);
        }
    }

    fn open(&mut self, now: Now) {
        self.opened_total += 1;
        self.half_opens_at_ms = now.mono_ms + self.open_ms;
        self.change(CircuitState::Open);
    }

    fn change(&mut self, state: CircuitState) {
        self.state = state;
        self.epoch += 1;
        self.failures_in_row = 0;
        self.window = 0;
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 0 }
    }

    fn attempt(breaker: &mut Breaker, healthy: bool, ms: u64) {
        let permit = breaker.enter(at(ms)).expect("closed");
        breaker.leave(permit, healthy, at(ms));
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_closes_it() {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_IN_ROW {
            attempt(&mut breaker, false, 100);
        }
        assert_eq!(breaker.state(), CircuitState::Open);
        assert_eq!(breaker.enter(at(101)), Err(OPEN_MS - 1));

        let probe = breaker.enter(at(100 + OPEN_MS)).expect("a probe");
        assert_eq!(breaker.state(), CircuitState::HalfOpen);
        assert!(breaker.enter(at(100 + OPEN_MS)).is_err(), "one probe at a time");
        breaker.leave(probe, true, at(200 + OPEN_MS));
        assert_eq!(breaker.state(), CircuitState::Closed);
        assert_eq!(breaker.opened_total(), 1);
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed_until_half_of_the_window_failed() {
        let mut breaker = Breaker::default();
        for attempts in 1..=WINDOW {
            assert_eq!(breaker.state(), CircuitState::Closed, "after {attempts}");
            attempt(&mut breaker, attempts % 2 == 0, 0);
        }
        assert_eq!(breaker.state(), CircuitState::Open);
    }

    #[test]
    fn a_failed_probe_doubles_the_time_up_to_the_maximum() {
        let mut breaker = Breaker::default();
        let mut now = 0;
        for _ in 0..FAILURES_IN_ROW {
            attempt(&mut breaker, false, now);
        }
        let mut open_ms = OPEN_MS;
        for _ in 0..6 {
            assert_eq!(breaker.enter(at(now)), Err(open_ms));
            now += open_ms;
            let probe = breaker.enter(at(now)).expect("a probe");
            breaker.leave(probe, false, at(now));
            open_ms = (open_ms * 2).min(OPEN_MS_MAX);
        }
        assert_eq!(open_ms, OPEN_MS_MAX);
    }

    #[test]
    fn late_results_of_an_earlier_state_are_ignored() {
        let mut breaker = Breaker::default();
        let late: Vec<AttemptPermit> = (0..10).map(|_| breaker.enter(at(0)).expect("closed")).collect();
        for permit in &late[..5] {
            breaker.leave(*permit, false, at(0));
        }
        let probe = breaker.enter(at(OPEN_MS)).expect("a probe");
        breaker.leave(late[5], true, at(OPEN_MS));
        assert_eq!(
            breaker.state(),
            CircuitState::HalfOpen,
            "a late success is not the probe"
        );
        breaker.leave(probe, true, at(OPEN_MS));
        for permit in &late[6..] {
            breaker.leave(*permit, false, at(OPEN_MS));
        }
        attempt(&mut breaker, false, OPEN_MS);
        assert_eq!(breaker.state(), CircuitState::Closed, "late failures are not counted");
    }
}
