//! Every refusal of the public listeners: its reason for the metrics, its status, code and text.
//!
//! Two body formats exist. Most refusals are `{"error":{"code","message"}}` with an
//! [`HttpErrorCode`]. Those of the Engine.IO protocol are `{"code","message"}` with a number, as
//! the reference implementation writes them.

use std::borrow::Cow;

use hyper::StatusCode;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_VERSION, UPGRADE};
use serde::Serialize;

use super::handshake::HandshakeError;
use super::http::HttpErrorCode;
use super::http::response::{self, HttpResponse};
use super::limits::{Limit, LimitReached};
use crate::auth::TokenError;
use crate::metrics::RefusalReason;

/// After how many seconds a client may try again while the gateway drains, or when memory for bodies is short.
const RETRY_AFTER_S: u32 = 1;

/// A request that is not served.
pub(super) struct Refusal {
    /// For the metrics and the log.
    pub(super) reason: RefusalReason,
    pub(super) response: Box<HttpResponse>,
}

impl Refusal {
    fn new(reason: RefusalReason, response: HttpResponse) -> Self {
        Self {
            reason,
            response: response.into(),
        }
    }

    fn with_code(reason: RefusalReason, code: HttpErrorCode, message: &str) -> Self {
        Self::new(reason, response::error(code, message))
    }

    /// 404: no endpoint and no health check has the path.
    pub(super) fn unknown_path() -> Self {
        Self::new(RefusalReason::Path, response::not_found())
    }

    /// 404: endpoints have the path, but none of them is for this listener, host and subprotocol.
    pub(super) fn no_endpoint() -> Self {
        let message = "no endpoint of this path serves this listener, Host and Sec-WebSocket-Protocol";
        Self::with_code(RefusalReason::Path, HttpErrorCode::NotFound, message)
    }

    /// 405, with the methods that the path has.
    pub(super) fn method(allow: &'static str) -> Self {
        Self::new(RefusalReason::Method, response::method_not_allowed(allow))
    }

    /// 400: the request cannot be served as it is.
    pub(super) fn bad_request(message: &str) -> Self {
        Self::with_code(RefusalReason::Handshake, HttpErrorCode::InvalidMessage, message)
    }

    /// 400: it is not clear which token the request has.
    pub(super) fn credentials(error: &dyn std::error::Error) -> Self {
        let code = HttpErrorCode::InvalidMessage;
        Self::with_code(RefusalReason::Credentials, code, &error.to_string())
    }

    /// 400: earlier responses are not written yet, so the socket cannot be handed over.
    pub(super) fn unwritten_responses() -> Self {
        Self::bad_request("wait for the responses to earlier requests first")
    }

    /// 413: a handshake with a body.
    pub(super) fn handshake_body() -> Self {
        let message = "a handshake has no body";
        Self::with_code(RefusalReason::Body, HttpErrorCode::MessageTooLarge, message)
    }

    /// 403: the page's origin may not connect.
    pub(super) fn origin() -> Self {
        let message = "pages of this origin may not connect: see server.allowed_origins";
        Self::with_code(RefusalReason::Origin, HttpErrorCode::Forbidden, message)
    }

    /// 401: the token is invalid.
    pub(super) fn token(error: &TokenError) -> Self {
        Self::with_code(RefusalReason::Token, error.code.into(), &error.message)
    }

    /// 503: the memory of all clients is nearly used up.
    pub(super) fn memory() -> Self {
        let response = response::error(HttpErrorCode::Overloaded, "the gateway is short of memory");
        Self::new(RefusalReason::Memory, response::retry_after(response, RETRY_AFTER_S))
    }

    /// 503: new connections belong to another gateway.
    pub(super) fn draining() -> Self {
        let response = response::error(HttpErrorCode::Draining, "the gateway is restarting");
        Self::new(RefusalReason::Draining, response::retry_after(response, RETRY_AFTER_S))
    }
}

impl From<LimitReached> for Refusal {
    fn from(reached: LimitReached) -> Self {
        use HttpErrorCode::{Overloaded, RateLimited};
        let (reason, code, message) = match reached.limit {
            Limit::Total => (RefusalReason::Total, Overloaded, "too many connections"),
            Limit::Tenant => (RefusalReason::Tenant, Overloaded, "too many connections"),
            Limit::PerAddress => {
                let message = "too many connections from this address";
                (RefusalReason::PerAddress, RateLimited, message)
            }
            Limit::PerUser => (RefusalReason::PerUser, RateLimited, "too many connections of this user"),
            Limit::ConnectRate => (RefusalReason::ConnectRate, RateLimited, "too many new connections"),
        };
        let response = response::error(code, message);
        Self::new(reason, response::retry_after(response, reached.retry_after_s))
    }
}

impl From<HandshakeError> for Refusal {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Method => Self::method("GET"),
            HandshakeError::Origin => Self::origin(),
            HandshakeError::Host => Self::bad_request("exactly one Host is needed"),
            HandshakeError::Key => Self::bad_request("exactly one Sec-WebSocket-Key of 16 bytes in base64 is needed"),
            HandshakeError::HttpVersion => upgrade_required("WebSocket needs HTTP/1.1"),
            HandshakeError::Upgrade => upgrade_required("this is a WebSocket endpoint: Upgrade: websocket is needed"),
            HandshakeError::Connection => upgrade_required("Connection: upgrade is needed"),
            HandshakeError::Version => upgrade_required("Sec-WebSocket-Version: 13 is needed"),
        }
    }
}

/// 426, with the protocol and version to upgrade to (RFC 9110, section 15.5.22; RFC 6455, section 4.4).
fn upgrade_required(message: &str) -> Refusal {
    let mut response = response::error(HttpErrorCode::UpgradeRequired, message);
    let headers = response.headers_mut();
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    Refusal::new(RefusalReason::UpgradeRequired, response)
}

/// The errors of the Engine.IO protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EngineIoError {
    /// `transport` is neither `polling` nor `websocket`.
    UnknownTransport,
    /// The session does not exist, or has ended.
    UnknownSession,
    /// The method is not the one for this step: a GET opens a session.
    Method,
    /// Any other error. The text says what is wrong, in one clause.
    BadRequest(&'static str),
    /// The page's origin may not connect.
    Forbidden,
    /// `EIO` is given and neither 3 nor 4.
    UnsupportedVersion,
    /// The body of a POST is longer than a message may be, in bytes.
    BodyTooLarge(u32),
    /// The bodies of other POSTs hold all the memory that bodies may have.
    NoRoomForBody,
    /// The body of a POST has a `Content-Encoding`.
    EncodedBody,
}

impl From<EngineIoError> for Refusal {
    fn from(error: EngineIoError) -> Self {
        #[derive(Serialize)]
        struct Body {
            code: u8,
            message: Cow<'static, str>,
        }
        use RefusalReason::EngineIo;
        let bad_request = StatusCode::BAD_REQUEST;
        let (reason, status, code, message) = match error {
            EngineIoError::UnknownTransport => (EngineIo, bad_request, 0, "Transport unknown".into()),
            EngineIoError::UnknownSession => (EngineIo, bad_request, 1, "Session ID unknown".into()),
            EngineIoError::Method => (EngineIo, bad_request, 2, "Bad handshake method".into()),
            EngineIoError::BadRequest(why) => (EngineIo, bad_request, 3, format!("Bad request: {why}").into()),
            EngineIoError::Forbidden => (RefusalReason::Origin, StatusCode::FORBIDDEN, 4, "Forbidden".into()),
            EngineIoError::UnsupportedVersion => (EngineIo, bad_request, 5, "Unsupported protocol version".into()),
            EngineIoError::BodyTooLarge(bytes_max) => {
                let message = format!("Payload too large: a POST may have {bytes_max} bytes");
                (RefusalReason::Body, StatusCode::PAYLOAD_TOO_LARGE, 3, message.into())
            }
            EngineIoError::NoRoomForBody => {
                let message = "Overloaded: the bodies of other requests take all memory";
                (
                    RefusalReason::Memory,
                    StatusCode::SERVICE_UNAVAILABLE,
                    3,
                    message.into(),
                )
            }
            EngineIoError::EncodedBody => {
                let message = "Content-Encoding is not supported";
                let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
                (RefusalReason::Body, status, 3, message.into())
            }
        };
        let response = response::json(status, &Body { code, message });
        Self::new(
            reason,
            match error {
                EngineIoError::EncodedBody => response::accept_plain_bodies(response),
                EngineIoError::NoRoomForBody => response::retry_after(response, RETRY_AFTER_S),
                _ => response,
            },
        )
    }
}
