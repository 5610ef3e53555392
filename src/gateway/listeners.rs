//! The listening sockets of a gateway: those that systemd passed, else those of the configuration.

use std::net::SocketAddr;

use super::{Error, Settings};
use crate::ingress::http::{Inherited, ListenAddress, Listener, LocalAddress, Passed};

/// Permissions of the admin listener's Unix socket. They are fixed because `/metrics` needs no key.
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
            let addresses = &settings.ingress.listen;
            addresses
                .iter()
                .map(|address| {
                    let ipv6_only = shares_its_port(address, addresses);
                    bind("server.listen", address, settings.ingress.socket_mode, ipv6_only)
                })
                .collect::<Result<_, _>>()?
        } else {
            passed.public.into_iter().map(inherit).collect::<Result<_, _>>()?
        };
        let admin = match passed.admin {
            Some(passed) => inherit(passed)?,
            None => bind("server.admin_listen", &settings.admin.listen, ADMIN_SOCKET_MODE, false)?,
        };
        Ok(Self { public, admin })
    }

    /// The addresses of the public listeners, in the order of the settings.
    pub(super) fn public_addresses(&self) -> Vec<LocalAddress> {
        self.public.iter().map(|listener| listener.address().clone()).collect()
    }
}

/// Whether the port of an IPv6 address has an IPv4 listener of its own.
fn shares_its_port(address: &ListenAddress, all: &[ListenAddress]) -> bool {
    let Some(SocketAddr::V6(address)) = address.tcp() else {
        return false;
    };
    let mut others = all.iter().filter_map(ListenAddress::tcp);
    address.port() != 0
        && address.ip().to_canonical().is_ipv6()
        && others.any(|other| other.port() == address.port() && other.is_ipv4())
}

fn bind(key: &'static str, address: &ListenAddress, mode: u32, ipv6_only: bool) -> Result<Listener, Error> {
    Listener::bind(address, mode, ipv6_only).map_err(|source| Error::Listen {
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
