//! What one connection gets while it speaks HTTP: health, refusals, or the 101.

use std::cell::Cell;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{
    CONNECTION, HeaderMap, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use hyper::service::Service;
use hyper::{Method, Request, StatusCode};

use super::handshake::{self, Flaw, Handshake};
use super::limits::{Full as GateFull, Permit};
use super::{Door, Endpoint, Refuse, proxy};
use crate::auth::{Identity, Mode, TokenError};
use crate::dialect::Dialect;
use crate::http::answer::{self, Answer};
use crate::http::request;
use crate::session;
use crate::stats::Refused;
use crate::wire::Deflate;

/// Requests on one connection; the last is answered with `Connection: close`. So few that their answers fit into
/// any socket's buffer: hyper gives the socket back as soon as a 101 is written to its own, and what a client that
/// does not read left there would be lost.
const REQUESTS_MAX: u32 = 32;

/// A connection that was let in: what its shard has to know.
pub(super) struct Admission {
    pub(super) settings: Arc<session::Settings>,
    pub(super) identity: Result<Option<Arc<Identity>>, TokenError>,
    pub(super) address: Option<IpAddr>,
    pub(super) deflate: Option<Deflate>,
    pub(super) permit: Permit,
}

/// Serves the requests of one connection, in order, until one of them is an upgrade.
pub(super) struct Visitor {
    pub(super) door: Arc<Door>,
    /// Who speaks to us: the PROXY header's client, else the peer; `None` on a Unix socket.
    pub(super) hop: Option<IpAddr>,
    pub(super) requests: Cell<u32>,
    pub(super) admission: Cell<Option<Box<Admission>>>,
}

/// Why a request is not served, for the counters, and the answer.
struct Refusal(Refused, Box<Answer>);

impl Service<Request<Incoming>> for Visitor {
    type Response = Answer;
    type Error = std::convert::Infallible;
    type Future = Ready<Result<Answer, Self::Error>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.requests.set(self.requests.get() + 1);
        let mut answer = self.serve(&mut request).unwrap_or_else(|Refusal(why, answer)| {
            self.door.stats.refuse(why);
            // Never the query: the token stands there.
            tracing::debug!(why = why.label(), path = request.uri().path(), hop = ?self.hop, "refused");
            *answer
        });
        let last = self.requests.get() >= REQUESTS_MAX || !request.body().is_end_stream();
        if last && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("close"));
        }
        ready(Ok(answer))
    }
}

impl Visitor {
    fn serve(&self, request: &mut Request<Incoming>) -> Result<Answer, Refusal> {
        let path = request.uri().path();
        let Some(endpoint) = self.door.endpoint(path) else {
            let answer = self
                .door
                .health
                .answer(path)
                .ok_or_else(|| Refusal(Refused::Path, answer::not_found().into()))?;
            return match *request.method() {
                Method::GET | Method::HEAD => Ok(answer),
                _ => Err(Refusal(Refused::Method, answer::method_not_allowed("GET, HEAD").into())),
            };
        };
        let handshake = handshake::check(request.method(), request.version(), request.headers()).map_err(flawed)?;
        if !request.body().is_end_stream() {
            let text = "a handshake has no body";
            return Err(refusal(
                Refused::Body,
                StatusCode::PAYLOAD_TOO_LARGE,
                "MESSAGE_TOO_LARGE",
                text,
            ));
        }
        if self.door.health.is_draining() {
            return Err(draining());
        }
        if let Some(origin) = handshake.origin
            && !self.door.allowed_origins.allows(origin, handshake.host)
        {
            return Err(forbidden_origin());
        }
        let admission = self.admit(endpoint, &handshake, request)?;
        let answer = switching(endpoint, admission.deflate, request)?;
        self.admission.set(Some(Box::new(admission)));
        Ok(answer)
    }

    /// Takes a place and verifies the token.
    fn admit(
        &self,
        endpoint: &Endpoint,
        handshake: &Handshake<'_>,
        request: &Request<Incoming>,
    ) -> Result<Admission, Refusal> {
        let door = &*self.door;
        let address = proxy::client_address(&door.trusted_proxies, self.hop, request.headers());
        let token = match endpoint.session.auth_mode {
            Mode::Off => None,
            Mode::Required | Mode::Optional => token(request.headers(), request.uri().query().unwrap_or_default())?,
        };
        // The rate stands before the signature, which is the expensive part.
        let mut permit = door.gate.admit(address, door.clock.now().mono_ms).map_err(full)?;
        let identity = token.map(|token| (door.verify)(&token)).transpose();
        match &identity {
            Ok(Some(identity)) => {
                if let Some(user) = &identity.user {
                    permit.user(user).map_err(full)?;
                }
            }
            Ok(None) => {}
            Err(error) if door.refuses_by_http(endpoint, handshake.origin.is_some()) => {
                let answer = answer::unauthorized(error.code.as_str(), &error.message);
                return Err(Refusal(Refused::Token, answer.into()));
            }
            Err(_) => door.stats.refuse(Refused::Token),
        }
        Ok(Admission {
            settings: Arc::clone(&endpoint.session),
            identity,
            address,
            deflate: handshake::deflate(request.headers()).filter(|_| door.deflate),
            permit,
        })
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
fn switching(
    endpoint: &Endpoint,
    deflate: Option<Deflate>,
    request: &mut Request<Incoming>,
) -> Result<Answer, Refusal> {
    let subprotocol = handshake::subprotocol(&endpoint.session.dialect, request.headers());
    // The future is not needed: the socket comes back from hyper's connection itself.
    let (answer, _upgrade) =
        fastwebsockets::upgrade::upgrade(request).map_err(|error| bad_request(&error.to_string()))?;
    let mut answer = answer.map(|_| Full::new(Bytes::new()));
    if let Some(subprotocol) = subprotocol {
        answer.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    if let Some(extensions) = deflate.and_then(|deflate| HeaderValue::try_from(deflate.answer()).ok()) {
        answer.headers_mut().insert(SEC_WEBSOCKET_EXTENSIONS, extensions);
    }
    Ok(answer)
}

fn refusal(why: Refused, status: StatusCode, code: &str, message: &str) -> Refusal {
    Refusal(why, answer::error(status, code, message).into())
}

fn bad_request(message: &str) -> Refusal {
    refusal(Refused::Handshake, StatusCode::BAD_REQUEST, "INVALID_MESSAGE", message)
}

fn forbidden_origin() -> Refusal {
    refusal(
        Refused::Origin,
        StatusCode::FORBIDDEN,
        "FORBIDDEN",
        "pages of this origin may not connect",
    )
}

fn draining() -> Refusal {
    let answer = answer::error(StatusCode::SERVICE_UNAVAILABLE, "DRAINING", "the gateway restarts");
    Refusal(Refused::Draining, answer::retry_after(answer, 1).into())
}

fn full(full: GateFull) -> Refusal {
    let (status, code, message) = match full.why {
        Refused::Total => (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", "too many connections"),
        Refused::PerAddress => (
            StatusCode::TOO_MANY_REQUESTS,
            "RATE_LIMITED",
            "too many connections from this address",
        ),
        Refused::PerUser => (
            StatusCode::TOO_MANY_REQUESTS,
            "RATE_LIMITED",
            "too many connections of this user",
        ),
        _ => (
            StatusCode::TOO_MANY_REQUESTS,
            "RATE_LIMITED",
            "too many new connections",
        ),
    };
    let answer = answer::retry_after(answer::error(status, code, message), full.retry_after_s);
    Refusal(full.why, answer.into())
}

fn flawed(flaw: Flaw) -> Refusal {
    match flaw {
        Flaw::Method => Refusal(Refused::Method, answer::method_not_allowed("GET").into()),
        Flaw::Malformed(message) => bad_request(message),
        Flaw::Origin => forbidden_origin(),
        Flaw::UpgradeRequired(message) => {
            let mut answer = answer::error(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", message);
            let headers = answer.headers_mut();
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            // A 426 names what to upgrade to (RFC 9110, section 15.5.22).
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            Refusal(Refused::UpgradeRequired, answer.into())
        }
    }
}
