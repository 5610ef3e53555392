//! The response headers for pages of other origins (Fetch standard, section 3.2, "CORS protocol").
//!
//! Invariant: no response to an origin that may not connect has a header that lets its page read the response.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_MAX_AGE, HeaderMap, HeaderValue, VARY,
};

/// Lets the page of `origin`, which may connect, read the response. `None` is a request without an `Origin`.
pub(super) fn allow(headers: &mut HeaderMap, origin: Option<&HeaderValue>) {
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
}

/// The further headers of the response to OPTIONS. `allowed` lists the headers that a page may set.
pub(super) fn preflight(headers: &mut HeaderMap, allowed: &HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone());
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        // Two hours is the longest time that Chromium keeps.
        (ACCESS_CONTROL_MAX_AGE, "7200"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
