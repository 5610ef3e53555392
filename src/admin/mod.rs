//! The admin API, on a listener of its own: publishing, clients, statistics, metrics, health.
//!
//! Invariant: nothing but `/healthz`, `/readyz` and `/metrics` answers without the admin key or a fitting token, and
//! nobody is authorised after the body has been read.

mod access;
mod body;
mod channels;
mod clients;
mod metrics;
mod publish;
mod push;
mod route;
pub mod self_report;
mod serve;
pub mod statistics;
mod stats;

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use crate::ingress::http::ListenAddress;
pub use access::AdminKey;

use crate::admin::statistics::Sample;
use crate::auth::verifier::Verifier;
use crate::backend::commands::Snapshot;
use crate::backend::feeds::Feeds;
use crate::broker::Broker;
use crate::hub::Hub;
use crate::ingress::http::{Health, Listener};
use crate::metrics::{AcceptMetrics, Counter, Gauge, IngressMetrics};
use crate::shard::mailbox::ShardHandle;
use crate::time::Clock;

/// `[admin]`, `admin_listen` and the limits of publishing.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The admin listener.
    pub listen: ListenAddress,
    /// The admin key; without one only tokens of role admin are accepted.
    pub key: Option<AdminKey>,
    /// Longest body of `POST /api/publish`, in bytes (`publish_body_bytes`). A stream of lines may be longer.
    pub publish_body_bytes: u64,
    /// Longest `data` of an event, in bytes (`event_bytes`).
    pub event_bytes: u32,
}

/// What the admin API works with.
pub struct Parts {
    /// The node's name.
    pub node: Box<str>,
    /// Verifies tokens, on the admin listener's threads; for its figures, too.
    pub verifier: Arc<Verifier>,
    /// Where events are published.
    pub broker: Arc<dyn Broker>,
    /// What is kept of channels.
    pub hub: Arc<Hub>,
    /// The gateway's own figures.
    pub figures: Arc<Sample>,
    /// All of them, in order.
    pub shards: Vec<ShardHandle>,
    /// The command router's figures.
    pub commands: Box<dyn Fn() -> Snapshot + Send + Sync>,
    /// The feeds.
    pub feeds: Arc<Feeds>,
    /// The door's counters.
    pub door: Arc<IngressMetrics>,
    /// What `/readyz` says.
    pub health: Arc<Health>,
    /// The gateway's clock; it started with the gateway.
    pub clock: Clock,
}

/// The admin side of a gateway.
pub struct Admin {
    key: Option<AdminKey>,
    publish_body_bytes: u64,
    event_bytes: usize,
    node: Box<str>,
    verifier: Arc<Verifier>,
    broker: Arc<dyn Broker>,
    hub: Arc<Hub>,
    figures: Arc<Sample>,
    shards: Vec<ShardHandle>,
    commands: Box<dyn Fn() -> Snapshot + Send + Sync>,
    feeds: Arc<Feeds>,
    door: Arc<IngressMetrics>,
    health: Arc<Health>,
    clock: Clock,
    stats: AdminMetrics,
    // Kibibytes of bodies that may be in memory at one time.
    body_kib: Arc<Semaphore>,
}

/// What the admin listener counts.
#[derive(Debug, Default)]
struct AdminMetrics {
    accept: AcceptMetrics,
    requests: Counter,
    in_flight: Gauge,
    published: Counter,
    duplicates: Counter,
    unchanged: Counter,
    refused_items: Counter,
}

/// Memory for bodies that are read as a whole, in kibibytes.
const BODY_KIB: usize = 256 * 1024;

impl Admin {
    /// The API, not served yet.
    #[must_use]
    pub fn new(settings: Settings, parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            key: settings.key,
            publish_body_bytes: settings.publish_body_bytes,
            event_bytes: usize::try_from(settings.event_bytes).unwrap_or(usize::MAX),
            node: parts.node,
            verifier: parts.verifier,
            broker: parts.broker,
            hub: parts.hub,
            figures: parts.figures,
            shards: parts.shards,
            commands: parts.commands,
            feeds: parts.feeds,
            door: parts.door,
            health: parts.health,
            clock: parts.clock,
            stats: AdminMetrics::default(),
            body_kib: Arc::new(Semaphore::new(BODY_KIB)),
        })
    }

    /// Serves a listener until the task is aborted. Must be called within a tokio runtime.
    pub fn serve(self: &Arc<Self>, listener: Arc<Listener>) -> JoinHandle<()> {
        tokio::spawn(serve::listener(Arc::clone(self), listener))
    }

    /// Requests that are not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.stats.in_flight.get()
    }
}
