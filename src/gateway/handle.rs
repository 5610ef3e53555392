//! The handle that ends a gateway and replaces its settings, and the watch over its tasks.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime;
use tokio::task::{AbortHandle, JoinHandle};

use super::reload::Reload;
use super::{LAST_REQUESTS, Settings};
use crate::backend::commands::Router;
use crate::ingress::SelectionError;
use crate::ingress::http::Health;
use crate::shard::mailbox::{ShardHandle, ShardMessage};

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
    // The accept loops of sockets that systemd passed. The next process accepts on them, too.
    inherited: Mutex<Vec<AbortHandle>>,
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

impl Handle {
    pub(super) fn new(
        health: Arc<Health>,
        shards: Vec<ShardHandle>,
        router: Arc<Router>,
        main: runtime::Handle,
        drain_ms: u64,
        reload: Reload,
    ) -> Self {
        Self(Arc::new(Shared {
            health,
            shards,
            router,
            main,
            drain_ms,
            reload,
            inherited: Mutex::default(),
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

    /// Replaces the keys and rules for tokens, the routes of commands, and the settings of endpoints and of the public side,
    /// which hold for connections that are accepted from now on. All other settings are ignored.
    ///
    /// # Errors
    ///
    /// When the endpoints and the listeners do not go together. Nothing is replaced then.
    pub fn reload(&self, settings: Settings) -> Result<(), SelectionError> {
        self.0.reload.replace(settings)
    }

    fn end_over(&self, over_ms: u64) {
        let shared = &*self.0;
        if !shared.health.drain() {
            return;
        }
        tracing::info!(over_ms, "draining");
        for accept_loop in shared.inherited.lock().drain(..) {
            accept_loop.abort();
        }
        shared.tasks.lock().commands_wait = Duration::from_millis(over_ms).min(LAST_REQUESTS);
        for shard in &shared.shards {
            // Sending fails only to a shard that has ended.
            let _ = shard.send(ShardMessage::Drain { over_ms });
        }
    }

    /// Watches over a task that runs until the gateway ends. A panic of the task stops the gateway.
    pub(super) fn watch(&self, what: &'static str, task: JoinHandle<()>) -> AbortHandle {
        let abort = task.abort_handle();
        let handle = self.clone();
        let watch = self.0.main.spawn(async move {
            if task.await.is_err_and(|error| error.is_panic()) {
                tracing::error!("{what} panicked; the gateway is shutting down");
                handle.0.tasks.lock().panicked = Some(what);
                handle.stop();
            }
        });
        self.0.tasks.lock().endless.push((abort.clone(), watch));
        abort
    }

    /// Watches over the accept loop of a public listener. When `is_inherited`, a drain ends the loop at once, so that
    /// connections wait for the next process.
    pub(super) fn watch_listener(&self, accept_loop: JoinHandle<()>, is_inherited: bool) {
        let abort = self.watch("a public listener", accept_loop);
        if is_inherited {
            self.0.inherited.lock().push(abort);
        }
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
