//! What is counted of each tenant: for `/metrics`, and for the statistics that a tenant's administrators see.
//!
//! Invariant: the statistics of a tenant contain nothing of another tenant, and nothing of the process that all share.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use super::statistics::{GatewaySample, TenantTotals};
use super::stats::{FeedReply, SourceReply};
use crate::ingress::http::response::{self, HttpResponse};
use crate::metrics::{IngressSample, Metric};
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::disconnect::Disconnect;

/// One reading of what a tenant has.
pub(super) struct TenantSample {
    pub(super) totals: TenantTotals,
    pub(super) refused: u64,
}

impl TenantSample {
    /// The metrics of a tenant. The label `tenant` is added.
    pub(super) const METRICS: &'static [Metric<Self>] = &[
        Metric::gauge(
            "tickgate_tenant_connections",
            "Connections of a tenant.",
            |tenant, samples| {
                samples.value(tenant.totals.connections);
            },
        ),
        Metric::gauge(
            "tickgate_tenant_subscriptions",
            "Patterns held by connections of a tenant.",
            |tenant, samples| samples.value(tenant.totals.subscriptions),
        ),
        Metric::counter(
            "tickgate_tenant_endings_total",
            "Ended connections of a tenant, by close code.",
            |tenant, samples| {
                for (ending, count) in Disconnect::ALL.iter().zip(tenant.totals.endings) {
                    samples.labelled(&[("code", &ending.code()), ("reason", &ending.label())], count);
                }
            },
        ),
        Metric::counter(
            "tickgate_tenant_events_total",
            "Events that were published on channels of a tenant.",
            |tenant, samples| samples.value(tenant.totals.events),
        ),
        Metric::counter(
            "tickgate_tenant_deliveries_total",
            "Events of a tenant put into connections' outboxes.",
            |tenant, samples| samples.value(tenant.totals.deliveries),
        ),
        Metric::counter(
            "tickgate_tenant_refused_total",
            "Requests that the endpoints of a tenant refused.",
            |tenant, samples| samples.value(tenant.refused),
        ),
    ];

    /// What `tenant` has.
    pub(super) fn of(tenant: Tenant, gateway: &GatewaySample, ingress: &IngressSample) -> Self {
        Self {
            totals: gateway.tenant(tenant),
            refused: ingress.tenant_refused[tenant.index()],
        }
    }
}

/// The statistics of a tenant. Its members are among those of the gateway's statistics, except `tenant`.
#[derive(Serialize)]
struct TenantReply<'a> {
    active_connections: i64,
    deliveries: u64,
    events: EventsReply,
    feeds: Vec<FeedReply<'a>>,
    is_running: bool,
    requests_refused: u64,
    sources: Vec<SourceReply<'a>>,
    subscriptions: BTreeMap<Box<str>, u64>,
    subscriptions_total: u64,
    tenant: &'a str,
    uptime_seconds: u64,
}

#[derive(Serialize)]
struct EventsReply {
    published: u64,
}

impl Admin {
    /// The answer to `GET /api/websocket/stats` for one tenant.
    pub(super) async fn tenant_stats(&self, tenant: Tenant) -> HttpResponse {
        let (subscriptions, subscriptions_total) = match self.subscriptions(Some(tenant)).await {
            Ok(subscriptions) => subscriptions,
            Err(timed_out) => return timed_out,
        };
        let parts = &self.parts;
        let now = parts.statistics.read(parts.clock.now());
        let sample = TenantSample::of(tenant, &now, &parts.ingress.read());
        let (feeds, sources) = (parts.feeds.read(), parts.sources.read());
        let feeds = feeds.iter().filter(|feed| feed.tenant == tenant);
        let sources = sources.iter().filter(|source| source.tenant == tenant);
        let reply = TenantReply {
            active_connections: sample.totals.connections,
            deliveries: sample.totals.deliveries,
            events: EventsReply {
                published: sample.totals.events,
            },
            feeds: feeds.map(FeedReply::from).collect(),
            is_running: !parts.health.is_draining(),
            requests_refused: sample.refused,
            sources: sources.map(SourceReply::from).collect(),
            subscriptions,
            subscriptions_total,
            tenant: self.tenants.label(tenant),
            uptime_seconds: now.uptime_ms / 1000,
        };
        response::json(StatusCode::OK, &reply)
    }
}
