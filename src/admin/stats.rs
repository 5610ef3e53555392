//! `GET /api/websocket/stats`: everything the gateway knows about itself, for people.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::Admin;
use super::clients::ask;
use crate::admin::statistics::Rates;
use crate::backend::feeds;
use crate::ingress::http::response::{self, HttpResponse};
use crate::metrics::{Refused, ShardSample};
use crate::shard::mailbox::ShardMessage;
use tickgate_protocol::disconnect::Disconnect;

/// Patterns told, the largest.
const PATTERNS_MAX: usize = 1000;

impl Admin {
    pub(super) async fn stats_answer(&self) -> HttpResponse {
        let (patterns, subscriptions) = match self.subscriptions().await {
            Ok(subscriptions) => subscriptions,
            Err(silent) => return silent,
        };
        let now = self.figures.snapshot(self.clock.now());
        let endings = Disconnect::ALL
            .iter()
            .zip(now.total.endings)
            .map(|(ending, count)| (ending.code().to_string(), count));
        let refused = Refused::ALL.iter().map(|why| (why.label(), self.door.refused(*why)));
        let shards = now
            .shards
            .iter()
            .zip(&now.shard_rates)
            .map(|(figures, rates)| shard(figures, rates));
        let body = json!({
            "node": self.node,
            "is_running": !self.health.is_draining(),
            "uptime_seconds": now.uptime_ms / 1000,
            "active_connections": now.total.connections,
            "total_connections": now.total.connections_total,
            "total_messages": now.total.messages_out,
            "messages_received": now.total.messages_in,
            "subscriptions": patterns,
            "subscriptions_total": subscriptions,
            "rates_per_second": {
                "connections": now.rates.connections,
                "messages_received": now.rates.messages_in,
                "messages_sent": now.rates.messages_out,
                "events_published": now.rates.events,
                "deliveries": now.rates.deliveries,
                "dropped": now.rates.dropped,
                "bytes_received": now.rates.bytes_in,
                "bytes_sent": now.rates.bytes_out,
            },
            "queues": {
                "inbox_events": now.total.inbox,
                "pending_frames": now.total.pending_frames,
                "pending_bytes": now.total.pending_bytes,
                "hub_credits": now.hub.credits,
                "hub_credits_lent": now.hub.credits_lent,
                "handshakes": self.door.pending.get(),
            },
            "events": {
                "published": now.hub.events,
                "unwanted": now.hub.unwanted,
                "duplicates": now.hub.duplicates,
                "unchanged": now.hub.unchanged,
            },
            "state": {
                "epoch": self.hub.epoch().to_string(),
                "channels": now.hub.channels,
                "bytes": now.hub.state_bytes,
                "ids": now.hub.ids,
                "tombstones": now.hub.tombstones,
                "evicted_channels": now.hub.evicted,
                "trimmed_events": now.hub.trimmed,
                "expired_events": now.hub.expired,
                "overtaken_reads": now.hub.overtaken,
            },
            "dropped": now.total.dropped,
            "rate_limited": now.total.rate_limited,
            "endings": labelled(endings),
            "handshakes_refused": labelled(refused),
            "commands": self.commands_figures(),
            "feeds": self.feeds.snapshot().iter().map(feed).collect::<Vec<_>>(),
            "shards": shards.collect::<Vec<_>>(),
            "process": {
                "cpu_cores": now.rates.cpu,
                "cpu_seconds": seconds(now.process.cpu_us),
                "resident_bytes": now.process.rss_bytes,
            },
        });
        response::json(StatusCode::OK, &body)
    }

    /// The largest patterns over all shards with how many connections hold each, and how many subscriptions there are.
    async fn subscriptions(&self) -> Result<(Map<String, Value>, u64), HttpResponse> {
        let mut counts = BTreeMap::<Box<str>, u64>::new();
        let mut total = 0;
        for shard in &self.shards {
            let page = ask(shard, |reply| ShardMessage::Subscriptions {
                limit: PATTERNS_MAX,
                reply,
            })
            .await;
            let page = page.map_err(|silent| silent.0)?.unwrap_or_default();
            total += page.total;
            for (pattern, holders) in page.patterns {
                *counts.entry(pattern).or_default() += holders;
            }
        }
        let mut largest: Vec<_> = counts.into_iter().collect();
        largest.sort_by_key(|(_, holders)| std::cmp::Reverse(*holders));
        largest.truncate(PATTERNS_MAX);
        Ok((
            largest
                .into_iter()
                .map(|(pattern, holders)| (pattern.into(), holders.into()))
                .collect(),
            total,
        ))
    }

    fn commands_figures(&self) -> Value {
        let commands = (self.commands)();
        let backends = commands.backends.iter().map(|backend| {
            json!({
                "name": backend.name,
                "circuit": backend.state.as_str(),
                "circuit_opened": backend.opened_total,
                "in_flight": backend.in_flight,
                "attempts": backend.attempts,
                "failures": backend.failures,
                "refused": backend.refused,
            })
        });
        json!({
            "received": commands.received,
            "in_flight": commands.in_flight,
            "retries": commands.retries,
            "outcomes": labelled(commands.outcomes.into_iter()),
            "audit_events_lost": commands.audit_events_lost,
            "backends": backends.collect::<Vec<_>>(),
        })
    }
}

fn feed(feed: &feeds::Snapshot) -> Value {
    json!({
        "channel": feed.channel,
        "state": feed.state.as_str(),
        "channels": feed.channels,
        "in_flight": feed.in_flight,
        "polls": feed.polls,
        "failures": feed.failures,
        "late": feed.late,
        "events": feed.events,
        "records": feed.records,
        "refused": feed.refused,
    })
}

fn shard(figures: &ShardSample, rates: &Rates) -> Value {
    json!({
        "flush": if figures.io_uring > 0 { "io_uring" } else { "writev" },
        "connections": figures.connections,
        "subscriptions": figures.subscriptions,
        "inbox": figures.inbox,
        "pending_frames": figures.pending_frames,
        "pending_bytes": figures.pending_bytes,
        "dropped": figures.dropped,
        "deliveries_per_second": rates.deliveries,
        "turns": figures.turns,
        "cpu_cores": rates.cpu,
        "cpu_seconds": seconds(figures.cpu_us),
    })
}

fn seconds(us: u64) -> f64 {
    std::time::Duration::from_micros(us).as_secs_f64()
}

fn labelled(counts: impl Iterator<Item = (impl Into<String>, u64)>) -> Map<String, Value> {
    counts.map(|(label, count)| (label.into(), count.into())).collect()
}
