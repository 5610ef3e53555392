//! One gateway, assembled: hub, broker, shards, verifier, command router, feeds, door, admin listener and
//! self-report.
//!
//! Invariant: nothing of a gateway is global; several can live in one process, and each ends whole.
//!
//! # The end
//!
//! [`Handle::drain`] makes the gateway not ready and has every shard announce and spread its closes. Meanwhile the
//! public listeners stay open and refuse handshakes with 503, so that a proxy in front goes elsewhere at once; only
//! sockets that were passed to the process are left alone, for what waits in them is the successor's. When the last
//! connection is gone the shards end, then commands and admin requests in flight get their answers, and
//! [`Gateway::wait`] returns.

mod core;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{self, Runtime};
use tokio::task::{AbortHandle, JoinHandle as Task};

use self::core::Core;
use crate::admin::Admin;
use crate::admin::self_report::SelfReport;
use crate::admin::statistics::Statistics;
use crate::backend::commands::Router;
use crate::backend::{commands, feeds};
use crate::hub::Hub;
use crate::hub::snapshot::{self, SnapshotWriter};
use crate::ingress::Ingress;
use crate::ingress::http::{Health, Inherited, ListenAddress, Listener, LocalAddress, Passed};
use crate::metrics::IngressMetrics;
use crate::shard::mailbox::{ShardHandle, ShardMessage};
use crate::time::Clock;
use crate::{admin, auth, hub, ingress, shard};

/// Threads of handshakes and polls, which can come by ten thousand at once: after a restart everybody comes back.
const DOOR_THREADS: usize = 2;
/// Threads of everything else, which must not queue behind them: accepting, the admin listener, the command router, the
/// feeds and the self-report. (On the same threads, while 15,000 clients came, the kernel's accept queue overflowed 703 times, and
/// a publication waited up to 0.3 s for its answer. Apart, it overflowed never, and the wait was 12 to 40 ms.)
const MAIN_THREADS: usize = 2;

/// Who may connect to a public Unix socket: like a TCP port of this machine, everybody on it. Narrower rules are the
/// directory's.
const PUBLIC_SOCKET_MODE: u32 = 0o666;
/// The admin listener asks for a key, but answers `/metrics` without.
const ADMIN_SOCKET_MODE: u32 = 0o660;

/// How often channels that nobody uses are looked at.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(60);

/// How long admin requests may take to end when everything else has.
const LAST_REQUESTS: Duration = Duration::from_secs(2);

/// Everything a gateway is started with. `config` builds it; tests write it down.
#[derive(Debug)]
pub struct Settings {
    /// The node's name: one valid channel segment (`system.gateway.<node>`).
    pub node: Box<str>,
    /// How many shard threads, 1 to 64.
    pub shards: u16,
    /// The time over which a drain spreads its closes.
    pub drain_ms: u64,
    /// The public listeners and endpoints.
    pub ingress: ingress::Settings,
    /// The admin listener.
    pub admin: admin::Settings,
    /// The hub.
    pub hub: hub::Settings,
    /// Where the hub's state outlives the process.
    pub snapshot: Option<snapshot::Settings>,
    /// Shorter messages are not compressed, in bytes.
    pub deflate_bytes_min: usize,
    /// How long events may wait for company in a shard.
    pub coalesce: shard::CoalescePolicy,
    /// How frames reach the sockets.
    pub flush: shard::FlushMethod,
    /// The keys that tokens are verified with.
    pub keys: auth::KeySet,
    /// How tokens are read, and what roles may do.
    pub auth: auth::Settings,
    /// Where commands go.
    pub commands: commands::Settings,
    /// What is polled.
    pub feeds: feeds::Settings,
}

/// Why a gateway did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A listener could not be opened.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The listener.
        address: ListenAddress,
        /// Why.
        source: io::Error,
    },
    /// A thread or a runtime could not be started.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The snapshot cannot be used.
    #[error("cannot use the snapshot {path}: {source}", path = path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Why.
        source: snapshot::Error,
    },
    /// The node's name is no channel segment.
    #[error("the node's name {0:?} is no channel segment")]
    Node(Box<str>),
    /// A task or thread of the gateway panicked.
    #[error("{0} panicked")]
    Panicked(&'static str),
}

/// A running gateway. Dropping it stops it at once.
pub struct Gateway {
    handle: Handle,
    addresses: Vec<LocalAddress>,
    admin_address: LocalAddress,
    admin: Arc<Admin>,
    ingress: Arc<Ingress>,
    shards: Vec<JoinHandle<()>>,
    keeper: Option<SnapshotWriter>,
    // Taken when it ends.
    runtimes: Option<Runtimes>,
}

struct Runtimes {
    door: Runtime,
    main: Runtime,
}

/// Tells a running gateway to end; from any thread, any number of times.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    health: Arc<Health>,
    shards: Vec<ShardHandle>,
    router: Arc<Router>,
    main: runtime::Handle,
    drain_ms: u64,
    // Accepting on sockets that a successor accepts on, too.
    inherited: Mutex<Vec<AbortHandle>>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    // Accept loops and the self-report, which never end by themselves, each with the task that watches over it.
    endless: Vec<(AbortHandle, Task<()>)>,
    // How long commands in flight are waited for when all connections are gone.
    commands_wait: Duration,
    panicked: Option<&'static str>,
}

impl Gateway {
    /// Opens the listeners and starts every thread. When it returns, connections are served.
    ///
    /// # Errors
    ///
    /// When a listener cannot be opened or a thread cannot be started; then nothing of it is left running.
    pub fn start(settings: Settings) -> Result<Self, Error> {
        // Before the first thread.
        let passed = Inherited::from_env().map_err(|source| Error::Start {
            what: "systemd's sockets",
            source,
        })?;
        let runtimes = Runtimes::start()?;
        let entered = runtimes.main.enter();
        let (public, admin_listener) = listen(&settings, passed)?;

        let engine = Core::start(&settings, &runtimes.main)?;
        let health = Arc::new(Health::new(Arc::clone(&engine.broker)));
        let stats = Arc::<IngressMetrics>::default();
        let statistics = Arc::new(Statistics::new(
            Arc::clone(&engine.hub),
            engine.shards.clone(),
            engine.clock.now(),
        ));
        let self_report = {
            let health = Arc::clone(&health);
            let status = move || health.not_ready().unwrap_or("ok");
            SelfReport::new(
                &settings.node,
                Arc::clone(&statistics),
                Arc::clone(&engine.watch),
                status,
            )
        };
        let self_report = self_report.map_err(|_| Error::Node(settings.node.clone()));
        let parts = ingress::Parts {
            verify: engine.verify(),
            shards: engine.shards.clone(),
            health: Arc::clone(&health),
            metrics: Arc::clone(&stats),
            clock: engine.clock,
        };
        let ingress = Arc::new(Ingress::new(settings.ingress, parts));
        let parts = admin::Parts {
            node: settings.node,
            verifier: Arc::clone(&engine.verifier),
            broker: Arc::clone(&engine.broker),
            hub: Arc::clone(&engine.hub),
            statistics,
            shards: engine.shards.clone(),
            commands: {
                let router = Arc::clone(&engine.router);
                Box::new(move || router.read())
            },
            feeds: engine.feeds,
            ingress: stats,
            health: Arc::clone(&health),
            clock: engine.clock,
        };
        let hub = Arc::clone(&engine.hub);
        let admin = Admin::new(settings.admin, parts);
        let handle = Handle(Arc::new(Shared {
            health,
            shards: engine.shards,
            router: engine.router,
            main: runtimes.main.handle().clone(),
            drain_ms: settings.drain_ms,
            inherited: Mutex::default(),
            tasks: Mutex::default(),
        }));
        let addresses = public.iter().map(|listener| listener.address().clone()).collect();
        let admin_address = admin_listener.address().clone();
        for listener in public {
            let inherited = listener.is_inherited();
            let handshakes = runtimes.door.handle().clone();
            let abort = handle.run("a public listener", ingress.serve(Arc::new(listener), handshakes));
            if inherited {
                handle.0.inherited.lock().push(abort);
            }
        }
        handle.run("the admin listener", admin.serve(Arc::new(admin_listener)));
        drop(entered);
        let gateway = Self {
            handle,
            addresses,
            admin_address,
            admin,
            ingress,
            shards: engine.threads,
            keeper: engine.keeper,
            runtimes: Some(runtimes),
        };
        let run = &gateway.handle;
        run.run("the feeds", run.0.main.spawn(engine.feed_runner.run()));
        run.run("the upkeep", run.0.main.spawn(upkeep(hub, engine.clock)));
        // From here on dropping it ends what was started.
        let self_report = self_report?;
        run.run("the self-report", run.0.main.spawn(self_report.run()));
        Ok(gateway)
    }

    /// Where the public listeners listen in fact, in the order of the settings.
    #[must_use]
    pub fn addresses(&self) -> &[LocalAddress] {
        &self.addresses
    }

    /// Where the admin listener listens in fact.
    #[must_use]
    pub fn admin_address(&self) -> &LocalAddress {
        &self.admin_address
    }

    /// To end it from elsewhere, such as a signal handler's thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Blocks until the gateway has ended: drained or stopped.
    ///
    /// # Errors
    ///
    /// When one of its tasks panicked, which also stops it. (A shard that panics ends the process: see
    /// [`shard::spawn`].)
    pub fn wait(mut self) -> Result<(), Error> {
        self.end()
    }

    /// Ends it at once and waits for it.
    ///
    /// # Errors
    ///
    /// As [`Gateway::wait`].
    pub fn stop(self) -> Result<(), Error> {
        self.handle.stop();
        self.wait()
    }

    /// Waits for the shards, then lets the rest end. Blocks, but works within another runtime, too.
    fn end(&mut self) -> Result<(), Error> {
        let Some(runtimes) = self.runtimes.take() else {
            return Ok(());
        };
        let mut panicked = None;
        for thread in self.shards.drain(..) {
            panicked = panicked.or(thread.join().err().map(|_| "a shard"));
        }
        let (ended, wait) = mpsc::channel();
        let tasks = std::mem::take(&mut *self.handle.0.tasks.lock());
        panicked = panicked.or(tasks.panicked);
        let (admin, ingress) = (Arc::clone(&self.admin), Arc::clone(&self.ingress));
        let router = Arc::clone(&self.handle.0.router);
        runtimes.main.spawn(async move {
            // Taken until the last connection was closed; what is in flight now goes on for its backend's sake.
            router.drain(tasks.commands_wait).await;
            let answered = async {
                while admin.in_flight() > 0 || ingress.is_answering() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let _ = tokio::time::timeout(LAST_REQUESTS, answered).await;
            for (task, watch) in tasks.endless {
                task.abort();
                // Its listener is closed, and its socket file gone, when it has ended.
                let _ = watch.await;
            }
            drop(ended);
        });
        // The channel closes when the task has ended, however it does.
        let _: Result<(), _> = wait.recv();
        runtimes.door.shutdown_background();
        if let Some(keeper) = self.keeper.take() {
            // What still publishes has no one to answer any more; it must have ended before the last word is written.
            runtimes.main.shutdown_timeout(LAST_REQUESTS);
            keeper.end();
        } else {
            runtimes.main.shutdown_background();
        }
        panicked.map_or(Ok(()), |what| Err(Error::Panicked(what)))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.runtimes.is_some() {
            self.handle.stop();
            if let Err(error) = self.end() {
                tracing::error!(%error, "a gateway did not end well");
            }
        }
    }
}

impl Handle {
    /// Begins a drain: not ready, clients are told and closed with 1012 over `drain_ms`; then [`Gateway::wait`]
    /// returns.
    pub fn drain(&self) {
        self.end_over(self.0.drain_ms);
    }

    /// Ends the gateway at once: clients are still told and closed, but nobody is waited for. No effect on a drain
    /// that has begun.
    pub fn stop(&self) {
        self.end_over(0);
    }

    fn end_over(&self, over_ms: u64) {
        let shared = &*self.0;
        if !shared.health.drain() {
            return;
        }
        tracing::info!(over_ms, "draining");
        for task in shared.inherited.lock().drain(..) {
            task.abort();
        }
        shared.tasks.lock().commands_wait = Duration::from_millis(over_ms).min(LAST_REQUESTS);
        for shard in &shared.shards {
            // One that has ended needs no telling.
            let _ = shard.send(ShardMessage::Drain { over_ms });
        }
    }

    /// Watches over a task that must not end by itself.
    fn run(&self, what: &'static str, task: Task<()>) -> AbortHandle {
        let abort = task.abort_handle();
        let handle = self.clone();
        let watch = self.0.main.spawn(async move {
            if task.await.is_err_and(|error| error.is_panic()) {
                tracing::error!("{what} panicked; the gateway cannot go on");
                handle.0.tasks.lock().panicked = Some(what);
                handle.stop();
            }
        });
        self.0.tasks.lock().endless.push((abort.clone(), watch));
        abort
    }
}

/// Lets the hub shed what is too old in channels that nobody uses.
async fn upkeep(hub: Arc<Hub>, clock: Clock) {
    let mut turns = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        turns.tick().await;
        hub.expire(clock.now());
    }
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
            door: start("door", "the door's threads", DOOR_THREADS)?,
            main: start("main", "the main threads", MAIN_THREADS)?,
        })
    }
}

/// Opens the listeners; sockets that were passed take the place of the configured ones.
fn listen(settings: &Settings, passed: Inherited) -> Result<(Vec<Listener>, Listener), Error> {
    let bind = |address: &ListenAddress, mode| {
        Listener::bind(address, mode).map_err(|source| Error::Listen {
            address: address.clone(),
            source,
        })
    };
    let inherit = |passed: Passed| {
        Listener::inherit(passed).map_err(|source| Error::Start {
            what: "systemd's sockets",
            source,
        })
    };
    let public = if passed.public.is_empty() {
        settings
            .ingress
            .listen
            .iter()
            .map(|address| bind(address, PUBLIC_SOCKET_MODE))
            .collect::<Result<_, _>>()?
    } else {
        passed.public.into_iter().map(inherit).collect::<Result<_, _>>()?
    };
    let admin = match passed.admin {
        Some(passed) => inherit(passed)?,
        None => bind(&settings.admin.listen, ADMIN_SOCKET_MODE)?,
    };
    Ok((public, admin))
}
