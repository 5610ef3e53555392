//! What the listeners count.

use super::{Counter, Gauge, Metric, metrics};
use tickgate_protocol::channel::Tenant;

metrics! {
    /// What one accept loop counts. The public listeners share one; the admin listener has its own.
    pub struct AcceptMetrics, read as
    /// One reading of an accept loop's counters. `/metrics` shows that of the public listeners.
    pub struct AcceptSample {
        accepted: Counter, "tickgate_accepted_total", "Connections accepted by the public listeners.";
        aborted: Counter, "tickgate_accept_aborted_total", "Connections that ended before they could be accepted.";
        paused: Counter, "tickgate_accept_pauses_total",
            "Pauses of accepting because of too few descriptors or too little memory.";
    }
}

metrics! {
    /// What the public listeners count. Several threads write, by [`Counter::add`].
    pub struct IngressMetrics, read as
    /// One reading of the public listeners' counters.
    pub struct IngressSample {
        pending: Gauge, "tickgate_handshakes_pending",
            "Connections of the public listeners that speak HTTP at present.";
        poll_bytes: Gauge, "tickgate_poll_bytes", "Bytes of responses to polls that are not written yet.";
        upgraded: Counter, "tickgate_handshakes_total", "Connections upgraded and handed to a shard.";
        /// In microseconds.
        restart_paused_us: Counter as seconds, "tickgate_restart_paused_seconds_total",
            "How long new connections waited because of the restart in place that began this process.";
    }
    besides {
        /// The accept loops.
        accept: AcceptMetrics;
        /// Refusals, by [`RefusalReason`] in the order of [`RefusalReason::ALL`].
        refused: [Counter; RefusalReason::ALL.len()];
        /// Refusals by an endpoint, by the number of its tenant.
        tenant_refused: [Counter; Tenant::COUNT];
    }
}

/// The metric that is printed from the counts of refusals.
pub const REFUSALS: &[Metric<IngressSample>] = &[Metric::counter(
    "tickgate_handshakes_refused_total",
    "Requests and connections that the public listeners refused, by reason.",
    |sample, samples| {
        for (reason, count) in RefusalReason::ALL.iter().zip(sample.refused) {
            samples.labelled(&[("reason", &reason.label())], count);
        }
    },
)];

impl IngressMetrics {
    /// Counts one refusal.
    pub fn refuse(&self, reason: RefusalReason) {
        self.refused[reason as usize].add(1);
    }

    /// The number of refusals for this reason.
    #[must_use]
    pub fn refused(&self, reason: RefusalReason) -> u64 {
        self.refused[reason as usize].get()
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $label:literal;)*) => {
        /// Why the ingress refused a request or closed a connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum RefusalReason { $($(#[$doc])* $name,)* }

        impl RefusalReason {
            /// Every reason, each at the index of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// A short name for metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str { match self { $(Self::$name => $label,)* } }
        }
    };
}

refusals! {
    /// A trusted proxy sent a malformed PROXY header. The connection is closed.
    ProxyHeader = "proxy_header";
    /// No complete request arrived in time. The connection is closed.
    Timeout = "timeout";
    /// The client was silent for longer than every other one when a newer connection needed a place. The connection is
    /// closed.
    Pending = "pending";
    /// The same among the connections of one address.
    PendingPerAddress = "pending_per_address";
    /// 400, 414 or 431: hyper could not parse the request.
    Http = "http";
    /// 404.
    Path = "path";
    /// 405.
    Method = "method";
    /// 413.
    Body = "body";
    /// 400: the request is not a valid WebSocket handshake.
    Handshake = "handshake";
    /// 400: more than one `Authorization` header, or a `token` parameter that is malformed or given twice.
    Credentials = "credentials";
    /// 400: the request is not a valid Engine.IO request, or names an unknown session.
    EngineIo = "engine_io";
    /// 426.
    UpgradeRequired = "upgrade_required";
    /// 403.
    Origin = "origin";
    /// 401, or an upgrade that ends with 4001 or 4004.
    Token = "token";
    /// 429: too many handshakes per second.
    ConnectRate = "connect_rate";
    /// 429: too many connections from one address.
    PerAddress = "per_address";
    /// 429: too many connections of one user.
    PerUser = "per_user";
    /// 503: memory is short (`limits.memory`), or the bodies of other requests use all that is set aside for them.
    Memory = "memory";
    /// 503: too many connections.
    Total = "total";
    /// 503: too many connections of the endpoint's tenant.
    Tenant = "tenant";
    /// 503: the gateway is draining, or the shard has ended.
    Draining = "draining";
}
