//! `GET /metrics`: Prometheus' text format, version 0.0.4.
//!
//! Invariant: every metric is declared once, in [`FAMILIES`], and `docs/metrics.md` names exactly these.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::Admin;
use crate::admin::statistics;
use crate::backend::commands;
use crate::backend::feeds;
use crate::metrics::{Refused, ShardSample};
use tickgate_protocol::disconnect::Disconnect;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric: how it is called, and what it says.
pub(super) struct Family {
    pub(super) name: &'static str,
    kind: &'static str,
    help: &'static str,
    write: fn(&Reading<'_>, &mut Samples<'_>),
}

/// Everything at one time.
struct Reading<'a> {
    admin: &'a Admin,
    figures: statistics::Snapshot,
    commands: commands::Snapshot,
    feeds: Vec<feeds::Snapshot>,
}

/// Writes the samples of one family.
pub(super) struct Samples<'a> {
    name: &'static str,
    out: &'a mut String,
}

impl Samples<'_> {
    fn one(&mut self, value: impl Display) {
        let _ = writeln!(self.out, "{} {value}", self.name);
    }

    fn labelled(&mut self, labels: &[(&str, &dyn Display)], value: impl Display) {
        let _ = write!(self.out, "{}{{", self.name);
        for (place, (label, text)) in labels.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let text = text
                .to_string()
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('\n', r"\n");
            let _ = write!(self.out, "{comma}{label}=\"{text}\"");
        }
        let _ = writeln!(self.out, "}} {value}");
    }

    fn per_feed<T: Display>(&mut self, reading: &Reading<'_>, figure: impl Fn(&feeds::Snapshot) -> T) {
        for (feed, figures) in reading.feeds.iter().enumerate() {
            self.labelled(&[("feed", &feed), ("channel", &figures.channel)], figure(figures));
        }
    }

    fn per_shard<T: Display>(&mut self, reading: &Reading<'_>, figure: impl Fn(&ShardSample) -> T) {
        for (shard, figures) in reading.figures.shards.iter().enumerate() {
            self.labelled(&[("shard", &shard)], figure(figures));
        }
    }
}

impl Admin {
    pub(super) fn metrics(&self) -> String {
        let figures = self.figures.snapshot(self.clock.now());
        let reading = Reading {
            admin: self,
            figures,
            commands: (self.commands)(),
            feeds: self.feeds.snapshot(),
        };
        let mut out = String::with_capacity(16 * 1024);
        for family in FAMILIES {
            let Family {
                name,
                kind,
                help,
                write,
            } = family;
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            write(&reading, &mut Samples { name, out: &mut out });
        }
        out
    }
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

macro_rules! families {
    ($($name:literal $kind:ident $help:literal |$reading:pat_param, $samples:ident| $write:expr;)*) => {
        /// All metrics.
        pub(super) const FAMILIES: &[Family] = &[$(Family {
            name: $name, kind: $kind, help: $help, write: |$reading: &Reading<'_>, $samples: &mut Samples<'_>| { $write },
        },)*];
    };
}

families! {
    "tickgate_info" GAUGE "1, with the version and the node's name."
        |r, s| s.labelled(&[("version", &env!("CARGO_PKG_VERSION")), ("node", &r.admin.node)], 1);
    "tickgate_uptime_seconds" GAUGE "Seconds since the gateway started."
        |r, s| s.one(r.figures.uptime_ms / 1000);
    "tickgate_ready" GAUGE "1 when new clients are welcome, as /readyz says."
        |r, s| s.one(u8::from(r.admin.health.not_ready().is_none()));
    "tickgate_connections" GAUGE "Connections: WebSockets, and sessions that poll."
        |r, s| s.per_shard(r, |shard| shard.connections);
    "tickgate_connections_total" COUNTER "Connections ever adopted by a shard."
        |r, s| s.per_shard(r, |shard| shard.connections_total);
    "tickgate_engine_io_polling" GAUGE "Engine.IO sessions that poll."
        |r, s| s.per_shard(r, |shard| shard.polling);
    "tickgate_engine_io_polls_total" COUNTER "Polls answered with packets."
        |r, s| s.per_shard(r, |shard| shard.polls);
    "tickgate_engine_io_upgrades_total" COUNTER "Engine.IO sessions that went on from polling to a WebSocket."
        |r, s| s.per_shard(r, |shard| shard.transports_upgraded);
    "tickgate_subscriptions" GAUGE "Patterns held, over all connections."
        |r, s| s.per_shard(r, |shard| shard.subscriptions);
    "tickgate_messages_received_total" COUNTER "Data messages from clients."
        |r, s| s.per_shard(r, |shard| shard.messages_in);
    "tickgate_received_bytes_total" COUNTER "Bytes read from clients."
        |r, s| s.per_shard(r, |shard| shard.bytes_in);
    "tickgate_messages_rate_limited_total" COUNTER "Messages refused by a connection's rate limit."
        |r, s| s.per_shard(r, |shard| shard.rate_limited);
    "tickgate_deliveries_total" COUNTER "Events put into connections' outboxes."
        |r, s| s.per_shard(r, |shard| shard.deliveries);
    "tickgate_messages_sent_total" COUNTER "Messages of any kind written completely to sockets."
        |r, s| s.per_shard(r, |shard| shard.messages_out);
    "tickgate_sent_bytes_total" COUNTER "Bytes written to clients."
        |r, s| s.per_shard(r, |shard| shard.bytes_out);
    "tickgate_compressed_connections" GAUGE "Connections that agreed on permessage-deflate."
        |r, s| s.per_shard(r, |shard| shard.deflate_connections);
    "tickgate_compressed_messages_received_total" COUNTER "Compressed messages from clients."
        |r, s| s.per_shard(r, |shard| shard.inflated_messages);
    "tickgate_inflated_bytes_total" COUNTER "Bytes that compressed messages from clients were inflated to."
        |r, s| s.per_shard(r, |shard| shard.inflated_bytes);
    "tickgate_compressed_messages_total" COUNTER "Compressed messages put into connections' outboxes."
        |r, s| s.per_shard(r, |shard| shard.deflated_messages);
    "tickgate_compression_saved_bytes_total" COUNTER "Bytes those are shorter than they would be plain."
        |r, s| s.per_shard(r, |shard| shard.deflate_saved_bytes);
    "tickgate_events_dropped_total" COUNTER "Events dropped from full outboxes; the clients are told."
        |r, s| s.per_shard(r, |shard| shard.dropped);
    "tickgate_events_conflated_total" COUNTER "Events that did not fit into an outbox; their channel's newest is read instead."
        |r, s| s.per_shard(r, |shard| shard.conflated);
    "tickgate_catch_ups_total" COUNTER "Channels that connections began to catch up with: last values, replays, what was conflated."
        |r, s| s.per_shard(r, |shard| shard.catch_ups);
    "tickgate_caught_up_events_total" COUNTER "Events read from the kept state for connections that catch up."
        |r, s| s.per_shard(r, |shard| shard.caught_up);
    "tickgate_catching_up_connections" GAUGE "Connections that catch up with some channel now."
        |r, s| s.per_shard(r, |shard| shard.catching_up);
    "tickgate_waiting_subscribes" GAUGE "Subscribe messages that look at too many channels for one turn, or may not be answered before what was published, and wait."
        |r, s| s.per_shard(r, |shard| shard.waiting_joins);
    "tickgate_recovered_channels_total" COUNTER "Channels recovered in full when clients came back."
        |r, s| s.per_shard(r, |shard| shard.recovered);
    "tickgate_unrecovered_channels_total" COUNTER "Channels that could not be recovered in full, as the clients were told."
        |r, s| s.per_shard(r, |shard| shard.not_recovered);
    "tickgate_pending_frames" GAUGE "Event frames waiting in outboxes."
        |r, s| s.per_shard(r, |shard| shard.pending_frames);
    "tickgate_pending_bytes" GAUGE "Event bytes waiting in outboxes."
        |r, s| s.per_shard(r, |shard| shard.pending_bytes);
    "tickgate_inbox_events" GAUGE "Events waiting in a shard's inbox."
        |r, s| s.per_shard(r, |shard| shard.inbox);
    "tickgate_io_uring" GAUGE "1 while a shard sends by io_uring, 0 by writev."
        |r, s| s.per_shard(r, |shard| shard.io_uring);
    "tickgate_io_uring_messages_total" COUNTER "Messages (of one or more frames) sent by io_uring."
        |r, s| s.per_shard(r, |shard| shard.submitted);
    "tickgate_send_calls_total" COUNTER "System calls that send, a message or a submission of up to 1024."
        |r, s| s.per_shard(r, |shard| shard.sends);
    "tickgate_turns_total" COUNTER "Turns of a shard's loop."
        |r, s| s.per_shard(r, |shard| shard.turns);
    "tickgate_shard_cpu_seconds_total" COUNTER "CPU time of a shard's thread."
        |r, s| s.per_shard(r, |shard| Duration::from_micros(shard.cpu_us).as_secs_f64());
    "tickgate_endings_total" COUNTER "Ended connections, by close code."
        |r, s| for (ending, count) in Disconnect::ALL.iter().zip(r.figures.total.endings) {
            s.labelled(&[("code", &ending.code()), ("reason", &ending.label())], count);
        };
    "tickgate_accepted_total" COUNTER "Connections accepted by the public listeners."
        |r, s| s.one(r.admin.door.accept.accepted.get());
    "tickgate_accept_aborted_total" COUNTER "Connections that were gone before they could be accepted."
        |r, s| s.one(r.admin.door.accept.aborted.get());
    "tickgate_accept_pauses_total" COUNTER "Pauses of accepting, for want of descriptors or memory."
        |r, s| s.one(r.admin.door.accept.paused.get());
    "tickgate_handshakes_pending" GAUGE "Public connections that speak HTTP, still or only."
        |r, s| s.one(r.admin.door.pending.get());
    "tickgate_handshakes_total" COUNTER "Connections upgraded and handed to a shard."
        |r, s| s.one(r.admin.door.upgraded.get());
    "tickgate_handshakes_refused_total" COUNTER "Requests and connections that the door refused, by reason."
        |r, s| for why in Refused::ALL {
            s.labelled(&[("reason", &why.label())], r.admin.door.refused(*why));
        };
    "tickgate_tokens_total" COUNTER "Tokens presented at handshakes, in-band and to the admin listener, by what became of them."
        |r, s| {
            let stats = r.admin.verifier.stats();
            for (outcome, count) in [
                ("cached", &stats.cache_hits),
                ("verified", &stats.verified),
                ("expired", &stats.expired),
                ("invalid", &stats.invalid),
                ("overloaded", &stats.overloaded),
            ] {
                s.labelled(&[("outcome", &outcome)], count.get());
            }
        };
    "tickgate_events_total" COUNTER "Events published into the hub."
        |r, s| s.one(r.figures.hub.events);
    "tickgate_events_unwanted_total" COUNTER "Published events that nobody here subscribes."
        |r, s| s.one(r.figures.hub.unwanted);
    "tickgate_hub_credits" GAUGE "Room for events on their way to the shards; an event takes 1 and 1 more for each KiB."
        |r, s| s.one(r.figures.hub.credits);
    "tickgate_hub_credits_lent" GAUGE "Room taken; near tickgate_hub_credits publishers wait."
        |r, s| s.one(r.figures.hub.credits_lent);
    "tickgate_state_channels" GAUGE "Channels of which something is kept (last value, history, merged records)."
        |r, s| s.one(r.figures.hub.channels);
    "tickgate_state_bytes" GAUGE "What is kept of channels."
        |r, s| s.one(r.figures.hub.state_bytes);
    "tickgate_state_ids" GAUGE "Publishers' ids of events that are remembered."
        |r, s| s.one(r.figures.hub.ids);
    "tickgate_state_tombstones" GAUGE "Names of channels with a history that were dropped for want of room, for clients that come back."
        |r, s| s.one(r.figures.hub.tombstones);
    "tickgate_state_evicted_channels_total" COUNTER "Channels whose state was dropped for want of room, the least recently used first."
        |r, s| s.one(r.figures.hub.evicted);
    "tickgate_state_trimmed_events_total" COUNTER "Events that fell out of a full history."
        |r, s| s.one(r.figures.hub.trimmed);
    "tickgate_state_expired_events_total" COUNTER "Events that fell out of a history because of their age."
        |r, s| s.one(r.figures.hub.expired);
    "tickgate_state_overtaken_reads_total" COUNTER "Reads of a history that found that what they asked for is gone."
        |r, s| s.one(r.figures.hub.overtaken);
    "tickgate_events_duplicate_total" COUNTER "Events not published again because of their id."
        |r, s| s.one(r.figures.hub.duplicates);
    "tickgate_events_unchanged_total" COUNTER "Events not sent because they say what the channel's last one said."
        |r, s| s.one(r.figures.hub.unchanged);
    "tickgate_commands_total" COUNTER "Commands taken from clients."
        |r, s| s.one(r.commands.received);
    "tickgate_commands_answered_total" COUNTER "Commands answered, by outcome."
        |r, s| for (outcome, count) in r.commands.outcomes {
            s.labelled(&[("outcome", &outcome)], count);
        };
    "tickgate_commands_in_flight" GAUGE "Commands not answered yet."
        |r, s| s.one(r.commands.in_flight);
    "tickgate_command_retries_total" COUNTER "Repeated attempts, of idempotent routes."
        |r, s| s.one(r.commands.retries);
    "tickgate_audit_events_lost_total" COUNTER "Audited commands whose event could not be published."
        |r, s| s.one(r.commands.audit_events_lost);
    "tickgate_backend_circuit" GAUGE "Circuit breaker of a command backend: 1 for its present state."
        |r, s| for backend in &r.commands.backends {
            s.labelled(&[("backend", &backend.name), ("state", &backend.state.as_str())], 1);
        };
    "tickgate_backend_circuit_opened_total" COUNTER "How often a backend's circuit breaker has opened."
        |r, s| for backend in &r.commands.backends {
            s.labelled(&[("backend", &backend.name)], backend.opened_total);
        };
    "tickgate_backend_attempts_total" COUNTER "Attempts to have a command answered by a backend."
        |r, s| for backend in &r.commands.backends {
            s.labelled(&[("backend", &backend.name)], backend.attempts);
        };
    "tickgate_backend_failures_total" COUNTER "Attempts that brought no usable reply."
        |r, s| for backend in &r.commands.backends {
            s.labelled(&[("backend", &backend.name)], backend.failures);
        };
    "tickgate_feed_state" GAUGE "How a feed's source does: 1 for its present state (unknown, good, partly, failing)."
        |r, s| for (feed, figures) in r.feeds.iter().enumerate() {
            s.labelled(&[("feed", &feed), ("channel", &figures.channel), ("state", &figures.state.as_str())], 1);
        };
    "tickgate_feed_channels" GAUGE "Channels of a feed that somebody listens to."
        |r, s| s.per_feed(r, |feed| feed.channels);
    "tickgate_feed_polls_in_flight" GAUGE "Polls of a feed under way."
        |r, s| s.per_feed(r, |feed| feed.in_flight);
    "tickgate_feed_polls_total" COUNTER "Polls of a feed that ended."
        |r, s| s.per_feed(r, |feed| feed.polls);
    "tickgate_feed_failures_total" COUNTER "Polls of a feed that brought nothing usable."
        |r, s| s.per_feed(r, |feed| feed.failures);
    "tickgate_feed_late_total" COUNTER "Polls of a feed that began late by more than a tenth of the interval."
        |r, s| s.per_feed(r, |feed| feed.late);
    "tickgate_feed_events_total" COUNTER "Events that a feed published."
        |r, s| s.per_feed(r, |feed| feed.events);
    "tickgate_feed_records_total" COUNTER "Records in a feed's events; anything but an array is one."
        |r, s| s.per_feed(r, |feed| feed.records);
    "tickgate_feed_refused_total" COUNTER "Subscriptions a feed does not serve: their value may not stand in a Redis key."
        |r, s| s.per_feed(r, |feed| feed.refused);
    "tickgate_admin_requests_total" COUNTER "Requests to the admin listener."
        |r, s| s.one(r.admin.stats.requests.get());
    "tickgate_admin_published_total" COUNTER "Events published through the admin listener."
        |r, s| s.one(r.admin.stats.published.get());
    "tickgate_admin_duplicates_total" COUNTER "Items not published again because of their id."
        |r, s| s.one(r.admin.stats.duplicates.get());
    "tickgate_admin_unchanged_total" COUNTER "Items not sent because they say what the channel's last event said."
        |r, s| s.one(r.admin.stats.unchanged.get());
    "tickgate_admin_refused_items_total" COUNTER "Items of publish requests that were refused."
        |r, s| s.one(r.admin.stats.refused_items.get());
    "process_cpu_seconds_total" COUNTER "CPU time of the process."
        |r, s| s.one(Duration::from_micros(r.figures.process.cpu_us).as_secs_f64());
    "process_resident_memory_bytes" GAUGE "Memory of the process."
        |r, s| s.one(r.figures.process.rss_bytes);
}
