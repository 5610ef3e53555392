//! Reports to operators: events on `system.log`.
//!
//! Invariant: reports are published in their order. They name no users, keys or addresses.

use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;

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
}

impl Reports {
    /// Starts the publishing task. It ends when the reports have been dropped and the queue is empty.
    pub(super) fn start(broker: Arc<dyn Broker>) -> Self {
        let (queue, mut events) = mpsc::channel(PENDING_MAX);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let Some(Err(refusal)) = broker.publish(vec![event]).await.first() {
                    tracing::warn!(%refusal, "a change of state could not be published on system.log");
                }
            }
        });
        Self { queue }
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
            tracing::warn!("a change of state could not be published on system.log");
        }
    }
}
