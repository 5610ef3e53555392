//! `GET /metrics`: every metric of the gateway in one page.
//!
//! Invariant: the page contains every declared metric once, in a fixed order. The declarations stand next to the counters
//! they are read from; the tables here declare the metrics of parts that know nothing of Prometheus.

use hyper::header::ACCEPT;
use hyper::{HeaderMap, StatusCode};

use super::Admin;
use super::statistics::Process;
use super::tenant::TenantSample;
use crate::auth::Revocations;
use crate::auth::verifier::VerifierMetrics;
use crate::backend::commands::{BackendSample, CommandsSample};
use crate::backend::feeds::{FeedCounts, FeedSample};
use crate::backend::ingest::{SourceCounts, SourceSample};
use crate::backend::jwks::JwksCounts;
use crate::backend::spans::SpanCounts;
use crate::broker::BrokerSample;
use crate::hub::HubMetrics;
use crate::hub::snapshot::SnapshotSample;
use crate::ingress::http::response::{self, HttpResponse};
use crate::metrics::{
    AcceptMetrics, AcceptSample, Counter, ENDINGS, Format, Gauge, IngressSample, LATENCY, Labels, Metric, Page,
    REFUSALS, Readable as _, ReloadSample, ShardSample, TracedSample, metrics,
};
use tickgate_protocol::channel::Tenant;

metrics! {
    /// What the admin listener counts.
    pub(super) struct AdminMetrics, read as
    /// One reading of the admin listener's counters.
    pub(super) struct AdminSample {
        requests: Counter, "tickgate_admin_requests_total", "Requests to the admin listener.";
        published: Counter, "tickgate_admin_published_total", "Events published through the admin listener.";
        duplicates: Counter, "tickgate_admin_duplicates_total", "Items not published again because of their id.";
        unchanged: Counter, "tickgate_admin_unchanged_total",
            "Items not sent because they are equal to the channel's last event.";
        refused_items: Counter, "tickgate_admin_refused_items_total", "Items of publish requests that were refused.";
        credentials_refused: Counter, "tickgate_admin_credentials_refused_total",
            "Requests to the admin listener that were refused because they had more than one Authorization header.";
        late_bodies: Counter, "tickgate_admin_late_bodies_total",
            "Bodies that the admin listener gave up because they came too slowly.";
        bodies_without_room: Counter, "tickgate_admin_bodies_without_room_total",
            "Bodies that the admin listener gave up because the bodies of other requests held all room.";
        connections: Gauge, "tickgate_admin_connections", "Connections to the admin listener.";
        displaced: Counter, "tickgate_admin_connections_displaced_total",
            "Connections to the admin listener that were silent longest and were closed for newer ones.";
        crowded_out: Counter, "tickgate_admin_connections_refused_total",
            "Connections with a key that were refused because all others were being served.";
    }
    besides {
        /// The accept loop.
        accept: AcceptMetrics;
        /// Requests that are not answered yet.
        in_flight: Gauge;
    }
}

/// The gateway itself.
struct Gateway<'a> {
    node: &'a str,
    uptime_ms: u64,
    ready: bool,
    log_lines_dropped: u64,
    publishing: bool,
    // What all clients hold, and the most that they may hold.
    memory_bytes: (u64, u64),
    // The room that bodies hold, by listener.
    body_bytes: [(&'static str, usize); 2],
}

impl<'a> Gateway<'a> {
    const METRICS: &'a [Metric<Self>] = &[
        Metric::gauge(
            "tickgate_info",
            "Always 1. The labels hold the version and the node's name.",
            |gateway, samples| {
                samples.labelled(&[("version", &env!("CARGO_PKG_VERSION")), ("node", &gateway.node)], 1);
            },
        ),
        Metric::gauge(
            "tickgate_uptime_seconds",
            "Seconds since the gateway started.",
            |gateway, samples| samples.value(gateway.uptime_ms / 1000),
        ),
        Metric::gauge(
            "tickgate_ready",
            "1 while /readyz answers 200, otherwise 0.",
            |gateway, samples| samples.value(u8::from(gateway.ready)),
        ),
        Metric::gauge(
            "tickgate_publishing",
            "1 while the admin listener can take events of any size, otherwise 0.",
            |gateway, samples| samples.value(u8::from(gateway.publishing)),
        ),
        Metric::gauge(
            "tickgate_memory_used_bytes",
            "Memory that all clients hold, as the budget counts it.",
            |gateway, samples| samples.value(gateway.memory_bytes.0),
        ),
        Metric::gauge(
            "tickgate_memory_limit_bytes",
            "The most memory that all clients may hold (limits.memory).",
            |gateway, samples| samples.value(gateway.memory_bytes.1),
        ),
        Metric::gauge(
            "tickgate_body_bytes",
            "Room that request bodies hold, by listener. The first 4 KiB of each body do not count.",
            |gateway, samples| {
                for (listener, bytes) in gateway.body_bytes {
                    samples.labelled(&[("listener", &listener)], bytes);
                }
            },
        ),
        Metric::counter(
            "tickgate_log_lines_dropped_total",
            "Log lines dropped because standard error was not read fast enough.",
            |gateway, samples| samples.value(gateway.log_lines_dropped),
        ),
    ];
}

const TOKENS: &[Metric<VerifierMetrics>] = &[
    Metric::counter(
        "tickgate_tokens_total",
        "Tokens presented in handshakes, in messages and to the admin listener, by outcome.",
        |verifier, samples| {
            for (outcome, count) in [
                ("cached", &verifier.cache_hits),
                ("verified", &verifier.verified),
                ("expired", &verifier.expired),
                ("invalid", &verifier.invalid),
                ("revoked", &verifier.revoked),
                ("key_awaited", &verifier.key_awaited),
                ("overloaded", &verifier.overloaded),
            ] {
                samples.labelled(&[("outcome", &outcome)], count.get());
            }
        },
    ),
    Metric::histogram(
        "tickgate_token_verification_seconds",
        "How long it took to verify tokens that were not in the cache.",
        |verifier, samples| samples.histogram(&verifier.duration.read()),
    ),
];

const REVOCATIONS: &[Metric<Revocations>] = &[Metric::gauge(
    "tickgate_revocations",
    "Revoked tokens and users that are remembered.",
    |revocations, samples| samples.value(revocations.len()),
)];

const HUB: &[Metric<HubMetrics>] = &[
    Metric::counter(
        "tickgate_events_total",
        "Events published into the hub.",
        |hub, samples| samples.value(hub.events),
    ),
    Metric::counter(
        "tickgate_events_unwanted_total",
        "Published events without a subscriber on this gateway.",
        |hub, samples| samples.value(hub.unwanted),
    ),
    Metric::gauge(
        "tickgate_hub_credits",
        "Credits for events on their way to the shards. An event takes 1, and 1 more for each KiB.",
        |hub, samples| samples.value(hub.credits),
    ),
    Metric::gauge(
        "tickgate_hub_credits_lent",
        "Credits in use. Near tickgate_hub_credits, publishers wait.",
        |hub, samples| samples.value(hub.credits_lent),
    ),
    Metric::gauge(
        "tickgate_state_channels",
        "Channels of which something is kept (last value, history, merged records).",
        |hub, samples| samples.value(hub.channels),
    ),
    Metric::gauge(
        "tickgate_state_bytes",
        "Estimated size of what is kept of channels, in bytes.",
        |hub, samples| samples.value(hub.state_bytes),
    ),
    Metric::gauge(
        "tickgate_state_ids",
        "Remembered ids of published events.",
        |hub, samples| samples.value(hub.ids),
    ),
    Metric::gauge(
        "tickgate_state_tombstones",
        "Remembered names of evicted channels with a history, for clients that come back.",
        |hub, samples| samples.value(hub.tombstones),
    ),
    Metric::counter(
        "tickgate_state_evicted_channels_total",
        "Channels evicted because a bound was reached, the least recently used first.",
        |hub, samples| samples.value(hub.evicted),
    ),
    Metric::counter(
        "tickgate_state_evicted_by_quota_total",
        "Those of them that were evicted first because their publisher had more than its quota.",
        |hub, samples| samples.value(hub.evicted_by_quota),
    ),
    Metric::counter(
        "tickgate_state_trimmed_events_total",
        "Events that fell out of a full history.",
        |hub, samples| samples.value(hub.trimmed),
    ),
    Metric::counter(
        "tickgate_state_expired_events_total",
        "Events that fell out of a history because of their age.",
        |hub, samples| samples.value(hub.expired),
    ),
    Metric::counter(
        "tickgate_state_overtaken_reads_total",
        "Reads of a history whose requested events were gone.",
        |hub, samples| samples.value(hub.overtaken),
    ),
    Metric::counter(
        "tickgate_stale_channels_total",
        "Times that nothing was published to a channel for its fresh_within.",
        |hub, samples| samples.value(hub.stale),
    ),
    Metric::counter(
        "tickgate_book_gaps_total",
        "Updates of order books before which others of their publisher are missing.",
        |hub, samples| samples.value(hub.book_gaps),
    ),
    Metric::counter(
        "tickgate_book_levels_dropped_total",
        "Levels of order books that are not kept because a side has too many.",
        |hub, samples| samples.value(hub.book_levels_dropped),
    ),
    Metric::counter(
        "tickgate_events_duplicate_total",
        "Events not published again because of their id.",
        |hub, samples| samples.value(hub.duplicates),
    ),
    Metric::counter(
        "tickgate_events_limited_total",
        "Events refused because their publisher published too fast.",
        |hub, samples| samples.value(hub.limited),
    ),
    Metric::counter(
        "tickgate_events_unchanged_total",
        "Events not sent because they are equal to the channel's last one.",
        |hub, samples| samples.value(hub.unchanged),
    ),
];

const PUBLISHING: &[Metric<TracedSample>] = &[Metric::histogram(
    "tickgate_publish_seconds",
    "How long requests to publish took once their body was there, over HTTP and NATS. Streams of lines do not count.",
    |sample, samples| samples.traced(sample),
)];

const PROCESS: &[Metric<Process>] = &[
    Metric::counter(
        "process_cpu_seconds_total",
        "CPU time of the process.",
        |process, samples| samples.seconds(process.cpu_us),
    ),
    Metric::gauge(
        "process_resident_memory_bytes",
        "Memory of the process.",
        |process, samples| samples.value(process.rss_bytes),
    ),
];

impl Admin {
    /// `GET /metrics`
    pub(super) fn metrics_response(&self, headers: &HeaderMap) -> HttpResponse {
        let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = Format::accepted(&accept.collect::<Vec<_>>().join(","));
        response::with_body(StatusCode::OK, format.content_type(), self.metrics_page(format))
    }

    fn metrics_page(&self, format: Format) -> String {
        let parts = &self.parts;
        let now = parts.statistics.read(parts.clock.now());
        let ingress = parts.ingress.read();
        let commands = parts.router.read();
        let feeds = parts.feeds.read();
        let mut page = Page::new(format);
        let gateway = Gateway {
            node: &parts.node,
            uptime_ms: now.uptime_ms,
            ready: parts.health.not_ready().is_none(),
            publishing: parts.health.not_publishing().is_none(),
            memory_bytes: parts.health.memory_bytes(),
            body_bytes: [("public", parts.public_bodies.held()), ("admin", parts.bodies.held())],
            log_lines_dropped: self.log_lines_dropped.get(),
        };
        page.add(Gateway::METRICS, &gateway);
        page.add(ReloadSample::METRICS, &self.reloads.read());
        page.add_each(ShardSample::METRICS, &numbered("shard", &now.shards));
        page.add(ENDINGS, &now.total);
        page.add(LATENCY, &now.total);
        page.add(AcceptSample::METRICS, &ingress.accept);
        page.add(IngressSample::METRICS, &ingress);
        page.add(REFUSALS, &ingress);
        page.add(TOKENS, parts.verifier.metrics());
        page.add(REVOCATIONS, parts.verifier.revocations());
        let sets = parts.key_sets.read();
        let sets: Vec<_> = sets
            .iter()
            .map(|set| (vec![("set", set.set.clone())], &set.counts))
            .collect();
        page.add_each(JwksCounts::METRICS, &sets);
        page.add(HUB, &now.hub);
        page.add(BrokerSample::METRICS, &(parts.broker_sample)());
        page.add(SnapshotSample::METRICS, &parts.snapshot.read());
        page.add(CommandsSample::METRICS, &commands);
        let backends = commands.backends.iter();
        let backends: Vec<_> = backends
            .map(|backend| {
                let mut labels = vec![("backend", backend.name.to_string())];
                let tenant = self.tenants.of(backend.tenant);
                labels.extend(tenant.map(|tenant| ("tenant", tenant.to_owned())));
                (labels, backend)
            })
            .collect();
        page.add_each(BackendSample::METRICS, &backends);
        let mut feeds = numbered("feed", &feeds);
        for (labels, feed) in &mut feeds {
            labels.push(("channel", feed.channel.to_string()));
            if let Some(tenant) = &feed.tenant_name {
                labels.push(("tenant", tenant.to_string()));
            }
        }
        page.add_each(FeedSample::METRICS, &feeds);
        let counts: Vec<_> = feeds.into_iter().map(|(labels, feed)| (labels, &feed.counts)).collect();
        page.add_each(FeedCounts::METRICS, &counts);
        let sources = parts.sources.read();
        let mut sources = numbered("source", &sources);
        for (labels, source) in &mut sources {
            labels.push(("channel", source.channel.to_string()));
            if let Some(tenant) = &source.tenant_name {
                labels.push(("tenant", tenant.to_string()));
            }
        }
        page.add_each(SourceSample::METRICS, &sources);
        let counts: Vec<_> = sources
            .into_iter()
            .map(|(labels, source)| (labels, &source.counts))
            .collect();
        page.add_each(SourceCounts::METRICS, &counts);
        if !self.tenants.is_empty() {
            let all = std::iter::once(Tenant::DEFAULT).chain(self.tenants.iter().map(|(tenant, _)| tenant));
            let tenants: Vec<_> = all
                .map(|tenant| (tenant, TenantSample::of(tenant, &now, &ingress)))
                .collect();
            let labelled = tenants.iter().map(|(tenant, sample)| {
                let name = self.tenants.label(*tenant).to_owned();
                (vec![("tenant", name)], sample)
            });
            page.add_each(TenantSample::METRICS, &labelled.collect::<Vec<_>>());
        }
        page.add(SpanCounts::METRICS, &parts.tracer.read());
        page.add(AdminSample::METRICS, &self.metrics.read());
        page.add(PUBLISHING, &self.publish_duration.read());
        page.add(PROCESS, &now.process);
        page.finish()
    }
}

/// Samples with their index as a label.
fn numbered<'a, S>(label: &'static str, samples: &'a [S]) -> Vec<(Labels, &'a S)> {
    let samples = samples.iter().enumerate();
    samples
        .map(|(index, sample)| (vec![(label, index.to_string())], sample))
        .collect()
}
