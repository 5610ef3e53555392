//! What a source counts.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::SourceSettings;
use crate::metrics::{Counter, Gauge, Metric, metrics};
use tickgate_protocol::channel::{Tenant, TenantNames};

metrics! {
    /// The counters of one source. Its task writes, by [`Counter::add`].
    pub(super) struct SourceCounters, read as
    /// One reading of a source's counters.
    pub struct SourceCounts {
        behind: Gauge, "tickgate_source_behind", "Messages of a stream that wait for this gateway.";
        connects: Counter, "tickgate_source_connects_total", "Connections that were made to read a source.";
        messages: Counter, "tickgate_source_messages_total", "Messages that were read from a source.";
        events: Counter, "tickgate_source_events_total", "Events of a source that were published.";
        duplicates: Counter, "tickgate_source_duplicates_total",
            "Messages of a source that came again and were not published again.";
        bad: Counter, "tickgate_source_bad_total", "Messages of a source that are no events. They are skipped.";
        lost: Counter, "tickgate_source_lost_total",
            "Messages of a source that were lost: they left the stream before they were read, or came when the gateway had no room for them.";
    }
}

/// Whether a source is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SourceState {
    /// Another gateway reads it.
    #[default]
    Standby,
    /// There is no connection yet.
    Connecting,
    /// Messages are read.
    Reading,
    /// The source cannot be read, or its events cannot be published.
    Failing,
}

impl SourceState {
    /// Every state, each at the index of its number.
    pub const ALL: [Self; 4] = [Self::Standby, Self::Connecting, Self::Reading, Self::Failing];

    /// `standby`, `connecting`, `reading` or `failing`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standby => "standby",
            Self::Connecting => "connecting",
            Self::Reading => "reading",
            Self::Failing => "failing",
        }
    }
}

/// The counters and the state of one source.
#[derive(Debug, Default)]
pub(super) struct SourceMetrics {
    tenant: Tenant,
    pub(super) tenant_name: Option<Box<str>>,
    pub(super) channel: Box<str>,
    pub(super) origin: Box<str>,
    pub(super) counters: SourceCounters,
    pub(super) delay_ms: AtomicU64,
    // The index in `SourceState::ALL`.
    state: AtomicU8,
}

impl SourceMetrics {
    pub(super) fn new(settings: &SourceSettings, tenants: &TenantNames) -> Self {
        Self {
            tenant: settings.tenant,
            tenant_name: tenants.of(settings.tenant).map(Into::into),
            channel: settings.channel.to_string().into(),
            origin: settings.origin.to_string().into(),
            ..Self::default()
        }
    }

    /// Returns the state before.
    pub(super) fn set_state(&self, state: SourceState) -> SourceState {
        let before = self.state.swap(state as u8, Relaxed);
        SourceState::ALL[usize::from(before) % SourceState::ALL.len()]
    }

    /// Another gateway reads from now on, and knows how many messages wait.
    pub(super) fn stand_by(&self) {
        self.set_state(SourceState::Standby);
        self.counters.behind.set(0);
        self.delay_ms.store(0, Relaxed);
    }

    pub(super) fn read(&self) -> SourceSample {
        SourceSample {
            tenant: self.tenant,
            tenant_name: self.tenant_name.clone(),
            channel: self.channel.clone(),
            origin: self.origin.clone(),
            state: SourceState::ALL[usize::from(self.state.load(Relaxed)) % SourceState::ALL.len()],
            delay_ms: self.delay_ms.load(Relaxed),
            counts: self.counters.read(),
        }
    }
}

/// One reading of a source's counters and state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceSample {
    /// The tenant whose channels it fills.
    pub tenant: Tenant,
    /// The tenant's name; `None` for the default one.
    pub tenant_name: Option<Box<str>>,
    /// The channel, as configured.
    pub channel: Box<str>,
    /// What is read: `nats stream:TRADES`.
    pub origin: Box<str>,
    /// Whether it is read.
    pub state: SourceState,
    /// How old the newest message of a stream was when its event was published, in milliseconds.
    pub delay_ms: u64,
    /// The counters.
    pub counts: SourceCounts,
}

impl SourceSample {
    /// The metrics beside the counters. The labels `source` and `channel` are added.
    pub const METRICS: &'static [Metric<Self>] = &[
        Metric::gauge(
            "tickgate_source_state",
            "State of a source: 1 for its present state (standby, connecting, reading, failing).",
            |source, samples| samples.labelled(&[("state", &source.state.as_str())], 1),
        ),
        Metric::gauge(
            "tickgate_source_delay_seconds",
            "How old the newest message of a source was when its event was published.",
            |source, samples| samples.value(Duration::from_millis(source.delay_ms).as_secs_f64()),
        ),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_stands_by_does_not_lag() {
        let metrics = SourceMetrics::default();
        metrics.set_state(SourceState::Reading);
        metrics.counters.behind.set(9);
        metrics.delay_ms.store(60_000, Relaxed);
        metrics.stand_by();
        assert_eq!(metrics.read(), SourceSample::default());
    }
}
