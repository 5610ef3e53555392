//! The counters of the broker.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::event::Refusal;
use crate::hub::Receipt;
use crate::metrics::{Counter, Gauge, Histogram, HistogramSample, Metric, Readable as _, Samples};

/// The counters of the broker.
#[derive(Debug, Default)]
pub(super) struct BrokerMetrics {
    pub(super) connects: Counter,
    pub(super) servers_changed: Counter,
    pub(super) applied_log: Counter,
    pub(super) applied_plain: Counter,
    pub(super) skipped: Counter,
    pub(super) fenced: Counter,
    pub(super) resyncs: Counter,
    pub(super) terms_opened: Counter,
    pub(super) merged: Counter,
    pub(super) merged_too_large: Counter,
    pub(super) requests_taken: Counter,
    pub(super) requests_refused: Counter,
    pub(super) requests_sent: Counter,
    pub(super) pending_log: Gauge,
    pub(super) pending_plain: Gauge,
    pub(super) term_ms: AtomicU64,
    pub(super) delay_ms: AtomicU64,
    pub(super) plain_delay_ms: AtomicU64,
    published: Counter,
    unavailable: Counter,
    unknown: Counter,
    rejected: Counter,
    latency: Histogram,
}

/// The counters of the broker at one instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BrokerSample {
    /// Whether the gateway is connected and current.
    pub is_up: bool,
    /// Connections that were made to the broker.
    pub connects: u64,
    /// How often the link came up to another server than before.
    pub servers_changed: u64,
    /// Events of channels that keep state, and of all others, that were applied.
    pub applied: [u64; 2],
    /// Events that wait in the broker for this gateway, of channels that keep state and of all others.
    pub behind: [u64; 2],
    /// How long ago the broker stored the event of the log that was applied last, when it was applied, in milliseconds.
    pub delay_ms: u64,
    /// The same for channels without state.
    pub plain_delay_ms: u64,
    /// When the current term of the log began, in Unix milliseconds; 0: the gateway has never attached.
    pub term_ms: u64,
    /// Messages that were no events.
    pub skipped: u64,
    /// Events that came after the duties of their gateway had ended.
    pub fenced: u64,
    /// How often all connections were ended because events may have been missing.
    pub resyncs: u64,
    /// Terms that this gateway has opened.
    pub terms_opened: u64,
    /// Merged values that this gateway has handed over.
    pub merged: u64,
    /// Merged values that were too large for one message of the broker.
    pub merged_too_large: u64,
    /// Requests that this gateway took, those of them that it refused for want of room, and those that it sent.
    pub requests: [u64; 3],
    /// Outcomes of publishes through this gateway: published, not published for want of a connection, unknown, and
    /// rejected by the broker.
    pub outcomes: [u64; 4],
    /// The times that the published ones took.
    pub latency: HistogramSample,
}

impl BrokerSample {
    /// The metrics of the broker.
    pub const METRICS: &[Metric<Self>] = &[
        Metric::gauge(
            "tickgate_broker_up",
            "1 while the gateway is connected to the broker and current, otherwise 0; 0 with the embedded broker.",
            |broker, samples| samples.value(u8::from(broker.is_up)),
        ),
        Metric::counter(
            "tickgate_broker_connects_total",
            "Connections that were made to the broker.",
            |broker, samples| samples.value(broker.connects),
        ),
        Metric::counter(
            "tickgate_broker_server_changes_total",
            "How often the link came up to another server of Redis than before: after a failover, or when a Cluster has moved the slot.",
            |broker, samples| samples.value(broker.servers_changed),
        ),
        Metric::counter(
            "tickgate_broker_applied_total",
            "Events of the broker's streams that were applied to the hub, by lane.",
            |broker, samples| lanes(broker.applied, samples),
        ),
        Metric::gauge(
            "tickgate_broker_behind",
            "Events that wait in the broker's streams for this gateway, by lane; with Redis all are in `log`.",
            |broker, samples| lanes(broker.behind, samples),
        ),
        Metric::gauge(
            "tickgate_broker_delay_seconds",
            "How old the newest applied event was when it was applied, by lane.",
            |broker, samples| {
                for (lane, ms) in LANES.iter().zip([broker.delay_ms, broker.plain_delay_ms]) {
                    samples.labelled(&[("lane", lane)], Duration::from_millis(ms).as_secs_f64());
                }
            },
        ),
        Metric::counter(
            "tickgate_broker_skipped_total",
            "Messages in the broker's streams that were no events.",
            |broker, samples| samples.value(broker.skipped),
        ),
        Metric::counter(
            "tickgate_broker_fenced_total",
            "Events of feeds, sources and reports that were dropped because they came after another gateway had taken the duties.",
            |broker, samples| samples.value(broker.fenced),
        ),
        Metric::counter(
            "tickgate_broker_resyncs_total",
            "How often all connections were ended because events may have been missing.",
            |broker, samples| samples.value(broker.resyncs),
        ),
        Metric::gauge(
            "tickgate_broker_term_start_seconds",
            "When the current term of the log began, in Unix seconds; the same on all gateways.",
            |broker, samples| samples.seconds(broker.term_ms * 1000),
        ),
        Metric::counter(
            "tickgate_broker_terms_total",
            "Terms of the log that this gateway has opened.",
            |broker, samples| samples.value(broker.terms_opened),
        ),
        Metric::counter(
            "tickgate_broker_merged_values_total",
            "Merged values (records, order books) that this gateway has stored for gateways that start later.",
            |broker, samples| samples.value(broker.merged),
        ),
        Metric::counter(
            "tickgate_broker_merged_too_large_total",
            "Merged values that were too large for one message of the broker.",
            |broker, samples| samples.value(broker.merged_too_large),
        ),
        Metric::counter(
            "tickgate_broker_requests_total",
            "Requests over the broker: taken by this gateway, refused by it for want of room, and sent by it.",
            |broker, samples| {
                for (kind, count) in ["taken", "refused", "sent"].iter().zip(broker.requests) {
                    samples.labelled(&[("kind", kind)], count);
                }
            },
        ),
        Metric::counter(
            "tickgate_broker_publishes_total",
            "Events that were published through this gateway to the broker, by outcome.",
            |broker, samples| {
                let outcomes = ["published", "unavailable", "unknown", "rejected"];
                for (outcome, count) in outcomes.iter().zip(broker.outcomes) {
                    samples.labelled(&[("outcome", outcome)], count);
                }
            },
        ),
        Metric::histogram(
            "tickgate_broker_publish_seconds",
            "The time from publishing to the receipt, of published events.",
            |broker, samples| samples.histogram(&broker.latency),
        ),
    ];
}

const LANES: [&str; 2] = ["log", "plain"];

fn lanes(counts: [u64; 2], samples: &mut Samples<'_>) {
    for (lane, count) in LANES.iter().zip(counts) {
        samples.labelled(&[("lane", lane)], count);
    }
}

impl BrokerMetrics {
    pub(super) fn count_outcome(&self, outcome: &Result<Receipt, Refusal>, latency: Duration) {
        match outcome {
            Ok(_) => {
                self.published.add(1);
                self.latency.add(latency);
            }
            Err(refusal) => self.count_refusal(*refusal),
        }
    }

    pub(super) fn count_refusal(&self, refusal: Refusal) {
        let counter = match refusal {
            Refusal::Unavailable => &self.unavailable,
            Refusal::Unknown => &self.unknown,
            Refusal::Rejected => &self.rejected,
        };
        counter.add(1);
    }

    pub(super) fn sample(&self, is_up: bool) -> BrokerSample {
        let gauge = |gauge: &Gauge| u64::try_from(gauge.get()).unwrap_or(0);
        BrokerSample {
            is_up,
            connects: self.connects.get(),
            servers_changed: self.servers_changed.get(),
            applied: [self.applied_log.get(), self.applied_plain.get()],
            behind: [gauge(&self.pending_log), gauge(&self.pending_plain)],
            delay_ms: self.delay_ms.load(Relaxed),
            plain_delay_ms: self.plain_delay_ms.load(Relaxed),
            term_ms: self.term_ms.load(Relaxed),
            skipped: self.skipped.get(),
            fenced: self.fenced.get(),
            resyncs: self.resyncs.get(),
            terms_opened: self.terms_opened.get(),
            merged: self.merged.get(),
            merged_too_large: self.merged_too_large.get(),
            requests: [&self.requests_taken, &self.requests_refused, &self.requests_sent].map(Counter::get),
            outcomes: [&self.published, &self.unavailable, &self.unknown, &self.rejected].map(Counter::get),
            latency: self.latency.read(),
        }
    }
}
