//! One backend as all its routes see it: attempts, counts, circuit breaker.
//!
//! Invariant: every attempt that began is reported to the breaker once, also one that is dropped on the way.

use parking_lot::Mutex;
use tokio::time::Instant;

use super::breaker::{Breaker, Pass, State};
use super::stats::BackendSnapshot;
use super::{Failure, Handler, HandlerResult, Request};
use crate::metrics::{Counter, Gauge};
use crate::time::Now;

/// What routes to the same place share.
pub(super) struct Backend {
    name: Box<str>,
    breaker: Mutex<Breaker>,
    // The breaker's clock; tokio's, so that tests can pause it.
    started: Instant,
    in_flight: Gauge,
    attempts: Counter,
    failures: Counter,
    refused: Counter,
}

impl Backend {
    pub(super) fn new(name: Box<str>) -> Self {
        Self {
            name,
            breaker: Mutex::new(Breaker::default()),
            started: Instant::now(),
            in_flight: Gauge::default(),
            attempts: Counter::default(),
            failures: Counter::default(),
            refused: Counter::default(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// One attempt; or, while the breaker is open, none, and the milliseconds after which another makes sense.
    pub(super) async fn attempt(&self, handler: &dyn Handler, request: &Request) -> Result<HandlerResult, u64> {
        let entered = self.breaker.lock().enter(self.now());
        let pass = entered.inspect_err(|_| self.refused.add(1))?;
        let mut attempt = Attempt::new(self, pass);
        let result = handler.call(request).await;
        attempt.healthy = !result.as_ref().is_err_and(Failure::is_backend_fault);
        attempt.failed = result.is_err();
        Ok(result)
    }

    pub(super) fn snapshot(&self) -> BackendSnapshot {
        let (state, opened_total) = {
            let breaker = self.breaker.lock();
            (breaker.state(), breaker.opened_total())
        };
        BackendSnapshot {
            name: self.name.clone(),
            state,
            opened_total,
            in_flight: self.in_flight.get(),
            attempts: self.attempts.get(),
            failures: self.failures.get(),
            refused: self.refused.get(),
        }
    }

    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms, unix_ms: 0 }
    }
}

/// An attempt under way. One that is dropped (deadline, panic) has failed.
struct Attempt<'a> {
    backend: &'a Backend,
    pass: Pass,
    healthy: bool,
    failed: bool,
}

impl<'a> Attempt<'a> {
    fn new(backend: &'a Backend, pass: Pass) -> Self {
        backend.attempts.add(1);
        backend.in_flight.add(1);
        Self {
            backend,
            pass,
            healthy: false,
            failed: true,
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let backend = self.backend;
        backend.in_flight.add(-1);
        backend.failures.add(u64::from(self.failed));
        let (before, after) = {
            let mut breaker = backend.breaker.lock();
            let before = breaker.state();
            breaker.leave(self.pass, self.healthy, backend.now());
            (before, breaker.state())
        };
        match (before, after) {
            (State::Closed | State::HalfOpen, State::Open) => {
                tracing::warn!(backend = &*backend.name, "circuit breaker opened");
            }
            (State::HalfOpen, State::Closed) => tracing::info!(backend = &*backend.name, "circuit breaker closed"),
            _ => {}
        }
    }
}
