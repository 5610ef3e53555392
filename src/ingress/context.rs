//! What all connections of the public listeners share.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::server::conn::http1;

use super::admission::AdmissionControl;
use super::http::{BodyRoom, Health};
use super::http_connection::PollingConnections;
use super::pending::PendingConnections;
use super::settings::Endpoint;
use crate::metrics::IngressMetrics;
use crate::shard::mailbox::ShardHandle;

pub(super) struct Context {
    pub(super) admission: AdmissionControl,
    /// The endpoints of all listeners.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) shards: Vec<ShardHandle>,
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<IngressMetrics>,
    pub(super) pending: Arc<PendingConnections>,
    pub(super) polling: Arc<PollingConnections>,
    /// The room for the bodies of POST requests.
    pub(super) bodies: Arc<BodyRoom>,
    /// The headers that a page of another origin may set, as `Access-Control-Allow-Headers` lists them.
    pub(super) cors_headers: HeaderValue,
    pub(super) http: http1::Builder,
    pub(super) handshake_timeout: Duration,
}

impl Context {
    /// The shard that gets the next connection; `None` only without shards.
    pub(super) fn least_loaded_shard(&self) -> Option<&ShardHandle> {
        self.shards.iter().min_by_key(|shard| shard.load())
    }
}
