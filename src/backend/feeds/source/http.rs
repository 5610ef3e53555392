//! `http = "http://…"`: GET over pooled keep-alive connections. The body of a 2xx response is the feed's response.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper::header::{ACCEPT, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::backend::commands::http::{BackendUrl, Pool, RequestError, encoded};
use crate::backend::feeds::failure::PollFailure;

/// Every character that RFC 3986, section 2.3 does not call unreserved is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A URL with at most one placeholder in its path or query.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        f.write_str(&self.text)
    }
}

impl UrlTemplate {
    /// The placeholder with its braces.
    #[must_use]
    pub fn placeholder(&self) -> Option<&str> {
        self.placeholder.as_deref()
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
        for good in [
            "http://a:1/users/{id}/balance",
            "http://a/?u={id}",
            "http://a/{x}/{x}",
            "http://a/all",
        ] {
            assert_eq!(good.parse::<UrlTemplate>().expect(good).to_string(), good);
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
