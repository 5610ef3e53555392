//! Sources: messages that a platform already has in NATS or Redis become events, without code.
//!
//! Invariant: a message of a stream is confirmed at its source only after the outcome of its event is known. A message that
//! comes again has the same id, so its event is published once. Of several gateways, the one with the duties reads.
//!
//! # The life of a message
//!
//! 1. `nats` or `redis` reads a batch of messages. The next one is read only when this one is done, so a gateway that is
//!    slow waits in the stream.
//! 2. `convert` makes an event of each. The channel comes from a `template`. A message that is no event is counted, told in
//!    the log once a minute, and skipped.
//! 3. `run` publishes the events, and again those that the broker did not take, until each has its outcome.
//! 4. The batch is confirmed at the source.
//!
//! | kind | where it goes on after a restart | what happens while the gateway is slow or away |
//! |---|---|---|
//! | a stream of JetStream | the durable consumer in NATS | messages wait in the stream |
//! | a stream of Redis | the consumer group in Redis | messages wait in the stream |
//! | a subject of NATS, a channel of Redis | with the next message | messages are lost, and counted if they arrived |

mod convert;
mod live;
mod metrics;
mod nats;
mod redis;
mod run;
mod template;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;

use crate::broker::Duties;
use crate::broker::nats::Login;
use crate::event::NewEvent;
use crate::redis::RedisServer;
use crate::time::unix_ms;
use tickgate_protocol::channel::{Tenant, TenantNames};
use tickgate_protocol::json::RecordKey;

pub use metrics::{SourceCounts, SourceSample, SourceState};
pub use run::Runner;
pub use template::{FieldPath, SourceChannel, SourceEvent};

use convert::Converter;
use metrics::SourceMetrics;

/// The settings of all sources (`[[source]]`).
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The sources, in the order of the configuration.
    pub sources: Vec<SourceSettings>,
    /// The names of the tenants beside the default one.
    pub tenants: TenantNames,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSettings {
    /// The tenant whose channels it fills.
    pub tenant: Tenant,
    /// The channel of a message.
    pub channel: SourceChannel,
    /// The name of its event.
    pub event: SourceEvent,
    /// What is read.
    pub origin: Origin,
    /// The field that holds the event's data; `None`: the whole message.
    pub data: Option<FieldPath>,
    /// What identifies the records that the data are; `None`: the data are any JSON.
    pub record_key: Option<RecordKey>,
    /// Longest `data` of an event, in bytes.
    pub event_bytes: usize,
}

/// What is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Something of a NATS server.
    Nats {
        /// The server.
        server: NatsServer,
        /// What of it.
        from: NatsFrom,
        /// How a stream is read.
        stream: StreamSettings,
    },
    /// Something of a Redis server.
    Redis {
        /// The server.
        server: RedisServer,
        /// What of it.
        from: RedisFrom,
        /// How a stream is read.
        stream: StreamSettings,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nats { from, .. } => write!(f, "nats {from}"),
            Self::Redis { from, .. } => write!(f, "redis {from}"),
        }
    }
}

/// A NATS server or cluster, and how the gateway logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsServer {
    /// `nats://host:port` or `tls://host:port`, at least one.
    pub urls: Vec<Box<str>>,
    /// How the gateway authenticates.
    pub login: Login,
    /// The certificates of authorities; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
}

/// How a stream is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// The name of the durable consumer or of the consumer group, which keeps the position.
    pub consumer: Box<str>,
    /// JetStream: only messages with this subject, which may have wildcards.
    pub subject: Option<Box<str>>,
    /// Where a consumer begins that does not exist yet.
    pub start: Start,
}

/// Where a consumer begins that does not exist yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With the next message.
    #[default]
    New,
    /// With the oldest message of the stream.
    All,
}

/// `nats = "subject:md.trades.*"` or `"stream:TRADES"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NatsFrom {
    /// A subject, which may have wildcards.
    Subject(Box<str>),
    /// A stream of JetStream.
    Stream(Box<str>),
}

/// A token of a subject, a wildcard included.
fn is_token(token: &str) -> bool {
    !token.is_empty() && !token.contains(|character: char| character.is_whitespace() || character.is_control())
}

/// Whether a text is a subject of NATS, which may have wildcards.
#[must_use]
pub fn is_subject(text: &str) -> bool {
    let ends_at_rest = !text.contains(">.");
    text.split('.').all(is_token) && ends_at_rest
}

impl FromStr for NatsFrom {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "must be subject:<subject> or stream:<name>";
        match text.split_once(':').ok_or(WANTED)? {
            ("subject", subject) if is_subject(subject) => Ok(Self::Subject(subject.into())),
            ("subject", _) => Err("has a subject that is not valid in NATS"),
            ("stream", name) if is_token(name) && !name.contains(['.', '*', '>', '/', '\\']) => {
                Ok(Self::Stream(name.into()))
            }
            ("stream", _) => Err("has a name of a stream that is not valid in NATS"),
            _ => Err(WANTED),
        }
    }
}

impl fmt::Display for NatsFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject(subject) => write!(f, "subject:{subject}"),
            Self::Stream(name) => write!(f, "stream:{name}"),
        }
    }
}

/// `redis = "stream:orders"`, `"channel:ticks"` or `"pattern:ticks.*"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisFrom {
    /// The key of a stream.
    Stream(Box<str>),
    /// A channel of Pub/Sub.
    Channel(Box<str>),
    /// A pattern of channels of Pub/Sub.
    Pattern(Box<str>),
}

impl FromStr for RedisFrom {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "must be stream:<key>, channel:<name> or pattern:<pattern>";
        match text.split_once(':').ok_or(WANTED)? {
            (_, "") => Err(WANTED),
            ("stream", key) => Ok(Self::Stream(key.into())),
            ("channel", name) => Ok(Self::Channel(name.into())),
            ("pattern", pattern) => Ok(Self::Pattern(pattern.into())),
            _ => Err(WANTED),
        }
    }
}

impl fmt::Display for RedisFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(key) => write!(f, "stream:{key}"),
            Self::Channel(name) => write!(f, "channel:{name}"),
            Self::Pattern(pattern) => write!(f, "pattern:{pattern}"),
        }
    }
}

/// A handle to the running sources.
pub struct Sources {
    wanted: watch::Sender<Vec<SourceSettings>>,
    metrics: Arc<RwLock<Vec<Arc<SourceMetrics>>>>,
    duties: Duties,
}

impl Sources {
    /// Replaces the sources. Those that stay go on undisturbed.
    pub fn replace(&self, sources: Vec<SourceSettings>) {
        self.wanted.send_if_modified(|wanted| {
            let is_other = *wanted != sources;
            *wanted = sources;
            is_other
        });
    }

    /// Whether this gateway reads. Of several gateways, one does.
    #[must_use]
    pub fn are_read_here(&self) -> bool {
        self.duties.fence().is_some()
    }

    /// Reads the counters of every source, in the order of the settings.
    #[must_use]
    pub fn read(&self) -> Vec<SourceSample> {
        self.metrics.read().iter().map(|metrics| metrics.read()).collect()
    }
}

/// A message of a source.
#[derive(Clone, Debug)]
struct Message {
    /// The subject, or the name of the stream or the channel in Redis.
    subject: Box<str>,
    /// The text, or why there is none.
    text: Result<Box<str>, String>,
    /// When it was written, in Unix milliseconds.
    timestamp_ms: u64,
    /// What tells the message from all others of its source; `None`: nothing does.
    id: Option<Box<str>>,
}

/// The events that a source of the default tenant makes of a message with this subject, and of the message as a reply of Redis
/// with entries of the stream that has the subject as its key. For checks.
#[must_use]
pub fn read_message(settings: &SourceSettings, subject: &str, message: &[u8]) -> Vec<NewEvent> {
    let text = std::str::from_utf8(message);
    let whole = Message {
        subject: subject.into(),
        text: text.map(Into::into).map_err(|error| error.to_string()),
        timestamp_ms: unix_ms(),
        id: None,
    };
    let entries = redis::read_reply(message, subject, settings.record_key.as_ref());
    let mut converter = Converter::new(settings.clone(), &TenantNames::default());
    let messages = std::iter::once(whole).chain(entries);
    messages
        .filter_map(|message| converter.convert(&message).ok())
        .collect()
}

/// Messages that are confirmed together, in their order.
#[derive(Debug, Default)]
struct Batch {
    messages: Vec<Message>,
    /// Messages that wait behind them, if that is known.
    behind: Option<u64>,
    /// Messages before them that were lost.
    lost: u64,
}

/// Why a source is not read any more. It is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_checked() {
        for good in ["subject:md.*.trade", "subject:md.>", "stream:TRADES", "stream:a-b_c"] {
            assert_eq!(good.parse::<NatsFrom>().expect(good).to_string(), good);
        }
        for bad in [
            "TRADES",
            "subject:",
            "subject:a..b",
            "subject:a b",
            "subject:>.a",
            "stream:a.b",
            "stream:",
            "queue:a",
        ] {
            assert!(bad.parse::<NatsFrom>().is_err(), "{bad}");
        }
        for good in ["stream:orders:eu", "channel:ticks", "pattern:ticks.*"] {
            assert_eq!(good.parse::<RedisFrom>().expect(good).to_string(), good);
        }
        for bad in ["orders", "stream:", "hash:a", "list:a"] {
            assert!(bad.parse::<RedisFrom>().is_err(), "{bad}");
        }
    }
}
