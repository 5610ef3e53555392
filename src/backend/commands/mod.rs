//! Routes commands to backends and brings exactly one answer back for each.
//!
//! Invariant: every command given to [`Router::route`] is answered once through the [`Responder`], whatever happens:
//! the backend's reply, a refusal, the deadline, a panic, or the router's own end. A client that leaves does not
//! cancel its command; the answer then finds no connection and is dropped there.
//!
//! The first [`RouteSettings`] whose pattern matches the action decides. What answers is a [`Handler`]: an HTTP
//! backend ([`http`]) or code in this process; another transport (request and reply over a message broker) is one
//! more implementation. Around it stand, the same for all: the limits in flight, the deadline, the circuit breaker
//! ([`breaker`]), the retries of idempotent routes and the audit trail ([`audit`]).
//!
//! Everything runs on the tokio runtime it is given; deadlines are tokio timers, which are a hierarchical wheel of
//! one-millisecond slots.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::session::{Command, CommandOutcome};
use crate::shard::mailbox::{ConnectionId, ShardHandle, ShardMessage};
use crate::time::unix_ms;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::message::RequestId;

pub mod audit;
mod backend;
pub mod breaker;
pub mod http;
mod reply;
mod router;
mod stats;
#[cfg(test)]
mod tests;

pub use http::{BackendUrl, HttpSettings};
pub use router::Router;
pub use stats::{BackendSnapshot, Snapshot};

/// The router's settings (`[[command]]`).
#[derive(Clone, Debug)]
pub struct Settings {
    /// In order; the first whose pattern matches the action decides.
    pub routes: Vec<RouteSettings>,
    /// Commands in flight over all routes; one more is refused with `BACKEND_UNAVAILABLE`.
    pub in_flight_max: usize,
    /// Commands in flight of one connection; one more is refused with `RATE_LIMITED`.
    pub in_flight_per_connection_max: usize,
    /// Longest reply of a backend, in bytes. Half of what a connection may have pending (`limits.reply_bytes`), so
    /// that one answer never ends its connection as a slow consumer.
    pub reply_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            routes: Vec::new(),
            in_flight_max: 10_000,
            in_flight_per_connection_max: 256,
            reply_bytes_max: 128 * 1024,
        }
    }
}

/// One `[[command]]` entry.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// `match`: which actions.
    pub pattern: Pattern,
    /// `http = ...`: what answers them.
    pub target: Target,
    /// `timeout`: for the whole command, retries included. Then `TIMEOUT`: the outcome is unknown.
    pub timeout: Duration,
    /// `idempotent`: doing it twice is doing it once, so that a failed attempt may be repeated.
    pub idempotent: bool,
    /// `audit`: leaves a structured log line and an event on `system.log`.
    pub audit: bool,
    /// `max_in_flight`: one more is refused with `BACKEND_UNAVAILABLE`.
    pub in_flight_max: usize,
}

impl RouteSettings {
    /// A route with the defaults of the configuration: 25 s, neither idempotent nor audited, 1000 in flight.
    #[must_use]
    pub fn new(pattern: Pattern, target: Target) -> Self {
        Self {
            pattern,
            target,
            timeout: Duration::from_secs(25),
            idempotent: false,
            audit: false,
            in_flight_max: 1000,
        }
    }
}

/// What answers the commands of a route.
#[derive(Clone)]
pub enum Target {
    /// An HTTP backend.
    Http(HttpSettings),
    /// Code in this process.
    InProcess {
        /// Its name in statistics; routes of one name share a circuit breaker.
        name: Box<str>,
        /// The code.
        handler: Arc<dyn Handler>,
    },
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(settings) => settings.fmt(f),
            Self::InProcess { name, .. } => write!(f, "InProcess({name})"),
        }
    }
}

/// A command as a backend sees it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The client's `id`; unique among the commands in flight of one `client_id`.
    pub id: RequestId,
    /// What to do.
    pub action: Channel,
    /// One JSON value, byte for byte as the client wrote it.
    pub params: Bytes,
    /// Who asks: the token's subject.
    pub user: Option<Arc<str>>,
    /// The token's role.
    pub role: Option<Arc<str>>,
    /// The connection's public name.
    pub client_id: Box<str>,
    /// When the gateway took the command, Unix milliseconds.
    pub timestamp_ms: u64,
}

impl Request {
    fn new(client_id: &str, command: Command) -> Self {
        Self {
            id: command.id,
            action: command.action,
            params: command.params,
            user: command.identity.user.clone(),
            role: command.identity.role.clone(),
            client_id: client_id.into(),
            timestamp_ms: unix_ms(),
        }
    }
}

/// The reply of a backend, or why there is none.
pub type HandlerResult = Result<Answer, Failure>;

/// A backend's reply; raw JSON, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// `success: true` and its `data` (`null` when absent).
    Success(Bytes),
    /// `success: false` and its `error`: an object with the strings `code` and `message`.
    Failure(Bytes),
}

/// Why a backend gave no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No connection: the backend has seen nothing of the command.
    #[error("the backend cannot be reached")]
    Unreachable(String),
    /// The connection failed when the command may have reached the backend.
    #[error("the backend's reply was lost, the outcome is unknown")]
    Lost(String),
    /// An HTTP status other than 2xx.
    #[error("the backend failed with HTTP status {0}")]
    Status(u16),
    /// A reply that is too long or not `{success, data | error}`.
    #[error("the backend's reply was not understood, the outcome is unknown: {0}")]
    BadReply(&'static str),
}

impl Failure {
    /// Whether it speaks against the backend's health: a 4xx says that this one command was not wanted.
    #[must_use]
    pub fn is_backend_fault(&self) -> bool {
        !matches!(self, Self::Status(400..=407 | 409..=428 | 430..=499))
    }

    /// Whether another attempt at an idempotent command can help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Lost(_) | Self::Status(429 | 500..))
    }

    /// More for the log than clients are told.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Unreachable(detail) | Self::Lost(detail) => Some(detail),
            Self::Status(_) | Self::BadReply(_) => None,
        }
    }
}

/// What answers commands. One attempt per call: limits, deadline, retries and circuit breaker are the router's.
pub trait Handler: Send + Sync {
    /// Carries the command out. Dropped at the deadline, whatever it has done until then.
    fn call<'a>(&'a self, request: &'a Request) -> Pin<Box<dyn Future<Output = HandlerResult> + Send + 'a>>;
}

/// Which connection a command came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Where the answer goes.
    pub connection: ConnectionId,
    /// The number that the answer carries.
    pub request: u32,
    /// The connection's public name.
    pub client_id: &'a str,
    /// The client's address, as the trusted proxies tell it.
    pub address: Option<IpAddr>,
}

/// Where answers go: in the gateway, the shards' mailboxes.
pub trait Responder: Send + Sync {
    /// Delivers the one answer to request `request` of `to`. Never waits.
    fn respond(&self, to: ConnectionId, request: u32, outcome: CommandOutcome);
}

impl Responder for Vec<ShardHandle> {
    fn respond(&self, to: ConnectionId, request: u32, outcome: CommandOutcome) {
        if let Some(shard) = self.get(usize::from(to.shard)) {
            // A shard that is gone has ended all its connections: nobody is left to be told.
            let _ = shard.send(ShardMessage::Responded { to, request, outcome });
        }
    }
}
