//! What the router counts, and how the admin API and the metrics see it.

use super::breaker::State;
use crate::metrics::{Counter, Gauge};
use crate::session::CommandOutcome;
use tickgate_protocol::message::ErrorCode;

/// Counters over all routes. Any thread writes.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) received: Counter,
    pub(super) in_flight: Gauge,
    pub(super) retries: Counter,
    succeeded: Counter,
    failed: Counter,
    unknown_action: Counter,
    unavailable: Counter,
    timed_out: Counter,
    limited: Counter,
    internal: Counter,
}

impl Stats {
    pub(super) fn answered(&self, outcome: &CommandOutcome) {
        let counter = match outcome {
            CommandOutcome::Success { .. } => &self.succeeded,
            CommandOutcome::Failure { .. } => &self.failed,
            CommandOutcome::Refused { code, .. } => match code {
                ErrorCode::UnknownAction => &self.unknown_action,
                ErrorCode::BackendUnavailable => &self.unavailable,
                ErrorCode::Timeout => &self.timed_out,
                ErrorCode::RateLimited => &self.limited,
                _ => &self.internal,
            },
        };
        counter.add(1);
    }

    pub(super) fn snapshot(&self, audit_events_lost: u64, backends: Vec<BackendSnapshot>) -> Snapshot {
        Snapshot {
            received: self.received.get(),
            in_flight: self.in_flight.get(),
            retries: self.retries.get(),
            outcomes: [
                ("success", self.succeeded.get()),
                ("failure", self.failed.get()),
                ("unknown_action", self.unknown_action.get()),
                ("backend_unavailable", self.unavailable.get()),
                ("timeout", self.timed_out.get()),
                ("rate_limited", self.limited.get()),
                ("internal", self.internal.get()),
            ],
            audit_events_lost,
            backends,
        }
    }
}

/// One reading of the router's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Commands ever taken.
    pub received: u64,
    /// Commands taken and not yet answered.
    pub in_flight: i64,
    /// Attempts beyond the first, of idempotent routes.
    pub retries: u64,
    /// Answers by outcome: a label for metrics and how many. Their sum and `in_flight` make `received`.
    pub outcomes: [(&'static str, u64); 7],
    /// Audited commands whose event could not be published (their log line was written).
    pub audit_events_lost: u64,
    /// Every backend, in the order of the routes.
    pub backends: Vec<BackendSnapshot>,
}

/// One reading of a backend's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSnapshot {
    /// Its URL, or its name in this process.
    pub name: Box<str>,
    /// Of its circuit breaker.
    pub state: State,
    /// How often its circuit breaker has opened.
    pub opened_total: u64,
    /// Attempts under way.
    pub in_flight: i64,
    /// Attempts ever made.
    pub attempts: u64,
    /// Attempts without a usable reply (time running out is one).
    pub failures: u64,
    /// Commands refused without an attempt, because the breaker was open.
    pub refused: u64,
}
