//! The audit trail of routes with `audit = true`: user, time, address and outcome of every command.
//!
//! Invariant: the log line (tracing target [`TARGET`]) is written before the client has its answer, even if the event on
//! `system.log` cannot be published. Such an event is counted and logged.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::Request;
use crate::broker::Broker;
use crate::event::{NewEvent, PublishOptions};
use crate::metrics::Counter;
use crate::session::CommandOutcome;
use crate::time::unix_ms;
use tickgate_protocol::channel::Channel;

/// The tracing target of the log lines.
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
    lost: Counter,
}

impl Audit {
    /// Starts the publishing task. It ends when the router has been dropped and the queue is empty.
    pub(super) fn start(broker: Arc<dyn Broker>, runtime: &tokio::runtime::Handle) -> Self {
        let (queue, mut events) = mpsc::channel(PENDING_MAX);
        runtime.spawn(async move {
            while let Some(event) = events.recv().await {
                broker.publish(vec![event]).await;
            }
        });
        Self {
            queue,
            lost: Counter::default(),
        }
    }

    /// The number of events that could not be published.
    pub(super) fn events_lost(&self) -> u64 {
        self.lost.get()
    }

    /// Records the outcome of a command.
    pub(super) fn record(
        &self,
        request: &Request,
        address: Option<IpAddr>,
        outcome: &CommandOutcome,
        duration_ms: u64,
    ) {
        let code = code(outcome);
        let (level, label) = match outcome {
            CommandOutcome::Success { .. } => ("info", "success"),
            CommandOutcome::Failure { .. } => ("warn", "failure"),
            CommandOutcome::Refused { .. } => ("warn", "refused"),
        };
        let params = &request.params[..request.params.len().min(PARAMS_BYTES_MAX)];
        tracing::info!(
            target: TARGET,
            action = request.action.as_str(),
            user = request.user.as_deref(),
            role = request.role.as_deref(),
            client_id = &*request.client_id,
            address = address.map(tracing::field::display),
            params = %String::from_utf8_lossy(params),
            outcome = label,
            code = code.as_deref(),
            received_at = request.timestamp_ms,
            duration_ms,
            "command",
        );
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
            channel: Channel::parse(CHANNEL).expect("a valid name"),
            name: level.into(),
            data: Bytes::from(serde_json::to_vec(&entry).expect("strings and numbers")),
            timestamp_ms: unix_ms(),
            options: PublishOptions::default(),
        };
        if self.queue.try_send(event).is_err() {
            self.lost.add(1);
            tracing::warn!(target: TARGET, action = request.action.as_str(), "an audit event could not be published");
        }
    }
}

fn code(outcome: &CommandOutcome) -> Option<String> {
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
