//! Reads query parameters, path segments, bearer tokens and header lists from requests that hyper parsed.

use std::borrow::Cow;

use hyper::HeaderMap;
use hyper::header::{AUTHORIZATION, CONTENT_ENCODING};
use percent_encoding::percent_decode_str;

/// A query parameter is given twice, or is not UTF-8 after percent-decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a query parameter is given twice or is not percent-encoded UTF-8")]
pub struct BadQuery;

/// The percent-decoded value of a query parameter; `None` when the query does not have it.
///
/// A `+` is kept: tokens and patterns are not form data.
///
/// # Errors
///
/// [`BadQuery`] when the parameter is given twice, because a proxy could read one value and the gateway the other, or
/// when the value is not UTF-8.
pub fn query_value<'a>(query: &'a str, name: &str) -> Result<Option<Cow<'a, str>>, BadQuery> {
    let mut found = None;
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if key == name && found.replace(value).is_some() {
            return Err(BadQuery);
        }
    }
    found.map(decode).transpose()
}

/// Percent-decodes a path segment or a query value.
///
/// # Errors
///
/// [`BadQuery`] when the result is not UTF-8.
pub fn decode(text: &str) -> Result<Cow<'_, str>, BadQuery> {
    percent_decode_str(text).decode_utf8().map_err(|_| BadQuery)
}

/// A request has more than one `Authorization` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request has more than one Authorization header: send one")]
pub struct RepeatedAuthorization;

/// The token of `Authorization: Bearer`; `None` without the header, when it has another scheme (such as the proxy's own
/// password), or when no token follows the scheme, as a client without a token sends it.
///
/// A token that is not ASCII gives the empty token, which no verifier accepts. A client that means to authenticate must
/// not become anonymous by a broken header.
///
/// # Errors
///
/// [`RepeatedAuthorization`] when the header is given twice, because a proxy could check one value and the gateway the
/// other.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, RepeatedAuthorization> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(RepeatedAuthorization);
    }
    let value = value.as_bytes().trim_ascii();
    let end = value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len());
    let (scheme, token) = value.split_at(end);
    let token = token.trim_ascii();
    let is_given = scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty();
    let text = || str::from_utf8(token).ok().filter(|token| token.is_ascii());
    Ok(is_given.then(|| text().unwrap_or("")))
}

/// The longest segment of a path that is logged, in bytes. Tokens are longer, and admin keys should be.
const LOGGED_SEGMENT_BYTES: usize = 15;

/// A request's path for the log: `…` stands for each segment that may be a token or a key that was put there by mistake.
#[must_use]
pub fn loggable_path(path: &str) -> Cow<'_, str> {
    let is_long = |segment: &str| segment.len() > LOGGED_SEGMENT_BYTES;
    if !path.split('/').any(is_long) {
        return path.into();
    }
    let shown = path
        .split('/')
        .map(|segment| if is_long(segment) { "…" } else { segment });
    shown.collect::<Vec<_>>().join("/").into()
}

/// Whether a comma-separated header holds this token, ignoring case.
#[must_use]
pub fn has_token(headers: &HeaderMap, name: hyper::header::HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|given| given.eq_ignore_ascii_case(token))
}

/// The items of a comma-separated header, over all its lines. Lines that are not ASCII are skipped.
pub fn tokens(headers: &HeaderMap, name: hyper::header::HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',').map(str::trim))
}

/// The first coding of `Content-Encoding` that is not `identity`, at most 32 characters of it; `None` for a plain body.
#[must_use]
pub fn content_encoding(headers: &HeaderMap) -> Option<String> {
    headers.get_all(CONTENT_ENCODING).iter().find_map(|value| {
        let value = String::from_utf8_lossy(value.as_bytes());
        let is_coding = |coding: &&str| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity");
        let coding = value.split(',').map(str::trim).find(is_coding)?;
        Some(coding.chars().take(32).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{CONNECTION, HeaderValue};

    #[test]
    fn query_values_are_found_and_decoded() {
        let value = |query, name| query_value(query, name).map(|found| found.map(Cow::into_owned));
        assert_eq!(value("token=a.b-c_d", "token"), Ok(Some("a.b-c_d".into())));
        assert_eq!(value("x=1&token=a%2Eb+c&y", "token"), Ok(Some("a.b+c".into())));
        assert_eq!(value("x=1&y", "y"), Ok(Some(String::new())));
        assert_eq!(value("xtoken=1", "token"), Ok(None));
        assert_eq!(value("", "token"), Ok(None));
        assert_eq!(value("token=1&token=2", "token"), Err(BadQuery));
        assert_eq!(value("token=%ff", "token"), Err(BadQuery));
        assert_eq!(value("token=%", "token"), Ok(Some("%".into())));
    }

    #[test]
    fn content_encodings_other_than_identity_are_found() {
        let coding = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                let value = HeaderValue::from_bytes(line.as_bytes()).expect("allowed");
                headers.append(CONTENT_ENCODING, value);
            }
            content_encoding(&headers)
        };
        for plain in [&[] as &[&str], &[""], &["identity"], &["Identity, identity"], &[" , "]] {
            assert_eq!(coding(plain), None, "{plain:?}");
        }
        assert_eq!(coding(&["gzip"]).as_deref(), Some("gzip"));
        assert_eq!(coding(&["identity", "identity, br"]).as_deref(), Some("br"));
        assert_eq!(coding(&["gz\u{ef}p"]).as_deref(), Some("gz\u{ef}p"));
        assert_eq!(coding(&[&"x".repeat(1000)]).map(|coding| coding.len()), Some(32));
    }

    #[test]
    fn a_bearer_token_is_found_in_the_only_authorization_header() {
        let bearer = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(
                    AUTHORIZATION,
                    HeaderValue::from_bytes(line.as_bytes()).expect("allowed"),
                );
            }
            super::bearer(&headers).map(|token| token.map(str::to_owned))
        };
        let token = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(bearer(&["Bearer abc"]), token("abc"));
        assert_eq!(bearer(&["bearer  abc "]), token("abc"));
        assert_eq!(bearer(&["Bearer\tabc"]), token("abc"));
        for empty in ["Bearer", "Bearer ", "BEARER\t", ""] {
            assert_eq!(bearer(&[empty]), Ok(None), "{empty:?}");
        }
        for broken in ["Bearer é", "Bearer abc\u{a0}"] {
            assert_eq!(
                bearer(&[broken]),
                token(""),
                "{broken:?} must not count as a missing token"
            );
        }
        assert_eq!(bearer(&["Basic eDp5"]), Ok(None));
        assert_eq!(bearer(&[]), Ok(None));
        for two in [
            ["Bearer abc", "Bearer abc"],
            ["Basic eDp5", "Bearer abc"],
            ["", "Bearer abc"],
            ["", ""],
        ] {
            assert_eq!(bearer(&two), Err(RepeatedAuthorization), "{two:?}");
        }
    }

    #[test]
    fn a_token_in_a_path_is_not_shown() {
        for (path, shown) in [
            ("/ws/stock/prices", "/ws/stock/prices"),
            ("/ws/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2ln", "/ws/…"),
            ("/ws;token=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.c2ln/x", "/…/x"),
            ("/0123456789abcdef/ws", "/…/ws"),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(loggable_path(path), shown, "{path}");
        }
    }

    #[test]
    fn tokens_are_found_in_lists_and_on_several_lines() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.append(CONNECTION, HeaderValue::from_static("x"));
        assert!(has_token(&headers, CONNECTION, "upgrade"));
        assert!(has_token(&headers, CONNECTION, "X"));
        assert!(!has_token(&headers, CONNECTION, "up"));
    }
}
