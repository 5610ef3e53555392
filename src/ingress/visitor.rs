//! What one connection gets while it speaks HTTP: health, refusals, or the 101.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::service::Service;
use hyper::{Method, Request};

use super::handshake::{self, Flaw, Handshake};
use super::limits::{Full as GateFull, Permit};
use super::polling::Served;
use super::visit::Visit;
use super::{Door, Endpoint, Refuse, polling, proxy};
use crate::auth::{Identity, Mode, TokenError};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::request;
use crate::ingress::http::response::{self, HttpResponse};
use crate::metrics::Refused;
use crate::session;
use crate::shard::mailbox::ConnectionId;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::dialect::engine_io::SECRET_BYTES;
use tickgate_protocol::wire::negotiate::Agreement;

/// What was let in.
pub(super) enum Admission {
    /// A new connection.
    Connection(Connection),
    /// A socket for an Engine.IO session.
    Session {
        to: ConnectionId,
        secret: [u8; SECRET_BYTES],
        deflate: Option<Agreement>,
    },
}

/// A new connection: what its shard has to know.
pub(super) struct Connection {
    pub(super) settings: Arc<session::Settings>,
    pub(super) engine_io: Option<session::Opening>,
    pub(super) identity: Result<Option<Arc<Identity>>, TokenError>,
    pub(super) address: Option<IpAddr>,
    pub(super) deflate: Option<Agreement>,
    pub(super) permit: Permit,
}

/// Why a request is not served, for the counters, and the answer.
pub(super) struct Refusal(pub(super) Refused, pub(super) Box<HttpResponse>);

/// Serves the requests of one connection, in order, until one of them is an upgrade.
pub(super) struct Visitor(pub(super) Arc<Visit>);

/// An answer that is there, or one that a shard has to give.
pub(super) enum Serving {
    Now(Option<HttpResponse>),
    Later(Pin<Box<dyn Future<Output = HttpResponse> + Send>>),
}

impl Future for Serving {
    type Output = Result<HttpResponse, std::convert::Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            // Polled once.
            Self::Now(answer) => answer.take().map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer))),
            Self::Later(answer) => answer.as_mut().poll(cx).map(Ok),
        }
    }
}

impl Service<Request<Incoming>> for Visitor {
    type Response = HttpResponse;
    type Error = std::convert::Infallible;
    type Future = Serving;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let visit = Arc::clone(&self.0);
        visit.requests.fetch_add(1, Relaxed);
        // Who asks on has the answer before, or does not want it.
        if let Some(client) = visit.state.lock().unwritten.take() {
            client.served();
        }
        let has_body = !request.body().is_end_stream();
        let settings = visit
            .door
            .endpoint(request.uri().path())
            .map(|endpoint| &endpoint.session);
        if let Some(settings) = settings.filter(|settings| settings.dialect.is_engine_io()) {
            let settings = Arc::clone(settings);
            return Serving::Later(Box::pin(async move {
                let path: Box<str> = request.uri().path().into();
                match polling::serve(&visit, &settings, request).await {
                    Ok(Served { answer, is_poll }) => {
                        let answer = if is_poll {
                            answer
                        } else {
                            visit.counted(answer, has_body)
                        };
                        // A client that comes back shall find the gateway's successor.
                        visit.last(answer, !visit.has_place() || visit.door.health.is_draining())
                    }
                    Err(refusal) => {
                        let answer = visit.refused(refusal, &path);
                        visit.counted(answer, has_body)
                    }
                }
            }));
        }
        let answer = visit.serve(&mut request);
        let answer = answer.unwrap_or_else(|refusal| visit.refused(refusal, request.uri().path()));
        Serving::Now(Some(visit.counted(answer, has_body)))
    }
}

impl Visit {
    fn serve(&self, request: &mut Request<Incoming>) -> Result<HttpResponse, Refusal> {
        let path = request.uri().path();
        let Some(endpoint) = self.door.endpoint(path) else {
            let answer = self
                .door
                .health
                .answer(path)
                .ok_or_else(|| Refusal(Refused::Path, response::not_found().into()))?;
            return match *request.method() {
                Method::GET | Method::HEAD => Ok(answer),
                _ => Err(Refusal(
                    Refused::Method,
                    response::method_not_allowed("GET, HEAD").into(),
                )),
            };
        };
        let handshake = handshake::check(request.method(), request.version(), request.headers()).map_err(flawed)?;
        if !request.body().is_end_stream() {
            let text = "a handshake has no body";
            return Err(refusal(Refused::Body, HttpErrorCode::MessageTooLarge, text));
        }
        if self.door.health.is_draining() {
            return Err(draining());
        }
        if let Some(origin) = handshake.origin
            && !self.door.allowed_origins.allows(origin, handshake.host)
        {
            return Err(forbidden_origin(origin_answer()));
        }
        // This connection may have carried polls before.
        if !self.is_flushed() {
            return Err(bad_request("wait for the answers to earlier requests first"));
        }
        let connection = self.connection(endpoint, &handshake, request)?;
        let answer = switching(&endpoint.session, connection.deflate, request)?;
        self.admit(Admission::Connection(connection));
        Ok(answer)
    }

    /// Takes a place and verifies the token.
    fn connection(
        &self,
        endpoint: &Endpoint,
        handshake: &Handshake<'_>,
        request: &Request<Incoming>,
    ) -> Result<Connection, Refusal> {
        let door = &*self.door;
        let token = match endpoint.session.auth_mode {
            Mode::Off => None,
            Mode::Required | Mode::Optional => token(request.headers(), request.uri().query().unwrap_or_default())?,
        };
        // The rate stands before the signature, which is the expensive part.
        let (address, mut permit) = self.place(request)?;
        let identity = token.map(|token| (door.verify)(&token)).transpose();
        match &identity {
            Ok(Some(identity)) => {
                if let Some(user) = &identity.user {
                    permit.user(user).map_err(full)?;
                }
            }
            Ok(None) => {}
            Err(error) if door.refuses_by_http(endpoint, handshake.origin.is_some()) => {
                let answer = response::error(error.code.into(), &error.message);
                return Err(Refusal(Refused::Token, answer.into()));
            }
            Err(_) => door.stats.refuse(Refused::Token),
        }
        Ok(Connection {
            settings: Arc::clone(&endpoint.session),
            engine_io: None,
            identity,
            address,
            deflate: self.deflate(request),
            permit,
        })
    }

    /// Takes a place for an Engine.IO session. Its token is looked at when the client connects.
    pub(super) fn session(
        &self,
        settings: &Arc<session::Settings>,
        request: &Request<Incoming>,
        open: impl FnOnce(Option<Box<str>>) -> session::Opening,
    ) -> Result<Connection, Refusal> {
        let token = token(request.headers(), request.uri().query().unwrap_or_default())?;
        let (address, permit) = self.place(request)?;
        Ok(Connection {
            settings: Arc::clone(settings),
            engine_io: Some(open(token)),
            identity: Ok(None),
            address,
            // Of a session that begins by polling the upgrade says it.
            deflate: self.deflate(request),
            permit,
        })
    }

    /// What is agreed on compression, when this becomes a WebSocket.
    pub(super) fn deflate(&self, request: &Request<Incoming>) -> Option<Agreement> {
        handshake::deflate(request.headers()).filter(|_| self.door.deflate)
    }

    fn place(&self, request: &Request<Incoming>) -> Result<(Option<IpAddr>, Permit), Refusal> {
        let door = &*self.door;
        let address = proxy::client_address(&door.trusted_proxies, self.hop, request.headers());
        let permit = door.gate.admit(address, door.clock.now().mono_ms).map_err(full)?;
        Ok((address, permit))
    }
}

impl Door {
    /// The endpoint of a path; a last `/` makes no difference.
    fn endpoint(&self, path: &str) -> Option<&Endpoint> {
        let plain = |path: &str| path.len() - usize::from(path.len() > 1 && path.ends_with('/'));
        let wanted = &path[..plain(path)];
        self.endpoints
            .iter()
            .find(|endpoint| endpoint.path[..plain(&endpoint.path)] == *wanted)
    }

    fn refuses_by_http(&self, endpoint: &Endpoint, by_browser: bool) -> bool {
        match self.refuse {
            // It has no message to say it with.
            _ if endpoint.session.dialect == Dialect::Echo => true,
            Refuse::Auto => !by_browser,
            Refuse::Http => true,
            Refuse::Close => false,
        }
    }
}

/// The handshake's token: that of the `Authorization` header, which a proxy or program sets on purpose, before that
/// of the query. One that is there but empty is a bad one: it must not make an anonymous client of somebody.
fn token(headers: &HeaderMap, query: &str) -> Result<Option<Box<str>>, Refusal> {
    if let Some(token) = request::bearer(headers) {
        return Ok(Some(token.into()));
    }
    match request::query_value(query, "token") {
        Ok(token) => Ok(token.map(|token| token.into_owned().into())),
        Err(error) => Err(bad_request(&error.to_string())),
    }
}

/// The 101.
pub(super) fn switching(
    settings: &session::Settings,
    deflate: Option<Agreement>,
    request: &mut Request<Incoming>,
) -> Result<HttpResponse, Refusal> {
    let subprotocol = handshake::subprotocol(&settings.dialect, request.headers());
    // The future is not needed: the socket comes back from hyper's connection itself.
    let (answer, _upgrade) =
        fastwebsockets::upgrade::upgrade(request).map_err(|error| bad_request(&error.to_string()))?;
    let mut answer = answer.map(|_| Full::new(Bytes::new()));
    if let Some(subprotocol) = subprotocol {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    if let Some(extensions) = deflate.and_then(|agreement| HeaderValue::try_from(agreement.answer()).ok()) {
        answer.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, extensions);
    }
    Ok(answer)
}

fn refusal(why: Refused, code: HttpErrorCode, message: &str) -> Refusal {
    Refusal(why, response::error(code, message).into())
}

fn bad_request(message: &str) -> Refusal {
    refusal(Refused::Handshake, HttpErrorCode::InvalidMessage, message)
}

pub(super) fn forbidden_origin(answer: HttpResponse) -> Refusal {
    Refusal(Refused::Origin, answer.into())
}

fn origin_answer() -> HttpResponse {
    response::error(HttpErrorCode::Forbidden, "pages of this origin may not connect")
}

pub(super) fn draining() -> Refusal {
    let answer = response::error(HttpErrorCode::Draining, "the gateway restarts");
    Refusal(Refused::Draining, response::retry_after(answer, 1).into())
}

fn full(full: GateFull) -> Refusal {
    let (code, message) = match full.why {
        Refused::Total => (HttpErrorCode::Overloaded, "too many connections"),
        Refused::PerAddress => (HttpErrorCode::RateLimited, "too many connections from this address"),
        Refused::PerUser => (HttpErrorCode::RateLimited, "too many connections of this user"),
        _ => (HttpErrorCode::RateLimited, "too many new connections"),
    };
    let answer = response::retry_after(response::error(code, message), full.retry_after_s);
    Refusal(full.why, answer.into())
}

fn flawed(flaw: Flaw) -> Refusal {
    match flaw {
        Flaw::Method => Refusal(Refused::Method, response::method_not_allowed("GET").into()),
        Flaw::Malformed(message) => bad_request(message),
        Flaw::Origin => forbidden_origin(origin_answer()),
        Flaw::UpgradeRequired(message) => {
            let mut answer = response::error(HttpErrorCode::UpgradeRequired, message);
            let headers = answer.headers_mut();
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            // A 426 names what to upgrade to (RFC 9110, section 15.5.22).
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            Refusal(Refused::UpgradeRequired, answer.into())
        }
    }
}
