//! The circuit breaker of one backend. Pure: time is an argument.
//!
//! Invariant: while it is open nothing passes; while it is half open one probe is under way at most; results of
//! attempts that began before the last change of state change nothing.

use crate::time::Now;

/// So many failures in a row open it.
pub const FAILURES_IN_ROW: u32 = 5;
/// So does half of the last so many attempts.
pub const WINDOW: u32 = 32;
/// How long it stays open at first, in milliseconds; each failed probe doubles it.
pub const OPEN_MS: u64 = 2_000;
/// The longest it stays open, in milliseconds.
pub const OPEN_MS_MAX: u64 = 30_000;

/// As statistics show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Everything passes.
    Closed,
    /// Nothing passes.
    Open,
    /// One probe passes and decides.
    HalfOpen,
}

impl State {
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

/// Leave to make one attempt; handed back with the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    epoch: u64,
}

/// The breaker. Starts closed.
#[derive(Clone, Copy, Debug)]
pub struct Breaker {
    state: State,
    // Grows with every change of state, so that late results can be told apart.
    epoch: u64,
    failures_in_row: u32,
    // One bit per attempt, the newest lowest; set for a failure.
    window: u32,
    attempts: u32,
    open_ms: u64,
    reopens_at_ms: u64,
    opened_total: u64,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            epoch: 0,
            failures_in_row: 0,
            window: 0,
            attempts: 0,
            open_ms: OPEN_MS,
            reopens_at_ms: 0,
            opened_total: 0,
        }
    }
}

impl Breaker {
    /// Asks to make an attempt; refused with the milliseconds after which asking again makes sense.
    pub fn enter(&mut self, now: Now) -> Result<Pass, u64> {
        match self.state {
            State::Closed => {}
            State::Open if now.mono_ms < self.reopens_at_ms => return Err(self.reopens_at_ms - now.mono_ms),
            State::Open => self.change(State::HalfOpen),
            State::HalfOpen => return Err(OPEN_MS),
        }
        Ok(Pass { epoch: self.epoch })
    }

    /// Reports how the attempt went. An attempt that is given up must be reported, too.
    pub fn leave(&mut self, pass: Pass, healthy: bool, now: Now) {
        if pass.epoch != self.epoch {
            return;
        }
        match (self.state, healthy) {
            (State::Closed, healthy) => self.count(healthy, now),
            (State::HalfOpen, true) => {
                self.open_ms = OPEN_MS;
                self.change(State::Closed);
            }
            (State::HalfOpen, false) => {
                self.open_ms = (self.open_ms * 2).min(OPEN_MS_MAX);
                self.open(now);
            }
            (State::Open, _) => {}
        }
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// How often it has opened.
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
        self.reopens_at_ms = now.mono_ms + self.open_ms;
        self.change(State::Open);
    }

    fn change(&mut self, state: State) {
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
        let pass = breaker.enter(at(ms)).expect("closed");
        breaker.leave(pass, healthy, at(ms));
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_closes_it() {
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_IN_ROW {
            attempt(&mut breaker, false, 100);
        }
        assert_eq!(breaker.state(), State::Open);
        assert_eq!(breaker.enter(at(101)), Err(OPEN_MS - 1));

        let probe = breaker.enter(at(100 + OPEN_MS)).expect("a probe");
        assert_eq!(breaker.state(), State::HalfOpen);
        assert!(breaker.enter(at(100 + OPEN_MS)).is_err(), "one probe at a time");
        breaker.leave(probe, true, at(200 + OPEN_MS));
        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(breaker.opened_total(), 1);
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed_until_half_of_the_window_failed() {
        let mut breaker = Breaker::default();
        for attempts in 1..=WINDOW {
            assert_eq!(breaker.state(), State::Closed, "after {attempts}");
            attempt(&mut breaker, attempts % 2 == 0, 0);
        }
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn a_failed_probe_doubles_the_time_up_to_the_longest() {
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
    fn late_results_of_an_earlier_state_count_for_nothing() {
        let mut breaker = Breaker::default();
        let late: Vec<Pass> = (0..10).map(|_| breaker.enter(at(0)).expect("closed")).collect();
        for pass in &late[..5] {
            breaker.leave(*pass, false, at(0));
        }
        let probe = breaker.enter(at(OPEN_MS)).expect("a probe");
        breaker.leave(late[5], true, at(OPEN_MS));
        assert_eq!(breaker.state(), State::HalfOpen, "a late success is no probe");
        breaker.leave(probe, true, at(OPEN_MS));
        for pass in &late[6..] {
            breaker.leave(*pass, false, at(OPEN_MS));
        }
        attempt(&mut breaker, false, OPEN_MS);
        assert_eq!(breaker.state(), State::Closed, "late failures are not counted");
    }
}
