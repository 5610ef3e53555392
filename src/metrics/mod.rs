//! Counters that one thread writes and others read.
//!
//! Invariant: a counter has one writer (its shard, or the door); readers see each one exactly but not all at the
//! same instant.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use tickgate_protocol::disconnect::Disconnect;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`; any number of writers.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }
    /// Adds `n` without a locked instruction. Correct only from the counter's single writer.
    pub fn bump(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }
    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds `n` (negative: subtracts); any number of writers.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }
    /// Sets it.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }
    /// Its value.
    #[must_use]
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// What one accept loop counts.
#[derive(Debug, Default)]
pub struct AcceptMetrics {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections that were gone before they could be accepted.
    pub aborted: Counter,
    /// Pauses because the process or the system was out of descriptors or memory.
    pub paused: Counter,
}

/// What the door counts. Written by its threads (by [`Counter::add`]).
#[derive(Debug, Default)]
pub struct IngressMetrics {
    /// Of the public listeners.
    pub accept: AcceptMetrics,
    /// Connections that are not with a shard (yet): they speak HTTP.
    pub pending: Gauge,
    /// Connections handed to shards.
    pub upgraded: Counter,
    refused: [Counter; Refused::ALL.len()],
}

impl IngressMetrics {
    /// Counts one refusal.
    pub fn refuse(&self, why: Refused) {
        self.refused[why as usize].add(1);
    }
    /// How often it was refused so.
    #[must_use]
    pub fn refused(&self, why: Refused) -> u64 {
        self.refused[why as usize].get()
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $label:literal;)*) => {
        /// Why the door did not let somebody in.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Refused { $($(#[$doc])* $name,)* }

        impl Refused {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// A short name for metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str { match self { $(Self::$name => $label,)* } }
        }
    };
}

refusals! {
    /// Bytes that are no PROXY header, from a trusted proxy. The connection is closed.
    ProxyHeader = "proxy_header";
    /// No complete request in time. The connection is closed.
    Timeout = "timeout";
    /// hyper could not read it: 400, 414 or 431.
    Http = "http";
    /// 404.
    Path = "path";
    /// 405.
    Method = "method";
    /// 413.
    Body = "body";
    /// 400: no WebSocket handshake.
    Handshake = "handshake";
    /// 400: no request of Engine.IO, or of a session that is gone.
    EngineIo = "engine_io";
    /// 426.
    UpgradeRequired = "upgrade_required";
    /// 403.
    Origin = "origin";
    /// 401, or an upgrade that ends with 4001 or 4004.
    Token = "token";
    /// 429: too many handshakes per second.
    ConnectRate = "connect_rate";
    /// 429: too many connections of one address.
    PerAddress = "per_address";
    /// 429: too many connections of one user.
    PerUser = "per_user";
    /// 503: bodies of requests hold all the memory they may.
    Memory = "memory";
    /// 503: too many connections.
    Total = "total";
    /// 503: the gateway drains, or has lost the shard.
    Draining = "draining";
}

macro_rules! shard_stats {
    ($($(#[$doc:meta])* $name:ident: $kind:ident = $number:ty;)*) => {
        /// What one shard counts. Written by its thread (by [`Counter::bump`]), read by the admin API and the gateway's
        /// pulse.
        #[derive(Debug, Default)]
        pub struct ShardMetrics {
            $($(#[$doc])* pub $name: $kind,)*
            endings: [Counter; Disconnect::ALL.len()],
        }

        /// The counters of one shard, or the sum of several, as they were read.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct ShardSample {
            $($(#[$doc])* pub $name: $number,)*
            /// Connections ended, by [`Disconnect`] in the order of [`Disconnect::ALL`].
            pub endings: [u64; Disconnect::ALL.len()],
        }

        impl ShardMetrics {
            /// Reads every counter.
            #[must_use]
            pub fn read(&self) -> ShardSample {
                ShardSample {
                    $($name: self.$name.get(),)*
                    endings: std::array::from_fn(|ending| self.endings[ending].get()),
                }
            }
        }

        impl ShardSample {
            /// Adds another shard's.
            pub fn add(&mut self, other: &Self) {
                $(self.$name = self.$name.wrapping_add(other.$name);)*
                for (own, other) in self.endings.iter_mut().zip(other.endings) {
                    *own += other;
                }
            }
        }
    };
}

shard_stats! {
    /// Connections adopted and not yet gone.
    connections: Gauge = i64;
    /// Connections ever adopted.
    connections_total: Counter = u64;
    /// Engine.IO sessions that are polled.
    polling: Gauge = i64;
    /// Polls answered with packets.
    polls: Counter = u64;
    /// Engine.IO sessions that went on from polling to a WebSocket.
    transports_upgraded: Counter = u64;
    /// Patterns held, over all connections (automatic ones too).
    subscriptions: Gauge = i64;
    /// Data messages received.
    messages_in: Counter = u64;
    /// Bytes read from sockets.
    bytes_in: Counter = u64;
    /// Messages refused by a rate limit.
    rate_limited: Counter = u64;
    /// Events put into outboxes.
    deliveries: Counter = u64;
    /// Messages of any kind written completely to sockets.
    messages_out: Counter = u64;
    /// Bytes written to sockets.
    bytes_out: Counter = u64;
    /// Connections that agreed on compression.
    deflate_connections: Gauge = i64;
    /// Compressed messages received.
    inflated_messages: Counter = u64;
    /// Bytes they were inflated to.
    inflated_bytes: Counter = u64;
    /// Compressed messages put into outboxes.
    deflated_messages: Counter = u64;
    /// Bytes those are shorter than they would be plain.
    deflate_saved_bytes: Counter = u64;
    /// Events dropped from full outboxes.
    dropped: Counter = u64;
    /// Events that did not fit into an outbox and for which their channel's newest is read.
    conflated: Counter = u64;
    /// Channels that connections began to catch up with: last values, replays, and what was set aside.
    catch_ups: Counter = u64;
    /// Events read from the hub for connections that catch up.
    caught_up: Counter = u64;
    /// Connections that catch up with some channel.
    catching_up: Gauge = i64;
    /// Joins that take several turns and have no answer yet.
    waiting_joins: Gauge = i64;
    /// Channels recovered in full when a client came back.
    recovered: Counter = u64;
    /// Channels that could not be recovered in full, as their clients were told.
    not_recovered: Counter = u64;
    /// Event bytes waiting in outboxes.
    pending_bytes: Gauge = i64;
    /// Event frames waiting in outboxes.
    pending_frames: Gauge = i64;
    /// Events waiting in the shard's inbox.
    inbox: Gauge = i64;
    /// System calls that send: one message each, or one submission of up to 1024.
    sends: Counter = u64;
    /// Messages sent by io_uring, of one or more frames for one connection.
    submitted: Counter = u64;
    /// 1 while io_uring is in use. (Summed up over shards: in how many.)
    io_uring: Gauge = i64;
    /// Turns of the shard's loop.
    turns: Counter = u64;
    /// CPU time of the shard's thread, in microseconds.
    cpu_us: Counter = u64;
}

impl ShardMetrics {
    /// Counts one ending; only from the shard's thread.
    pub fn ended(&self, ending: Disconnect) {
        self.endings[ending as usize].bump(1);
    }
    /// How many connections ended so.
    #[must_use]
    pub fn endings(&self, ending: Disconnect) -> u64 {
        self.endings[ending as usize].get()
    }
}
