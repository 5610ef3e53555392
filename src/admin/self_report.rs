//! The self-report: every five seconds the gateway publishes its health and its statistics.
//!
//! Invariant: the backends own `system.health`. The gateway publishes there only while no backend has done so within
//! [`BACKEND_HEALTH_MS`]. Of several gateways, the one that has the duties does so, and judges by the events that were
//! applied, whichever gateway took them. Its statistics go to `system.gateway.<node>` in any case.
//!
//! Each tenant has a `system.health` of its own, with the figures of that tenant.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::statistics::{GatewaySample, Rates, Statistics};
use crate::broker::{Broker, Claims, Duties, Fence, Link, Origin, Outcomes, Readiness, Submitted, Trouble};
use crate::event::{NewEvent, PublishOptions};
use crate::metrics::ShardSample;
use crate::suspended::{Claim, Record};
use crate::time::{Clock, Now};
use tickgate_protocol::channel::{Channel, ChannelError, Tenant, TenantNames};
use tickgate_protocol::disconnect::Disconnect;

#[cfg(test)]
mod tests;

/// From one report to the next, in milliseconds.
pub const INTERVAL_MS: u64 = 5_000;

/// A backend that has published `system.health` within this many milliseconds is trusted to continue.
pub const BACKEND_HEALTH_MS: u64 = 3 * INTERVAL_MS;

const HEALTH: &str = "system.health";

/// When a backend last published `system.health` of a tenant, through any gateway.
pub struct HealthSeen {
    clock: Clock,
    // Monotonic milliseconds plus 1, by the number of the tenant; 0 means never.
    at: [AtomicU64; Tenant::COUNT],
}

impl HealthSeen {
    /// Nobody has yet.
    #[must_use]
    pub fn new(clock: Clock) -> Arc<Self> {
        let at = std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Self { clock, at })
    }

    /// Notes an event that no gateway published itself.
    pub fn note(&self, channel: &Channel) {
        if channel.as_str() == HEALTH {
            self.at[channel.tenant().index()].store(self.clock.now().mono_ms + 1, Relaxed);
        }
    }

    /// In monotonic milliseconds.
    fn last_ms(&self, tenant: Tenant) -> Option<u64> {
        self.at[tenant.index()].load(Relaxed).checked_sub(1)
    }
}

/// Wraps a broker, and notes what backends publish through it, unless the broker tells what it has applied.
pub struct HealthWatch {
    broker: Arc<dyn Broker>,
    seen: Arc<HealthSeen>,
    duties: Duties,
    tells_applied: bool,
}

impl HealthWatch {
    /// Wraps this broker. Backends must publish through the wrapper, and the gateway itself must not.
    #[must_use]
    pub fn new(broker: Arc<dyn Broker>, seen: Arc<HealthSeen>) -> Self {
        Self {
            broker,
            seen,
            duties: Duties::alone(),
            tells_applied: false,
        }
    }

    /// Of several gateways, the one with the duties reports. The broker tells `seen` what was applied.
    #[must_use]
    pub fn among_others(self, duties: Duties) -> Self {
        Self {
            duties,
            tells_applied: true,
            ..self
        }
    }

    fn note(&self, event: &NewEvent) {
        if !self.tells_applied {
            self.seen.note(&event.channel);
        }
    }

    /// When a backend last published `system.health` of a tenant, in monotonic milliseconds.
    fn last_seen_ms(&self, tenant: Tenant) -> Option<u64> {
        self.seen.last_ms(tenant)
    }
}

impl Broker for HealthWatch {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        events.iter().for_each(|event| self.note(event));
        self.broker.publish(events)
    }

    fn publish_fenced(
        &self,
        events: Vec<NewEvent>,
        fence: Fence,
    ) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        events.iter().for_each(|event| self.note(event));
        self.broker.publish_fenced(events, fence)
    }

    fn try_publish(&self, from: Origin, event: NewEvent, now: Now) -> Submitted {
        self.note(&event);
        self.broker.try_publish(from, event, now)
    }

    fn prepare(&self, version: u64) -> Readiness {
        self.broker.prepare(version)
    }

    fn keep_session(&self, session: Record) -> Result<(), Record> {
        self.broker.keep_session(session)
    }

    fn take_session(&self, from: Origin, claim: Claim) -> bool {
        self.broker.take_session(from, claim)
    }

    fn claims(&self) -> Option<&dyn Claims> {
        self.broker.claims()
    }

    fn link(&self) -> Link {
        self.broker.link()
    }

    fn trouble(&self) -> Option<Trouble> {
        self.broker.trouble()
    }
}

/// Publishes the gateway's health and statistics.
pub struct SelfReport {
    statistics: Arc<Statistics>,
    watch: Arc<HealthWatch>,
    // By the number of the tenant.
    health: Vec<Channel>,
    own: Channel,
    node: Box<str>,
    status: Box<dyn Fn() -> &'static str + Send + Sync>,
}

/// The `data` of `system.health`.
#[derive(Serialize)]
struct Health {
    status: &'static str,
    uptime_s: u64,
    connections: i64,
    subscriptions: i64,
    events_per_s: f64,
    deliveries_per_s: f64,
}

/// The `data` of `system.gateway.<node>`. Counts are since the start; rates are of the last five seconds.
#[derive(Serialize)]
struct Update<'a> {
    node: &'a str,
    version: &'static str,
    status: &'static str,
    uptime_s: u64,
    events: u64,
    events_unwanted: u64,
    events_per_s: f64,
    credits: usize,
    credits_lent: usize,
    cpu: f64,
    cpu_s: f64,
    rss_bytes: u64,
    total: Load,
    endings: BTreeMap<u16, u64>,
    shards: Vec<Load>,
}

/// The load of one shard, or of all shards together.
#[derive(Serialize)]
struct Load {
    connections: i64,
    connections_total: u64,
    connections_per_s: f64,
    subscriptions: i64,
    messages_in: u64,
    messages_in_per_s: f64,
    messages_out: u64,
    messages_out_per_s: f64,
    deliveries: u64,
    deliveries_per_s: f64,
    bytes_in: u64,
    bytes_in_per_s: f64,
    bytes_out: u64,
    bytes_out_per_s: f64,
    dropped: u64,
    dropped_per_s: f64,
    rate_limited: u64,
    inbox: i64,
    pending_frames: i64,
    pending_bytes: i64,
    sends: u64,
    turns: u64,
    cpu: f64,
}

impl SelfReport {
    /// Creates the self-report of this node, which has these tenants. `status` gives the status of `system.health`: `ok`, or a problem.
    ///
    /// # Errors
    ///
    /// When the node's name is not one valid channel segment.
    pub fn new(
        node: &str,
        tenants: &TenantNames,
        statistics: Arc<Statistics>,
        watch: Arc<HealthWatch>,
        status: impl Fn() -> &'static str + Send + Sync + 'static,
    ) -> Result<Self, ChannelError> {
        if node.contains('.') {
            return Err(ChannelError::BadCharacter('.'));
        }
        Ok(Self {
            statistics,
            watch,
            health: {
                let health = Channel::parse(HEALTH)?;
                let of_tenants = tenants.iter().map(|(tenant, _)| health.clone().in_tenant(tenant));
                std::iter::once(health.clone()).chain(of_tenants).collect()
            },
            own: Channel::parse(&format!("system.gateway.{node}"))?,
            node: node.into(),
            status: Box::new(status),
        })
    }

    /// Publishes reports until the future is dropped. The first one comes one interval after the start.
    pub async fn run(self) {
        let mut ticks = interval(Duration::from_millis(INTERVAL_MS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await; // The first tick is immediate.
        loop {
            ticks.tick().await;
            let fence = self.watch.duties.fence();
            let (health, own) = self.report(self.watch.seen.clock.now());
            // Bypasses the watch, which takes every publisher of `system.health` for a backend.
            if let Some(fence) = fence.filter(|_| !health.is_empty()) {
                self.watch.broker.publish_fenced(health, fence).await;
            }
            self.watch.broker.publish(own).await;
        }
    }

    /// Ends the window of the statistics and makes the report's events: those of `system.health`, and the other one.
    fn report(&self, now: Now) -> (Vec<NewEvent>, Vec<NewEvent>) {
        self.statistics.tick(now);
        let sample = self.statistics.read(now);
        let status = (self.status)();
        let event = |channel: &Channel, data: Option<Bytes>| {
            data.map(|data| NewEvent {
                channel: channel.clone(),
                name: "update".into(),
                data,
                timestamp_ms: now.unix_ms,
                options: PublishOptions::default(),
            })
        };
        let mut events = Vec::with_capacity(self.health.len());
        let is_recent = |seen_ms: u64| now.mono_ms.saturating_sub(seen_ms) < BACKEND_HEALTH_MS;
        for channel in &self.health {
            let tenant = channel.tenant();
            if !self.watch.last_seen_ms(tenant).is_some_and(is_recent) {
                events.extend(event(channel, json(&Health::of(tenant, &sample, status))));
            }
        }
        let own = event(&self.own, json(&Update::of(&self.node, &sample, status)));
        (events, own.into_iter().collect())
    }
}

/// Encodes a report. A failure, which these types do not have, is logged and the event left out.
fn json(value: &impl Serialize) -> Option<Bytes> {
    let encoded = serde_json::to_vec(value);
    let encoded = encoded.inspect_err(|error| tracing::error!(%error, "the self-report cannot be encoded"));
    encoded.ok().map(Bytes::from)
}

/// Rounds to hundredths.
fn rounded(rate: f64) -> f64 {
    (rate * 100.0).round() / 100.0
}

/// Rounds to a ten thousandth of a core, which is a hundredth of a percent: an idle gateway needs less than a percent.
fn rounded_cores(cores: f64) -> f64 {
    (cores * 10_000.0).round() / 10_000.0
}

impl Health {
    /// The health of a tenant: that of the default one, where it is the only one, has the figures of the whole gateway.
    fn of(tenant: Tenant, sample: &GatewaySample, status: &'static str) -> Self {
        let uptime_s = sample.uptime_ms / 1000;
        if let Some(own) = sample.tenants.get(tenant.index()) {
            return Self {
                status,
                uptime_s,
                connections: own.connections.into(),
                subscriptions: sample.tenant(tenant).subscriptions,
                events_per_s: rounded(own.events.into()),
                deliveries_per_s: rounded(own.deliveries.into()),
            };
        }
        Self {
            status,
            uptime_s,
            connections: sample.total.connections,
            subscriptions: sample.total.subscriptions,
            events_per_s: rounded(sample.rates.events),
            deliveries_per_s: rounded(sample.rates.deliveries),
        }
    }
}

impl<'a> Update<'a> {
    fn of(node: &'a str, sample: &GatewaySample, status: &'static str) -> Self {
        let shards = sample.shards.iter().zip(&sample.shard_rates);
        let endings = Disconnect::ALL.iter().zip(sample.total.endings);
        Self {
            node,
            version: env!("CARGO_PKG_VERSION"),
            status,
            uptime_s: sample.uptime_ms / 1000,
            events: sample.hub.events,
            events_unwanted: sample.hub.unwanted,
            events_per_s: rounded(sample.rates.events),
            credits: sample.hub.credits,
            credits_lent: sample.hub.credits_lent,
            cpu: rounded_cores(sample.rates.cpu),
            cpu_s: rounded(Duration::from_micros(sample.process.cpu_us).as_secs_f64()),
            rss_bytes: sample.process.rss_bytes,
            total: Load::of(&sample.total, &sample.rates),
            endings: endings
                .filter(|(_, times)| *times > 0)
                .map(|(ending, times)| (ending.code(), times))
                .collect(),
            shards: shards.map(|(shard, rates)| Load::of(shard, rates)).collect(),
        }
    }
}

impl Load {
    fn of(shard: &ShardSample, rates: &Rates) -> Self {
        Self {
            connections: shard.connections,
            connections_total: shard.connections_total,
            connections_per_s: rounded(rates.connections),
            subscriptions: shard.subscriptions,
            messages_in: shard.messages_in,
            messages_in_per_s: rounded(rates.messages_in),
            messages_out: shard.messages_out,
            messages_out_per_s: rounded(rates.messages_out),
            deliveries: shard.deliveries,
            deliveries_per_s: rounded(rates.deliveries),
            bytes_in: shard.bytes_in,
            bytes_in_per_s: rounded(rates.bytes_in),
            bytes_out: shard.bytes_out,
            bytes_out_per_s: rounded(rates.bytes_out),
            dropped: shard.dropped,
            dropped_per_s: rounded(rates.dropped),
            rate_limited: shard.rate_limited,
            inbox: shard.inbox,
            pending_frames: shard.pending_frames,
            pending_bytes: shard.pending_bytes,
            sends: shard.sends,
            turns: shard.turns,
            cpu: rounded_cores(rates.cpu),
        }
    }
}
