//! Engine.IO over HTTP: opens, polls, posts to and upgrades sessions.
//!
//! The session itself lives in a shard. The ingress finds it by the parameter `sid` and carries the bodies of its
//! requests.
//!
//! Invariants:
//!
//! * A request changes a session only when it knows the session's secret.
//! * A body is read only for an existing session, up to its limit, in bounded time, and while there is room for it. A
//!   body with a `Content-Encoding` is refused unread.
//! * When a client goes away before its response is written, its session hears of it
//!   ([`PollGuard`]). A response that the kernel took and the network lost cannot be
//!   detected here: the client's library sees its request fail and opens another session.

mod cors;
mod query;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{HOST, ORIGIN};
use hyper::{Method, Request, StatusCode};
use tokio::sync::oneshot;

use self::query::{Query, Transport};
use super::admission::{Admission, NewSession, OpenedBy};
use super::body::{self, BodyError};
use super::context::Context;
use super::handshake;
use super::http::request::content_encoding;
use super::http::response::{self, HttpResponse};
use super::http_connection::HttpConnection;
use super::refusal::{EngineIoError, Refusal};
use super::session_request::{PollGuard, SessionName, SessionRequest, next_number};
use super::settings::Endpoint;
use super::upgrade::switching_protocols;
use crate::memory::Pressure;
use crate::metrics::IngressMetrics;
use crate::pause::timeout;
use crate::shard::mailbox::ShardMessage;
use crate::shard::mailbox::polling::{Open, PollRequest};
use tickgate_protocol::dialect::engine_io::SECRET_BYTES;
use tickgate_protocol::disconnect::Disconnect;

/// How long a body may take after its head: as long as a WebSocket message may.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

const INCOMPLETE: &str = "the body did not arrive whole, or took more than 30 s";
const NO_RANDOM: &str = "the gateway has no random numbers";

/// The response to a request of an Engine.IO endpoint.
pub(super) struct PollingResponse {
    pub(super) response: HttpResponse,
    /// Whether the request polls an existing session, which a connection may do without limit.
    pub(super) is_poll: bool,
}

/// A body that is counted while it is in memory.
struct Counted {
    body: Bytes,
    metrics: Arc<IngressMetrics>,
}

impl Counted {
    fn new(body: Bytes, metrics: Arc<IngressMetrics>) -> Self {
        metrics.poll_bytes.add(i64::try_from(body.len()).unwrap_or(i64::MAX));
        Self { body, metrics }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let bytes = i64::try_from(self.body.len()).unwrap_or(i64::MAX);
        self.metrics.poll_bytes.add(-bytes);
    }
}

/// Serves one request of an Engine.IO endpoint.
///
/// # Errors
///
/// The refusals of the Engine.IO protocol, of admission and of limits. They carry the CORS headers of the response.
pub(super) async fn serve(
    context: &Context,
    connection: &Arc<HttpConnection>,
    endpoint: &Endpoint,
    request: Request<Incoming>,
) -> Result<PollingResponse, Refusal> {
    let has_origin = check_origin(context, &request)?;
    let origin = request.headers().get(ORIGIN).filter(|_| has_origin).cloned();
    let exchange = Exchange {
        context,
        connection,
        endpoint,
    };
    let mut outcome = if request.method() == Method::OPTIONS {
        let mut response = response::empty(StatusCode::NO_CONTENT);
        cors::preflight(response.headers_mut(), &context.cors_headers);
        let is_poll = false;
        Ok(PollingResponse { response, is_poll })
    } else {
        exchange.route(request).await
    };
    let headers = match &mut outcome {
        Ok(polling) => polling.response.headers_mut(),
        Err(refusal) => refusal.response.headers_mut(),
    };
    cors::allow(headers, origin.as_ref());
    outcome
}

/// Whether the request has an `Origin`.
///
/// # Errors
///
/// 403 when the origin may not connect, is given twice, or is not ASCII.
fn check_origin(context: &Context, request: &Request<Incoming>) -> Result<bool, Refusal> {
    let headers = request.headers();
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return Ok(false);
    };
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let is_allowed = origin
        .to_str()
        .is_ok_and(|origin| context.admission.allowed_origins.allows(origin, host));
    if is_allowed && origins.next().is_none() {
        Ok(true)
    } else {
        Err(EngineIoError::Forbidden.into())
    }
}

/// One request, and what it is served with.
struct Exchange<'a> {
    context: &'a Context,
    connection: &'a Arc<HttpConnection>,
    endpoint: &'a Endpoint,
}

impl Exchange<'_> {
    async fn route(&self, request: Request<Incoming>) -> Result<PollingResponse, Refusal> {
        let tenant = self.endpoint.session.tenant;
        let query = query::parse(request.uri().query().unwrap_or_default(), tenant)?;
        let is_poll = query.transport == Transport::Polling && query.session.is_some();
        let response = match (query.transport, query.session) {
            (Transport::WebSocket, _) => self.upgrade(query, request).await,
            (Transport::Polling, None) => self.open(query, &request).await,
            (Transport::Polling, Some(session)) => match *request.method() {
                Method::GET => self.get(session).await,
                Method::POST => self.post(session, request).await,
                _ => Err(EngineIoError::Method.into()),
            },
        }?;
        Ok(PollingResponse { response, is_poll })
    }

    /// Opens a session that polls.
    async fn open(&self, query: Query, request: &Request<Incoming>) -> Result<HttpResponse, Refusal> {
        if request.method() != Method::GET {
            return Err(EngineIoError::Method.into());
        }
        let session = self.admit(query, true, request)?;
        let (answer, body) = oneshot::channel();
        let open = Open {
            settings: session.settings,
            opening: session.opening,
            address: session.address,
            nonce: getrandom::u64().map_err(|_| EngineIoError::BadRequest(NO_RANDOM))?,
            permit: Box::new(session.permit),
            number: next_number(),
            answer,
        };
        let shard = self.context.least_loaded_shard();
        if shard.is_none_or(|shard| shard.send(ShardMessage::Open(Box::new(open))).is_err()) {
            return Err(Refusal::draining());
        }
        // No guard is needed when the client goes away: a session that does not connect ends by itself.
        let body = body.await.map_err(|_| Refusal::draining())?;
        Ok(payload(body, &self.context.shared.metrics))
    }

    fn admit(&self, query: Query, by_poll: bool, request: &Request<Incoming>) -> Result<NewSession, Refusal> {
        if self.context.shared.health.refuses_clients() {
            return Err(Refusal::draining());
        }
        if self.context.shared.health.memory() >= Pressure::Joins {
            return Err(Refusal::memory());
        }
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).map_err(|_| EngineIoError::BadRequest(NO_RANDOM))?;
        let opened_by = OpenedBy {
            revision: query.revision,
            by_poll,
            secret,
        };
        let admission = &self.context.admission;
        admission.session(self.connection.hop, &self.endpoint.session, request, opened_by)
    }

    /// Opens a WebSocket: for a session that polls, or with a new session.
    async fn upgrade(&self, query: Query, mut request: Request<Incoming>) -> Result<HttpResponse, Refusal> {
        if request.method() != Method::GET {
            return Err(EngineIoError::Method.into());
        }
        let is_handshake = handshake::check(request.method(), request.version(), request.headers()).is_ok();
        if !is_handshake || !request.body().is_end_stream() {
            return Err(EngineIoError::BadRequest("not a WebSocket handshake").into());
        }
        // Handing the socket over would lose the part of an earlier response that is not written yet.
        if !self.connection.is_flushed() {
            return Err(EngineIoError::BadRequest("an earlier response is not written yet").into());
        }
        let deflate = self.endpoint.deflation(request.headers());
        let admission = match query.session {
            Some(session) => {
                self.request(session).ask(PollRequest::MayUpgrade).await?;
                Admission::Transport { session, deflate }
            }
            None => Admission::Connection(self.admit(query, false, &request)?.into_connection(deflate)),
        };
        let response = switching_protocols(self.endpoint, deflate, &mut request)?;
        self.connection.admit(admission);
        Ok(response)
    }

    /// Polls for packets: those that are queued, else the next ones.
    async fn get(&self, session: SessionName) -> Result<HttpResponse, Refusal> {
        // Guarded before the session is asked, because it may take the GET before this task hears of it.
        let guard = PollGuard::new(self.request(session));
        let body = match guard.request.ask(PollRequest::Get).await {
            Ok(body) => body,
            Err(error) => {
                guard.finish();
                return Err(error.into());
            }
        };
        // No deadline is needed: the session counts against the limits, and its heartbeat ends the wait.
        let waiting = self.connection.wait();
        let body = body.await;
        drop(waiting);
        if let Ok(body) = body {
            self.connection.set_unwritten(guard);
            Ok(payload(body, &self.context.shared.metrics))
        } else {
            guard.finish();
            Err(EngineIoError::UnknownSession.into())
        }
    }

    /// Takes packets from the client.
    async fn post(&self, session: SessionName, request: Request<Incoming>) -> Result<HttpResponse, Refusal> {
        // Checked before the session hears of the request, so the session goes on.
        if content_encoding(request.headers()).is_some() {
            return Err(EngineIoError::EncodedBody.into());
        }
        let guard = PollGuard::new(self.request(session));
        if let Err(error) = guard.request.ask(PollRequest::PostHead).await {
            guard.finish();
            return Err(error.into());
        }
        let limit = self.endpoint.session.limits.message_bytes;
        let waiting = self.connection.wait();
        let read = body::read(request.into_body(), limit as usize, &self.context.shared.bodies);
        let body = match timeout(BODY_TIMEOUT, read).await.unwrap_or(Err(BodyError::Incomplete)) {
            Ok(body) => body,
            // Each of these ends the session; the first one because the guard is dropped.
            Err(BodyError::Incomplete) => return Err(EngineIoError::BadRequest(INCOMPLETE).into()),
            Err(BodyError::TooLong) => {
                guard.fail(Disconnect::TooBig);
                return Err(EngineIoError::BodyTooLarge(limit).into());
            }
            Err(BodyError::NoRoom) => {
                guard.fail(Disconnect::Overload);
                return Err(EngineIoError::NoRoomForBody.into());
            }
        };
        let bytes = body.bytes.clone();
        let taken = guard.request.ask(|reply| PollRequest::PostBody(bytes, reply)).await;
        drop((waiting, body));
        guard.finish();
        taken?;
        Ok(response::with_body(StatusCode::OK, "text/html", "ok"))
    }

    fn request(&self, session: SessionName) -> SessionRequest {
        SessionRequest::new(&self.context.shared.shards, session)
    }
}

/// The response to a poll: packets.
// The memory of the body counts until it is written.
fn payload(body: Bytes, metrics: &Arc<IngressMetrics>) -> HttpResponse {
    let body = Bytes::from_owner(Counted::new(body, Arc::clone(metrics)));
    response::with_body(StatusCode::OK, "text/plain; charset=UTF-8", body)
}
