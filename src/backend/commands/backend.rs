//! One backend, shared by its routes: attempts, counters and the circuit breaker.
//!
//! Invariant: every attempt is reported to the breaker exactly once, even one that is dropped before it ends.

use parking_lot::Mutex;
use tokio::time::Instant;

use super::breaker::{AttemptPermit, Breaker, CircuitState};
use super::metrics::BackendSample;
use super::{Failure, Handler, HandlerResult, Request};
use crate::backend::lines::Lines;
use crate::metrics::{Counter, Gauge, TracedHistogram};
use crate::time::Now;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::trace_context::TraceParent;

/// The state that the routes of one backend share.
pub(super) struct Backend {
    tenant: Tenant,
    name: Box<str>,
    breaker: Mutex<Breaker>,
    // The origin of the breaker's time. It is tokio's, so that tests can pause it.
    started: Instant,
    in_flight: Gauge,
    attempts: Counter,
    failures: Counter,
    refused: Counter,
    duration: TracedHistogram,
    /// The lines of the log about failures.
    pub(super) failure_lines: Lines,
}

impl Backend {
    pub(super) fn new(tenant: Tenant, name: Box<str>) -> Self {
        Self {
            tenant,
            name,
            breaker: Mutex::new(Breaker::default()),
            started: Instant::now(),
            in_flight: Gauge::default(),
            attempts: Counter::default(),
            failures: Counter::default(),
            refused: Counter::default(),
            duration: TracedHistogram::default(),
            failure_lines: Lines::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes one attempt.
    ///
    /// # Errors
    ///
    /// While the breaker is open, the number of milliseconds after which another attempt makes sense.
    pub(super) async fn attempt(&self, handler: &dyn Handler, request: &Request) -> Result<HandlerResult, u64> {
        let entered = self.breaker.lock().enter(self.now());
        let permit = entered.inspect_err(|_| self.refused.add(1))?;
        let mut attempt = Attempt::new(self, permit, request.trace.and_then(TraceParent::sampled_trace));
        let result = handler.call(request).await;
        attempt.healthy = !result.as_ref().is_err_and(Failure::is_backend_fault);
        attempt.failed = result.is_err();
        Ok(result)
    }

    pub(super) fn read(&self) -> BackendSample {
        let (circuit, opened_total) = {
            let breaker = self.breaker.lock();
            (breaker.state(), breaker.opened_total())
        };
        BackendSample {
            tenant: self.tenant,
            name: self.name.clone(),
            circuit,
            opened_total,
            in_flight: self.in_flight.get(),
            attempts: self.attempts.get(),
            failures: self.failures.get(),
            refused: self.refused.get(),
            duration: self.duration.read(),
        }
    }

    fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { mono_ms, unix_ms: 0 }
    }
}

/// An attempt under way. If it is dropped before the handler returns (deadline, panic), it counts as failed.
struct Attempt<'a> {
    backend: &'a Backend,
    permit: AttemptPermit,
    trace_id: Option<u128>,
    started: Instant,
    healthy: bool,
    failed: bool,
}

impl<'a> Attempt<'a> {
    fn new(backend: &'a Backend, permit: AttemptPermit, trace_id: Option<u128>) -> Self {
        backend.attempts.add(1);
        backend.in_flight.add(1);
        Self {
            backend,
            permit,
            trace_id,
            started: Instant::now(),
            healthy: false,
            failed: true,
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let backend = self.backend;
        backend.in_flight.add(-1);
        backend.duration.add(self.started.elapsed(), self.trace_id);
        backend.failures.add(u64::from(self.failed));
        let (before, after) = {
            let mut breaker = backend.breaker.lock();
            let before = breaker.state();
            breaker.leave(self.permit, self.healthy, backend.now());
            (before, breaker.state())
        };
        match (before, after) {
            (CircuitState::Closed | CircuitState::HalfOpen, CircuitState::Open) => {
                tracing::warn!(backend = &*backend.name, "circuit breaker opened");
            }
            (CircuitState::HalfOpen, CircuitState::Closed) => {
                tracing::info!(backend = &*backend.name, "circuit breaker closed");
            }
            _ => {}
        }
    }
}
