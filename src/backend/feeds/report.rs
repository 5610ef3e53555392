//! Changes of a source's state, told to operators: a log line and an event on `system.log`.
//!
//! Invariant: one report for each change of state, in order; the event names feeds, never users, keys or addresses.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::mpsc;

use super::failure::Failure;
use super::health::{Health, State};
use crate::broker::Broker;
use crate::event::{NewEvent, PublishOptions};
use crate::time::unix_ms;
use tickgate_protocol::channel::Channel;

const CHANNEL: &str = "system.log";
// On their way to the broker. More are in the log only.
const PENDING_MAX: usize = 256;

/// Writes log lines and queues events; one task publishes them in order.
pub(super) struct Reports {
    queue: mpsc::Sender<NewEvent>,
}

impl Reports {
    /// Starts the publishing task, which ends when this is dropped and its queue is empty.
    pub(super) fn start(broker: Arc<dyn Broker>) -> Self {
        let (queue, mut events) = mpsc::channel(PENDING_MAX);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                broker.publish(vec![event]).await;
            }
        });
        Self { queue }
    }

    /// The state of `feed` changed from `last`; `channel` is the one whose poll changed it, `failure` how that failed.
    pub(super) fn changed(&self, feed: &str, last: State, health: &Health, channel: &str, failure: Option<&Failure>) {
        let state = health.state();
        let (failing, polled) = health.counts();
        let why = failure.map_or("", Failure::class);
        let (level, message) = match state {
            State::Failing => ("error", format!("feed {feed} fails{}", after_colon(why))),
            State::Partly => (
                "warn",
                format!(
                    "feed {feed} fails for {failing} of {polled} channels{}",
                    after_colon(why)
                ),
            ),
            State::Good if last != State::Unknown => ("info", format!("feed {feed} works again")),
            State::Good | State::Unknown => return,
        };
        match failure {
            Some(failure) => tracing::warn!(feed, channel, state = state.as_str(), %failure, "{message}"),
            None => tracing::info!(feed, state = state.as_str(), "{message}"),
        }
        let data = json!({
            "level": level, "source": "feed", "message": message,
            "feed": feed, "state": state.as_str(), "failing": failing, "channels": polled,
        });
        let Ok(channel) = Channel::parse(CHANNEL) else {
            return;
        };
        let event = NewEvent {
            channel,
            name: level.into(),
            data: data.to_string().into(),
            timestamp_ms: unix_ms(),
            options: PublishOptions::default(),
        };
        if self.queue.try_send(event).is_err() {
            tracing::warn!(
                feed,
                "this change could not be told on system.log: the broker does not take it"
            );
        }
    }
}

fn after_colon(why: &str) -> String {
    if why.is_empty() {
        String::new()
    } else {
        format!(": {why}")
    }
}
