//! `[server]`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::check::Check;
use crate::config::value::{AllowedOrigin, Coalesce, Proxy, choices};
use crate::config::visit::{Section, Visitor};
use crate::hub::SHARDS_MAX;
use crate::ingress::ListenAddress;

/// `[server]`.
#[derive(Clone, Debug)]
pub(in crate::config) struct Server {
    pub(in crate::config) listen: Vec<ListenAddress>,
    pub(in crate::config) admin_listen: ListenAddress,
    pub(in crate::config) shards: u16,
    pub(in crate::config) trusted_proxies: Vec<Proxy>,
    pub(in crate::config) allowed_origins: Vec<AllowedOrigin>,
    pub(in crate::config) max_connections: u32,
    pub(in crate::config) max_connections_per_ip: u32,
    pub(in crate::config) max_connections_per_user: u32,
    pub(in crate::config) connect_rate: u32,
    pub(in crate::config) handshake_timeout: Duration,
    pub(in crate::config) drain: Duration,
    pub(in crate::config) flush: Flush,
    pub(in crate::config) coalesce: Coalesce,
}

/// `flush`: how frames reach the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Flush {
    Auto,
    IoUring,
    Writev,
}

choices!(Flush { "auto" => Self::Auto, "io_uring" => Self::IoUring, "writev" => Self::Writev });

impl Default for Server {
    fn default() -> Self {
        let loopback = |port| ListenAddress::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        Self {
            listen: vec![loopback(8080)],
            admin_listen: loopback(8081),
            shards: 0,
            trusted_proxies: ["127.0.0.0/8", "unix"].map(|entry| Proxy(entry.to_owned())).to_vec(),
            allowed_origins: Vec::new(),
            max_connections: 1_000_000,
            max_connections_per_ip: 0,
            max_connections_per_user: 0,
            connect_rate: 0,
            handshake_timeout: Duration::from_secs(5),
            drain: Duration::from_secs(20),
            flush: Flush::Auto,
            coalesce: Coalesce::Auto,
        }
    }
}

impl Section for Server {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("listen", &mut self.listen);
        visitor.value("admin_listen", &mut self.admin_listen);
        visitor.value("shards", &mut self.shards);
        visitor.value("trusted_proxies", &mut self.trusted_proxies);
        visitor.value("allowed_origins", &mut self.allowed_origins);
        visitor.value("max_connections", &mut self.max_connections);
        visitor.value("max_connections_per_ip", &mut self.max_connections_per_ip);
        visitor.value("max_connections_per_user", &mut self.max_connections_per_user);
        visitor.value("connect_rate", &mut self.connect_rate);
        visitor.value("handshake_timeout", &mut self.handshake_timeout);
        visitor.value("drain", &mut self.drain);
        visitor.value("flush", &mut self.flush);
        visitor.value("coalesce", &mut self.coalesce);
    }
}

impl Server {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        check.require(
            !self.listen.is_empty(),
            "server.listen",
            "must name at least one listener",
        );
        for (index, address) in self.listen.iter().enumerate() {
            if self.listen[..index].iter().any(|earlier| overlap(earlier, address)) {
                check.refuse("server.listen", format!("{address} overlaps another listener"));
            }
        }
        if self.listen.iter().any(|public| overlap(public, &self.admin_listen)) {
            let message = "the admin listener must not be a public one";
            check.contradiction(["server.admin_listen", "server.listen"], message);
        }
        check.require(
            self.shards <= SHARDS_MAX,
            "server.shards",
            "must be at most 64 (0: one per core)",
        );
        check.require(self.max_connections > 0, "server.max_connections", "must be at least 1");
        check.require(
            !self.handshake_timeout.is_zero(),
            "server.handshake_timeout",
            "must be longer than 0s",
        );
        if let Coalesce::Fixed(time) = self.coalesce {
            check.require(time <= Duration::from_secs(1), "server.coalesce", "must be at most 1s");
        }
        check.require(
            self.drain <= Duration::from_secs(3600),
            "server.drain",
            "must be at most 1h",
        );
    }
}

/// Whether two listeners cannot stand beside each other. Port 0 is a free one each time.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one, other) {
        (ListenAddress::Tcp(one), ListenAddress::Tcp(other)) => {
            let same_ip = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() == other.port() && one.port() != 0 && same_ip
        }
        _ => one == other,
    }
}
