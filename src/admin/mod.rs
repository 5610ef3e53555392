//! The admin API, on a listener of its own: publishing, clients, channels, statistics, metrics and health.
//!
//! Invariant: a request is authorised before its body is read. Each route carries its access rule (see `routes`); only
//! `/healthz`, `/readyz` and `/metrics` are open to everyone. They are served whatever other clients do: no connection
//! keeps its place for ever without being served.

mod access;
mod act;
mod body;
mod channel_list;
mod channels;
mod clients;
mod completed;
mod configuration;
mod connection;
mod console;
mod deletion;
mod endings;
mod gateways;
mod keep_alive;
mod load;
mod log;
mod metrics;
mod overview;
mod publish;
mod push;
mod query;
mod revocations;
mod routes;
pub mod self_report;
mod serve;
pub mod statistics;
mod stats;
mod tenant;
#[cfg(test)]
mod tests;
mod traces;
mod users;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

pub use crate::ingress::http::ListenAddress;
pub use access::AdminKey;
pub use configuration::{ConfigurationKey, Effect};
pub use gateways::learn;

use self::access::Holder;
use self::configuration::Configuration;
use self::console::Sessions;
use self::gateways::Gateways;
use self::metrics::AdminMetrics;
use self::statistics::Statistics;
use self::traces::Traces;
use crate::auth::verifier::Verifier;
use crate::backend::commands::Router;
use crate::backend::feeds::Feeds;
use crate::backend::ingest::Sources;
use crate::backend::jwks::KeySets;
use crate::backend::spans::Tracer;
use crate::broker::{Broker, BrokerSample};
use crate::hub::Hub;
use crate::hub::snapshot::SnapshotMetrics;
use crate::ingress::http::{BodyRoom, Closed, Gate, Health, Listener, Places};
use crate::log_level::LevelControl;
use crate::metrics::{Counter, IngressMetrics, ReloadMetrics, TracedHistogram};
use crate::session::{self, limits::LineLimit};
use crate::shard::mailbox::ShardHandle;
use crate::time::Clock;
use tickgate_protocol::channel::{Tenant, TenantNames};

/// `[admin]`, `admin_listen` and the limits of publishing.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of the admin listener.
    pub listen: ListenAddress,
    /// The operator's admin key. Without one, only tokens with the role admin are accepted.
    pub key: Option<AdminKey>,
    /// The key of those who may look and not act.
    pub viewer_key: Option<AdminKey>,
    /// The tenants beside the default one, in the order of their numbers.
    pub tenants: Vec<TenantAccess>,
    /// Members of JSON objects whose values a trace masks, besides `token`.
    pub trace_masks: Vec<Box<str>>,
    /// The effective configuration, for the console.
    pub configuration: Vec<ConfigurationKey>,
    /// Longest body of `POST /api/publish`, in bytes (`publish_body_bytes`). A stream of lines may be longer.
    pub publish_body_bytes: u64,
    /// The slowest a body may arrive, in bytes per second (`publish_body_rate`); 0: no limit.
    pub publish_body_rate: u32,
    /// Most connections that have presented a key or token, at least 1.
    pub max_connections: u32,
    /// Most other connections, at least 1.
    pub max_connections_without_key: u32,
    /// Most silent ones of them of one address; 0: no limit.
    pub max_connections_without_key_per_ip: u32,
    /// Longest `data` of an event, in bytes (`event_bytes`).
    pub event_bytes: u32,
    /// Log lines that were dropped, for `/metrics`. The writer of the log counts them.
    pub log_lines_dropped: Arc<Counter>,
    /// Reloads of the configuration, for `/metrics`. Whoever reads the configuration counts them.
    pub reloads: Arc<ReloadMetrics>,
    /// Changes the level of the log; `None` if the process has no log of its own.
    pub log_control: Option<Arc<dyn LevelControl>>,
}

/// How a tenant uses the admin API.
#[derive(Clone, Debug)]
pub struct TenantAccess {
    /// The tenant's name.
    pub name: Box<str>,
    /// The key that administers this tenant only.
    pub key: Option<AdminKey>,
    /// The key of those who may look at this tenant and not act.
    pub viewer_key: Option<AdminKey>,
    /// Longest `data` of an event, in bytes.
    pub event_bytes: u32,
}

/// The parts of the gateway that the admin API works with.
pub struct Parts {
    /// The node's name.
    pub node: Box<str>,
    /// Verifies tokens on the admin listener's threads. `/metrics` shows its counters.
    pub verifier: Arc<Verifier>,
    /// Takes the events that are published.
    pub broker: Arc<dyn Broker>,
    /// Holds the kept state of channels.
    pub hub: Arc<Hub>,
    /// The gateway's statistics.
    pub statistics: Arc<Statistics>,
    /// All shards, each at the index of its number.
    pub shards: Vec<ShardHandle>,
    /// The command router, which has the audit trail.
    pub router: Arc<Router>,
    /// The feeds.
    pub feeds: Arc<Feeds>,
    /// The sources.
    pub sources: Arc<Sources>,
    /// Reads the counters of the broker; zeros with the embedded one.
    pub broker_sample: Box<dyn Fn() -> BrokerSample + Send + Sync>,
    /// The key sets.
    pub key_sets: Arc<KeySets>,
    /// What the snapshot's thread counts; zeros without a snapshot.
    pub snapshot: Arc<SnapshotMetrics>,
    /// The counters of the public listeners.
    pub ingress: Arc<IngressMetrics>,
    /// What `/readyz` answers.
    pub health: Arc<Health>,
    /// The room for the bodies of the admin listener; see [`body_room`].
    pub bodies: Arc<BodyRoom>,
    /// The room for the bodies of the public listeners, for `/metrics`.
    pub public_bodies: Arc<BodyRoom>,
    /// Records spans of publications.
    pub tracer: Tracer,
    /// The gateway's clock, started with the gateway.
    pub clock: Clock,
}

/// The admin API of a gateway.
pub struct Admin {
    keys: Vec<(AdminKey, Holder)>,
    tenants: TenantNames,
    sessions: Sessions,
    traces: Traces,
    trace_masks: Vec<Box<str>>,
    configuration: Configuration,
    // Begins a drain.
    drain: OnceLock<Box<dyn Fn() + Send + Sync>>,
    // By the number of the tenant.
    console_settings: Vec<Arc<session::Settings>>,
    failure_lines: Mutex<LineLimit>,
    publish_body_bytes: u64,
    publish_body_rate: u32,
    // By the number of the tenant.
    event_bytes: Vec<AtomicUsize>,
    log_lines_dropped: Arc<Counter>,
    reloads: Arc<ReloadMetrics>,
    log_control: Option<Arc<dyn LevelControl>>,
    log_reversion: log::Reversion,
    gateways: Gateways,
    parts: Parts,
    metrics: AdminMetrics,
    publish_duration: TracedHistogram,
    // Connections that have presented a key or token, and all others.
    with_key: Arc<Places>,
    without_key: Arc<Places>,
    gate: Gate,
}

/// The room for the bodies of an admin listener with these settings: 256 MiB, or one body of the longest kind if that is
/// more.
#[must_use]
pub fn body_room(settings: &Settings) -> Arc<BodyRoom> {
    let bytes_max = body::BYTES_MAX.max(settings.publish_body_bytes);
    Arc::new(BodyRoom::new(usize::try_from(bytes_max).unwrap_or(usize::MAX)))
}

/// The longest `data` of an event, in bytes, by the number of the tenant.
fn event_bytes(bytes: u32, tenants: &[TenantAccess]) -> impl Iterator<Item = usize> {
    let of_all = std::iter::once(bytes).chain(tenants.iter().map(|tenant| tenant.event_bytes));
    of_all.map(|bytes| bytes as usize)
}

impl Admin {
    /// Creates the API. [`Admin::serve`] serves it.
    #[must_use]
    pub fn new(settings: Settings, parts: Parts) -> Arc<Self> {
        let with_key = Places::new(settings.max_connections, 0);
        parts.health.watch_publishing({
            let (bodies, with_key) = (Arc::clone(&parts.bodies), Arc::clone(&with_key));
            move || {
                if bodies.is_full() {
                    Some("no_room_for_bodies")
                } else {
                    with_key.are_busy().then_some("too_many_connections")
                }
            }
        });
        let tenants = settings.tenants;
        let names = TenantNames::new(tenants.iter().map(|tenant| tenant.name.clone()).collect());
        let classes = parts.hub.classes();
        let of_default = ((Tenant::DEFAULT, None), settings.event_bytes);
        let of_tenants =
            (names.iter().zip(&tenants)).map(|((tenant, name), access)| ((tenant, Some(name)), access.event_bytes));
        Arc::new(Self {
            console_settings: std::iter::once(of_default)
                .chain(of_tenants)
                .map(|(tenant, event_bytes)| console::socket::settings(tenant, event_bytes, classes))
                .collect(),
            event_bytes: event_bytes(settings.event_bytes, &tenants)
                .map(AtomicUsize::new)
                .collect(),
            keys: access::keys([settings.key, settings.viewer_key], &tenants),
            tenants: names,
            sessions: Sessions::default(),
            traces: Traces::default(),
            trace_masks: settings.trace_masks,
            configuration: Configuration::new(settings.configuration),
            drain: OnceLock::new(),
            failure_lines: Mutex::new(LineLimit::new(parts.clock.now().mono_ms)),
            publish_body_bytes: settings.publish_body_bytes,
            publish_body_rate: settings.publish_body_rate,
            with_key,
            without_key: Places::new(
                settings.max_connections_without_key,
                settings.max_connections_without_key_per_ip,
            ),
            log_lines_dropped: settings.log_lines_dropped,
            reloads: settings.reloads,
            log_control: settings.log_control,
            log_reversion: log::Reversion::default(),
            gateways: Gateways::default(),
            parts,
            metrics: AdminMetrics::default(),
            publish_duration: TracedHistogram::default(),
            gate: Gate::default(),
        })
    }

    /// Sets how to begin a drain, once.
    pub fn set_drain(&self, drain: impl Fn() + Send + Sync + 'static) {
        let _ = self.drain.set(Box::new(drain));
    }

    /// Replaces [`Settings::event_bytes`] here and for the feeds, and [`TenantAccess::event_bytes`].
    pub fn set_event_bytes(&self, bytes: u32, tenants: &[TenantAccess]) {
        for (held, bytes) in self.event_bytes.iter().zip(event_bytes(bytes, tenants)) {
            held.store(bytes, Relaxed);
        }
        self.parts.feeds.set_event_bytes(bytes as usize);
    }

    /// The longest `data` of an event of a tenant, in bytes.
    fn event_bytes(&self, tenant: Tenant) -> usize {
        self.event_bytes
            .get(tenant.index())
            .map_or(0, |bytes| bytes.load(Relaxed))
    }

    /// Serves a listener until [`Admin::stop_accepting`] or until the task is aborted. Must be called within a tokio runtime.
    pub fn serve(self: &Arc<Self>, listener: Arc<Listener>) -> JoinHandle<()> {
        tokio::spawn(serve::listener(Arc::clone(self), listener))
    }

    /// Exports the spans that have ended, for at most `patience`.
    pub async fn flush_spans(&self, patience: Duration) {
        self.parts.tracer.flush(patience).await;
    }

    /// Accepts no further connection.
    pub fn close_listener(&self) {
        self.gate.close(Closed::All);
    }

    /// Accepts no further connection, and waits until every connection has ended. While the gateway drains, each ends with
    /// the response to its next request.
    pub async fn stop_accepting(&self) {
        self.close_listener();
        self.gate.loops_ended().await;
        while self.with_key.taken() + self.without_key.taken() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The number of requests that are not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.metrics.in_flight.get()
    }
}
