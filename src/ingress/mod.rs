//! The public side of a gateway: it accepts connections, speaks HTTP/1 until the upgrade, and hands the socket to a
//! shard.
//!
//! Invariant: from its admission until its permit is dropped, a connection counts against the connection limits. Before
//! that it takes one of a bounded number of pending slots, for a bounded time and until a newer connection needs the slot
//! more. Every byte that a client sends reaches its
//! shard.
//!
//! # Where to look
//!
//! A connection passes through these modules. A module imports only from modules that are declared before its own block in
//! this file.
//!
//! | step | module |
//! |---|---|
//! | listening sockets, the accept loop, health, responses (shared with the admin listener) | [`http`] |
//! | one connection from accept to its end | `serve` |
//! | the PROXY header; `X-Forwarded-For` | [`proxy_protocol`], `forwarded` |
//! | which request goes where | `routing`, `selector`, `endpoint_table` |
//! | the checks of a handshake | [`handshake`] |
//! | origin, limits and token | `admission`, `origin`, `limits` (with `users` and `counts`) |
//! | the 101, and the hand-over to a shard | `upgrade` |
//! | Engine.IO long polling | `polling`, `session_request`, `body` |
//! | every refusal, with status, code and text | `refusal` |
//! | deadlines, pending slots, unwritten responses | `http_connection`, `pending` |

pub mod http;

mod forwarded;
mod origin;
pub mod proxy_protocol;

mod selector;

mod settings;

mod endpoint_table;

mod counts;
mod users;

pub mod handshake;
mod limits;
mod pending;

mod refusal;

mod body;
mod session_request;

mod admission;

mod http_connection;

mod context;

mod upgrade;

mod polling;

mod routing;

mod serve;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub use body::BYTES_MAX as BODY_BYTES_MAX;
pub use endpoint_table::{SelectionError, check as check_endpoints, selected};
pub use forwarded::{TrustedProxies, TrustedProxyError, client_address};
pub use http::{AddressError, ListenAddress, ListenerName, ListenerNameError};
pub use origin::{AllowedOrigins, OriginError};
pub use selector::{HostError, HostPattern, Selector};
pub use settings::{Endpoint, PerUserOverflow, Settings, TenantLimits, TokenRefusal};

use context::{Context, SharedParts};
use endpoint_table::EndpointTable;
use http::{BodyRoom, Closed, Gate, Health, Listener, Verify};
use http_connection::PollingConnections;
use limits::ConnectionLimits;
use pending::PendingConnections;

use crate::metrics::IngressMetrics;
use crate::shard::mailbox::{ConnectionId, ShardHandle, ShardMessage};
use crate::time::Clock;

/// How often it is looked whether handshakes have ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The parts of the gateway that the ingress uses.
pub struct Parts {
    /// Verifies tokens, on the ingress's threads.
    pub verify: Arc<Verify>,
    /// The shards that get the connections; at least one.
    pub shards: Vec<ShardHandle>,
    /// Whether new connections are admitted; `/readyz` reports it.
    pub health: Arc<Health>,
    /// The ingress's counters.
    pub metrics: Arc<IngressMetrics>,
    /// The room for the bodies of POST requests; see [`BODY_BYTES_MAX`].
    pub bodies: Arc<BodyRoom>,
    /// The gateway's clock.
    pub clock: Clock,
}

/// The public side of a gateway.
pub struct Ingress {
    context: Arc<RwLock<Arc<Context>>>,
    gate: Gate,
}

impl Ingress {
    /// An ingress without listeners.
    #[must_use]
    pub fn new(settings: Settings, parts: Parts) -> Self {
        let shards = parts.shards.clone();
        let challenge = move |id: ConnectionId| {
            if let Some(shard) = shards.get(usize::from(id.shard)) {
                // A shard that has ended has no connection to challenge.
                let _ = shard.send(ShardMessage::Challenge { id });
            }
        };
        let shared = SharedParts {
            limits: ConnectionLimits::new(&settings, Box::new(challenge), parts.clock.now().mono_ms),
            verify: parts.verify,
            shards: parts.shards,
            health: parts.health,
            pending: Arc::new(PendingConnections::new(
                settings.max_pending,
                settings.max_pending_per_ip,
                Arc::clone(&parts.metrics),
            )),
            metrics: parts.metrics,
            polling: Arc::<PollingConnections>::default(),
            bodies: parts.bodies,
            clock: parts.clock,
        };
        let context = Arc::new(Context::new(settings, Arc::new(shared)));
        Self {
            context: Arc::new(RwLock::new(context)),
            gate: Gate::default(),
        }
    }

    /// Replaces the settings for connections that are accepted from now on. The listeners, the permissions of Unix sockets
    /// and the bounds of pending connections stay. Connections keep the settings that they were accepted with, except for
    /// the connection limits, which hold for all.
    ///
    /// [`check_endpoints`] must have accepted the endpoints.
    pub fn replace(&self, settings: Settings) {
        let mut context = self.context.write();
        context.shared.limits.replace(&settings);
        let shared = Arc::clone(&context.shared);
        *context = Arc::new(Context::new(settings, shared));
    }

    fn context(&self) -> Arc<Context> {
        Arc::clone(&self.context.read())
    }

    /// Serves a listener until accepting on it is [stopped](Self::stop_accepting) or the returned task is aborted.
    ///
    /// It accepts on the current runtime, which must be the one that the listener was opened on, and serves connections on
    /// `handshakes`. The runtimes are apart because accepting must not queue behind handshakes when many clients connect at
    /// once. Otherwise the kernel's accept queue of a few thousand overflows, and TCP retries a dropped connection only
    /// after 1, 3, 7, ... seconds.
    pub fn serve(&self, listener: Arc<Listener>, handshakes: Handle) -> JoinHandle<()> {
        let (shared, gate) = (Arc::clone(&self.context), self.gate.enter());
        tokio::spawn(async move {
            let mut context = Arc::clone(&shared.read());
            let mut endpoints = Arc::new(EndpointTable::new(&context.endpoints, &listener.names()));
            let (pending, metrics) = (Arc::clone(&context.shared.pending), Arc::clone(&context.shared.metrics));
            http::accept_until_closed(&listener, pending.places(), &metrics.accept, gate, |accepted, place| {
                let current = Arc::clone(&shared.read());
                if !Arc::ptr_eq(&current, &context) {
                    endpoints = Arc::new(EndpointTable::new(&current.endpoints, &listener.names()));
                    context = current;
                }
                let (context, endpoints) = (Arc::clone(&context), Arc::clone(&endpoints));
                handshakes.spawn(serve::connection(context, endpoints, accepted, place));
            })
            .await;
        })
    }

    /// Accepts no further connection on these listeners. Connections that are accepted are served.
    pub fn stop_accepting(&self, listeners: Closed) {
        self.gate.close(listeners);
    }

    /// Counts how long nobody accepted because of the restart that began this process.
    pub fn count_restart(&self, paused: Duration) {
        let us = u64::try_from(paused.as_micros()).unwrap_or(u64::MAX);
        self.context().shared.metrics.restart_paused_us.add(us);
    }

    /// Waits until every accept loop has ended.
    pub async fn loops_ended(&self) {
        self.gate.loops_ended().await;
    }

    /// Whether an accepted connection is not with a shard yet.
    #[must_use]
    pub fn has_handshakes(&self) -> bool {
        self.context().shared.metrics.pending.get() > 0
    }

    /// Waits until every accepted connection is with a shard or closed.
    pub async fn handshakes_ended(&self) {
        while self.has_handshakes() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Whether the response to a poll has yet to be written. A drain waits for it, because it holds the last words of a
    /// session.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.context().shared.polling.is_answering()
    }

    /// The number of admitted connections that have not ended.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.context().shared.limits.total()
    }
}
