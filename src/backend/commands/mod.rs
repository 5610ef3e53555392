//! Routes commands to backends and returns exactly one answer for each.
//!
//! Invariant: every command given to [`Router::route`] is answered exactly once through the [`Responder`]: by the
//! backend's reply, a refusal, the deadline, or after a panic or the end of the router. A client that disconnects does not
//! cancel its command; the answer is then dropped, since its connection is gone.
//!
//! The first [`RouteSettings`] whose pattern matches the action decides. A [`Handler`] carries the command out: an HTTP
//! backend ([`http`]), a backend that subscribes to the broker ([`nats`]), or code in this process. The router applies the rest to all handlers alike: the limits in flight, the deadline, the
//! circuit breaker ([`breaker`]), the retries of idempotent routes, the keys ([`keys`]) and the audit trail ([`audit`]).
//!
//! Everything runs on the tokio runtime that the router is given. Deadlines are tokio timers, with a resolution of one
//! millisecond.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use xxhash_rust::xxh3::Xxh3;

use self::audit::AuditRoom;
use super::spans::Tracer;
use crate::auth::Secret;
use crate::broker::nats::Nats;
use crate::session::{Command, CommandOutcome};
use crate::shard::mailbox::{ConnectionId, ShardHandle, ShardMessage};
use crate::time::unix_ms;
use tickgate_protocol::channel::{Channel, Pattern, TenantNames};
use tickgate_protocol::message::{CommandKey, RequestId};
use tickgate_protocol::trace_context::TraceParent;

pub mod audit;
mod backend;
pub mod breaker;
pub mod http;
pub mod keys;
mod metrics;
pub mod nats;
mod operation;
mod pending;
mod reply;
mod router;
mod sharing;
#[cfg(test)]
mod tests;

pub use breaker::CircuitState;
pub use http::{BackendUrl, HttpSettings};
pub use metrics::{BackendSample, CommandsSample};
pub use operation::{AnsweredCommand, Operation, TrailFull};
pub use router::Router;

/// The router's settings (`[[command]]`).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The routes in order. The first whose pattern matches the action decides.
    pub routes: Vec<RouteSettings>,
    /// Commands in flight over all routes. One more is refused with `BACKEND_UNAVAILABLE`.
    pub in_flight_max: usize,
    /// Commands in flight of one connection. One more is refused with `RATE_LIMITED`.
    pub in_flight_per_connection_max: usize,
    /// The bounds of the table of keys.
    pub keys: keys::Settings,
    /// The room in the audit trail, if it must be complete: a command of an audited route then waits for room.
    pub audit_room: Option<AuditRoom>,
    /// The broker over which commands are sent.
    pub nats: Option<Arc<Nats>>,
    /// Records spans of commands.
    pub tracer: Tracer,
    /// The names of the tenants beside the default one. The commands in flight are shared equally among all.
    pub tenants: TenantNames,
    /// Longest reply of a backend, in bytes. It is half of what a connection may have pending (`limits.reply_bytes`), so
    /// that one reply never makes its connection a slow consumer.
    pub reply_bytes_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            routes: Vec::new(),
            in_flight_max: 10_000,
            in_flight_per_connection_max: 256,
            keys: keys::Settings::default(),
            audit_room: None,
            tracer: Tracer::default(),
            nats: None,
            tenants: TenantNames::default(),
            reply_bytes_max: 128 * 1024,
        }
    }
}

/// One `[[command]]` entry.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// `match`: the actions of the route.
    pub pattern: Pattern,
    /// `http = ...` or `nats = true`: what answers them.
    pub target: Target,
    /// `timeout`: the time for a command, retries included. After it the answer is `TIMEOUT`: the outcome is unknown.
    pub timeout: Duration,
    /// `idempotent`: repeating the command has no further effect, so a failed attempt may be repeated.
    pub idempotent: bool,
    /// `audit`: every command leaves a structured log line and an event on `system.log`.
    pub audit: bool,
    /// `max_in_flight`: commands in flight on this route. One more is refused with `BACKEND_UNAVAILABLE`.
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
    /// Whoever subscribes to the subjects of the actions at the broker.
    Nats {
        /// The secret that signs every request.
        hmac_secret: Option<Secret>,
    },
    /// Code in this process.
    InProcess {
        /// The name in statistics. Routes with the same name share a circuit breaker.
        name: Box<str>,
        /// The code.
        handler: Arc<dyn Handler>,
    },
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(settings) => settings.fmt(f),
            Self::Nats { .. } => f.write_str("Nats"),
            Self::InProcess { name, .. } => write!(f, "InProcess({name})"),
        }
    }
}

/// A command as a backend sees it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The name of the client's tenant; `None` for the default one.
    pub tenant: Option<Box<str>>,
    /// The client's `id`, unique among the commands in flight of one `client_id`.
    pub id: RequestId,
    /// The action, such as `grid.start`.
    pub action: Channel,
    /// One JSON value, byte for byte as the client sent it.
    pub params: Bytes,
    /// The idempotency key.
    pub key: Option<CommandKey>,
    /// The user: the token's subject.
    pub user: Option<Arc<str>>,
    /// The token's role.
    pub role: Option<Arc<str>>,
    /// The connection's public name.
    pub client_id: Box<str>,
    /// When the gateway received the command, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// The trace that it belongs to, and the span of the attempt.
    pub trace: Option<TraceParent>,
}

impl Request {
    fn new(tenants: &TenantNames, client_id: &str, command: Command) -> Self {
        Self {
            tenant: tenants.of(command.identity.tenant).map(Into::into),
            id: command.id,
            action: command.action,
            params: command.params,
            key: command.key,
            user: command.identity.user.clone(),
            role: command.identity.role.clone(),
            client_id: client_id.into(),
            timestamp_ms: unix_ms(),
            trace: command.trace,
        }
    }

    /// A hash that tells commands apart which differ in their action or in the bytes of their params.
    fn fingerprint(&self) -> u128 {
        let mut hash = Xxh3::new();
        hash.update(self.action.as_str().as_bytes());
        // No action has this byte.
        hash.update(b" ");
        hash.update(&self.params);
        hash.digest128()
    }
}

/// The reply of a backend, or why there is none.
pub type HandlerResult = Result<BackendReply, Failure>;

/// The reply of a backend: raw JSON, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendReply {
    /// `success: true` and its `data` (`null` when absent).
    Success(Bytes),
    /// `success: false` and its `error`: an object with the strings `code` and `message`.
    Failure(Bytes),
}

/// Why a backend gave no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No connection was made, so the backend has not seen the command.
    #[error("the backend cannot be reached")]
    Unreachable(String),
    /// The connection failed after the command may have reached the backend.
    #[error("the backend's reply was lost, the outcome is unknown")]
    Lost(String),
    /// An HTTP status other than 2xx.
    #[error("the backend failed with status {0}")]
    Status(u16),
    /// An HTTP status other than 2xx, or the code of a NATS service's error, with what an operator should look at. Clients do
    /// not get the hint.
    #[error("the backend failed with status {status}")]
    StatusWithHint {
        /// The status.
        status: u16,
        /// For the log.
        hint: String,
    },
    /// A reply that is too long, encoded, or not `{success, data | error}`.
    #[error("the backend's reply was not understood, the outcome is unknown: {0}")]
    BadReply(Cow<'static, str>),
}

impl Failure {
    /// Whether the failure counts against the backend's health. Most 4xx do not: they refuse this one command.
    #[must_use]
    pub fn is_backend_fault(&self) -> bool {
        !matches!(self.status(), Some(400..=407 | 409..=428 | 430..=499))
    }

    /// Whether another attempt at an idempotent command may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Lost(_)) || matches!(self.status(), Some(429 | 500..))
    }

    /// Details for the log that clients do not get.
    #[must_use]
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Unreachable(detail) | Self::Lost(detail) | Self::StatusWithHint { hint: detail, .. } => Some(detail),
            Self::Status(_) | Self::BadReply(_) => None,
        }
    }

    fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) | Self::StatusWithHint { status, .. } => Some(*status),
            Self::Unreachable(_) | Self::Lost(_) | Self::BadReply(_) => None,
        }
    }
}

/// Carries out commands. One call is one attempt; the router adds limits, deadline, retries and circuit breaker.
pub trait Handler: Send + Sync {
    /// Carries the command out. The router drops the future at the deadline, even if work is under way.
    fn call<'a>(&'a self, request: &'a Request) -> Pin<Box<dyn Future<Output = HandlerResult> + Send + 'a>>;
}

/// The connection that a command came from.
#[derive(Clone, Copy, Debug)]
pub struct CommandSource<'a> {
    /// The connection that gets the answer.
    pub connection: ConnectionId,
    /// The number of the request, which the answer carries.
    pub request: u32,
    /// The connection's public name.
    pub client_id: &'a str,
    /// The client's address, as reported by the trusted proxies.
    pub address: Option<IpAddr>,
}

/// Receives answers. In the gateway, the shards' mailboxes do.
pub trait Responder: Send + Sync {
    /// Delivers the one answer to request `request` of `to`. Never waits.
    fn respond(&self, to: ConnectionId, request: u32, outcome: CommandOutcome);
}

impl Responder for Vec<ShardHandle> {
    fn respond(&self, to: ConnectionId, request: u32, outcome: CommandOutcome) {
        if let Some(shard) = self.get(usize::from(to.shard)) {
            // A shard that has ended has closed all its connections, so the answer has no receiver.
            let _ = shard.send(ShardMessage::Responded { to, request, outcome });
        }
    }
}
