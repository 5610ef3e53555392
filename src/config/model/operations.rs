//! `[limits]`, `[heartbeat]`, `[compression]`, `[[command]]`, `[broker]` and `[log]`.

use std::path::PathBuf;
use std::time::Duration;

use super::check::Check;
use crate::backend::commands::BackendUrl;
use crate::config::value::choices;
use crate::config::visit::{Section, Visitor};
use crate::hub::DEFLATE_BYTES_MIN;
use tickgate_protocol::channel::Pattern;

/// `[limits]`: those of a connection, and of a publishing request.
#[derive(Clone, Debug)]
pub(in crate::config) struct Limits {
    pub(in crate::config) connection: crate::session::limits::Limits,
    pub(in crate::config) publish_body_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connection: crate::session::limits::Limits::default(),
            publish_body_bytes: 16 * 1024 * 1024,
        }
    }
}

impl Section for Limits {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("messages_per_second", &mut self.connection.messages_per_second);
        visitor.value("commands_per_second", &mut self.connection.commands_per_second);
        visitor.value("subscriptions", &mut self.connection.subscriptions);
        visitor.value("message_bytes", &mut self.connection.message_bytes);
        visitor.value("event_bytes", &mut self.connection.event_bytes);
        visitor.value("publish_body_bytes", &mut self.publish_body_bytes);
        visitor.value("outbox_frames", &mut self.connection.outbox_frames);
        visitor.value("outbox_bytes", &mut self.connection.outbox_bytes);
        visitor.value("reply_frames", &mut self.connection.reply_frames);
        visitor.value("reply_bytes", &mut self.connection.reply_bytes);
    }
}

/// The smallest room for replies that holds a long one, whatever its length (it counts as 64 KiB), and others beside it.
const REPLY_BYTES_MIN: u32 = 128 * 1024;

impl Limits {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        let limits = &self.connection;
        let at_least_one = [
            ("limits.messages_per_second", limits.messages_per_second),
            ("limits.message_bytes", limits.message_bytes),
            ("limits.event_bytes", limits.event_bytes),
            ("limits.outbox_frames", limits.outbox_frames),
        ];
        for (key, value) in at_least_one {
            check.require(value > 0, key, "must be at least 1");
        }
        check.require(
            limits.messages_per_second <= 1_000_000,
            "limits.messages_per_second",
            "must be at most 1000000",
        );
        check.require(
            limits.commands_per_second <= 1_000_000,
            "limits.commands_per_second",
            "must be at most 1000000",
        );
        check.require(limits.reply_frames >= 8, "limits.reply_frames", "must be at least 8");
        check.require(
            limits.reply_bytes >= REPLY_BYTES_MIN,
            "limits.reply_bytes",
            "must be at least 131072",
        );
        if limits.event_bytes > limits.outbox_bytes {
            let message =
                "limits.event_bytes must not exceed limits.outbox_bytes: such an event could never be delivered";
            check.contradiction(["limits.event_bytes", "limits.outbox_bytes"], message);
        }
        if u64::from(limits.event_bytes) > self.publish_body_bytes {
            let message = "limits.event_bytes must not exceed limits.publish_body_bytes";
            check.contradiction(["limits.event_bytes", "limits.publish_body_bytes"], message);
        }
    }
}

/// `[compression]`.
#[derive(Clone, Debug)]
pub(in crate::config) struct Compression {
    pub(in crate::config) enabled: bool,
    pub(in crate::config) threshold: u32,
}

impl Default for Compression {
    fn default() -> Self {
        Self {
            enabled: true,
            threshold: DEFLATE_BYTES_MIN as u32,
        }
    }
}

impl Section for Compression {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("enabled", &mut self.enabled);
        visitor.value("threshold", &mut self.threshold);
    }
}

/// `[heartbeat]`.
#[derive(Clone, Debug)]
pub(in crate::config) struct Heartbeat {
    pub(in crate::config) interval: Duration,
    pub(in crate::config) timeout: Duration,
    pub(in crate::config) engine_io_interval: Duration,
    pub(in crate::config) engine_io_timeout: Duration,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(60),
            engine_io_interval: Duration::from_secs(25),
            engine_io_timeout: Duration::from_secs(20),
        }
    }
}

impl Section for Heartbeat {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("interval", &mut self.interval);
        visitor.value("timeout", &mut self.timeout);
        visitor.value("engine_io_interval", &mut self.engine_io_interval);
        visitor.value("engine_io_timeout", &mut self.engine_io_timeout);
    }
}

impl Heartbeat {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        let times = [
            ("heartbeat.interval", self.interval),
            ("heartbeat.engine_io_interval", self.engine_io_interval),
            ("heartbeat.engine_io_timeout", self.engine_io_timeout),
        ];
        for (key, time) in times {
            check.require(!time.is_zero(), key, "must be longer than 0s");
        }
        if self.timeout <= self.interval {
            let message = "heartbeat.timeout must be longer than heartbeat.interval";
            check.contradiction(["heartbeat.timeout", "heartbeat.interval"], message);
        }
    }
}

/// `[[command]]`.
#[derive(Clone, Debug)]
pub(in crate::config) struct Command {
    pub(in crate::config) pattern: Option<Pattern>,
    pub(in crate::config) http: Option<BackendUrl>,
    pub(in crate::config) timeout: Duration,
    pub(in crate::config) hmac_secret_env: Option<String>,
    pub(in crate::config) hmac_secret_file: Option<PathBuf>,
    pub(in crate::config) idempotent: bool,
    pub(in crate::config) audit: bool,
    pub(in crate::config) max_in_flight: u32,
}

impl Default for Command {
    fn default() -> Self {
        Self {
            pattern: None,
            http: None,
            timeout: Duration::from_secs(25),
            hmac_secret_env: None,
            hmac_secret_file: None,
            idempotent: false,
            audit: false,
            max_in_flight: 1000,
        }
    }
}

impl Section for Command {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("match", &mut self.pattern);
        visitor.value("http", &mut self.http);
        visitor.value("timeout", &mut self.timeout);
        visitor.value("hmac_secret_env", &mut self.hmac_secret_env);
        visitor.value("hmac_secret_file", &mut self.hmac_secret_file);
        visitor.value("idempotent", &mut self.idempotent);
        visitor.value("audit", &mut self.audit);
        visitor.value("max_in_flight", &mut self.max_in_flight);
        visitor.unsupported("nats", "commands over NATS");
        visitor.refused(
            "hmac_secret",
            "a secret does not stand in the file: name it by hmac_secret_env or hmac_secret_file",
        );
    }
}

pub(super) fn check_commands(commands: &[Command], check: &mut Check<'_>) {
    for (index, command) in commands.iter().enumerate() {
        let key = |name: &str| format!("command[{index}].{name}");
        check.require(
            command.pattern.is_some(),
            &key("match"),
            "is missing: the pattern of the actions",
        );
        check.require(command.http.is_some(), &key("http"), "is missing: the backend's URL");
        check.require(!command.timeout.is_zero(), &key("timeout"), "must be longer than 0s");
        check.require(command.max_in_flight > 0, &key("max_in_flight"), "must be at least 1");
        if command.hmac_secret_env.is_some() && command.hmac_secret_file.is_some() {
            check.refuse(
                &key("hmac_secret_file"),
                "hmac_secret_env and hmac_secret_file exclude each other",
            );
        }
    }
}

/// `[broker]`.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Broker {
    kind: BrokerKind,
}

/// `kind`: what stands between several gateways; alone, a gateway needs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum BrokerKind {
    #[default]
    Embedded,
}

choices!(BrokerKind { "embedded" => Self::Embedded } not { "nats", "redis" });

impl Section for Broker {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("kind", &mut self.kind);
        visitor.unsupported("url", "brokers other than the embedded one");
        visitor.unsupported("credentials_file", "brokers other than the embedded one");
        visitor.unsupported("prefix", "brokers other than the embedded one");
    }
}

/// `[log]`.
#[derive(Clone, Debug)]
pub(in crate::config) struct Log {
    pub(in crate::config) format: Format,
    pub(in crate::config) level: Level,
}

/// `format`: how log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

choices!(Format { "human" => Self::Human, "json" => Self::Json });

/// `level`: the least important lines written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Nothing.
    Off,
    /// What fails.
    Error,
    /// And what is amiss.
    Warn,
    /// And what an operator wants to have read afterwards.
    Info,
    /// And what helps to find a fault.
    Debug,
    /// And everything.
    Trace,
}

choices!(Level {
    "off" => Self::Off, "error" => Self::Error, "warn" => Self::Warn,
    "info" => Self::Info, "debug" => Self::Debug, "trace" => Self::Trace,
});

impl Default for Log {
    fn default() -> Self {
        Self {
            format: Format::Human,
            level: Level::Info,
        }
    }
}

impl Section for Log {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("format", &mut self.format);
        visitor.value("level", &mut self.level);
    }
}
