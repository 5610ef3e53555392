//! Engine.IO's answers: payloads as plain text, errors as `{"code","message"}`.

use bytes::Bytes;
use hyper::StatusCode;
use serde::Serialize;

use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{HttpResponse, error, json, retry_after, with_body};
use crate::ingress::visitor::Refusal;
use crate::metrics::Refused;

/// What is wrong with a request, by the codes of the protocol. All of them are answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ingress) enum Flaw {
    /// `transport` is none that there is.
    Transport,
    /// There is no such session (any more).
    Session,
    /// A session is opened by a GET.
    Method,
    /// Anything else.
    BadRequest,
    /// `EIO` is neither 3 nor 4.
    Version,
}

#[derive(Serialize)]
struct Error {
    code: u8,
    message: &'static str,
}

impl From<Flaw> for Refusal {
    fn from(flaw: Flaw) -> Self {
        let (code, message) = match flaw {
            Flaw::Transport => (0, "Transport unknown"),
            Flaw::Session => (1, "Session ID unknown"),
            Flaw::Method => (2, "Bad handshake method"),
            Flaw::BadRequest => (3, "Bad request"),
            Flaw::Version => (5, "Unsupported protocol version"),
        };
        let answer = json(StatusCode::BAD_REQUEST, &Error { code, message });
        Self(Refused::EngineIo, answer.into())
    }
}

/// 403, for pages of other origins.
pub(super) fn forbidden() -> HttpResponse {
    let error = Error {
        code: 4,
        message: "Forbidden",
    };
    json(StatusCode::FORBIDDEN, &error)
}

/// 503, for a body that there is no memory for now.
pub(super) fn no_room() -> Refusal {
    let text = "too much is being posted";
    let answer = error(HttpErrorCode::Overloaded, text);
    Refusal(Refused::Memory, retry_after(answer, 1).into())
}

/// 413.
pub(super) fn too_large() -> Refusal {
    let error = Error {
        code: 3,
        message: "Payload too large",
    };
    Refusal(Refused::Body, json(StatusCode::PAYLOAD_TOO_LARGE, &error).into())
}

/// Packets for a GET.
pub(super) fn payload(body: Bytes) -> HttpResponse {
    with_body(StatusCode::OK, "text/plain; charset=UTF-8", body)
}

/// A POST was taken.
pub(super) fn taken() -> HttpResponse {
    with_body(StatusCode::OK, "text/html", "ok")
}
