//! What the router counts, and how the admin API and `/metrics` read it.

use super::audit::AuditSample;
use super::breaker::CircuitState;
use crate::metrics::{Counter, Gauge, Metric, TracedHistogram, TracedSample};
use crate::session::CommandOutcome;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::message::ErrorCode;

/// Counters over all routes. Any thread writes.
#[derive(Debug, Default)]
pub(super) struct CommandMetrics {
    pub(super) received: Counter,
    pub(super) in_flight: Gauge,
    pub(super) bytes: Gauge,
    pub(super) retries: Counter,
    pub(super) repeats: Counter,
    /// From the arrival of a command to its answer.
    pub(super) duration: TracedHistogram,
    succeeded: Counter,
    failed: Counter,
    unknown_action: Counter,
    unavailable: Counter,
    timed_out: Counter,
    limited: Counter,
    overloaded: Counter,
    key_reused: Counter,
    unknown: Counter,
    internal: Counter,
}

impl CommandMetrics {
    /// Counts an answer by its outcome.
    pub(super) fn answered(&self, outcome: &CommandOutcome) {
        let counter = match outcome {
            CommandOutcome::Success { .. } => &self.succeeded,
            CommandOutcome::Failure { .. } => &self.failed,
            CommandOutcome::Refused { code, .. } => match code {
                ErrorCode::UnknownAction => &self.unknown_action,
                ErrorCode::BackendUnavailable => &self.unavailable,
                ErrorCode::Timeout => &self.timed_out,
                ErrorCode::RateLimited => &self.limited,
                ErrorCode::Overloaded => &self.overloaded,
                ErrorCode::KeyReused => &self.key_reused,
                ErrorCode::Unknown => &self.unknown,
                _ => &self.internal,
            },
        };
        counter.add(1);
    }

    pub(super) fn read(
        &self,
        audit: AuditSample,
        (keys, key_bytes): (usize, usize),
        backends: Vec<BackendSample>,
    ) -> CommandsSample {
        CommandsSample {
            received: self.received.get(),
            in_flight: self.in_flight.get(),
            bytes: self.bytes.get(),
            retries: self.retries.get(),
            repeats: self.repeats.get(),
            keys: keys as u64,
            key_bytes: key_bytes as u64,
            duration: self.duration.read(),
            outcomes: [
                ("success", self.succeeded.get()),
                ("failure", self.failed.get()),
                ("unknown_action", self.unknown_action.get()),
                ("backend_unavailable", self.unavailable.get()),
                ("timeout", self.timed_out.get()),
                ("rate_limited", self.limited.get()),
                ("overloaded", self.overloaded.get()),
                ("key_reused", self.key_reused.get()),
                ("unknown", self.unknown.get()),
                ("internal", self.internal.get()),
            ],
            audit,
            backends,
        }
    }
}

/// One reading of the router's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandsSample {
    /// Commands ever received.
    pub received: u64,
    /// Commands that are not answered yet.
    pub in_flight: i64,
    /// Bytes of the parameters of these.
    pub bytes: i64,
    /// Attempts beyond the first, of idempotent routes.
    pub retries: u64,
    /// Commands that were not carried out, because their key stood for one that was.
    pub repeats: u64,
    /// Live keys.
    pub keys: u64,
    /// Bytes of their outcomes.
    pub key_bytes: u64,
    /// How long commands took, from their arrival to their answer.
    pub duration: TracedSample,
    /// Answers by outcome: the label of the metric, and the number. `received` is their sum plus `in_flight`.
    pub outcomes: [(&'static str, u64); 10],
    /// The audit trail.
    pub audit: AuditSample,
    /// Every backend, in the order of the routes.
    pub backends: Vec<BackendSample>,
}

impl CommandsSample {
    /// The metrics of the router.
    pub const METRICS: &'static [Metric<Self>] = &[
        Metric::counter(
            "tickgate_commands_total",
            "Commands received from clients.",
            |commands, samples| samples.value(commands.received),
        ),
        Metric::counter(
            "tickgate_commands_answered_total",
            "Commands answered, by outcome.",
            |commands, samples| {
                for (outcome, count) in &commands.outcomes {
                    samples.labelled(&[("outcome", outcome)], count);
                }
            },
        ),
        Metric::gauge(
            "tickgate_commands_in_flight",
            "Commands not answered yet.",
            |commands, samples| samples.value(commands.in_flight),
        ),
        Metric::gauge(
            "tickgate_commands_in_flight_bytes",
            "Parameters of commands not answered yet, in bytes.",
            |commands, samples| samples.value(commands.bytes),
        ),
        Metric::counter(
            "tickgate_command_retries_total",
            "Repeated attempts on idempotent routes.",
            |commands, samples| samples.value(commands.retries),
        ),
        Metric::histogram(
            "tickgate_command_seconds",
            "How long commands took, from their arrival to their answer.",
            |commands, samples| samples.traced(&commands.duration),
        ),
        Metric::counter(
            "tickgate_command_repeats_total",
            "Commands answered with the outcome of an earlier one with their key.",
            |commands, samples| samples.value(commands.repeats),
        ),
        Metric::gauge(
            "tickgate_command_keys",
            "Live keys of commands.",
            |commands, samples| {
                samples.value(commands.keys);
            },
        ),
        Metric::gauge(
            "tickgate_command_key_bytes",
            "Outcomes of commands with a key, in bytes.",
            |commands, samples| samples.value(commands.key_bytes),
        ),
        Metric::counter(
            "tickgate_audit_events_lost_total",
            "Audited commands whose event could not be published.",
            |commands, samples| samples.value(commands.audit.events_lost),
        ),
        Metric::counter(
            "tickgate_audit_lines_lost_total",
            "Refused commands without an audit line, with log.audit = lossless: too many waited for room.",
            |commands, samples| samples.value(commands.audit.lines_lost),
        ),
        Metric::gauge(
            "tickgate_audit_waiting",
            "Commands and audit lines that wait for room in the audit trail, with log.audit = lossless.",
            |commands, samples| samples.value(commands.audit.waiting),
        ),
    ];
}

/// One reading of a backend's counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSample {
    /// The tenant whose commands it answers.
    pub tenant: Tenant,
    /// The URL, or the name of a backend in this process.
    pub name: Box<str>,
    /// The state of its circuit breaker.
    pub circuit: CircuitState,
    /// How often its circuit breaker has opened.
    pub opened_total: u64,
    /// Attempts under way.
    pub in_flight: i64,
    /// Attempts ever made.
    pub attempts: u64,
    /// Attempts without a usable reply. An attempt that is out of time is one of them.
    pub failures: u64,
    /// Commands refused without an attempt, because the breaker was open.
    pub refused: u64,
    /// How long attempts took.
    pub duration: TracedSample,
}

impl BackendSample {
    /// The metrics of a backend. The label `backend` is added.
    pub const METRICS: &'static [Metric<Self>] = &[
        Metric::gauge(
            "tickgate_backend_circuit",
            "Circuit breaker of a command backend: 1 for its present state.",
            |backend, samples| samples.labelled(&[("state", &backend.circuit.as_str())], 1),
        ),
        Metric::counter(
            "tickgate_backend_circuit_opened_total",
            "Times that a backend's circuit breaker opened.",
            |backend, samples| samples.value(backend.opened_total),
        ),
        Metric::counter(
            "tickgate_backend_attempts_total",
            "Attempts to send a command to a backend.",
            |backend, samples| samples.value(backend.attempts),
        ),
        Metric::counter(
            "tickgate_backend_failures_total",
            "Attempts without a usable reply.",
            |backend, samples| samples.value(backend.failures),
        ),
        Metric::histogram(
            "tickgate_backend_seconds",
            "How long attempts took, with or without a usable reply.",
            |backend, samples| samples.traced(&backend.duration),
        ),
    ];
}
