//! What all connections of the public listeners share.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::server::conn::http1;

use super::admission::AdmissionControl;
use super::http::{self, BodyRoom, Health, Verify};
use super::http_connection::PollingConnections;
use super::limits::ConnectionLimits;
use super::pending::PendingConnections;
use super::settings::{Endpoint, Settings};
use crate::metrics::IngressMetrics;
use crate::shard::mailbox::ShardHandle;
use crate::time::Clock;

pub(super) struct Context {
    pub(super) shared: Arc<SharedParts>,
    pub(super) admission: AdmissionControl,
    /// The endpoints of all listeners.
    pub(super) endpoints: Vec<Endpoint>,
    /// The headers that a page of another origin may set, as `Access-Control-Allow-Headers` lists them.
    pub(super) cors_headers: HeaderValue,
    pub(super) http: http1::Builder,
    pub(super) handshake_timeout: Duration,
}

/// What stays when the settings are replaced.
pub(super) struct SharedParts {
    pub(super) limits: Arc<ConnectionLimits>,
    pub(super) verify: Arc<Verify>,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) health: Arc<Health>,
    pub(super) pending: Arc<PendingConnections>,
    pub(super) metrics: Arc<IngressMetrics>,
    pub(super) polling: Arc<PollingConnections>,
    /// The room for the bodies of POST requests.
    pub(super) bodies: Arc<BodyRoom>,
    pub(super) clock: Clock,
}

impl Context {
    pub(super) fn new(settings: Settings, shared: Arc<SharedParts>) -> Self {
        let handshake_timeout = Duration::from_millis(settings.handshake_timeout_ms);
        let mut http = http::http1(handshake_timeout);
        // An `HttpConnection` has the deadlines: its first one begins at accept, before hyper sees the connection.
        http.header_read_timeout(None);
        Self {
            admission: AdmissionControl {
                trusted_proxies: settings.trusted_proxies,
                allowed_origins: settings.allowed_origins,
                shared: Arc::clone(&shared),
            },
            shared,
            endpoints: settings.endpoints,
            cors_headers: settings.cors_headers,
            http,
            handshake_timeout,
        }
    }

    /// The shard that gets the next connection; `None` only without shards.
    pub(super) fn least_loaded_shard(&self) -> Option<&ShardHandle> {
        self.shared.shards.iter().min_by_key(|shard| shard.load())
    }
}
