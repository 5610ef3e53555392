//! The handle that ends a gateway and replaces its settings, and the watch over its tasks.

use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime;
use tokio::task::{AbortHandle, JoinHandle};

use super::listeners::WeakListeners;
use super::reload::Reload;
use super::{ChannelsKept, ReloadError};
use super::{LAST_REQUESTS, Settings};
use crate::backend::commands::Router;
use crate::ingress::http::{Closed, Handover, Health, monotonic};
use crate::shard::mailbox::{ShardHandle, ShardMessage};

/// How long a restart or a drain waits for connections that were accepted and are not with a shard yet. Silent ones do not end.
const LAST_HANDSHAKES: Duration = Duration::from_millis(250);

/// Ends a running gateway or replaces its settings. It works from any thread, any number of times.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    health: Arc<Health>,
    shards: Vec<ShardHandle>,
    router: Arc<Router>,
    main: runtime::Handle,
    drain_ms: u64,
    reload: Reload,
    restart_drain_ms: u64,
    listeners: WeakListeners,
    // Since when nobody accepts, if the gateway restarts: a reading of `monotonic`.
    waiting_since: OnceLock<Duration>,
    tasks: Mutex<Tasks>,
}

/// The tasks that run until the gateway ends.
#[derive(Default)]
pub(super) struct Tasks {
    // Each task with the one that watches over it.
    endless: Vec<(AbortHandle, JoinHandle<()>)>,
    // How long to wait for commands in flight after the last connection has ended.
    commands_wait: Duration,
    /// A task that panicked.
    pub(super) panicked: Option<&'static str>,
}

/// A handle that does not keep the gateway's parts alive.
pub(super) struct WeakHandle(Weak<Shared>);

impl WeakHandle {
    /// As [`Handle::drain`], while the gateway runs.
    pub(super) fn drain(&self) {
        if let Some(shared) = self.0.upgrade() {
            Handle(shared).drain();
        }
    }
}

impl Handle {
    pub(super) fn downgrade(&self) -> WeakHandle {
        WeakHandle(Arc::downgrade(&self.0))
    }

    pub(super) fn new(
        health: Arc<Health>,
        shards: Vec<ShardHandle>,
        router: Arc<Router>,
        main: runtime::Handle,
        (drain_ms, restart_drain_ms): (u64, u64),
        listeners: WeakListeners,
        reload: Reload,
    ) -> Self {
        Self(Arc::new(Shared {
            health,
            shards,
            router,
            main,
            drain_ms,
            reload,
            restart_drain_ms,
            listeners,
            waiting_since: OnceLock::new(),
            tasks: Mutex::default(),
        }))
    }

    /// Begins a drain. The gateway is not ready from now on, and clients are told and closed with 1012 over `drain_ms`.
    /// Then [`Gateway::wait`](super::Gateway::wait) returns.
    pub fn drain(&self) {
        self.end_over(self.0.drain_ms);
    }

    /// Ends the gateway at once. Clients are told and closed, but the gateway does not wait for them. It has no effect on
    /// a drain that has begun.
    pub fn stop(&self) {
        self.end_over(0);
    }

    /// Replaces the keys and rules for tokens, the routes of commands, the classes of channels, the feeds, and the settings
    /// of endpoints and of the public side, which hold for connections that are accepted from now on. All other settings
    /// are ignored. Returns why the classes and feeds stay, if they do.
    ///
    /// # Errors
    ///
    /// When the endpoints and the listeners do not go together. Nothing is replaced then.
    pub fn reload(&self, settings: Settings) -> Result<Option<ChannelsKept>, ReloadError> {
        self.0.reload.replace(settings)
    }

    /// Ends the gateway so that another program can take its place: [`Gateway::wait`](super::Gateway::wait) returns the
    /// listening sockets. New connections wait in the kernel's queues meanwhile. Those that are accepted are served, then all
    /// are closed with 1012 over `restart_drain_ms`. A [`drain`](Self::drain) after it ends the gateway for good.
    ///
    /// It has no effect on a drain that has begun.
    pub fn restart(&self) {
        let shared = &*self.0;
        if !shared.health.restart() {
            return;
        }
        let over_ms = shared.restart_drain_ms;
        tracing::info!(over_ms, "restarting: new connections wait until the gateway is back");
        let _ = shared.waiting_since.set(monotonic());
        shared.reload.ingress.stop_accepting(Closed::All);
        self.drain_after_handshakes(over_ms);
    }

    /// Whether another gateway can run beside this one: they share a broker.
    #[must_use]
    pub fn has_shared_broker(&self) -> bool {
        self.0.reload.peers.is_some()
    }

    /// The listening sockets for a process that begins to accept on them while this one still does; `None` when the gateway
    /// has ended.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors.
    pub fn share_listeners(&self) -> std::io::Result<Option<Handover>> {
        let listeners = self.0.listeners.upgrade();
        listeners.map(|listeners| listeners.hand_over(monotonic())).transpose()
    }

    /// Leaves the clients to another process, which accepts on the same listeners. Connections that are accepted are served,
    /// then all are closed with 1012 over `drain_ms`.
    ///
    /// It has no effect on a drain that has begun.
    pub fn step_aside(&self) {
        let shared = &*self.0;
        if !shared.health.restart() {
            return;
        }
        let over_ms = shared.drain_ms;
        tracing::info!(over_ms, "draining: the new process accepts connections");
        if let Some(listeners) = shared.listeners.upgrade() {
            listeners.leave_files();
        }
        shared.reload.ingress.stop_accepting(Closed::All);
        shared.reload.admin.close_listener();
        self.drain_after_handshakes(over_ms);
    }

    fn drain_after_handshakes(&self, over_ms: u64) {
        let handle = self.clone();
        self.0.main.spawn(async move {
            // The shards take these connections.
            let ingress = &handle.0.reload.ingress;
            let handshakes = async {
                ingress.loops_ended().await;
                ingress.handshakes_ended().await;
            };
            let _ = tokio::time::timeout(LAST_HANDSHAKES, handshakes).await;
            handle.drain_shards(over_ms);
        });
    }

    /// Whether a restart has begun, and nothing has ended the gateway for good.
    #[must_use]
    pub fn is_restarting(&self) -> bool {
        self.0.health.is_restarting()
    }

    /// Since when nobody accepts; `None`: the gateway does not restart.
    pub(super) fn waiting_since(&self) -> Option<Duration> {
        let since = self.0.waiting_since.get().copied();
        since.filter(|_| self.is_restarting())
    }

    fn end_over(&self, over_ms: u64) {
        let shared = &*self.0;
        let was_waiting = self.waiting_since().is_some();
        if !shared.health.drain() {
            if was_waiting {
                tracing::info!("the gateway ends instead of restarting");
            }
            return;
        }
        tracing::info!(over_ms, "draining");
        let ingress = &shared.reload.ingress;
        ingress.stop_accepting(Closed::Inherited);
        if over_ms > 0 && ingress.has_handshakes() {
            // The shards take the connections that are upgraded already. Later ones are refused.
            let handle = self.clone();
            shared.main.spawn(async move {
                let handshakes = handle.0.reload.ingress.handshakes_ended();
                let _ = tokio::time::timeout(LAST_HANDSHAKES, handshakes).await;
                handle.drain_shards(over_ms);
            });
        } else {
            self.drain_shards(over_ms);
        }
    }

    fn drain_shards(&self, over_ms: u64) {
        let shared = &*self.0;
        if let Some(peers) = &shared.reload.peers {
            // Other gateways answer requests and have the duties from now on.
            peers.stop_answering();
            shared.reload.duties.give_up();
        }
        shared.tasks.lock().commands_wait = Duration::from_millis(over_ms).min(LAST_REQUESTS);
        for shard in &shared.shards {
            // Sending fails only to a shard that has ended.
            let _ = shard.send(ShardMessage::Drain { over_ms });
        }
    }

    /// Watches over a task of the gateway. A panic of the task stops the gateway.
    pub(super) fn watch(&self, what: &'static str, task: JoinHandle<()>) {
        let abort = task.abort_handle();
        let handle = self.clone();
        let watch = self.0.main.spawn(async move {
            if task.await.is_err_and(|error| error.is_panic()) {
                tracing::error!("{what} panicked; the gateway is shutting down");
                handle.0.tasks.lock().panicked = Some(what);
                handle.stop();
            }
        });
        self.0.tasks.lock().endless.push((abort, watch));
    }

    pub(super) fn take_tasks(&self) -> Tasks {
        std::mem::take(&mut *self.0.tasks.lock())
    }

    pub(super) fn router(&self) -> Arc<Router> {
        Arc::clone(&self.0.router)
    }
}

impl Tasks {
    /// How long to wait for commands in flight.
    pub(super) const fn commands_wait(&self) -> Duration {
        self.commands_wait
    }

    /// Aborts the tasks and waits until they have ended: then their listeners are closed and the socket files removed.
    pub(super) async fn abort(self) {
        for (task, watch) in self.endless {
            task.abort();
            let _ = watch.await;
        }
    }
}
