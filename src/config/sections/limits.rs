//! `[limits]`, `[heartbeat]` and `[compression]`.

use std::time::Duration;

use crate::auth::BYTES_PER_SECOND_MIN;
use crate::backend::commands::keys;
use crate::config::check::{Because, Check, DAY, at_least, at_most, ensure, no_longer_than, not_zero};
use crate::config::declare::section;
use crate::hub::DEFLATE_BYTES_MIN;
use crate::{session, shard};

/// Messages or commands in a second.
const RATE_MAX: u32 = 1_000_000;
/// The smallest bound that leaves space for one long reply (any reply over 64 KiB counts as 64 KiB) and others beside it.
const REPLY_BYTES_MIN: u32 = 128 * 1024;

/// The most bytes of one message or one queue.
const BYTES_MAX: u32 = 1 << 30;
/// The most events or replies of one queue.
const FRAMES_MAX: u32 = 1_000_000;

/// The range of the memory of all clients.
const MEMORY_MIN: u64 = 16 << 20;
const MEMORY_MAX: u64 = 1 << 40;

const WHY_RATE: &str = "a higher rate is no limit";
const WHY_QUEUE: &str = "each client may use as much memory";

/// Accepts the longest lengths of messages and events.
pub(super) fn message_size(bytes: &u32) -> Result<(), String> {
    at_least(*bytes, 1)
        .because("nothing could be sent")
        .and(at_most(*bytes, BYTES_MAX).because("a message is kept in memory as a whole"))
}

section! {
    /// `[limits]`.
    struct Limits {
        /// Messages from the client per second, 1 to 1,000,000. The burst is the same number.
        value messages_per_second: u32 = built_in().messages_per_second,
            check |rate| at_least(*rate, 1)
                .because("nothing could be sent")
                .and(at_most(*rate, RATE_MAX).because(WHY_RATE));
        /// Commands from the client per second, at most 1,000,000. The burst is the same number.
        value commands_per_second: u32 = built_in().commands_per_second,
            check |rate| at_most(*rate, RATE_MAX).because(WHY_RATE);
        /// Bytes that a client is sent in a second, 1024 to 1 GiB, with everything that the gateway writes to its socket after
        /// compression; TLS is not counted. The burst is the same number. Above it the connection is treated like that of a slow
        /// client, with an outbox of one second: conflating channels conflate, `drop_oldest` drops and tells, and the histories of
        /// class `disconnect` are read on as fast as the limit allows. A role (`auth.role.<name>.bytes_per_second`) or a claim of
        /// the token may say otherwise. 0: no limit.
        value bytes_per_second: u32 = 0, check bytes_per_second;
        /// Distinct patterns that a connection may be subscribed to, at most 100,000.
        value subscriptions: u32 = built_in().subscriptions,
            check |patterns| at_most(*patterns, 100_000).because(WHY_QUEUE);
        /// The longest message from a client, in bytes, at most 1 GiB.
        value message_bytes: u32 = built_in().message_bytes, check message_size;
        /// The longest `data` of a published event, in bytes, at most 1 GiB.
        value event_bytes: u32 = built_in().event_bytes, check message_size;
        /// Events that one publisher may publish per second, over HTTP and WebSocket together, at most 1,000,000. The burst is
        /// the same number. A publisher is a user, or all anonymous clients together; the admin key and the role `admin` have
        /// no limit. One more event is refused with `RATE_LIMITED`. 0: no limit.
        value publish_per_second: u32 = 0, check |rate| at_most(*rate, RATE_MAX).because(WHY_RATE);
        /// The longest body of `POST /api/publish`, in bytes, at most 4 GiB.
        value publish_body_bytes: u64 = 16 * 1024 * 1024,
            check |bytes| at_least(*bytes, 1)
                .because("nothing could be published")
                .and(at_most(*bytes, 4 * u64::from(BYTES_MAX)).because("a body is kept in memory as a whole"));
        /// The slowest a body of `POST /api/publish`, or one line of a stream, may arrive, in bytes per second. A slower one is
        /// ended with 408, 20 s after its head or its first byte at the earliest. 0: no limit, but a pause of 60 s ends any
        /// body.
        value publish_body_rate: u32 = 16 * 1024,
            check |rate| at_most(*rate, BYTES_MAX).because("no publisher is as fast (0: no limit)");
        /// Events that may wait for a slow client, 1 to 1,000,000.
        value outbox_frames: u32 = built_in().outbox_frames,
            check |frames| at_least(*frames, 1)
                .because("no event could be sent")
                .and(at_most(*frames, FRAMES_MAX).because(WHY_QUEUE));
        /// Bytes of events that may wait for a slow client, at most 1 GiB.
        value outbox_bytes: u32 = built_in().outbox_bytes, check |bytes| at_most(*bytes, BYTES_MAX).because(WHY_QUEUE);
        /// Replies and control messages that may wait for a slow client, 8 to 1,000,000. They are never dropped; one more closes the
        /// connection with 4008. An echo endpoint reads on only after its client has read.
        value reply_frames: u32 = built_in().reply_frames,
            check |frames| at_least(*frames, 8)
                .because("one message may cause several replies")
                .and(at_most(*frames, FRAMES_MAX).because(WHY_QUEUE));
        /// Bytes of replies and control messages that may wait for a slow client, 131072 to 1 GiB. A reply longer than 64 KiB
        /// counts as 64 KiB.
        value reply_bytes: u32 = built_in().reply_bytes,
            check |bytes| at_least(*bytes, REPLY_BYTES_MIN)
                .because("a long reply and others beside it must fit")
                .and(at_most(*bytes, BYTES_MAX).because(WHY_QUEUE));
        /// The memory that all clients together may take, in bytes, 16777216 (16 MiB) to 1 TiB: what waits in outboxes (a frame that
        /// several clients share counts once for each shard), what clients have yet to read, half-received messages, bodies,
        /// commands and responses to polls. `state.bytes` is not part of it. Above nine tenths, new connections get 503 and
        /// new subscriptions `OVERLOADED`, both with a time to wait. Above the whole, the most expensive of the stalled
        /// connections are closed with 1013. 0: half of the memory that the process may use (the smallest limit of its control
        /// groups, else the machine's) after `state.bytes` is taken off, at least 64 MiB.
        value memory: u64 = 0, check memory_size;
        /// What the requests of a connection may cost in a second, in steps, 1000 to 1,000,000,000. Looking at a channel that a
        /// subscribed pattern might match is a step, and so is each event that is read for a connection, or 256 bytes of it. All
        /// connections of a user in a shard together have eight times as much; without a user, those of an address. Subscribe requests above it are
        /// not refused: they wait and are served in a small part of the shard's time. A `history` request is refused with `RATE_LIMITED`.
        value scan_rate: u32 = shard::ScanBudget::default().per_second, check is_scan_budget;
        /// The steps that a connection may take at one time after a pause, 1000 to 1,000,000,000.
        value scan_burst: u32 = shard::ScanBudget::default().burst, check is_scan_budget;

        /// The keys of commands that are remembered with their outcomes, 16 to 10,000,000. A key is remembered for 10 min after its
        /// outcome and is never forgotten earlier. Above the limit, a command with a new key is refused with `OVERLOADED`. One user
        /// may have a tenth of them; above it, the answer is `RATE_LIMITED`.
        value command_keys: u32 = 100_000,
            check |keys| at_least(*keys, 16)
                .because("a user may have a tenth of them")
                .and(at_most(*keys, 10_000_000).because("each key is kept in memory"));
        /// The bytes of these outcomes, at most 1 TiB and at least 20 times `limits.reply_bytes`. A command in flight takes half of
        /// `limits.reply_bytes` in advance, so that its outcome finds room. One user may have a tenth of them. Not set: 128 MiB, or
        /// 20 times `limits.reply_bytes` if that is more.
        value command_key_bytes: Option<u64> = None,
            check |bytes| at_most(bytes.unwrap_or(0), MEMORY_MAX).because("no machine has as much memory");

        rule an_event_fits;
        rule an_outcome_fits;
    }
}

fn memory_size(bytes: &u64) -> Result<(), String> {
    if *bytes == 0 {
        return Ok(());
    }
    at_least(*bytes, MEMORY_MIN)
        .because("a few hundred clients would exceed it (0: by the memory of the machine)")
        .and(at_most(*bytes, MEMORY_MAX).because("no machine has as much (0: by the memory of the machine)"))
}

/// Accepts a limit of the bytes that a client is sent in a second.
pub(super) fn bytes_per_second(bytes: &u32) -> Result<(), String> {
    let is_enough = *bytes == 0 || *bytes >= BYTES_PER_SECOND_MIN;
    ensure(is_enough, format_args!("must be 0 or at least {BYTES_PER_SECOND_MIN}"))
        .because("replies and pings would come too late (0: no limit)")
        .and(at_most(*bytes, BYTES_MAX).because("a higher rate is no limit (0: no limit)"))
}

fn is_scan_budget(steps: &u32) -> Result<(), String> {
    at_least(*steps, 1000)
        .because("an ordinary subscription would wait")
        .and(at_most(*steps, 1_000_000_000).because("a higher rate is no limit"))
}

fn built_in() -> session::limits::Limits {
    session::limits::Limits::default()
}

fn an_event_fits(limits: &Limits, check: &mut Check<'_>) {
    if limits.event_bytes > limits.outbox_bytes {
        let message = "limits.event_bytes must not exceed limits.outbox_bytes: such an event could never be delivered";
        check.contradiction(["event_bytes", "outbox_bytes"], message);
    }
    if u64::from(limits.event_bytes) > limits.publish_body_bytes {
        let message = "limits.event_bytes must not exceed limits.publish_body_bytes";
        check.contradiction(["event_bytes", "publish_body_bytes"], message);
    }
}

fn an_outcome_fits(limits: &Limits, check: &mut Check<'_>) {
    if limits
        .command_key_bytes
        .is_some_and(|bytes| bytes < limits.command_key_bytes_min())
    {
        let message = "limits.command_key_bytes must be at least 20 times limits.reply_bytes: a user has a tenth of it, \
                       and each command in flight takes half of limits.reply_bytes";
        check.contradiction(["command_key_bytes", "reply_bytes"], message);
    }
}

impl Limits {
    /// The bounds of the table of keys.
    pub(in crate::config) fn command_keys(&self) -> keys::Settings {
        let built_in = keys::Settings::default();
        let bytes = self
            .command_key_bytes
            .unwrap_or_else(|| self.command_key_bytes_min().max(built_in.bytes_max as u64));
        keys::Settings {
            keys_max: self.command_keys as usize,
            bytes_max: usize::try_from(bytes).unwrap_or(usize::MAX),
            ..built_in
        }
    }

    /// A user has a tenth of the table: room for three commands in flight at least.
    fn command_key_bytes_min(&self) -> u64 {
        20 * u64::from(self.reply_bytes)
    }

    /// What the requests of a connection may cost.
    pub(in crate::config) fn scan_budget(&self) -> shard::ScanBudget {
        shard::ScanBudget {
            per_second: self.scan_rate,
            burst: self.scan_burst,
        }
    }

    /// The limits of a connection of any endpoint.
    pub(in crate::config) fn connection(&self) -> session::limits::Limits {
        session::limits::Limits {
            messages_per_second: self.messages_per_second,
            commands_per_second: self.commands_per_second,
            bytes_per_second: self.bytes_per_second,
            subscriptions: self.subscriptions,
            message_bytes: self.message_bytes,
            event_bytes: self.event_bytes,
            outbox_frames: self.outbox_frames,
            outbox_bytes: self.outbox_bytes,
            reply_frames: self.reply_frames,
            reply_bytes: self.reply_bytes,
        }
    }
}

const WHY_SILENCE: &str = "a connection that is lost is noticed only after this time";
const WHY_TIMER: &str =
    "clients set a timer to it, and those of JavaScript fire at once when it is longer than 24 days";

section! {
    /// `[heartbeat]`.
    struct Heartbeat {
        /// The time between two pings of the gateway, at most 1 d.
        value interval: Duration = Duration::from_secs(30), check |time| not_zero(time).and(no_longer_than(time, DAY).because(WHY_SILENCE));
        /// A connection from which no frame came for this time is closed with 4009. It must be longer than the
        /// interval and at most 2 d.
        /// nginx's `proxy_read_timeout` and `proxy_send_timeout` must be longer still.
        value timeout: Duration = Duration::from_secs(60),
            check |time| no_longer_than(time, 2 * DAY).because(WHY_SILENCE);
        /// The time between two pings of Engine.IO ([socket_io.md](socket_io.md)), at most 1 d. The client receives it as `pingInterval`.
        value engine_io_interval: Duration = Duration::from_secs(25),
            check |time| not_zero(time).and(no_longer_than(time, DAY).because(WHY_TIMER));
        /// How long the answer to a ping of Engine.IO may take, at most 1 d. The client receives it as `pingTimeout`. A session from which no
        /// packet came for both times together ends. Both must be shorter than nginx's `proxy_read_timeout`, or nginx cuts a
        /// waiting poll.
        value engine_io_timeout: Duration = Duration::from_secs(20),
            check |time| not_zero(time).and(no_longer_than(time, DAY).because(WHY_TIMER));

        rule timeout_exceeds_interval;
    }
}

fn timeout_exceeds_interval(heartbeat: &Heartbeat, check: &mut Check<'_>) {
    if heartbeat.timeout <= heartbeat.interval {
        let message = "heartbeat.timeout must be longer than heartbeat.interval";
        check.contradiction(["timeout", "interval"], message);
    }
}

impl Heartbeat {
    /// The time between two pings, and how long a connection may be silent.
    pub(in crate::config) fn times(&self, is_engine_io: bool) -> (Duration, Duration) {
        if is_engine_io {
            let interval = self.engine_io_interval;
            (interval, interval + self.engine_io_timeout)
        } else {
            (self.interval, self.timeout)
        }
    }
}

section! {
    /// `[compression]`.
    struct Compression {
        /// Whether the gateway agrees on compression. An endpoint may say otherwise (`endpoint[].compression`).
        value enabled: bool = true;
        /// Shorter messages are sent uncompressed, in bytes, at most 1 GiB. A message that compression would not shorten is sent uncompressed
        /// as well.
        value threshold: u32 = DEFLATE_BYTES_MIN as u32,
            check |bytes| at_most(*bytes, BYTES_MAX).because("no message is longer (enabled = false: no compression)");
    }
}
