//! Reading requests: query parameters, path segments, bearer tokens. Pure functions over what hyper parsed.

use std::borrow::Cow;

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use percent_encoding::percent_decode_str;

/// A query parameter was given twice, or is not UTF-8 once decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a query parameter is given twice or is not percent-encoded UTF-8")]
pub struct BadQuery;

/// The value of a query parameter, percent-decoded (a `+` stays one: tokens and patterns are not forms). Given
/// twice it would mean one thing to a proxy and another to us, so that is refused.
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

/// Percent-decodes one path segment or query value.
pub fn decode(text: &str) -> Result<Cow<'_, str>, BadQuery> {
    percent_decode_str(text).decode_utf8().map_err(|_| BadQuery)
}

/// The token of `Authorization: Bearer`; `None` without the header or with another scheme (a proxy's own password).
/// Empty, and so a bad token, when there is none behind the scheme or it is not ASCII: whoever means to show a token
/// must not become anonymous by a broken one.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(AUTHORIZATION).iter().find_map(|value| {
        let value = value.as_bytes().trim_ascii();
        let end = value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len());
        let (scheme, token) = value.split_at(end);
        let token = || str::from_utf8(token.trim_ascii()).ok().filter(|token| token.is_ascii());
        scheme.eq_ignore_ascii_case(b"bearer").then(|| token().unwrap_or(""))
    })
}

/// Whether a comma-separated header holds this token, in any case.
#[must_use]
pub fn has_token(headers: &HeaderMap, name: hyper::header::HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|given| given.eq_ignore_ascii_case(token))
}

/// The items of a comma-separated header, over all its lines; lines that are not ASCII are passed over.
pub fn tokens(headers: &HeaderMap, name: hyper::header::HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',').map(str::trim))
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
    fn bearer_tokens_are_found_beside_other_schemes() {
        let bearer = |lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(
                    AUTHORIZATION,
                    HeaderValue::from_bytes(line.as_bytes()).expect("allowed"),
                );
            }
            super::bearer(&headers).map(str::to_owned)
        };
        assert_eq!(bearer(&["Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(bearer(&["bearer  abc "]).as_deref(), Some("abc"));
        assert_eq!(bearer(&["Basic eDp5", "Bearer abc"]).as_deref(), Some("abc"));
        assert_eq!(bearer(&["Bearer\tabc"]).as_deref(), Some("abc"));
        for broken in ["Bearer", "Bearer ", "Bearer é", "Bearer abc\u{a0}", "BEARER\t"] {
            assert_eq!(
                bearer(&[broken]).as_deref(),
                Some(""),
                "{broken:?} must not pass for no token"
            );
        }
        assert_eq!(bearer(&["Basic eDp5"]), None);
        assert_eq!(bearer(&[]), None);
    }

    #[test]
    fn tokens_stand_in_lists_and_on_several_lines() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive, Upgrade"));
        headers.append(CONNECTION, HeaderValue::from_static("x"));
        assert!(has_token(&headers, CONNECTION, "upgrade"));
        assert!(has_token(&headers, CONNECTION, "X"));
        assert!(!has_token(&headers, CONNECTION, "up"));
    }
}
