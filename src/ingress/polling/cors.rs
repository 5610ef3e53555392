//! What pages of other origins may do (Fetch standard, section 3.2, "CORS protocol").
//!
//! Invariant: an origin that may not connect gets no header that lets a page of it read an answer.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, HeaderMap, HeaderValue, VARY,
};

/// Lets a page of this origin, which may connect, read the answer. Without an origin nobody asks.
pub(super) fn allow(answer: &mut HeaderMap, origin: Option<&HeaderValue>) {
    answer.insert(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// What the answer to OPTIONS says beside that.
pub(super) fn preflight(answer: &mut HeaderMap) {
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_HEADERS, "authorization, content-type"),
        // Two hours is the most that Chromium keeps.
        (ACCESS_CONTROL_MAX_AGE, "7200"),
    ] {
        answer.insert(name, HeaderValue::from_static(value));
    }
}
