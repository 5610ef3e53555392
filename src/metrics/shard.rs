//! What one shard counts.

use tickgate_protocol::channel::Tenant;
use tickgate_protocol::disconnect::Disconnect;

use super::{Counter, Gauge, Histogram, Metric, Readable, metrics};

metrics! {
    /// What one shard counts. Only the shard's thread writes, by [`Counter::bump`]; the admin API and the self-report read.
    pub struct ShardMetrics, read as
    /// One reading of a shard's counters, or the sum of several.
    pub struct ShardSample {
        connections: Gauge, "tickgate_connections", "Connections: WebSockets, and sessions that poll.";
        connections_total: Counter, "tickgate_connections_total",
            "Connections that a shard has taken over since the start.";
        polling: Gauge, "tickgate_engine_io_polling", "Engine.IO sessions that poll.";
        polls: Counter, "tickgate_engine_io_polls_total", "Responses to polls that carried packets.";
        transports_upgraded: Counter, "tickgate_engine_io_upgrades_total",
            "Engine.IO sessions upgraded from polling to a WebSocket.";
        /// Automatic subscriptions are included.
        subscriptions: Gauge, "tickgate_subscriptions", "Patterns held, over all connections.";
        messages_in: Counter, "tickgate_messages_received_total", "Data messages from clients.";
        bytes_in: Counter, "tickgate_received_bytes_total", "Bytes read from clients.";
        rate_limited: Counter, "tickgate_messages_rate_limited_total", "Messages refused by a connection's rate limit.";
        deliveries: Counter, "tickgate_deliveries_total", "Events put into connections' outboxes.";
        messages_out: Counter, "tickgate_messages_sent_total", "Messages of any kind written completely to sockets.";
        bytes_out: Counter, "tickgate_sent_bytes_total", "Bytes written to clients.";
        deflate_connections: Gauge, "tickgate_compressed_connections",
            "Connections that negotiated permessage-deflate.";
        inflated_messages: Counter, "tickgate_compressed_messages_received_total", "Compressed messages from clients.";
        inflated_bytes: Counter, "tickgate_inflated_bytes_total",
            "Inflated size of compressed messages from clients, in bytes.";
        deflated_messages: Counter, "tickgate_compressed_messages_total",
            "Compressed messages put into connections' outboxes.";
        deflate_saved_bytes: Counter, "tickgate_compression_saved_bytes_total",
            "Bytes saved by the compression of messages to clients.";
        dropped: Counter, "tickgate_events_dropped_total", "Events dropped from full outboxes. The clients are told.";
        conflated: Counter, "tickgate_events_conflated_total",
            "Events that did not fit into an outbox. The client gets their channel's newest event instead.";
        rate_offered: Counter, "tickgate_rate_offered_total",
            "Events of conflating channels for subscriptions with a rate.";
        rate_sent: Counter, "tickgate_rate_sent_total", "Events put into the outboxes of subscriptions with a rate.";
        rate_conflated: Counter, "tickgate_rate_conflated_total",
            "Events that a newer one of their channel replaced before the period of a rate ended.";
        throttles: Counter, "tickgate_throttles_total",
            "Times that a connection had used up its bytes of a second (limits.bytes_per_second).";
        throttled: Gauge, "tickgate_throttled_connections",
            "Connections that wait because they have used up their bytes of a second.";
        catch_ups: Counter, "tickgate_catch_ups_total",
            "Channels that connections began to catch up with: last values, replays, conflated events.";
        caught_up: Counter, "tickgate_caught_up_events_total",
            "Events read from the kept state for connections that catch up.";
        catching_up: Gauge, "tickgate_catching_up_connections", "Connections that are catching up with a channel.";
        waiting_subscribes: Gauge, "tickgate_waiting_subscribes",
            "Subscribe messages that wait: they match too many channels for one turn, or earlier events must go first.";
        delayed_subscribes: Counter, "tickgate_subscribes_delayed_total",
            "Subscribe messages delayed because their connection, user or address asked for more than limits.scan_rate.";
        refused_histories: Counter, "tickgate_histories_refused_total",
            "Requests for a history refused because their connection, user or address asked for more than limits.scan_rate.";
        recovered: Counter, "tickgate_recovered_channels_total",
            "Channels recovered completely for clients that came back.";
        not_recovered: Counter, "tickgate_unrecovered_channels_total",
            "Channels that could not be recovered completely. The clients are told.";
        sessions_recovered: Counter, "tickgate_sessions_recovered_total",
            "Socket.IO clients that came back and got their sessions back.";
        sessions_unrecovered: Counter, "tickgate_sessions_unrecovered_total",
            "Socket.IO clients that came back and began anew: their session was not there, or not complete.";
        pending_frames: Gauge, "tickgate_pending_frames", "Event frames waiting in outboxes.";
        pending_bytes: Gauge, "tickgate_pending_bytes", "Event bytes waiting in outboxes.";
        outbox_memory: Gauge, "tickgate_outbox_memory_bytes",
            "Memory of what waits in outboxes. A frame that several outboxes share counts once.";
        catch_up_memory: Gauge, "tickgate_catch_up_memory_bytes", "Memory of what connections have yet to read, estimated.";
        input_memory: Gauge, "tickgate_input_memory_bytes",
            "Memory of half-received messages, and of events that wait to be published.";
        overloaded_subscribes: Counter, "tickgate_subscribes_refused_total",
            "Subscribe messages that were refused because memory was short.";
        shed: Counter, "tickgate_connections_shed_total",
            "Stalled connections that were closed because memory was short.";
        inbox: Gauge, "tickgate_inbox_events", "Events waiting in a shard's inbox.";
        /// The sum over shards is the number of shards that use io_uring.
        io_uring: Gauge, "tickgate_io_uring", "1 while a shard sends by io_uring, 0 by writev.";
        submitted: Counter, "tickgate_io_uring_messages_total", "Messages (of one or more frames) sent by io_uring.";
        sends: Counter, "tickgate_send_calls_total",
            "System calls that send: one per message with writev, one per submission of up to 1024 messages with io_uring.";
        /// Written by the task that sends the events.
        probes_outstanding: Gauge, "tickgate_probes_outstanding",
            "Synthetic events, sent once a second, that the shard has not taken out of its inbox.";
        turns: Counter, "tickgate_turns_total", "Passes of a shard's loop.";
        pauses: Counter, "tickgate_pauses_total",
            "Times that a shard did not run for half a second or longer: the process was stopped, or had no CPU.";
        /// In microseconds.
        paused_us: Counter as seconds, "tickgate_paused_seconds_total", "The length of these pauses, in all.";
        /// In microseconds.
        cpu_us: Counter as seconds, "tickgate_shard_cpu_seconds_total", "CPU time of a shard's thread.";
    }
    besides {
        /// Connections ended, by [`Disconnect`] in the order of [`Disconnect::ALL`].
        endings: [Counter; Disconnect::ALL.len()];
        /// From the publication of an event to the end of the turn that wrote it to sockets. Sampled.
        latency: Histogram;
        /// Connections, by the number of their tenant.
        tenant_connections: [Gauge; Tenant::COUNT];
        /// Patterns held, by the number of their tenant. Those of the default tenant are not counted here.
        tenant_subscriptions: [Gauge; Tenant::COUNT];
        /// Events put into outboxes, by the number of their tenant. Those of the default tenant are not counted here.
        tenant_deliveries: [Counter; Tenant::COUNT];
        /// Connections ended, by the number of their tenant, as `endings`. Those of the default tenant are not counted here.
        tenant_endings: [[Counter; Disconnect::ALL.len()]; Tenant::COUNT];
    }
}

/// The metric that is printed from the sum over all shards.
pub const ENDINGS: &[Metric<ShardSample>] = &[Metric::counter(
    "tickgate_endings_total",
    "Ended connections, by close code.",
    |sample, samples| {
        for (ending, count) in Disconnect::ALL.iter().zip(sample.endings) {
            samples.labelled(&[("code", &ending.code()), ("reason", &ending.label())], count);
        }
    },
)];

/// The metric that is printed from the sum over all shards.
pub const LATENCY: &[Metric<ShardSample>] = &[Metric::histogram(
    "tickgate_publish_to_flush_seconds",
    "From the publication of an event until a shard has written it to the sockets that take it. One event in 32 counts.",
    |sample, samples| samples.histogram(&sample.latency),
)];

impl ShardMetrics {
    /// Counts one ending of a tenant's connection. Only the shard's thread may call it.
    pub fn ended(&self, tenant: Tenant, ending: Disconnect) {
        self.endings[ending as usize].bump(1);
        if !tenant.is_default() {
            self.tenant_endings[tenant.index()][ending as usize].bump(1);
        }
    }

    /// The number of connections that ended this way.
    #[must_use]
    pub fn endings(&self, ending: Disconnect) -> u64 {
        self.endings[ending as usize].get()
    }
}

impl ShardSample {
    /// Adds the reading of another shard.
    pub fn add(&mut self, other: &Self) {
        ShardMetrics::sum(self, other);
    }
}
