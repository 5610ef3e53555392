//! `GET /api/websocket/stats`: everything the gateway knows about itself, for people.

use std::collections::BTreeMap;

use hyper::StatusCode;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Admin;
use super::clients::ask;
use super::process::Process;
use crate::disconnect::Disconnect;
use crate::http::answer::{self, Answer};
use crate::mailbox::{ShardHandle, ShardMessage};
use crate::stats::{Refused, ShardStats};

/// Patterns told, the largest.
const PATTERNS_MAX: usize = 1000;

#[derive(Serialize)]
struct Shard {
    shard: usize,
    connections: i64,
    subscriptions: i64,
    inbox: i64,
    pending_frames: i64,
    pending_bytes: i64,
    dropped: u64,
    turns: u64,
    cpu_seconds: f64,
}

impl Shard {
    fn of((shard, handle): (usize, &ShardHandle)) -> Self {
        let stats = handle.stats();
        Self {
            shard,
            connections: stats.connections.get(),
            subscriptions: stats.subscriptions.get(),
            inbox: stats.inbox.get(),
            pending_frames: stats.pending_frames.get(),
            pending_bytes: stats.pending_bytes.get(),
            dropped: stats.dropped.get(),
            turns: stats.turns.get(),
            cpu_seconds: std::time::Duration::from_micros(stats.cpu_us.get()).as_secs_f64(),
        }
    }
}

impl Admin {
    /// A counter's or gauge's sum over all shards.
    pub(super) fn sum(&self, figure: impl Fn(&ShardStats) -> u64) -> u64 {
        self.shards.iter().map(|shard| figure(shard.stats())).sum()
    }

    pub(super) async fn stats_answer(&self) -> Answer {
        let (patterns, total) = match self.subscriptions().await {
            Ok(subscriptions) => subscriptions,
            Err(silent) => return silent,
        };
        let now = self.clock.now();
        let hub = self.hub.stats();
        let process = Process::read();
        let count = |gauge: i64| u64::try_from(gauge).unwrap_or(0);
        let endings = labelled(Disconnect::ALL, |ending| {
            (ending.label(), self.sum(|stats| stats.endings(ending)))
        });
        let refused = labelled(Refused::ALL, |why| (why.label(), self.door.refused(why)));
        answer::json(
            StatusCode::OK,
            &json!({
                "node": self.node,
                "is_running": !self.health.is_draining(),
                "uptime_seconds": now.mono_ms / 1000,
                "active_connections": self.sum(|stats| count(stats.connections.get())),
                "total_connections": self.sum(|stats| stats.connections_total.get()),
                "total_messages": self.sum(|stats| stats.messages_out.get()),
                "messages_received": self.sum(|stats| stats.messages_in.get()),
                "subscriptions": patterns,
                "subscriptions_total": total,
                "rates_per_second": self.rates.since(self.totals()),
                "queues": {
                    "inbox_events": self.sum(|stats| count(stats.inbox.get())),
                    "pending_frames": self.sum(|stats| count(stats.pending_frames.get())),
                    "pending_bytes": self.sum(|stats| count(stats.pending_bytes.get())),
                    "hub_credits": hub.credits,
                    "hub_credits_lent": hub.credits_lent,
                    "handshakes": self.door.pending.get(),
                },
                "events": { "published": hub.events, "unwanted": hub.unwanted },
                "dropped": self.sum(|stats| stats.dropped.get()),
                "rate_limited": self.sum(|stats| stats.rate_limited.get()),
                "endings": endings,
                "handshakes_refused": refused,
                "commands": self.commands_figures(),
                "shards": self.shards.iter().enumerate().map(Shard::of).collect::<Vec<_>>(),
                "process": { "cpu_seconds": process.cpu.as_secs_f64(), "resident_bytes": process.resident_bytes },
            }),
        )
    }

    /// The largest patterns over all shards with how many connections hold each, and how many subscriptions there are.
    async fn subscriptions(&self) -> Result<(Map<String, Value>, u64), Answer> {
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
            "outcomes": labelled(&commands.outcomes, |outcome| outcome),
            "audit_events_lost": commands.audit_events_lost,
            "backends": backends.collect::<Vec<_>>(),
        })
    }
}

fn labelled<T: Copy>(all: &[T], figure: impl Fn(T) -> (&'static str, u64)) -> Map<String, Value> {
    all.iter()
        .map(|item| figure(*item))
        .map(|(label, count)| (label.to_owned(), count.into()))
        .collect()
}
