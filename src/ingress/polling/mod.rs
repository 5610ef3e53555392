//! Engine.IO over HTTP: sessions opened, polled, posted to, and upgraded. The session itself is with a shard; the door
//! finds it by its name and carries bodies.
//!
//! Invariants: a request that names a session changes nothing unless it knows the session's secret; a body is read only
//! for a session that exists, up to its limit, in bounded time and while there is memory for it; a client that goes away
//! before its answer was written is told of to the session ([`Client`]). What the kernel took and the network lost nobody
//! here can know: the client's own library sees its request fail, ends its session and opens another.

mod answer;
pub(super) mod body;
mod cors;
mod query;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::header::{HOST, ORIGIN};
use hyper::{Method, Request, StatusCode};
use tokio::sync::oneshot;
use tokio::time::timeout;

use self::body::Unread;
use self::query::{Named, Query, Transport};
use super::handshake;
use super::visit::Visit;
use super::visitor::{Admission, Connection, Refusal as Refused, draining, forbidden_origin, switching};
use crate::ingress::http::response::HttpResponse;
use crate::session::{Opening, Settings};
use crate::shard::mailbox::polling::{Open, Poll, PollError, PollRequest};
use crate::shard::mailbox::{ShardHandle, ShardMessage};
use tickgate_protocol::dialect::engine_io::SECRET_BYTES;
use tickgate_protocol::disconnect::Disconnect;

pub(super) use answer::Flaw;

/// A body must be here so long after its head; as long as a WebSocket message may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// What was answered.
pub(super) struct Served {
    pub(super) answer: HttpResponse,
    /// To a poll of a session that exists: a connection may carry any number of them.
    pub(super) is_poll: bool,
}

/// Serves one request of an Engine.IO endpoint.
pub(super) async fn serve(
    visit: &Arc<Visit>,
    settings: &Arc<Settings>,
    request: Request<Incoming>,
) -> Result<Served, Refused> {
    let origin = allowed_origin(visit, &request)?;
    let cors = request.headers().get(ORIGIN).filter(|_| origin).cloned();
    let served = if request.method() == Method::OPTIONS {
        let mut answer = crate::ingress::http::response::empty(StatusCode::NO_CONTENT);
        cors::preflight(answer.headers_mut());
        let is_poll = false;
        Ok(Served { answer, is_poll })
    } else {
        route(visit, settings, request).await
    };
    let allow = |mut answer: HttpResponse| {
        cors::allow(answer.headers_mut(), cors.as_ref());
        answer
    };
    served
        .map(|Served { answer, is_poll }| Served {
            answer: allow(answer),
            is_poll,
        })
        .map_err(|Refused(why, answer)| Refused(why, Box::new(allow(*answer))))
}

// Whether the request comes from a page that may connect; `false`: from no page.
fn allowed_origin(visit: &Visit, request: &Request<Incoming>) -> Result<bool, Refused> {
    let headers = request.headers();
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return Ok(false);
    };
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let allowed = origin
        .to_str()
        .is_ok_and(|origin| visit.door.allowed_origins.allows(origin, host));
    if allowed && origins.next().is_none() {
        Ok(true)
    } else {
        Err(forbidden_origin(answer::forbidden()))
    }
}

async fn route(visit: &Arc<Visit>, settings: &Arc<Settings>, request: Request<Incoming>) -> Result<Served, Refused> {
    let query = query::read(request.uri().query().unwrap_or_default())?;
    let is_poll = query.transport == Transport::Polling && query.session.is_some();
    let answer = match (query.transport, query.session) {
        (Transport::WebSocket, session) => upgrade(visit, settings, query, session, request).await,
        (Transport::Polling, None) => open(visit, settings, query, &request).await,
        (Transport::Polling, Some(session)) => match *request.method() {
            Method::GET => get(visit, session).await,
            Method::POST => post(visit, settings, session, request).await,
            _ => Err(Flaw::Method.into()),
        },
    }?;
    Ok(Served { answer, is_poll })
}

/// A new session, polled.
async fn open(
    visit: &Arc<Visit>,
    settings: &Arc<Settings>,
    query: Query,
    request: &Request<Incoming>,
) -> Result<HttpResponse, Refused> {
    if request.method() != Method::GET {
        return Err(Flaw::Method.into());
    }
    let connection = admit(visit, settings, query, true, request)?;
    let Some(opening) = connection.engine_io else {
        return Err(Flaw::BadRequest.into());
    };
    let (answer, body) = oneshot::channel();
    let open = Open {
        settings: connection.settings,
        opening,
        address: connection.address,
        nonce: random()?,
        permit: Box::new(connection.permit),
        number: number(),
        answer,
    };
    let shard = visit.door.shards.iter().min_by_key(|shard| shard.load());
    if shard.is_none_or(|shard| shard.send(ShardMessage::Open(Box::new(open))).is_err()) {
        return Err(draining());
    }
    // The session is there whether its client still is or not; one that never connects ends by itself.
    let body = body.await.map_err(|_| draining())?;
    Ok(answer::payload(body))
}

fn admit(
    visit: &Visit,
    settings: &Arc<Settings>,
    query: Query,
    by_poll: bool,
    request: &Request<Incoming>,
) -> Result<Connection, Refused> {
    if visit.door.health.is_draining() {
        return Err(draining());
    }
    let mut secret = [0; SECRET_BYTES];
    getrandom::fill(&mut secret).map_err(|_| Flaw::BadRequest)?;
    visit.session(settings, request, |token| Opening {
        revision: query.revision,
        by_poll,
        secret,
        token,
    })
}

/// A socket: of a session that is polled, or of a new one.
async fn upgrade(
    visit: &Arc<Visit>,
    settings: &Arc<Settings>,
    query: Query,
    session: Option<Named>,
    mut request: Request<Incoming>,
) -> Result<HttpResponse, Refused> {
    if request.method() != Method::GET {
        return Err(Flaw::Method.into());
    }
    let is_handshake = handshake::check(request.method(), request.version(), request.headers()).is_ok();
    if !is_handshake || !request.body().is_end_stream() {
        return Err(Flaw::BadRequest.into());
    }
    // What is not written when the socket is taken over would be lost; who does not wait for answers risks that.
    if !visit.is_flushed() {
        return Err(Flaw::BadRequest.into());
    }
    let deflate = visit.deflate(&request);
    let admission = match session {
        Some(session) => {
            ask(visit, session, number(), PollRequest::MayUpgrade).await?;
            Admission::Session {
                to: session.to,
                secret: session.secret,
                deflate,
            }
        }
        None => Admission::Connection(admit(visit, settings, query, false, &request)?),
    };
    let answer = switching(settings, deflate, &mut request)?;
    visit.admit(admission);
    Ok(answer)
}

/// What is queued, or what comes next.
async fn get(visit: &Arc<Visit>, session: Named) -> Result<HttpResponse, Refused> {
    let number = number();
    // From here on: the session may have taken the GET before anybody hears of it.
    let client = Client::new(visit, session, number);
    let body = match ask(visit, session, number, PollRequest::Get).await {
        Ok(body) => body,
        Err(refused) => {
            client.served();
            return Err(refused);
        }
    };
    // However long it takes: the session has its place in the limits, and its heartbeat ends the wait.
    let waiting = visit.wait();
    let body = body.await;
    drop(waiting);
    if let Ok(body) = body {
        visit.writes(client);
        Ok(answer::payload(body))
    } else {
        client.served();
        Err(Flaw::Session.into())
    }
}

/// Packets from the client.
async fn post(
    visit: &Arc<Visit>,
    settings: &Arc<Settings>,
    session: Named,
    request: Request<Incoming>,
) -> Result<HttpResponse, Refused> {
    let number = number();
    let client = Client::new(visit, session, number);
    if let Err(refused) = ask(visit, session, number, PollRequest::PostHead).await {
        client.served();
        return Err(refused);
    }
    let limit = settings.limits.message_bytes as usize;
    let waiting = visit.wait();
    let read = body::read(request.into_body(), limit, &visit.door.bodies);
    let body = match timeout(BODY_TIMEOUT, read).await.unwrap_or(Err(Unread::Lost)) {
        Ok(body) => body,
        // In any case the session ends: what it was to be told will not come.
        Err(Unread::Lost) => return Err(Flaw::BadRequest.into()),
        Err(Unread::TooLong) => return Err(client.end(Disconnect::TooBig, answer::too_large())),
        Err(Unread::NoRoom) => return Err(client.end(Disconnect::Overload, answer::no_room())),
    };
    let taken = ask(visit, session, number, |reply| {
        PollRequest::PostBody(body.bytes.clone(), reply)
    })
    .await;
    drop((waiting, body));
    client.served();
    taken?;
    Ok(answer::taken())
}

/// Asks a session's shard.
async fn ask<T>(
    visit: &Visit,
    session: Named,
    number: u64,
    request: impl FnOnce(oneshot::Sender<Result<T, PollError>>) -> PollRequest,
) -> Result<T, Refused> {
    let (reply, answer) = oneshot::channel();
    let shard = visit.door.shards.get(usize::from(session.to.shard));
    let sent = shard.is_some_and(|shard| tell(shard, session, number, request(reply)));
    match answer.await {
        Ok(Ok(answer)) if sent => Ok(answer),
        Ok(Err(PollError::BadRequest)) => Err(Flaw::BadRequest.into()),
        Ok(_) | Err(_) => Err(Flaw::Session.into()),
    }
}

fn tell(shard: &ShardHandle, session: Named, number: u64, request: PollRequest) -> bool {
    let poll = Poll {
        to: session.to,
        secret: session.secret,
        number,
        request,
    };
    shard.send(ShardMessage::Poll(poll)).is_ok()
}

/// A request that a session has taken. Unless it is served the session is told that its client is gone.
pub(super) struct Client(Option<(ShardHandle, Named, u64)>);

impl Client {
    fn new(visit: &Visit, session: Named, number: u64) -> Self {
        let shard = visit.door.shards.get(usize::from(session.to.shard));
        Self(shard.map(|shard| (shard.clone(), session, number)))
    }

    fn send(&self, request: PollRequest) {
        if let Some((shard, session, number)) = &self.0 {
            tell(shard, *session, *number, request);
        }
    }

    /// Its session ends, and this is its answer.
    fn end(self, ending: Disconnect, answer: Refused) -> Refused {
        self.send(PollRequest::PostFailed(ending));
        self.served();
        answer
    }

    /// Its answer is on its way.
    pub(super) fn served(mut self) {
        self.0 = None;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.send(PollRequest::Gone);
    }
}

fn number() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    NUMBER.fetch_add(1, Relaxed)
}

fn random() -> Result<u64, Refused> {
    getrandom::u64().map_err(|_| Flaw::BadRequest.into())
}
