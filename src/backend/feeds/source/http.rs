//! `http = "http://…"`: GET over pooled keep-alive connections. The body of a 2xx response is the feed's response.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper::header::{ACCEPT, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::backend::commands::http::{BackendUrl, HIDDEN, Pool, RequestError, encoded, hide_query};
use crate::backend::feeds::failure::PollFailure;

/// Every character that RFC 3986, section 2.3 does not call unreserved is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A URL with at most one placeholder in its path or query. `Display` and `Debug` show `hidden` instead of the query,
/// which may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct UrlTemplate {
    text: Box<str>,
    placeholder: Option<Box<str>>,
}

impl FromStr for UrlTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let placeholder = super::placeholder(text)?;
        let template = Self {
            text: text.into(),
            placeholder,
        };
        let url = |value| BackendUrl::parse(&template.fill(Some(value)));
        if url("x")?.authority() != url("y")?.authority() {
            return Err("a placeholder must be in the path or the query, not in the host".to_owned());
        }
        Ok(template)
    }
}

impl fmt::Display for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl fmt::Debug for UrlTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UrlTemplate({self})")
    }
}

impl UrlTemplate {
    /// The placeholder with its braces.
    #[must_use]
    pub fn placeholder(&self) -> Option<&str> {
        self.placeholder.as_deref()
    }

    /// Whether the query is `hidden`: the URL was shown, and what was shown is taken for a URL.
    pub(crate) fn has_hidden_query(&self) -> bool {
        self.text.contains('?') && *self.shown() == *self.text
    }

    /// The URL without its query, but with the placeholder if the query has it: a file with the URL is valid again.
    fn shown(&self) -> Cow<'_, str> {
        let in_query = self.text.split_once('?').zip(self.placeholder.as_deref());
        match in_query.filter(|((_, query), placeholder)| query.contains(placeholder)) {
            Some(((before, _), placeholder)) => format!("{before}?{placeholder}&{HIDDEN}").into(),
            None => hide_query(&self.text),
        }
    }

    fn fill(&self, value: Option<&str>) -> String {
        match (&self.placeholder, value) {
            (Some(placeholder), Some(value)) => self
                .text
                .replace(&**placeholder, &utf8_percent_encode(value, ENCODED).to_string()),
            _ => self.text.to_string(),
        }
    }
}

pub(in crate::backend::feeds) struct HttpSource {
    pool: Pool,
    url: UrlTemplate,
}

impl HttpSource {
    pub(super) fn new(pool: &Pool, url: UrlTemplate) -> Self {
        Self {
            pool: pool.clone(),
            url,
        }
    }

    /// Requests the URL once.
    ///
    /// # Errors
    ///
    /// See [`PollFailure`]. A response of more than `bytes_max` bytes is one.
    pub(super) async fn fetch(&self, value: Option<&str>, bytes_max: usize) -> Result<String, PollFailure> {
        let url: Uri = self
            .url
            .fill(value)
            .parse()
            .map_err(|error| PollFailure::Unreachable(format!("the URL cannot be used: {error}")))?;
        let mut get = hyper::Request::new(Full::<Bytes>::default());
        *get.uri_mut() = url;
        get.headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        let body = self.pool.request(get, bytes_max).await.map_err(|error| match error {
            RequestError::Unreachable(detail) => PollFailure::Unreachable(detail),
            RequestError::Lost(detail) => PollFailure::Lost(detail),
            RequestError::TooLong => PollFailure::BadResponse(format!("it is longer than {bytes_max} bytes")),
            RequestError::Encoded(coding) => PollFailure::BadResponse(encoded(&coding)),
            RequestError::Status(status, location) => PollFailure::Status(status, location),
        })?;
        String::from_utf8(body.into()).map_err(|_| PollFailure::BadResponse("it is not UTF-8".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_checked() {
        for (good, shown) in [
            ("http://a:1/users/{id}/balance", "http://a:1/users/{id}/balance"),
            ("http://a/?u={id}&token=secret", "http://a/?{id}&hidden"),
            ("http://a/{x}?token=secret", "http://a/{x}?hidden"),
            ("http://a/{x}/{x}", "http://a/{x}/{x}"),
            ("http://a/all", "http://a/all"),
        ] {
            let url = good.parse::<UrlTemplate>().expect(good);
            assert_eq!(
                (url.to_string(), format!("{url:?}")),
                (shown.to_owned(), format!("UrlTemplate({shown})"))
            );
            assert_eq!(url.fill(None), good);
        }
        for (bad, why) in [
            ("https://a/{id}", "https"),
            ("http://{id}/", "not in the host"),
            ("http://a{id}/", "not in the host"),
            ("http://a/{id}/{x}", "one placeholder"),
            ("http://a/{id", "one placeholder"),
            ("http://a/}{", "one placeholder"),
            ("http://a/{}", "one placeholder"),
            ("a/{id}", "not a URL"),
        ] {
            let error = bad.parse::<UrlTemplate>().expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn a_value_stays_one_segment_whatever_it_holds() {
        let url: UrlTemplate = "http://a/users/{id}/balance?u={id}".parse().expect("good");
        for (value, encoded) in [
            ("42", "42"),
            ("a/b?c#d&e=f", "a%2Fb%3Fc%23d%26e%3Df"),
            ("%2e%2e", "%252e%252e"),
            ("张", "%E5%BC%A0"),
            ("u-1_~", "u-1_~"),
        ] {
            let filled = url.fill(Some(value));
            assert_eq!(filled, format!("http://a/users/{encoded}/balance?u={encoded}"));
            let uri: Uri = filled.parse().expect("a URL");
            assert_eq!(uri.path().split('/').count(), 4, "{value}");
        }
    }
}
