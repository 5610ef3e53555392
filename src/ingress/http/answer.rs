//! Answers: JSON bodies, and errors as `{"error":{"code","message"}}`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// A whole answer.
pub type Answer = Response<Full<Bytes>>;

/// An answer without a body.
#[must_use]
pub fn empty(status: StatusCode) -> Answer {
    let mut answer = Answer::default();
    *answer.status_mut() = status;
    answer
}

/// An answer with this body, never to be cached.
#[must_use]
pub fn with_body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Answer::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A JSON answer.
#[must_use]
pub fn json(status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => with_body(status, "application/json", body),
        // Our own types have no keys that JSON cannot write.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// An error: `{"error":{"code","message"}}`.
#[must_use]
pub fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    json(
        status,
        &ErrorBody {
            error: ErrorDetail { code, message },
        },
    )
}

/// The body of an error.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    code: &'a str,
    message: &'a str,
}

/// 401, which has to name the scheme (RFC 6750, section 3).
#[must_use]
pub fn unauthorized(code: &str, message: &str) -> Answer {
    let mut answer = error(StatusCode::UNAUTHORIZED, code, message);
    answer
        .headers_mut()
        .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    answer
}

/// 405, which has to name the methods there are.
#[must_use]
pub fn method_not_allowed(allow: &'static str) -> Answer {
    let mut answer = error(
        StatusCode::METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        &format!("allowed: {allow}"),
    );
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

/// 404.
#[must_use]
pub fn not_found() -> Answer {
    error(StatusCode::NOT_FOUND, "NOT_FOUND", "nothing is served at this path")
}

/// Adds `Retry-After`, in seconds.
#[must_use]
pub fn retry_after(mut answer: Answer, seconds: u32) -> Answer {
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    answer
}
