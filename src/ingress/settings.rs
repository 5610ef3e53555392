//! What the configuration says about the public listeners and endpoints.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::HeaderValue;

use super::handshake;
use super::http::ListenAddress;
use super::selector::Selector;
use super::{AllowedOrigins, TrustedProxies};
use crate::session;
use tickgate_protocol::wire::negotiate::Agreement;

/// The public side of a gateway: `[server]` and `[[endpoint]]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The public listeners. Sockets that systemd passed replace them.
    pub listen: Vec<ListenAddress>,
    /// The permissions of the public Unix sockets that the gateway binds, such as `0o660`.
    pub socket_mode: u32,
    /// The proxies that may name the client's address.
    pub trusted_proxies: TrustedProxies,
    /// The pages that may connect, by the `Origin` that their browser sends.
    pub allowed_origins: AllowedOrigins,
    /// The headers that a page of another origin may set on a poll, as `Access-Control-Allow-Headers` lists them.
    pub cors_headers: HeaderValue,
    /// The endpoints. No two of them fit a request equally well.
    pub endpoints: Vec<Endpoint>,
    /// The limits of each tenant but the default one, in the order of their numbers.
    pub tenants: Vec<TenantLimits>,
    /// Most connections: WebSockets and polling sessions.
    pub max_connections: u32,
    /// Most connections of one client address; 0: no limit.
    pub max_connections_per_ip: u32,
    /// Most connections of one user of the default tenant; 0: no limit.
    pub max_connections_per_user: u32,
    /// What happens to one more.
    pub per_user_overflow: PerUserOverflow,
    /// Most connections that speak HTTP at a time, at least 1.
    pub max_pending: u32,
    /// Most silent ones of them of one client address; 0: no limit.
    pub max_pending_per_ip: u32,
    /// Most new connections per second, and at once; 0: no limit.
    pub connect_rate: u32,
    /// How long a request's head may take, in milliseconds: from accept for the first request of a connection, from
    /// the previous response for a later one.
    pub handshake_timeout_ms: u64,
}

/// `[[endpoint]]`: a path, and how sessions behind it behave.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Begins with `/` and has no query.
    pub path: Box<str>,
    /// What else a request needs to be served by this endpoint.
    pub selector: Selector,
    /// The settings that its sessions share.
    pub session: Arc<session::Settings>,
    /// Whether to agree on compression with clients that offer it.
    pub deflate: bool,
    /// How a handshake with an invalid token is refused.
    pub token_refusal: TokenRefusal,
}

/// The limits of a tenant's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TenantLimits {
    /// Most connections; 0: no limit beside that of all tenants.
    pub max_connections: u32,
    /// Most connections of one user; 0: no limit.
    pub max_connections_per_user: u32,
}

impl Endpoint {
    /// The compression to agree on when a request with these headers becomes a WebSocket.
    pub(super) fn deflation(&self, headers: &HeaderMap) -> Option<Agreement> {
        handshake::deflate(headers).filter(|_| self.deflate)
    }

    /// The subprotocol for the 101: one that the endpoint asks for, else that of its dialect, if the client offers it.
    pub(super) fn subprotocol(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let own = self.selector.subprotocol(headers);
        own.and_then(|name| HeaderValue::from_str(name).ok())
            .or_else(|| handshake::subprotocol(&self.session.dialect, headers))
    }

    /// Whether a request for `path` is for this endpoint. A trailing slash makes no difference.
    pub(super) fn serves(&self, path: &str) -> bool {
        without_trailing_slash(&self.path) == without_trailing_slash(path)
    }
}

fn without_trailing_slash(path: &str) -> &str {
    match path.strip_suffix('/') {
        Some("") | None => path,
        Some(plain) => plain,
    }
}

/// `server.per_user_overflow`: what happens when a user at the limit connects once more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PerUserOverflow {
    /// The new connection is refused.
    #[default]
    Refuse,
    /// The new connection takes the place of a dead one or, if all are alive, of the oldest.
    Oldest,
}

/// `[auth] refuse`: how a handshake with an invalid token is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenRefusal {
    /// As `Close` for a request with an `Origin`, because a page cannot read a 401; as `Http` for other requests.
    #[default]
    Auto,
    /// 401 with a JSON body.
    Http,
    /// The upgrade, then `auth_result` and a close with 4001 or 4004.
    Close,
}
