//! The listening sockets of a gateway: those that systemd passed, else those of the configuration, which it may have bound
//! before it restarted.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use socket2::SockRef;

use super::{Error, Settings};
use crate::ingress::http::{
    HandedOver, Handover, Inherited, Kept, ListenAddress, Listener, LocalAddress, Passed, PassedSocket,
};

/// Permissions of the admin listener's Unix socket. They are fixed because `/metrics` needs no key.
const ADMIN_SOCKET_MODE: u32 = 0o660;

const ADMIN_KEY: &str = "server.admin_listen";

/// The open listeners.
#[derive(Clone)]
pub(super) struct Listeners {
    pub(super) public: Vec<Arc<Listener>>,
    pub(super) admin: Arc<Listener>,
}

impl Listeners {
    /// Opens the listeners. Must be called within the runtime that accepts on them.
    ///
    /// # Errors
    ///
    /// When a socket cannot be bound or taken over.
    pub(super) fn open(settings: &Settings, passed: Inherited) -> Result<Self, Error> {
        let addresses = &settings.ingress.listen;
        let wanted = addresses.iter().filter(|_| passed.public.is_empty());
        let wanted: Vec<_> = wanted
            .map(|address| Wanted {
                key: "server.listen",
                address,
                mode: settings.ingress.socket_mode,
                ipv6_only: shares_its_port(address, addresses),
            })
            .collect();
        let wanted_admin = Wanted {
            key: ADMIN_KEY,
            address: &settings.admin.listen,
            mode: ADMIN_SOCKET_MODE,
            ipv6_only: false,
        };
        let mut kept = passed.kept;
        let found: Vec<_> = wanted.iter().map(|wanted| wanted.take(&mut kept)).collect();
        let found_admin = wanted_admin.take(&mut kept);
        // The addresses of the others may be bound again.
        kept.into_iter().for_each(Kept::close);

        let mut public = Vec::new();
        for (wanted, found) in wanted.iter().zip(found) {
            public.push(wanted.open(found)?);
        }
        for passed in passed.public {
            public.push(inherit(passed)?);
        }
        let admin = match passed.admin {
            Some(passed) => inherit(passed)?,
            None => wanted_admin.open(found_admin)?,
        };
        Ok(Self {
            public: public.into_iter().map(Arc::new).collect(),
            admin: Arc::new(admin),
        })
    }

    /// The sockets for the program that takes this one's place. Nobody has accepted on them since the given reading of
    /// [`monotonic`](crate::ingress::http::monotonic). The files of Unix sockets are removed unless they are
    /// [left](Self::leave_files) to that program.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors.
    pub(super) fn hand_over(&self, since: Duration) -> io::Result<Handover> {
        let public = self.public.iter().map(|listener| (false, listener));
        let sockets = public.chain([(true, &self.admin)]).map(|(is_admin, listener)| {
            let (name, socket) = listener.hand_over()?;
            Ok(HandedOver { is_admin, name, socket })
        });
        Ok(Handover::new(sockets.collect::<io::Result<_>>()?, since))
    }

    /// Leaves the files of Unix sockets to the program that takes this one's place.
    pub(super) fn leave_files(&self) {
        for listener in self.public.iter().chain([&self.admin]) {
            listener.leave_file();
        }
    }

    /// A reference that does not keep the listeners open.
    pub(super) fn downgrade(&self) -> WeakListeners {
        WeakListeners {
            public: self.public.iter().map(Arc::downgrade).collect(),
            admin: Arc::downgrade(&self.admin),
        }
    }

    /// The addresses of the public listeners, in the order of the settings.
    pub(super) fn public_addresses(&self) -> Vec<LocalAddress> {
        self.public.iter().map(|listener| listener.address().clone()).collect()
    }
}

/// Listeners that another owner may close.
pub(super) struct WeakListeners {
    public: Vec<Weak<Listener>>,
    admin: Weak<Listener>,
}

impl WeakListeners {
    /// The listeners, unless they are closed.
    pub(super) fn upgrade(&self) -> Option<Listeners> {
        Some(Listeners {
            public: self.public.iter().map(Weak::upgrade).collect::<Option<_>>()?,
            admin: self.admin.upgrade()?,
        })
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

/// A listener that the configuration asks for.
struct Wanted<'a> {
    key: &'static str,
    address: &'a ListenAddress,
    mode: u32,
    ipv6_only: bool,
}

impl Wanted<'_> {
    /// Finds the socket that the gateway bound before it restarted.
    fn take(&self, kept: &mut Vec<Kept>) -> Option<Kept> {
        let index = kept.iter().position(|kept| self.is_met_by(kept))?;
        Some(kept.remove(index))
    }

    fn open(&self, found: Option<Kept>) -> Result<Listener, Error> {
        match found {
            Some(kept) => Listener::keep(kept, self.mode),
            None => Listener::bind(self.address, self.mode, self.ipv6_only),
        }
        .map_err(|source| Error::Listen {
            key: self.key,
            address: self.address.clone(),
            source,
        })
    }

    fn is_met_by(&self, kept: &Kept) -> bool {
        let is_v6_as_wanted = match &kept.socket {
            PassedSocket::Tcp(socket) if self.address.tcp().is_some_and(|address| address.is_ipv6()) => {
                SockRef::from(socket).only_v6().is_ok_and(|only| only == self.ipv6_only)
            }
            PassedSocket::Tcp(_) | PassedSocket::Unix(_) => true,
        };
        kept.address == *self.address && kept.is_admin == (self.key == ADMIN_KEY) && is_v6_as_wanted
    }
}

fn inherit(passed: Passed) -> Result<Listener, Error> {
    Listener::inherit(passed).map_err(|source| Error::Start {
        what: "systemd's sockets",
        source,
    })
}
