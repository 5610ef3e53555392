//! One gateway, assembled: hub, broker, shards, verifier, command router, feeds, ingress, admin listener and
//! self-report.
//!
//! Invariant: a gateway has no global state. Several gateways can run in one process, and each ends completely.
//!
//! # Shutdown
//!
//! 1. [`Handle::drain`] makes the gateway not ready. Every shard tells its clients and spreads their closes.
//! 2. Meanwhile the public listeners stay open and answer handshakes with 503, so that a proxy in front chooses another
//!    gateway at once. Sockets that systemd passed are no longer accepted on: connections in their queue are for the next
//!    process.
//!    [`Handle::restart`] does so with all public listeners, and drains faster. [`Handle::step_aside`] does so with all
//!    listeners, once another process accepts on them.
//! 3. After the last connection the shards end. Commands and admin requests in flight get their responses.
//! 4. [`Gateway::wait`] returns, after a restart with the listening sockets.

mod components;
mod error;
mod handle;
mod listeners;
mod memory;
mod reload;
mod serving;
mod tenants;
mod upkeep;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{self, Runtime};

use self::components::Components;
use self::listeners::Listeners;
use self::reload::Reload;
use self::serving::Serving;
use crate::admin::Admin;
use crate::admin::self_report::SelfReport;
use crate::admin::statistics::Statistics;
use crate::backend::{commands, feeds, ingest, jwks, spans};
use crate::broker::SharedSettings;
use crate::hub::snapshot::{self, LastRecords, SnapshotWriter};
use crate::ingress::http::{BodyRoom, Health, Inherited, LocalAddress, monotonic};
use crate::ingress::{Ingress, check_endpoints};
use crate::metrics::IngressMetrics;
use crate::suspended::SuspendedSessions;
use crate::time::Clock;
use crate::{admin, auth, hub, ingress, shard};

pub use self::error::Error;
pub use self::handle::Handle;
pub use self::reload::{ChannelsKept, ReloadError};
pub use self::tenants::TenantSettings;
pub use crate::ingress::http::{ACCEPTS, Handover};

/// Threads for handshakes and polls. After a restart all clients connect at once, ten thousand and more.
const INGRESS_THREADS: usize = 2;

/// Threads for everything else: accepting, the admin listener, the command router, the feeds and the self-report.
///
/// They are apart because this work must not queue behind handshakes. On shared threads, while 15,000 clients connected,
/// the kernel's accept queue overflowed 703 times, and the response to a publication took up to 0.3 s. Apart, the queue
/// did not overflow, and the response took 12 to 40 ms.
const MAIN_THREADS: usize = 2;

/// How long a restart waits for the requests of connections to the admin listener that are accepted.
const LAST_CONNECTIONS: Duration = Duration::from_millis(250);

/// How long the spans of the last requests may take to the collector.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// How long requests in flight may take after the last connection has ended.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// The settings of a gateway. The configuration builds them; tests write them.
#[derive(Debug)]
pub struct Settings {
    /// The node's name: one valid channel segment (`system.gateway.<node>`).
    pub node: Box<str>,
    /// The number of shard threads, 1 to 64.
    pub shards: u16,
    /// The time over which a drain spreads its closes, in milliseconds.
    pub drain_ms: u64,
    /// The same for a restart, while new connections wait.
    pub restart_drain_ms: u64,
    /// The public listeners and endpoints.
    pub ingress: ingress::Settings,
    /// The admin listener.
    pub admin: admin::Settings,
    /// The hub.
    pub hub: hub::Settings,
    /// Events per second of one publisher; 0: no limit.
    pub publish_per_second: u32,
    /// The broker that connects this gateway with others; `None`: it stands alone.
    pub shared: Option<SharedSettings>,
    /// The snapshot that keeps the hub's state over a restart.
    pub snapshot: Option<snapshot::Settings>,
    /// The most memory that all clients together may take, in bytes. 0: half of what the process may use beside the
    /// hub's state.
    pub memory_bytes: u64,
    /// Shorter messages are not compressed, in bytes.
    pub deflate_bytes_min: usize,
    /// How long a shard may hold an event back to send it together with others.
    pub coalesce: shard::CoalescePolicy,
    /// What the requests of a connection may cost.
    pub scan_budget: shard::ScanBudget,
    /// How shards write frames to sockets.
    pub flush: shard::FlushMethod,
    /// The tenants beside the default one, in the order of their numbers.
    pub tenants: Vec<TenantSettings>,
    /// The keys that verify tokens.
    pub keys: auth::KeySet,
    /// The key sets whose keys are among them.
    pub key_sets: Vec<jwks::SetSettings>,
    /// How tokens are read, and what roles may do.
    pub auth: auth::Settings,
    /// The backends of commands.
    pub commands: commands::Settings,
    /// The feeds that the gateway polls.
    pub feeds: feeds::Settings,
    /// The sources whose messages become events.
    pub sources: ingest::Settings,
    /// The collector of spans; `None`: no spans are recorded.
    pub otlp: Option<spans::Settings>,
}

/// A running gateway. Dropping it stops it at once.
pub struct Gateway {
    handle: Handle,
    // Empty once the gateway has ended.
    listeners: Option<Listeners>,
    addresses: Vec<LocalAddress>,
    admin_address: LocalAddress,
    admin: Arc<Admin>,
    ingress: Arc<Ingress>,
    shards: Vec<JoinHandle<()>>,
    // With the path of the snapshot.
    snapshot_writer: Option<(SnapshotWriter, PathBuf)>,
    suspended: Arc<SuspendedSessions>,
    clock: Clock,
    // `None` once the gateway has ended.
    runtimes: Option<Runtimes>,
}

impl Gateway {
    /// Opens the listeners and starts every thread. When it returns, connections are served.
    ///
    /// # Errors
    ///
    /// When a listener cannot be opened, a thread cannot be started, the snapshot cannot be used, or the node's name is
    /// not valid. Nothing is left running then.
    pub fn start(mut settings: Settings) -> Result<Self, Error> {
        // This changes the environment, so it comes before the first thread.
        let mut passed = Inherited::from_env().map_err(|source| Error::Start {
            what: "systemd's sockets",
            source,
        })?;
        let runtimes = Runtimes::start()?;
        let main = runtimes.main.handle().clone();
        let entered = main.enter();
        let (waiting_since, predecessor) = (passed.waiting_since, passed.predecessor.take());
        let listeners = Listeners::open(&settings, passed)?;
        let names: Vec<_> = listeners.public.iter().map(|listener| listener.names()).collect();
        check_endpoints(&settings.ingress.endpoints, &names)?;
        settings.admin.tenants = settings.tenant_access();
        let components = Components::start(&settings, &main)?;
        let tenants = settings.tenant_names();
        let snapshot_path = settings.snapshot.map(|snapshot| snapshot.path);

        let snapshot_metrics = components
            .snapshot_writer
            .as_ref()
            .map(|writer| Arc::clone(writer.metrics()));
        let health = Arc::new(Health::new(Arc::clone(&components.broker), snapshot_metrics.clone()));
        let ingress_metrics = Arc::<IngressMetrics>::default();
        let statistics = Arc::new(Statistics::new(
            Arc::clone(&components.hub),
            components.shards.clone(),
            &tenants,
            components.clock.now(),
        ));
        let self_report = {
            let health = Arc::clone(&health);
            let status = move || health.not_ready().unwrap_or("ok");
            let watch = Arc::clone(&components.watch);
            SelfReport::new(&settings.node, &tenants, Arc::clone(&statistics), watch, status)
        };
        let self_report = self_report.map_err(|_| Error::Node(settings.node.clone()));
        let public_bodies = Arc::new(BodyRoom::new(ingress::BODY_BYTES_MAX));
        let ingress = Arc::new(Ingress::new(
            settings.ingress,
            ingress::Parts {
                verify: components.verify(),
                shards: components.shards.clone(),
                health: Arc::clone(&health),
                metrics: Arc::clone(&ingress_metrics),
                bodies: Arc::clone(&public_bodies),
                clock: components.clock,
            },
        ));
        let bodies = admin::body_room(&settings.admin);
        health.watch_memory(Arc::clone(&components.budget));
        components.budget.count_others({
            let (router, polls) = (Arc::clone(&components.router), Arc::clone(&ingress_metrics));
            let suspended = Arc::clone(&components.suspended);
            let rooms = [Arc::clone(&bodies), Arc::clone(&public_bodies)];
            move || {
                let polls = u64::try_from(polls.poll_bytes.get()).unwrap_or(0);
                rooms.iter().map(|room| room.held() as u64).sum::<u64>()
                    + router.held_bytes()
                    + polls
                    + suspended.bytes() as u64
            }
        });
        let admin = Admin::new(
            settings.admin,
            admin::Parts {
                node: settings.node,
                verifier: Arc::clone(&components.verifier),
                broker: Arc::clone(&components.broker),
                hub: Arc::clone(&components.hub),
                statistics,
                shards: components.shards.clone(),
                router: Arc::clone(&components.router),
                feeds: Arc::clone(&components.feeds),
                sources: Arc::clone(&components.sources),
                broker_sample: components.broker_sample,
                key_sets: Arc::clone(&components.key_sets),
                snapshot: snapshot_metrics.unwrap_or_default(),
                ingress: ingress_metrics,
                health: Arc::clone(&health),
                bodies,
                public_bodies,
                tracer: components.tracer,
                clock: components.clock,
            },
        );
        if let Some(peers) = &components.peers {
            admin.join(Arc::clone(peers));
        }
        let reload = Reload {
            peers: components.peers,
            duties: components.duties,
            tenants,
            listeners: names,
            shared_classes: settings.shared.as_ref().map(SharedSettings::classes),
            clock: components.clock,
            hub: Arc::clone(&components.hub),
            feeds: components.feeds,
            sources: components.sources,
            ingress: Arc::clone(&ingress),
            admin: Arc::clone(&admin),
            verifier: components.verifier,
            key_sets: components.key_sets,
            router: Arc::clone(&components.router),
        };
        health.watch_hub(Arc::clone(&components.hub));
        let shards = components.shards.clone();
        let handle = Handle::new(
            Arc::clone(&health),
            components.shards,
            components.router,
            main.clone(),
            (settings.drain_ms, settings.restart_drain_ms),
            listeners.downgrade(),
            reload,
        );
        admin.set_drain({
            let handle = handle.downgrade();
            move || handle.drain()
        });
        drop(entered);
        // From here on, an early return drops the gateway, which stops what was started.
        let serving = Serving {
            ingress: Arc::clone(&ingress),
            admin: Arc::clone(&admin),
            listeners: listeners.clone(),
            handshakes: runtimes.ingress.handle().clone(),
            handle: handle.clone(),
        };
        let gateway = Self {
            handle,
            addresses: listeners.public_addresses(),
            admin_address: listeners.admin.address().clone(),
            listeners: Some(listeners),
            admin,
            ingress,
            shards: components.shard_threads,
            snapshot_writer: components.snapshot_writer.zip(snapshot_path),
            suspended: Arc::clone(&components.suspended),
            clock: components.clock,
            runtimes: Some(runtimes),
        };
        let self_report = self_report?;

        let handle = &gateway.handle;
        match predecessor {
            None => {
                let _entered = main.enter();
                serving.begin();
            }
            Some(predecessor) => handle.watch("the begin", main.spawn(serving.begin_when_ready(health, predecessor))),
        }
        if let Some(since) = waiting_since {
            let paused = monotonic().saturating_sub(since);
            gateway.ingress.count_restart(paused);
            tracing::info!(
                paused_ms = paused.as_millis(),
                "restarted: connections that waited are accepted"
            );
        }
        handle.watch("the feeds", main.spawn(components.feed_runner.run()));
        handle.watch("the sources", main.spawn(components.source_runner.run()));
        let (hub, broker, clock) = (components.hub, components.broker, components.clock);
        handle.watch(
            "the expiry",
            main.spawn(upkeep::expire(Arc::clone(&hub), components.suspended, clock)),
        );
        handle.watch(
            "the passing of time",
            main.spawn(upkeep::pass_time(Arc::clone(&hub), broker, shards.clone(), clock)),
        );
        handle.watch("the probe", main.spawn(upkeep::probe(hub, shards)));
        handle.watch(
            "the report to other gateways",
            main.spawn(Arc::clone(&gateway.admin).tell_others()),
        );
        handle.watch("the self-report", main.spawn(self_report.run()));
        Ok(gateway)
    }

    /// The addresses that the public listeners are bound to, in the order of the settings.
    #[must_use]
    pub fn addresses(&self) -> &[LocalAddress] {
        &self.addresses
    }

    /// The address that the admin listener is bound to.
    #[must_use]
    pub fn admin_address(&self) -> &LocalAddress {
        &self.admin_address
    }

    /// A handle that ends the gateway from elsewhere, such as the thread of a signal handler.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Blocks until the gateway has ended, after a drain, a stop or a restart. After a restart it returns the listening
    /// sockets for the program that takes this one's place.
    ///
    /// # Errors
    ///
    /// When a task of the gateway panicked, which also stops the gateway (a panic of a shard ends the process: see
    /// [`shard::spawn`]), and when the last write of the snapshot failed. A restart goes on without it: the next program
    /// begins a new epoch then.
    pub fn wait(mut self) -> Result<Option<Handover>, Error> {
        self.end()
    }

    /// Ends the gateway at once, and waits for it.
    ///
    /// # Errors
    ///
    /// As [`Gateway::wait`].
    pub fn stop(self) -> Result<(), Error> {
        self.handle.stop();
        self.wait().map(drop)
    }

    /// Waits for the shards, then ends the rest. It blocks, and may be called within another runtime.
    fn end(&mut self) -> Result<Option<Handover>, Error> {
        let (Some(runtimes), Some(listeners)) = (self.runtimes.take(), self.listeners.take()) else {
            return Ok(None);
        };
        let mut panicked = None;
        for thread in self.shards.drain(..) {
            panicked = panicked.or(thread.join().err().map(|_| "a shard"));
        }
        let tasks = self.handle.take_tasks();
        panicked = panicked.or(tasks.panicked);
        self.wait_for_requests(&runtimes, tasks);
        let hand_over = |since| {
            listeners.leave_files();
            listeners.hand_over(since).map_err(|source| Error::HandOver { source })
        };
        let handover = self.handle.waiting_since().map(hand_over);
        // Here the listeners are closed and the files of their sockets removed.
        drop(listeners);
        runtimes.ingress.shutdown_background();
        let mut written = Ok(());
        if let Some((writer, path)) = self.snapshot_writer.take() {
            // Publications in flight have no client any more. They must end before the last snapshot is written.
            runtimes.main.shutdown_timeout(LAST_REQUESTS);
            let last = LastRecords {
                commands: self.handle.router().export_keys(),
                sessions: self.suspended.export(self.clock.now()),
            };
            written = writer
                .end(last)
                .map_err(|source| Error::SnapshotIncomplete { path, source });
        } else {
            runtimes.main.shutdown_background();
        }
        if let Some(what) = panicked {
            return Err(Error::Panicked(what));
        }
        match handover {
            // The snapshot's thread has logged a failure.
            Some(handover) => handover.map(Some),
            None => written.map(|()| None),
        }
    }

    /// Waits for commands, admin requests and polls in flight, then ends the tasks.
    fn wait_for_requests(&self, runtimes: &Runtimes, tasks: handle::Tasks) {
        let (admin, ingress) = (Arc::clone(&self.admin), Arc::clone(&self.ingress));
        let router = self.handle.router();
        let is_restarting = self.handle.waiting_since().is_some();
        let (ended, wait) = mpsc::channel::<()>();
        runtimes.main.spawn(async move {
            // Commands were taken until the last connection closed. Those in flight go on, because their backends do.
            router.drain(tasks.commands_wait()).await;
            let responses = async {
                if is_restarting {
                    // Clients that have just connected send their request, the others wait for the next program.
                    let _ = tokio::time::timeout(LAST_CONNECTIONS, admin.stop_accepting()).await;
                }
                while admin.in_flight() > 0 || ingress.is_answering() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let _ = tokio::time::timeout(LAST_REQUESTS, responses).await;
            admin.leave().await;
            admin.flush_spans(LAST_SPANS).await;
            tasks.abort().await;
            drop(ended);
        });
        // The channel closes when the task ends, also by a panic.
        let _ = wait.recv();
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.runtimes.is_some() {
            self.handle.stop();
            if let Err(error) = self.end() {
                tracing::error!(%error, "the gateway did not end well");
            }
        }
    }
}

struct Runtimes {
    ingress: Runtime,
    main: Runtime,
}

impl Runtimes {
    fn start() -> Result<Self, Error> {
        let start = |name, what, threads| {
            runtime::Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name(name)
                .enable_all()
                .build()
                .map_err(|source| Error::Start { what, source })
        };
        Ok(Self {
            ingress: start("ingress", "the ingress's threads", INGRESS_THREADS)?,
            main: start("main", "the main threads", MAIN_THREADS)?,
        })
    }
}
