//! Reports to operators: events on `system.log`.
//!
//! Invariant: reports are published in their order. They name no users, keys or addresses.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;

use super::lines::Lines;
use crate::broker::Broker;
use crate::event::{NewEvent, PublishOptions};
use crate::time::unix_ms;
use tickgate_protocol::channel::{Channel, Tenant};

const CHANNEL: &str = "system.log";

// Events that wait for the broker. Further reports appear in the log only.
const PENDING_MAX: usize = 256;

/// Queues events. One task publishes them in order.
#[derive(Clone)]
pub(super) struct Reports {
    queue: mpsc::Sender<NewEvent>,
    lines: Arc<Lines>,
}

impl Reports {
    /// Starts the publishing task. It ends when the reports have been dropped and the queue is empty.
    pub(super) fn start(broker: Arc<dyn Broker>) -> Self {
        let (queue, mut events) = mpsc::channel(PENDING_MAX);
        let lines = Arc::new(Lines::new());
        let lines_of_task = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let Some(Err(refusal)) = broker.publish(vec![event]).await.first() {
                    log_lost(&lines_of_task, &refusal.to_string());
                }
            }
        });
        Self { queue, lines }
    }

    /// Publishes an event on the `system.log` of a tenant. `level` is its name.
    pub(super) fn publish(&self, tenant: Tenant, level: &'static str, data: &Value) {
        let Ok(channel) = Channel::parse(CHANNEL) else {
            return;
        };
        let event = NewEvent {
            channel: channel.in_tenant(tenant),
            name: level.into(),
            data: data.to_string().into(),
            timestamp_ms: unix_ms(),
            options: PublishOptions::default(),
        };
        if self.queue.try_send(event).is_err() {
            log_lost(&self.lines, "too many wait for the broker");
        }
    }
}

fn log_lost(lines: &Lines, reason: &str) {
    if let Some(left_out) = lines.take() {
        tracing::warn!(
            reason,
            left_out,
            "a change of state could not be published on system.log"
        );
    }
}
