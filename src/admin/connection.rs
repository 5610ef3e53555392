//! The place of one connection to the admin listener.
//!
//! Invariant: a connection holds a place among those without a key until a request of it presents a valid key or token.
//! From then on it holds one among those with a key. A flood of strangers takes no place of a backend, and a flood of
//! backends none of a probe.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Admin;
use crate::auth::Identity;
use crate::ingress::http::response::{self, HttpResponse};
use crate::ingress::http::{HttpErrorCode, Loss, Place};
use tickgate_protocol::channel::Tenant;

/// After how many seconds a client may try again when all connections are being served.
const RETRY_AFTER_S: u32 = 1;

/// One connection.
pub(super) struct Connection {
    pub(super) admin: Arc<Admin>,
    loss: Arc<Loss>,
    address: Option<IpAddr>,
    state: Mutex<State>,
}

struct State {
    place: Place,
    has_key: bool,
    // A request is being served.
    is_served: bool,
    // The last request was the handshake of a WebSocket, for a client of this tenant with this identity, if it has one
    // already.
    upgrade: Option<(Tenant, Option<Arc<Identity>>)>,
}

impl Connection {
    /// A connection that holds `place` among those without a key.
    pub(super) fn new(admin: Arc<Admin>, place: Place, address: Option<IpAddr>) -> Arc<Self> {
        admin.metrics.connections.add(1);
        Arc::new(Self {
            admin,
            loss: place.loss(),
            address,
            state: Mutex::new(State {
                place,
                has_key: false,
                is_served: false,
                upgrade: None,
            }),
        })
    }

    /// The address of the client; `None` for a Unix socket.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Tells when the connection loses its place to a newer one.
    pub(super) fn loss(&self) -> Arc<Loss> {
        Arc::clone(&self.loss)
    }

    /// A request has arrived.
    pub(super) fn begin_request(&self) {
        let mut state = self.state.lock();
        state.is_served = true;
        state.place.set_silent(false);
    }

    /// The response to the request is about to be written.
    pub(super) fn end_request(&self) {
        self.state.lock().is_served = false;
    }

    /// The connection has been polled. Unless a request is being served, the gateway waits for the client.
    pub(super) fn polled(&self) {
        let mut state = self.state.lock();
        let is_silent = !state.is_served;
        state.place.set_silent(is_silent);
    }

    /// The request is the handshake of a WebSocket, which is about to be accepted.
    pub(super) fn upgrade(&self, tenant: Tenant, identity: Option<Arc<Identity>>) {
        self.state.lock().upgrade = Some((tenant, identity));
    }

    /// The tenant and the identity of the WebSocket's client, if HTTP ended with its handshake.
    pub(super) fn take_upgrade(&self) -> Option<(Tenant, Option<Arc<Identity>>)> {
        self.state.lock().upgrade.take()
    }

    /// A request has presented a valid key or token.
    ///
    /// # Errors
    ///
    /// The response 503 when all connections with a key are being served.
    pub(super) fn has_key(&self) -> Result<(), Box<HttpResponse>> {
        let mut state = self.state.lock();
        if state.has_key {
            return Ok(());
        }
        let Some(place) = self.admin.with_key.try_take(None, &self.loss) else {
            self.admin.metrics.crowded_out.add(1);
            let refused = response::error(HttpErrorCode::Overloaded, "too many connections are being served");
            return Err(response::retry_after(refused, RETRY_AFTER_S).into());
        };
        state.place = place;
        state.has_key = true;
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.admin.metrics.connections.add(-1);
    }
}
