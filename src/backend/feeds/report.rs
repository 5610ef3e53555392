//! Reports changes of a source's state to operators, by a log line and an event on `system.log`.
//!
//! Invariant: there is one report for each change of state, in order. Its event names feeds, but no users, keys or
//! addresses.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::mpsc;

use super::failure::PollFailure;
use super::health::{FeedState, Health};
use super::metrics::FeedMetrics;
use crate::broker::Broker;
use crate::event::{NewEvent, PublishOptions};
use crate::time::unix_ms;
use tickgate_protocol::channel::Channel;

const CHANNEL: &str = "system.log";
// Events that wait for the broker. Further reports appear in the log only.
const PENDING_MAX: usize = 256;

/// Writes log lines and queues events. One task publishes the events in order.
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

    /// Reports on the `system.log` of the feed's tenant that the state of the feed changed from `last`. The poll of `channel` changed it, by `failure` if it failed.
    pub(super) fn changed(
        &self,
        metrics: &FeedMetrics,
        last: FeedState,
        health: &Health,
        channel: &str,
        failure: Option<&PollFailure>,
    ) {
        let (feed, tenant) = (&*metrics.channel, metrics.tenant_name.as_deref());
        let state = health.state();
        let (failing, polled) = health.counts();
        let why = failure.map_or_else(String::new, |failure| format!(": {}", failure.class()));
        let (level, message) = match state {
            FeedState::Failing => ("error", format!("feed {feed} fails{why}")),
            FeedState::Partly => (
                "warn",
                format!("feed {feed} fails for {failing} of {polled} channels{why}"),
            ),
            FeedState::Good if last != FeedState::Unknown => ("info", format!("feed {feed} works again")),
            FeedState::Good | FeedState::Unknown => return,
        };
        match failure {
            Some(failure) => tracing::warn!(tenant, feed, channel, state = state.as_str(), %failure, "{message}"),
            None => tracing::info!(tenant, feed, state = state.as_str(), "{message}"),
        }
        let data = json!({
            "level": level, "source": "feed", "message": message,
            "feed": feed, "state": state.as_str(), "failing": failing, "channels": polled,
        });
        let Ok(channel) = Channel::parse(CHANNEL) else {
            return;
        };
        let event = NewEvent {
            channel: channel.in_tenant(metrics.tenant),
            name: level.into(),
            data: data.to_string().into(),
            timestamp_ms: unix_ms(),
            options: PublishOptions::default(),
        };
        if self.queue.try_send(event).is_err() {
            tracing::warn!(tenant, feed, "a change of state could not be published on system.log");
        }
    }
}
