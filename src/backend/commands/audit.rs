//! The audit trail of routes with `audit = true`: user, time, address and outcome of every command.
//!
//! Invariant: the log line (tracing target [`TARGET`]) is written before the client has its answer, even if the event on
//! `system.log` cannot be published. Such an event is counted, and logged within a bound.
//!
//! With an [`AuditRoom`] the trail is complete: a command is carried out only after there is room for its line. The line of
//! a command that was refused may be written later.

mod trail;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::trail::Trail;
use super::Request;
use crate::backend::lines::Lines;
use crate::broker::Broker;
use crate::event::{NewEvent, PublishOptions};
use crate::metrics::Counter;
use crate::session::CommandOutcome;
use crate::time::unix_ms;
use tickgate_protocol::channel::Channel;

pub use self::trail::AuditRoom;
pub(super) use self::trail::{NoRoom, Reservation};

/// The tracing target of the log lines. With an [`AuditRoom`], nothing else is logged under it.
pub const TARGET: &str = "audit";
/// The channel of the events.
pub const CHANNEL: &str = "system.log";
// Events that wait for the broker. Further ones are counted as lost.
const PENDING_MAX: usize = 1024;
// The bytes of `params` that the log line shows.
const PARAMS_BYTES_MAX: usize = 1024;

/// The `data` of an event.
#[derive(Serialize)]
struct Entry<'a> {
    level: &'a str,
    source: &'a str,
    message: String,
    action: &'a str,
    user: Option<&'a str>,
    role: Option<&'a str>,
    client_id: &'a str,
    address: Option<IpAddr>,
    outcome: &'a str,
    code: Option<&'a str>,
    received_at: u64,
    duration_ms: u64,
}

#[derive(serde::Deserialize)]
struct ErrorObject {
    code: String,
}

/// Writes log lines and queues events. One task publishes the events in order.
pub(super) struct Audit {
    queue: mpsc::Sender<NewEvent>,
    events_lost: Arc<Losses>,
    trail: Option<Trail>,
    lines_lost: Losses,
    runtime: tokio::runtime::Handle,
}

/// What was lost, counted and logged.
struct Losses {
    count: Counter,
    // The broker fails, or the log is not read, for all commands of that time.
    lines: Lines,
}

impl Losses {
    fn new() -> Self {
        Self {
            count: Counter::default(),
            lines: Lines::new(),
        }
    }

    /// Counts one. If it is to be logged, the value is how many were not since the last one.
    fn add(&self) -> Option<u64> {
        self.count.add(1);
        self.lines.take()
    }
}

fn event_lost(losses: &Losses, reason: &str) {
    if let Some(left_out) = losses.add() {
        tracing::warn!(reason, left_out, "an audit event could not be published");
    }
}

/// What the trail has lost, and what waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditSample {
    /// Audited commands whose event could not be published. Their log line was written.
    pub events_lost: u64,
    /// Refused commands without a log line: too many waited for room.
    pub lines_lost: u64,
    /// Commands, and lines of refused commands, that wait for room.
    pub waiting: u64,
}

impl Audit {
    /// Starts the publishing task. It ends when the router has been dropped and the queue is empty. With `room`, the trail is
    /// complete.
    pub(super) fn start(broker: Arc<dyn Broker>, runtime: &tokio::runtime::Handle, room: Option<AuditRoom>) -> Self {
        let (queue, mut events) = mpsc::channel(PENDING_MAX);
        let events_lost = Arc::new(Losses::new());
        let losses = Arc::clone(&events_lost);
        runtime.spawn(async move {
            while let Some(event) = events.recv().await {
                if let Some(Err(refusal)) = broker.publish(vec![event]).await.first() {
                    event_lost(&losses, &refusal.to_string());
                }
            }
        });
        Self {
            queue,
            events_lost,
            trail: room.map(Trail::new),
            lines_lost: Losses::new(),
            runtime: runtime.clone(),
        }
    }

    pub(super) fn read(&self) -> AuditSample {
        AuditSample {
            events_lost: self.events_lost.count.get(),
            lines_lost: self.lines_lost.count.get(),
            waiting: self.trail.as_ref().map_or(0, |trail| trail.waiting() as u64),
        }
    }

    /// Room for the line of a command that is going to be carried out. Waits for it until `deadline`. `None`: no room is
    /// needed.
    pub(super) async fn reserve(&self, deadline: Instant) -> Result<Option<Reservation>, NoRoom> {
        match &self.trail {
            None => Ok(None),
            Some(trail) => trail.reserve(deadline).await.map(Some),
        }
    }

    /// Records the outcome of a command. A command that was carried out has a reservation, if the trail needs one.
    pub(super) fn record(
        &self,
        request: &Request,
        address: Option<IpAddr>,
        outcome: &CommandOutcome,
        duration_ms: u64,
        reservation: Option<Reservation>,
    ) {
        let code = code(outcome);
        let (level, label) = match outcome {
            CommandOutcome::Success { .. } => ("info", "success"),
            CommandOutcome::Failure { .. } => ("warn", "failure"),
            CommandOutcome::Refused { .. } => ("warn", "refused"),
        };
        self.write(request, address, label, code.as_deref(), duration_ms, reservation);
        let entry = Entry {
            level,
            source: "audit",
            message: message(request, address, label, code.as_deref()),
            action: request.action.as_str(),
            user: request.user.as_deref(),
            role: request.role.as_deref(),
            client_id: &request.client_id,
            address,
            outcome: label,
            code: code.as_deref(),
            received_at: request.timestamp_ms,
            duration_ms,
        };
        let event = NewEvent {
            // The tenant's own channel: its administrators see it, and nobody else.
            channel: (Channel::parse(CHANNEL).expect("a valid name")).in_tenant(request.action.tenant()),
            name: level.into(),
            data: Bytes::from(serde_json::to_vec(&entry).expect("strings and numbers")),
            timestamp_ms: unix_ms(),
            options: PublishOptions::default(),
        };
        if self.queue.try_send(event).is_err() {
            event_lost(&self.events_lost, "too many wait for the broker");
        }
    }

    /// Writes the line, or lets it wait for room.
    fn write(
        &self,
        request: &Request,
        address: Option<IpAddr>,
        outcome: &'static str,
        code: Option<&str>,
        duration_ms: u64,
        reservation: Option<Reservation>,
    ) {
        let Some(trail) = &self.trail else {
            return write_line(request, address, outcome, code, duration_ms);
        };
        if let Some(reservation) = reservation.or_else(|| trail.try_reserve()) {
            reservation.use_up();
            return write_line(request, address, outcome, code, duration_ms);
        }
        let Some(room) = trail.wait() else {
            if let Some(left_out) = self.lines_lost.add() {
                tracing::warn!(
                    action = request.action.as_str(),
                    outcome,
                    left_out,
                    "a refused command left no audit line: the log is not read"
                );
            }
            return;
        };
        let params = Bytes::copy_from_slice(shown(&request.params));
        let request = Request {
            params,
            ..request.clone()
        };
        let code = code.map(str::to_owned);
        self.runtime.spawn(async move {
            let (reservation, _waits) = room.await;
            reservation.use_up();
            write_line(&request, address, outcome, code.as_deref(), duration_ms);
        });
    }
}

/// The part of `params` that the log line shows.
fn shown(params: &Bytes) -> &[u8] {
    &params[..params.len().min(PARAMS_BYTES_MAX)]
}

fn write_line(request: &Request, address: Option<IpAddr>, outcome: &str, code: Option<&str>, duration_ms: u64) {
    tracing::info!(
        target: TARGET,
        tenant = request.tenant.as_deref(),
        action = request.action.as_str(),
        user = request.user.as_deref(),
        role = request.role.as_deref(),
        client_id = &*request.client_id,
        address = address.map(tracing::field::display),
        params = %String::from_utf8_lossy(shown(&request.params)),
        outcome,
        code,
        received_at = request.timestamp_ms,
        duration_ms,
        "command",
    );
}

pub(super) fn code(outcome: &CommandOutcome) -> Option<String> {
    match outcome {
        CommandOutcome::Success { .. } => None,
        CommandOutcome::Failure { error } => serde_json::from_slice::<ErrorObject>(error)
            .ok()
            .map(|error| error.code),
        CommandOutcome::Refused { code, .. } => Some(code.as_str().to_owned()),
    }
}

fn message(request: &Request, address: Option<IpAddr>, outcome: &str, code: Option<&str>) -> String {
    let mut text = format!(
        "{} by {}",
        request.action,
        request.user.as_deref().unwrap_or("an anonymous client")
    );
    if let Some(address) = address {
        text.push_str(&format!(" from {address}"));
    }
    text.push_str(": ");
    text.push_str(outcome);
    if let Some(code) = code {
        text.push_str(&format!(" ({code})"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::session::limits::LineLimit;

    #[tokio::test(start_paused = true)]
    async fn losses_are_all_counted_and_few_of_them_logged() {
        let losses = Losses::new();
        let logged = (0..100).filter(|_| losses.add().is_some()).count();
        assert_eq!(logged, LineLimit::LINES_PER_SECOND as usize);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(losses.add(), Some(80));
        assert_eq!(losses.count.get(), 101);
    }
}
