//! When a gateway begins to accept connections: at once, or when it can take the place of the process before it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime;

use super::handle::Handle;
use super::listeners::Listeners;
use crate::admin::Admin;
use crate::ingress::Ingress;
use crate::ingress::http::{Health, Predecessor};

/// How often a gateway that takes the place of another one looks whether it is ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What accepts connections.
pub(super) struct Serving {
    pub(super) ingress: Arc<Ingress>,
    pub(super) admin: Arc<Admin>,
    pub(super) listeners: Listeners,
    /// Where handshakes are served.
    pub(super) handshakes: runtime::Handle,
    pub(super) handle: Handle,
}

impl Serving {
    /// Accepts connections from now on. Must be called within the runtime on which the listeners were opened.
    pub(super) fn begin(self) {
        for listener in self.listeners.public {
            let accept_loop = self.ingress.serve(listener, self.handshakes.clone());
            self.handle.watch("a public listener", accept_loop);
        }
        let accept_loop = self.admin.serve(self.listeners.admin);
        self.handle.watch("the admin listener", accept_loop);
    }

    /// Accepts connections as soon as the gateway is ready, and tells the process before this one that it does.
    pub(super) async fn begin_when_ready(self, health: Arc<Health>, predecessor: Predecessor) {
        tracing::info!("the process before this one goes on until this one is ready");
        while health.not_ready().is_some() {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        self.begin();
        match predecessor.replace() {
            Ok(()) => tracing::info!("restarted: the process before this one drains"),
            Err(error) => tracing::warn!(%error, "the process before this one has ended"),
        }
    }
}
