//! `GET /metrics`: Prometheus' text format, version 0.0.4.
//!
//! Invariant: every metric is declared once, in [`FAMILIES`], and `docs/metrics.md` names exactly these.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use super::Admin;
use super::process::Process;
use crate::disconnect::Disconnect;
use crate::stats::{Refused, ShardStats};

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One metric: how it is called, and what it says.
pub(super) struct Family {
    pub(super) name: &'static str,
    kind: &'static str,
    help: &'static str,
    write: fn(&Admin, &mut Samples<'_>),
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

    fn per_shard<T: Display>(&mut self, admin: &Admin, figure: impl Fn(&ShardStats) -> T) {
        for (shard, handle) in admin.shards.iter().enumerate() {
            self.labelled(&[("shard", &shard)], figure(handle.stats()));
        }
    }
}

impl Admin {
    pub(super) fn metrics(&self) -> String {
        let mut out = String::with_capacity(16 * 1024);
        for family in FAMILIES {
            let Family {
                name,
                kind,
                help,
                write,
            } = family;
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
            write(self, &mut Samples { name, out: &mut out });
        }
        out
    }
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

macro_rules! families {
    ($($name:literal $kind:ident $help:literal |$admin:pat_param, $samples:ident| $write:expr;)*) => {
        /// All metrics.
        pub(super) const FAMILIES: &[Family] = &[$(Family {
            name: $name, kind: $kind, help: $help, write: |$admin: &Admin, $samples: &mut Samples<'_>| { $write },
        },)*];
    };
}

families! {
    "tickgate_info" GAUGE "1, with the version and the node's name."
        |a, s| s.labelled(&[("version", &env!("CARGO_PKG_VERSION")), ("node", &a.node)], 1);
    "tickgate_uptime_seconds" GAUGE "Seconds since the gateway started."
        |a, s| s.one(a.clock.now().mono_ms / 1000);
    "tickgate_ready" GAUGE "1 when new clients are welcome, as /readyz says."
        |a, s| s.one(u8::from(a.health.not_ready().is_none()));
    "tickgate_connections" GAUGE "WebSocket connections."
        |a, s| s.per_shard(a, |stats| stats.connections.get());
    "tickgate_connections_total" COUNTER "WebSocket connections ever adopted by a shard."
        |a, s| s.per_shard(a, |stats| stats.connections_total.get());
    "tickgate_subscriptions" GAUGE "Patterns held, over all connections."
        |a, s| s.per_shard(a, |stats| stats.subscriptions.get());
    "tickgate_messages_received_total" COUNTER "Data messages from clients."
        |a, s| s.per_shard(a, |stats| stats.messages_in.get());
    "tickgate_received_bytes_total" COUNTER "Bytes read from clients."
        |a, s| s.per_shard(a, |stats| stats.bytes_in.get());
    "tickgate_messages_rate_limited_total" COUNTER "Messages refused by a connection's rate limit."
        |a, s| s.per_shard(a, |stats| stats.rate_limited.get());
    "tickgate_deliveries_total" COUNTER "Events put into connections' outboxes."
        |a, s| s.per_shard(a, |stats| stats.deliveries.get());
    "tickgate_messages_sent_total" COUNTER "Messages of any kind written completely to sockets."
        |a, s| s.per_shard(a, |stats| stats.messages_out.get());
    "tickgate_sent_bytes_total" COUNTER "Bytes written to clients."
        |a, s| s.per_shard(a, |stats| stats.bytes_out.get());
    "tickgate_events_dropped_total" COUNTER "Events dropped from full outboxes; the clients are told."
        |a, s| s.per_shard(a, |stats| stats.dropped.get());
    "tickgate_pending_frames" GAUGE "Event frames waiting in outboxes."
        |a, s| s.per_shard(a, |stats| stats.pending_frames.get());
    "tickgate_pending_bytes" GAUGE "Event bytes waiting in outboxes."
        |a, s| s.per_shard(a, |stats| stats.pending_bytes.get());
    "tickgate_inbox_events" GAUGE "Events waiting in a shard's inbox."
        |a, s| s.per_shard(a, |stats| stats.inbox.get());
    "tickgate_send_calls_total" COUNTER "System calls that send."
        |a, s| s.per_shard(a, |stats| stats.sends.get());
    "tickgate_turns_total" COUNTER "Turns of a shard's loop."
        |a, s| s.per_shard(a, |stats| stats.turns.get());
    "tickgate_shard_cpu_seconds_total" COUNTER "CPU time of a shard's thread."
        |a, s| s.per_shard(a, |stats| Duration::from_micros(stats.cpu_us.get()).as_secs_f64());
    "tickgate_endings_total" COUNTER "Ended connections, by close code."
        |a, s| for ending in Disconnect::ALL {
            let count = a.sum(|stats| stats.endings(*ending));
            s.labelled(&[("code", &ending.code()), ("reason", &ending.label())], count);
        };
    "tickgate_accepted_total" COUNTER "Connections accepted by the public listeners."
        |a, s| s.one(a.door.accept.accepted.get());
    "tickgate_accept_aborted_total" COUNTER "Connections that were gone before they could be accepted."
        |a, s| s.one(a.door.accept.aborted.get());
    "tickgate_accept_pauses_total" COUNTER "Pauses of accepting, for want of descriptors or memory."
        |a, s| s.one(a.door.accept.paused.get());
    "tickgate_handshakes_pending" GAUGE "Public connections that speak HTTP, still or only."
        |a, s| s.one(a.door.pending.get());
    "tickgate_handshakes_total" COUNTER "Connections upgraded and handed to a shard."
        |a, s| s.one(a.door.upgraded.get());
    "tickgate_handshakes_refused_total" COUNTER "Requests and connections that the door refused, by reason."
        |a, s| for why in Refused::ALL {
            s.labelled(&[("reason", &why.label())], a.door.refused(*why));
        };
    "tickgate_events_total" COUNTER "Events published into the hub."
        |a, s| s.one(a.hub.stats().events);
    "tickgate_events_unwanted_total" COUNTER "Published events that nobody here subscribes."
        |a, s| s.one(a.hub.stats().unwanted);
    "tickgate_hub_credits" GAUGE "Room for events on their way to the shards; an event takes 1 and 1 more for each KiB."
        |a, s| s.one(a.hub.stats().credits);
    "tickgate_hub_credits_lent" GAUGE "Room taken; near tickgate_hub_credits publishers wait."
        |a, s| s.one(a.hub.stats().credits_lent);
    "tickgate_commands_total" COUNTER "Commands taken from clients."
        |a, s| s.one((a.commands)().received);
    "tickgate_commands_answered_total" COUNTER "Commands answered, by outcome."
        |a, s| for (outcome, count) in (a.commands)().outcomes {
            s.labelled(&[("outcome", &outcome)], count);
        };
    "tickgate_commands_in_flight" GAUGE "Commands not answered yet."
        |a, s| s.one((a.commands)().in_flight);
    "tickgate_command_retries_total" COUNTER "Repeated attempts, of idempotent routes."
        |a, s| s.one((a.commands)().retries);
    "tickgate_audit_events_lost_total" COUNTER "Audited commands whose event could not be published."
        |a, s| s.one((a.commands)().audit_events_lost);
    "tickgate_backend_circuit" GAUGE "Circuit breaker of a command backend: 1 for its present state."
        |a, s| for backend in (a.commands)().backends {
            s.labelled(&[("backend", &backend.name), ("state", &backend.state.as_str())], 1);
        };
    "tickgate_backend_circuit_opened_total" COUNTER "How often a backend's circuit breaker has opened."
        |a, s| for backend in (a.commands)().backends {
            s.labelled(&[("backend", &backend.name)], backend.opened_total);
        };
    "tickgate_backend_attempts_total" COUNTER "Attempts to have a command answered by a backend."
        |a, s| for backend in (a.commands)().backends {
            s.labelled(&[("backend", &backend.name)], backend.attempts);
        };
    "tickgate_backend_failures_total" COUNTER "Attempts that brought no usable reply."
        |a, s| for backend in (a.commands)().backends {
            s.labelled(&[("backend", &backend.name)], backend.failures);
        };
    "tickgate_admin_requests_total" COUNTER "Requests to the admin listener."
        |a, s| s.one(a.stats.requests.get());
    "tickgate_admin_published_total" COUNTER "Events published through the admin listener."
        |a, s| s.one(a.stats.published.get());
    "tickgate_admin_duplicates_total" COUNTER "Items not published again because of their id."
        |a, s| s.one(a.stats.duplicates.get());
    "tickgate_admin_refused_items_total" COUNTER "Items of publish requests that were refused."
        |a, s| s.one(a.stats.refused_items.get());
    "process_cpu_seconds_total" COUNTER "CPU time of the process."
        |_, s| s.one(Process::read().cpu.as_secs_f64());
    "process_resident_memory_bytes" GAUGE "Memory of the process."
        |_, s| s.one(Process::read().resident_bytes);
}
