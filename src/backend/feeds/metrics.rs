//! What a feed counts.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::health::FeedState;
use crate::metrics::{Counter, Gauge, Metric, metrics};
use tickgate_protocol::channel::{ChannelTemplate, Tenant, TenantNames};

metrics! {
    /// The counters of one feed. The runner and its polls write, by [`Counter::add`].
    pub(super) struct FeedCounters, read as
    /// One reading of a feed's counters.
    pub struct FeedCounts {
        channels: Gauge, "tickgate_feed_channels", "Channels of a feed that have subscribers.";
        in_flight: Gauge, "tickgate_feed_polls_in_flight", "Polls of a feed in progress.";
        polls: Counter, "tickgate_feed_polls_total", "Polls of a feed that ended.";
        failures: Counter, "tickgate_feed_failures_total", "Polls of a feed without a usable answer.";
        late: Counter, "tickgate_feed_late_total",
            "Polls of a feed that began late by more than a tenth of the interval.";
        events: Counter, "tickgate_feed_events_total", "Events that a feed published.";
        records: Counter, "tickgate_feed_records_total",
            "Records in a feed's events. Data other than an array counts as one.";
        refused: Counter, "tickgate_feed_refused_total",
            "Channels that a feed does not poll because their value is not allowed in a Redis key. Clients cannot subscribe to them; a push may name one.";
    }
}

/// The counters and the state of one feed.
#[derive(Debug, Default)]
pub(super) struct FeedMetrics {
    pub(super) tenant: Tenant,
    /// The name of the tenant.
    pub(super) tenant_name: Option<Box<str>>,
    pub(super) channel: Box<str>,
    pub(super) counters: FeedCounters,
    // The index in `FeedState::ALL`.
    state: AtomicU8,
}

impl FeedMetrics {
    pub(super) fn new(channel: &ChannelTemplate, tenants: &TenantNames) -> Self {
        Self {
            tenant: channel.tenant(),
            tenant_name: tenants.of(channel.tenant()).map(Into::into),
            channel: channel.to_string().into(),
            ..Self::default()
        }
    }

    pub(super) fn set_state(&self, state: FeedState) {
        self.state.store(state as u8, Relaxed);
    }

    pub(super) fn read(&self) -> FeedSample {
        FeedSample {
            tenant: self.tenant,
            tenant_name: self.tenant_name.clone(),
            channel: self.channel.clone(),
            state: FeedState::ALL[usize::from(self.state.load(Relaxed)) % FeedState::ALL.len()],
            counts: self.counters.read(),
        }
    }
}

/// One reading of a feed's counters and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedSample {
    /// The tenant that it is polled for.
    pub tenant: Tenant,
    /// The tenant's name; `None` for the default one.
    pub tenant_name: Option<Box<str>>,
    /// The channel, as configured.
    pub channel: Box<str>,
    /// The state of the source.
    pub state: FeedState,
    /// The counters.
    pub counts: FeedCounts,
}

impl FeedSample {
    /// The metric of the state. The labels `feed` and `channel` are added, as for [`FeedCounts::METRICS`].
    pub const METRICS: &'static [Metric<Self>] = &[Metric::gauge(
        "tickgate_feed_state",
        "State of a feed's source: 1 for its present state (unknown, good, partly, failing).",
        |feed, samples| samples.labelled(&[("state", &feed.state.as_str())], 1),
    )];
}
