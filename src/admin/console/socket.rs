//! `/console/ws`: the WebSocket of the console's page. It is an ordinary connection of a shard, with the native dialect and
//! the identity of the page's session. It belongs to one tenant: the caller's own, or the one that an operator of all
//! names.
//!
//! Invariant: only a page of this listener with a session gets a WebSocket. Its place among the admin listener's connections
//! is held until the connection ends.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::body::Incoming;

use super::sessions::is_own_origin;
use crate::admin::Admin;
use crate::admin::access::{TENANT, forbidden};
use crate::admin::connection::Connection;
use crate::admin::query::Query;
use crate::auth::{Identity, Mode};
use crate::ingress::handshake::{self, HandshakeError};
use crate::ingress::http::response::{self, HttpResponse};
use crate::ingress::http::{HttpErrorCode, Socket};
use crate::session::{self, limits::Limits};
use crate::shard::mailbox::{Adopt, ConnectionPermit, ShardMessage, UnclaimedSocket};
use tickgate_protocol::channel::{Classes, Tenant};
use tickgate_protocol::dialect::Dialect;

/// Patterns that one page may hold. A page tails several channels at a time.
const SUBSCRIPTIONS_MAX: u32 = 100;

/// The settings of the console's connections to one tenant.
pub(in crate::admin) fn settings(
    (tenant, name): (Tenant, Option<&str>),
    event_bytes: u32,
    classes: &Arc<Classes>,
) -> Arc<session::Settings> {
    Arc::new(session::Settings {
        dialect: Dialect::Native,
        tenant,
        limits: Limits {
            subscriptions: SUBSCRIPTIONS_MAX,
            event_bytes,
            ..Limits::default()
        },
        auth_mode: Mode::Required,
        anonymous: Arc::new(Identity::anonymous(Arc::default())),
        auto_subscribe: Box::default(),
        refused_values: Arc::default(),
        tenant_name: name.map(Into::into),
        classes: Arc::clone(classes),
        auth_timeout_ms: 5_000,
        expiry_warning_ms: 60_000,
        heartbeat_interval_ms: 30_000,
        heartbeat_timeout_ms: 75_000,
    })
}

/// The settings with the newest classes.
fn with_classes(settings: &Arc<session::Settings>, classes: &Arc<Classes>) -> Arc<session::Settings> {
    let mut settings = Arc::clone(settings);
    if !Arc::ptr_eq(&settings.classes, classes) {
        Arc::make_mut(&mut settings).classes = Arc::clone(classes);
    }
    settings
}

impl Admin {
    /// Answers the handshake of the console's page. The error is the response to a refused one.
    pub(in crate::admin) fn console_socket(
        &self,
        mut request: Request<Incoming>,
        connection: &Connection,
    ) -> Result<HttpResponse, Box<HttpResponse>> {
        let headers = request.headers();
        if let Err(error) = handshake::check(request.method(), request.version(), headers) {
            let code = match error {
                HandshakeError::Upgrade | HandshakeError::Connection | HandshakeError::Version => {
                    HttpErrorCode::UpgradeRequired
                }
                _ => HttpErrorCode::InvalidMessage,
            };
            return Err(response::error(code, "this path takes the WebSocket handshake of the console's page").into());
        }
        if !is_own_origin(headers) {
            return Err(forbidden("only the console's own page may connect").into());
        }
        let query = Query::of(request.uri().query().unwrap_or_default());
        query
            .check(&["app", TENANT])
            .map_err(|message| response::error(HttpErrorCode::InvalidMessage, &message))?;
        // A developer's view connects as an app does: the token of the app says who it is.
        let is_app = query.has("app");
        let (tenant, identity) = self.console_caller(&request)?;
        if is_app && !identity.permissions.admin {
            return Err(forbidden("only operators may connect as an app").into());
        }
        let identity = (!is_app).then_some(identity);
        connection.has_key()?;
        let (response, _upgraded) = fastwebsockets::upgrade::upgrade(&mut request)
            .map_err(|error| response::error(HttpErrorCode::InvalidMessage, &error.to_string()))?;
        connection.upgrade(tenant, identity);
        Ok(response.map(|_| Full::new(Bytes::new())))
    }
}

/// Gives the socket of a page to the least loaded shard. `read_buf` is what was read behind the handshake.
pub(in crate::admin) fn hand_over(
    connection: &Arc<Connection>,
    (tenant, identity): (Tenant, Option<Arc<Identity>>),
    socket: Socket,
    read_buf: &Bytes,
) {
    let admin = &connection.admin;
    let Some(settings) = admin.console_settings.get(tenant.index()) else {
        return;
    };
    let address = socket.peer();
    let parts = socket
        .into_fd()
        .and_then(|parts| Ok((parts, getrandom::u64().map_err(std::io::Error::other)?)));
    let ((socket, ahead), nonce) = match parts {
        Ok(parts) => parts,
        Err(error) => return tracing::error!(%error, "cannot hand a console's connection to a shard"),
    };
    // From now on it counts as being served, so that no newer connection takes its place.
    connection.begin_request();
    let adopt = Adopt {
        socket: UnclaimedSocket::new(socket),
        unread: [&read_buf[..], &ahead[..]].concat().into(),
        settings: with_classes(settings, admin.parts.hub.classes()),
        engine_io: None,
        identity: Ok(identity),
        address,
        nonce,
        deflate: None,
        permit: Box::new(Held(Arc::clone(connection))),
    };
    if let Some(shard) = admin.parts.shards.iter().min_by_key(|shard| shard.load()) {
        // A shard that has ended closes the socket with 1012.
        let _ = shard.send(ShardMessage::Adopt(Box::new(adopt)));
    }
}

/// Holds the place of the page's connection.
struct Held(#[expect(dead_code, reason = "dropping it gives the place back")] Arc<Connection>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

impl ConnectionPermit for Held {
    fn authenticated(&mut self, _: &str) -> bool {
        true
    }
}
