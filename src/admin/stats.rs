//! `GET /api/websocket/stats`: the state of the whole gateway, for people.
//!
//! The members of every object are in alphabetical order.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use super::access::Viewer;
use super::clients::ask;
use super::statistics::Rates;
use crate::backend::commands::{BackendSample, CommandsSample};
use crate::backend::feeds::FeedSample;
use crate::backend::ingest::SourceSample;
use crate::ingress::http::response::{self, HttpResponse};
use crate::metrics::ShardSample;
use crate::shard::mailbox::ShardMessage;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::disconnect::Disconnect;

/// The patterns with the most subscribers that are listed.
const PATTERNS_MAX: usize = 1000;

#[derive(Serialize)]
struct StatsReply<'a> {
    active_connections: i64,
    commands: CommandsReply<'a>,
    dropped: u64,
    endings: BTreeMap<String, u64>,
    events: EventsReply,
    feeds: Vec<FeedReply<'a>>,
    handshakes_refused: BTreeMap<&'static str, u64>,
    is_running: bool,
    messages_received: u64,
    node: &'a str,
    process: ProcessReply,
    queues: QueuesReply,
    rate_limited: u64,
    rates_per_second: RatesReply,
    shards: Vec<ShardReply>,
    sources: Vec<SourceReply<'a>>,
    state: StateReply,
    subscriptions: BTreeMap<Box<str>, u64>,
    subscriptions_total: u64,
    total_connections: u64,
    total_messages: u64,
    uptime_seconds: u64,
}

#[derive(Serialize)]
struct CommandsReply<'a> {
    audit_events_lost: u64,
    audit_lines_lost: u64,
    audit_waiting: u64,
    backends: Vec<BackendReply<'a>>,
    in_flight: i64,
    keys: u64,
    outcomes: BTreeMap<&'static str, u64>,
    received: u64,
    repeats: u64,
    retries: u64,
}

#[derive(Serialize)]
struct BackendReply<'a> {
    attempts: u64,
    circuit: &'static str,
    circuit_opened: u64,
    failures: u64,
    in_flight: i64,
    name: &'a str,
    refused: u64,
}

#[derive(Serialize)]
struct EventsReply {
    duplicates: u64,
    published: u64,
    unchanged: u64,
    unwanted: u64,
}

#[derive(Serialize)]
pub(super) struct FeedReply<'a> {
    channel: &'a str,
    channels: i64,
    events: u64,
    failures: u64,
    in_flight: i64,
    late: u64,
    polls: u64,
    records: u64,
    refused: u64,
    state: &'static str,
}

#[derive(Serialize)]
struct ProcessReply {
    cpu_cores: f64,
    cpu_seconds: f64,
    resident_bytes: u64,
}

#[derive(Serialize)]
struct QueuesReply {
    handshakes: i64,
    hub_credits: usize,
    hub_credits_lent: usize,
    inbox_events: i64,
    pending_bytes: i64,
    pending_frames: i64,
}

#[derive(Serialize)]
struct RatesReply {
    bytes_received: f64,
    bytes_sent: f64,
    connections: f64,
    deliveries: f64,
    dropped: f64,
    events_published: f64,
    messages_received: f64,
    messages_sent: f64,
}

#[derive(Serialize)]
struct ShardReply {
    connections: i64,
    cpu_cores: f64,
    cpu_seconds: f64,
    deliveries_per_second: f64,
    dropped: u64,
    flush: &'static str,
    inbox: i64,
    pending_bytes: i64,
    pending_frames: i64,
    subscriptions: i64,
    turns: u64,
}

#[derive(Serialize)]
pub(super) struct SourceReply<'a> {
    bad: u64,
    behind: i64,
    channel: &'a str,
    connects: u64,
    delay_seconds: f64,
    duplicates: u64,
    events: u64,
    from: &'a str,
    lost: u64,
    messages: u64,
    state: &'static str,
}

#[derive(Serialize)]
struct StateReply {
    bytes: usize,
    channels: usize,
    epoch: String,
    evicted_by_quota: u64,
    evicted_channels: u64,
    expired_events: u64,
    ids: usize,
    overtaken_reads: u64,
    tombstones: usize,
    trimmed_events: u64,
}

impl Admin {
    /// `GET /api/websocket/stats`
    pub(super) async fn stats(&self, viewer: Viewer) -> HttpResponse {
        if let Some(tenant) = viewer.scope() {
            return self.tenant_stats(tenant).await;
        }
        let (subscriptions, subscriptions_total) = match self.subscriptions(None).await {
            Ok(subscriptions) => subscriptions,
            Err(timed_out) => return timed_out,
        };
        let parts = &self.parts;
        let now = parts.statistics.read(parts.clock.now());
        let commands = parts.router.read();
        let (feeds, sources) = (parts.feeds.read(), parts.sources.read());
        let endings = Disconnect::ALL.iter().zip(now.total.endings);
        let shards = now.shards.iter().zip(&now.shard_rates);
        let reply = StatsReply {
            active_connections: now.total.connections,
            commands: CommandsReply::from(&commands),
            dropped: now.total.dropped,
            endings: endings
                .map(|(ending, count)| (ending.code().to_string(), count))
                .collect(),
            events: EventsReply {
                duplicates: now.hub.duplicates,
                published: now.hub.events,
                unchanged: now.hub.unchanged,
                unwanted: now.hub.unwanted,
            },
            feeds: feeds.iter().map(FeedReply::from).collect(),
            handshakes_refused: self.handshakes_refused(),
            is_running: !parts.health.is_draining(),
            messages_received: now.total.messages_in,
            node: &parts.node,
            process: ProcessReply {
                cpu_cores: now.rates.cpu,
                cpu_seconds: seconds(now.process.cpu_us),
                resident_bytes: now.process.rss_bytes,
            },
            queues: QueuesReply {
                handshakes: parts.ingress.pending.get(),
                hub_credits: now.hub.credits,
                hub_credits_lent: now.hub.credits_lent,
                inbox_events: now.total.inbox,
                pending_bytes: now.total.pending_bytes,
                pending_frames: now.total.pending_frames,
            },
            rate_limited: now.total.rate_limited,
            rates_per_second: RatesReply::from(&now.rates),
            shards: shards.map(ShardReply::from).collect(),
            sources: sources.iter().map(SourceReply::from).collect(),
            state: StateReply {
                bytes: now.hub.state_bytes,
                channels: now.hub.channels,
                epoch: parts.hub.epoch().to_string(),
                evicted_by_quota: now.hub.evicted_by_quota,
                evicted_channels: now.hub.evicted,
                expired_events: now.hub.expired,
                ids: now.hub.ids,
                overtaken_reads: now.hub.overtaken,
                tombstones: now.hub.tombstones,
                trimmed_events: now.hub.trimmed,
            },
            subscriptions,
            subscriptions_total,
            total_connections: now.total.connections_total,
            total_messages: now.total.messages_out,
            uptime_seconds: now.uptime_ms / 1000,
        };
        response::json(StatusCode::OK, &reply)
    }

    /// What most connections, of a tenant if one is given, subscribe to over all shards, in the words of their dialect, how many they are, and the
    /// number of all subscriptions.
    pub(super) async fn subscriptions(
        &self,
        tenant: Option<Tenant>,
    ) -> Result<(BTreeMap<Box<str>, u64>, u64), HttpResponse> {
        let mut counts = BTreeMap::<Box<str>, u64>::new();
        let mut total = 0;
        for shard in &self.parts.shards {
            let page = ask(shard, |reply| ShardMessage::Subscriptions {
                limit: PATTERNS_MAX,
                tenant,
                reply,
            })
            .await;
            let page = page.map_err(|timed_out| timed_out.0)?.unwrap_or_default();
            total += page.total;
            for (name, holders) in page.names {
                *counts.entry(name).or_default() += holders;
            }
        }
        let mut largest: Vec<_> = counts.into_iter().collect();
        largest.sort_by_key(|(_, holders)| std::cmp::Reverse(*holders));
        largest.truncate(PATTERNS_MAX);
        Ok((largest.into_iter().collect(), total))
    }
}

impl<'a> From<&'a CommandsSample> for CommandsReply<'a> {
    fn from(commands: &'a CommandsSample) -> Self {
        Self {
            audit_events_lost: commands.audit.events_lost,
            audit_lines_lost: commands.audit.lines_lost,
            audit_waiting: commands.audit.waiting,
            backends: commands.backends.iter().map(BackendReply::from).collect(),
            in_flight: commands.in_flight,
            keys: commands.keys,
            outcomes: commands.outcomes.into_iter().collect(),
            received: commands.received,
            repeats: commands.repeats,
            retries: commands.retries,
        }
    }
}

impl<'a> From<&'a BackendSample> for BackendReply<'a> {
    fn from(backend: &'a BackendSample) -> Self {
        Self {
            attempts: backend.attempts,
            circuit: backend.circuit.as_str(),
            circuit_opened: backend.opened_total,
            failures: backend.failures,
            in_flight: backend.in_flight,
            name: &backend.name,
            refused: backend.refused,
        }
    }
}

impl<'a> From<&'a FeedSample> for FeedReply<'a> {
    fn from(feed: &'a FeedSample) -> Self {
        let counts = &feed.counts;
        Self {
            channel: &feed.channel,
            channels: counts.channels,
            events: counts.events,
            failures: counts.failures,
            in_flight: counts.in_flight,
            late: counts.late,
            polls: counts.polls,
            records: counts.records,
            refused: counts.refused,
            state: feed.state.as_str(),
        }
    }
}

impl<'a> From<&'a SourceSample> for SourceReply<'a> {
    fn from(source: &'a SourceSample) -> Self {
        let counts = &source.counts;
        Self {
            bad: counts.bad,
            behind: counts.behind,
            channel: &source.channel,
            connects: counts.connects,
            delay_seconds: Duration::from_millis(source.delay_ms).as_secs_f64(),
            duplicates: counts.duplicates,
            events: counts.events,
            from: &source.origin,
            lost: counts.lost,
            messages: counts.messages,
            state: source.state.as_str(),
        }
    }
}

impl From<&Rates> for RatesReply {
    fn from(rates: &Rates) -> Self {
        Self {
            bytes_received: rates.bytes_in,
            bytes_sent: rates.bytes_out,
            connections: rates.connections,
            deliveries: rates.deliveries,
            dropped: rates.dropped,
            events_published: rates.events,
            messages_received: rates.messages_in,
            messages_sent: rates.messages_out,
        }
    }
}

impl From<(&ShardSample, &Rates)> for ShardReply {
    fn from((shard, rates): (&ShardSample, &Rates)) -> Self {
        Self {
            connections: shard.connections,
            cpu_cores: rates.cpu,
            cpu_seconds: seconds(shard.cpu_us),
            deliveries_per_second: rates.deliveries,
            dropped: shard.dropped,
            flush: if shard.io_uring > 0 { "io_uring" } else { "writev" },
            inbox: shard.inbox,
            pending_bytes: shard.pending_bytes,
            pending_frames: shard.pending_frames,
            subscriptions: shard.subscriptions,
            turns: shard.turns,
        }
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}
