//! The door: accepts, speaks HTTP/1 until the upgrade, then hands the bare socket to a shard.
//!
//! Invariant: a connection is counted in the limits from its acceptance on until its permit is dropped, and no byte
//! that a client sent is lost between the door and its shard.

mod origin;
mod proxy;

use std::sync::Arc;

pub use crate::http::{AddressError, ListenAddress};
pub use origin::{OriginError, Origins};
pub use proxy::{ProxyError, TrustedProxies};

use crate::session;

/// `[server]`: what the door needs of it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The public listeners. Sockets passed by systemd take their place.
    pub listen: Vec<ListenAddress>,
    /// Whose word on the client's address is believed.
    pub trusted_proxies: TrustedProxies,
    /// Which browsers' pages may connect.
    pub allowed_origins: Origins,
    /// The paths served. No two with the same path (a last `/` does not tell them apart).
    pub endpoints: Vec<Endpoint>,
    /// How a bad handshake token is refused.
    pub refuse: Refuse,
    /// Connections in all, from acceptance on.
    pub max_connections: u32,
    /// Connections of one client address; 0: no limit.
    pub max_connections_per_ip: u32,
    /// Connections of one user; 0: no limit.
    pub max_connections_per_user: u32,
    /// Handshakes per second in all, the burst being the same; 0: no limit.
    pub connect_rate: u32,
    /// From acceptance to the end of the request's head, and for every later one on the same connection.
    pub handshake_timeout_ms: u64,
}

/// `[[endpoint]]`: a path and how connections to it behave.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Begins with `/`; no query.
    pub path: Box<str>,
    /// What its sessions share.
    pub session: Arc<session::Settings>,
}

/// `[auth] refuse`: how a bad handshake token is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refuse {
    /// `Close` for a request with an `Origin` (a browser cannot read a 401), `Http` for others.
    #[default]
    Auto,
    /// 401 with a JSON body.
    Http,
    /// The upgrade, then `auth_result` and close 4001 or 4004.
    Close,
}
