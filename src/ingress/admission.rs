//! Decides who may connect: the client's address, the page's origin, the connection limits and the token.
//!
//! Invariant: the limits are checked before the token's signature, which is the expensive part, and a connection is
//! counted from then on until its permit is dropped.

use std::net::IpAddr;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderMap;

use super::context::SharedParts;
use super::handshake::Handshake;
use super::http::request;
use super::limits::Permit;
use super::refusal::Refusal;
use super::session_request::SessionName;
use super::settings::{Endpoint, TokenRefusal};
use super::{AllowedOrigins, TrustedProxies, forwarded};
use crate::auth::{Identity, Mode, TokenError};
use crate::metrics::RefusalReason;
use crate::session;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::dialect::engine_io::{Revision, SECRET_BYTES};
use tickgate_protocol::wire::negotiate::Agreement;

/// What an upgrade is granted for.
pub(super) enum Admission {
    /// A new connection.
    Connection(NewConnection),
    /// The WebSocket transport of an Engine.IO session that polls.
    Transport {
        session: SessionName,
        deflate: Option<Agreement>,
    },
}

/// A new WebSocket connection, for its shard.
pub(super) struct NewConnection {
    pub(super) settings: Arc<session::Settings>,
    /// On an Engine.IO endpoint: how the session was opened.
    pub(super) engine_io: Option<session::Opening>,
    pub(super) identity: Result<Option<Arc<Identity>>, TokenError>,
    pub(super) address: Option<IpAddr>,
    pub(super) deflate: Option<Agreement>,
    pub(super) permit: Permit,
}

/// A new Engine.IO session, for its shard.
pub(super) struct NewSession {
    pub(super) settings: Arc<session::Settings>,
    pub(super) opening: session::Opening,
    pub(super) address: Option<IpAddr>,
    pub(super) permit: Permit,
}

impl NewSession {
    /// The session's connection when it is opened by a WebSocket. The session verifies the token when the client
    /// connects to a namespace.
    pub(super) fn into_connection(self, deflate: Option<Agreement>) -> NewConnection {
        NewConnection {
            settings: self.settings,
            engine_io: Some(self.opening),
            identity: Ok(None),
            address: self.address,
            deflate,
            permit: self.permit,
        }
    }
}

/// The rules of admission, shared by all connections.
pub(super) struct AdmissionControl {
    pub(super) trusted_proxies: TrustedProxies,
    pub(super) allowed_origins: AllowedOrigins,
    pub(super) shared: Arc<SharedParts>,
}

impl AdmissionControl {
    /// Admits a WebSocket connection.
    ///
    /// # Errors
    ///
    /// 400 for a malformed token parameter or two `Authorization` headers, 429 or 503 when a limit is reached, 401 for an invalid token (unless the
    /// connection is to be told after the upgrade).
    pub(super) fn websocket(
        &self,
        hop: Option<IpAddr>,
        endpoint: &Endpoint,
        handshake: &Handshake<'_>,
        request: &Request<Incoming>,
    ) -> Result<NewConnection, Refusal> {
        let token = match endpoint.session.auth_mode {
            Mode::Off => None,
            Mode::Required | Mode::Optional => token(request.headers(), request.uri().query().unwrap_or_default())?,
        };
        let tenant = endpoint.session.tenant;
        let (address, mut permit) = self.permit(tenant, hop, request.headers())?;
        let identity = token.map(|token| (self.shared.verify)(tenant, &token)).transpose();
        match &identity {
            Ok(Some(identity)) => {
                if let Some(user) = &identity.user {
                    permit.count_user(user)?;
                }
            }
            Ok(None) => {}
            Err(error) if Self::refuses_by_http(endpoint, handshake.origin.is_some()) => {
                return Err(Refusal::token(error));
            }
            Err(_) => self.shared.metrics.refuse(RefusalReason::Token),
        }
        Ok(NewConnection {
            settings: Arc::clone(&endpoint.session),
            engine_io: None,
            identity,
            address,
            deflate: endpoint.deflation(request.headers()),
            permit,
        })
    }

    /// Admits an Engine.IO session. The session verifies the token when the client connects to a namespace.
    ///
    /// # Errors
    ///
    /// 400 for a malformed token parameter or two `Authorization` headers, 429 or 503 when a limit is reached.
    pub(super) fn session(
        &self,
        hop: Option<IpAddr>,
        settings: &Arc<session::Settings>,
        request: &Request<Incoming>,
        opened_by: OpenedBy,
    ) -> Result<NewSession, Refusal> {
        let token = token(request.headers(), request.uri().query().unwrap_or_default())?;
        let (address, permit) = self.permit(settings.tenant, hop, request.headers())?;
        Ok(NewSession {
            settings: Arc::clone(settings),
            opening: session::Opening {
                revision: opened_by.revision,
                by_poll: opened_by.by_poll,
                secret: opened_by.secret,
                token,
            },
            address,
            permit,
        })
    }

    /// The client that a trusted proxy names in a request's headers; `None` within it if the proxy names none. `None` if the
    /// last hop is not a trusted proxy.
    pub(super) fn proxied_client(&self, hop: Option<IpAddr>, headers: &HeaderMap) -> Option<Option<IpAddr>> {
        let trusted = &self.trusted_proxies;
        trusted.trusts(hop).then(|| {
            let client = forwarded::client_address(trusted, hop, headers);
            client.filter(|_| !trusted.trusts(client))
        })
    }

    fn permit(
        &self,
        tenant: Tenant,
        hop: Option<IpAddr>,
        headers: &HeaderMap,
    ) -> Result<(Option<IpAddr>, Permit), Refusal> {
        let address = forwarded::client_address(&self.trusted_proxies, hop, headers);
        let permit = self
            .shared
            .limits
            .admit(tenant, address, self.shared.clock.now().mono_ms)?;
        Ok((address, permit))
    }

    /// Whether an invalid token is answered with a 401. Otherwise the connection is told after the upgrade.
    fn refuses_by_http(endpoint: &Endpoint, is_browser: bool) -> bool {
        // The echo dialect has no message for it.
        if endpoint.session.dialect == Dialect::Echo {
            return true;
        }
        match endpoint.token_refusal {
            TokenRefusal::Auto => !is_browser,
            TokenRefusal::Http => true,
            TokenRefusal::Close => false,
        }
    }
}

/// How a client opens an Engine.IO session.
pub(super) struct OpenedBy {
    pub(super) revision: Revision,
    pub(super) by_poll: bool,
    pub(super) secret: [u8; SECRET_BYTES],
}

/// The token of a request: that of the `Authorization` header, which a proxy or a program sets on purpose, before that
/// of the query parameter `token`.
///
/// An empty `token=` is no token: it is what a client without a login sends.
fn token(headers: &HeaderMap, query: &str) -> Result<Option<Box<str>>, Refusal> {
    if let Some(token) = request::bearer(headers).map_err(|error| Refusal::credentials(&error))? {
        return Ok(Some(token.into()));
    }
    match request::query_value(query, "token") {
        Ok(token) => {
            let given = token.filter(|token| !token.trim_ascii().is_empty());
            Ok(given.map(|token| token.into_owned().into()))
        }
        Err(error) => Err(Refusal::credentials(&error)),
    }
}
