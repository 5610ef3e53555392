//! HTTP responses: JSON bodies, and errors as `{"error":{"code","message"}}`.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::HttpErrorCode;

/// A response whose body is in memory.
pub type HttpResponse = Response<Full<Bytes>>;

/// A response without a body.
#[must_use]
pub fn empty(status: StatusCode) -> HttpResponse {
    let mut response = HttpResponse::default();
    *response.status_mut() = status;
    response
}

/// A response with this body. No cache may store it.
#[must_use]
pub fn with_body(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> HttpResponse {
    let mut response = HttpResponse::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A response with a JSON body.
#[must_use]
pub fn json(status: StatusCode, body: &impl Serialize) -> HttpResponse {
    match serde_json::to_vec(body) {
        Ok(body) => with_body(status, "application/json", body),
        // Serialization fails only for map keys that are not strings; the gateway's own types have none.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The response to a failed request: the status of `code`, and `{"error":{"code","message"}}`.
///
/// A 401 names the scheme `Bearer` (RFC 6750, section 3).
#[must_use]
pub fn error(code: HttpErrorCode, message: &str) -> HttpResponse {
    detailed_error(code, message, None)
}

/// As [`error`], with more about the reason.
#[must_use]
pub fn detailed_error(code: HttpErrorCode, message: &str, detail: Option<&str>) -> HttpResponse {
    let error = ErrorDetail { code, message, detail };
    let mut response = json(code.status(), &ErrorBody { error });
    if code.status() == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    code: HttpErrorCode,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

/// 405, with the methods that the resource has, such as `GET, HEAD`.
#[must_use]
pub fn method_not_allowed(allow: &'static str) -> HttpResponse {
    let mut response = error(HttpErrorCode::MethodNotAllowed, &format!("allowed: {allow}"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// 404 for a path that no route has.
#[must_use]
pub fn not_found() -> HttpResponse {
    error(HttpErrorCode::NotFound, "nothing is served at this path")
}

/// Adds `Accept-Encoding: identity`, by which a 415 says that bodies must not be encoded (RFC 9110, section 12.5.3).
#[must_use]
pub fn accept_plain_bodies(mut response: HttpResponse) -> HttpResponse {
    response
        .headers_mut()
        .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    response
}

/// Adds `Retry-After`, in seconds.
#[must_use]
pub fn retry_after(mut response: HttpResponse, seconds: u32) -> HttpResponse {
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}
