//! Traces: what happens to a user, a connection or a channel, told to an operator for a limited time.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedSender;

use super::ConnectionId;
use tickgate_protocol::channel::{Channel, Tenant};

/// What a trace follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceTarget {
    /// All connections of a tenant's user.
    User(Tenant, Box<str>),
    /// One connection. If a tenant is given, a connection of another one does not exist.
    Connection(Option<Tenant>, ConnectionId),
    /// The events of a channel, and who subscribes and publishes to it.
    Channel(Channel),
}

/// A trace that a shard begins. It ends by itself.
#[derive(Debug)]
pub struct Trace {
    /// Its number, unique in the process.
    pub id: u64,
    /// What it follows.
    pub target: TraceTarget,
    /// When it ends, in monotonic milliseconds.
    pub ends_ms: u64,
    /// After this many bytes of lines it ends as well.
    pub bytes_max: u64,
    /// Gets the lines. The channel has no bound of its own; `bytes_max` bounds what is in it.
    pub lines: UnboundedSender<TraceLine>,
}

/// One thing that happened.
#[derive(Clone, Debug, Default)]
pub struct TraceLine {
    /// When, in Unix milliseconds.
    pub at_ms: u64,
    /// What: `followed`, `in`, `refused`, `out`, `delivered`, `subscribes`, `unsubscribes`, `publishes`, `ended`.
    pub what: &'static str,
    /// The connection's public name.
    pub client_id: Option<Box<str>>,
    /// The connection's user.
    pub user: Option<Arc<str>>,
    /// The channel of an event, or patterns.
    pub channel: Option<Box<str>>,
    /// The length of the message or event.
    pub bytes: Option<u64>,
    /// The name of an event, the rule or limit of a refusal, or the close code.
    pub detail: Option<Box<str>>,
    /// The beginning of the message or of the event's `data`.
    pub text: Option<Bytes>,
}

impl TraceLine {
    /// The bytes for which the line counts.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let text = self.text.as_ref().map_or(0, Bytes::len);
        let names = [&self.channel, &self.detail].into_iter().flatten();
        (size_of::<Self>() + text + names.map(|name| name.len()).sum::<usize>()) as u64
    }
}
