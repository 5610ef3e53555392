//! The listening sockets of a gateway: those that systemd passed, else those of the configuration.

use super::{Error, Settings};
use crate::ingress::http::{Inherited, ListenAddress, Listener, LocalAddress, Passed};

/// Permissions of a public Unix socket: every user of the machine may connect, as to a TCP port. The directory can
/// restrict them.
const PUBLIC_SOCKET_MODE: u32 = 0o666;

/// Permissions of the admin listener's Unix socket. They are narrower because `/metrics` needs no key.
const ADMIN_SOCKET_MODE: u32 = 0o660;

/// The open listeners.
pub(super) struct Listeners {
    pub(super) public: Vec<Listener>,
    pub(super) admin: Listener,
}

impl Listeners {
    /// Opens the listeners. Must be called within the runtime that accepts on them.
    ///
    /// # Errors
    ///
    /// When a socket cannot be bound or taken over.
    pub(super) fn open(settings: &Settings, passed: Inherited) -> Result<Self, Error> {
        let public = if passed.public.is_empty() {
            let addresses = settings.ingress.listen.iter();
            addresses
                .map(|address| bind(address, PUBLIC_SOCKET_MODE, "server.listen"))
                .collect::<Result<_, _>>()?
        } else {
            passed.public.into_iter().map(inherit).collect::<Result<_, _>>()?
        };
        let admin = match passed.admin {
            Some(passed) => inherit(passed)?,
            None => bind(&settings.admin.listen, ADMIN_SOCKET_MODE, "server.admin_listen")?,
        };
        Ok(Self { public, admin })
    }

    /// The addresses of the public listeners, in the order of the settings.
    pub(super) fn public_addresses(&self) -> Vec<LocalAddress> {
        self.public.iter().map(|listener| listener.address().clone()).collect()
    }
}

fn bind(address: &ListenAddress, mode: u32, key: &'static str) -> Result<Listener, Error> {
    Listener::bind(address, mode).map_err(|source| Error::Listen {
        key,
        address: address.clone(),
        source,
    })
}

fn inherit(passed: Passed) -> Result<Listener, Error> {
    Listener::inherit(passed).map_err(|source| Error::Start {
        what: "systemd's sockets",
        source,
    })
}
