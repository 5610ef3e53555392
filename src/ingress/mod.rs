//! The door: accepts, speaks HTTP/1 until the upgrade, then hands the bare socket to a shard.
//!
//! Invariant: a connection is counted in the limits from its good handshake on until its permit is dropped (before that
//! it takes one of a bounded number of places, for a bounded time), and no byte that a client sent is lost between the
//! door and its shard.

pub mod handshake;
pub mod http;
mod limits;
mod origin;
mod polling;
pub mod proxy;
mod serve;
mod visit;
mod visitor;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};
use std::time::Duration;

use hashbrown::HashMap;
use hyper::server::conn::http1;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use crate::ingress::http::{AddressError, ListenAddress};
pub use origin::{OriginError, Origins};
pub use proxy::{ProxyError, TrustedProxies};

use self::http::{Health, Listener, Verify};
use crate::metrics::IngressMetrics;
use crate::session;
use crate::shard::mailbox::ShardHandle;
use crate::time::Clock;
use limits::Gate;
use visit::Visit;

/// `[server]`: what the door needs of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The public listeners. Sockets passed by systemd take their place.
    pub listen: Vec<ListenAddress>,
    /// Whose word on the client's address is believed.
    pub trusted_proxies: TrustedProxies,
    /// Which browsers' pages may connect.
    pub allowed_origins: Origins,
    /// The paths served. No two with the same path (a last `/` does not tell them apart).
    pub endpoints: Vec<Endpoint>,
    /// How a bad handshake token is refused.
    pub refuse: Refuse,
    /// Whether compression is agreed on with clients who offer it.
    pub deflate: bool,
    /// WebSocket connections in all.
    pub max_connections: u32,
    /// Connections of one client address; 0: no limit.
    pub max_connections_per_ip: u32,
    /// Connections of one user; 0: no limit.
    pub max_connections_per_user: u32,
    /// Handshakes per second in all, the burst being the same; 0: no limit.
    pub connect_rate: u32,
    /// From acceptance to the end of the request's head, and for every later one on the same connection.
    pub handshake_timeout_ms: u64,
}

/// `[[endpoint]]`: a path and how connections to it behave.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Begins with `/`; no query.
    pub path: Box<str>,
    /// What its sessions share.
    pub session: Arc<session::Settings>,
}

/// `[auth] refuse`: how a bad handshake token is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// `Close` for a request with an `Origin` (a browser cannot read a 401), `Http` for others.
    #[default]
    Auto,
    /// 401 with a JSON body.
    Http,
    /// The upgrade, then `auth_result` and close 4001 or 4004.
    Close,
}

/// Connections that speak HTTP at one time. Each has a deadline, so a place comes free within seconds; further ones
/// wait in the kernel's queue.
const PENDING_MAX: usize = 16_384;

/// What the door works with.
pub struct Parts {
    /// Verifies tokens; called on the door's threads.
    pub verify: Arc<Verify>,
    /// Where the connections go; at least one.
    pub shards: Vec<ShardHandle>,
    /// Whether clients are still let in, and what `/readyz` says.
    pub health: Arc<Health>,
    /// Where it counts.
    pub stats: Arc<IngressMetrics>,
    /// The gateway's clock.
    pub clock: Clock,
}

/// The public side of a gateway.
pub struct Door {
    trusted_proxies: TrustedProxies,
    allowed_origins: Origins,
    endpoints: Vec<Endpoint>,
    refuse: Refuse,
    deflate: bool,
    handshake_timeout: Duration,
    verify: Arc<Verify>,
    shards: Vec<ShardHandle>,
    health: Arc<Health>,
    stats: Arc<IngressMetrics>,
    clock: Clock,
    gate: Arc<Gate>,
    pending: Arc<Semaphore>,
    // Bytes.
    bodies: Semaphore,
    http: http1::Builder,
    // Connections that poll, by their addresses in memory.
    polling: Mutex<HashMap<usize, Weak<Visit>>>,
}

impl Door {
    /// A door for any number of listeners.
    #[must_use]
    pub fn new(settings: Settings, parts: Parts) -> Arc<Self> {
        let handshake_timeout = Duration::from_millis(settings.handshake_timeout_ms);
        Arc::new(Self {
            gate: Gate::new(&settings, parts.clock.now().mono_ms),
            pending: Arc::new(Semaphore::new(PENDING_MAX)),
            bodies: Semaphore::new(polling::body::BYTES_MAX),
            http: http::http1(handshake_timeout),
            polling: Mutex::default(),
            handshake_timeout,
            trusted_proxies: settings.trusted_proxies,
            allowed_origins: settings.allowed_origins,
            endpoints: settings.endpoints,
            refuse: settings.refuse,
            deflate: settings.deflate,
            verify: parts.verify,
            shards: parts.shards,
            health: parts.health,
            stats: parts.stats,
            clock: parts.clock,
        })
    }

    /// Serves a listener until the task is aborted: accepts on the current runtime, which must be the one that the
    /// listener was opened on, and serves on `handshakes`. When everybody comes at once, accepting must not queue behind
    /// handshakes: the kernel's queue of a few thousand would overflow, and who is dropped from it comes back after
    /// 1, 3, 7, ... seconds (TCP retransmits).
    pub fn serve(self: &Arc<Self>, listener: Arc<Listener>, handshakes: Handle) -> JoinHandle<()> {
        let door = Arc::clone(self);
        tokio::spawn(async move {
            let stats = Arc::clone(&door.stats);
            http::accept_forever(&listener, &door.pending, &stats.accept, |accepted, place| {
                handshakes.spawn(serve::connection(Arc::clone(&door), accepted, place));
            })
            .await;
        })
    }

    /// Whether an answer to a poll has yet to be written. What the shards said last is worth waiting for.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        // The last owner of one takes it out of the list: not while the list is held.
        let visits: Vec<_> = self.polling.lock().values().filter_map(Weak::upgrade).collect();
        visits.iter().any(|visit| visit.is_answering())
    }

    /// Connections that were let in and are not gone.
    #[must_use]
    pub fn connections(&self) -> u32 {
        self.gate.total()
    }
}
