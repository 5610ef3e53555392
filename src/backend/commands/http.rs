//! The HTTP backend: one POST per attempt over pooled keep-alive connections, signed when a secret is configured.
//!
//! Invariant: a request is never repeated here once the backend may have seen a byte of it.
//!
//! The signature is the header `X-Tickgate-Signature: t=<ms>,v1=<hex>`. `t` is the request's Unix time in milliseconds.
//! `v1` is the lower-case hexadecimal HMAC-SHA256 with the shared secret over the decimal `t`, a full stop and the body's
//! bytes. A backend computes it again over the bytes it received, and refuses a `t` that is too old.

use std::borrow::Cow;
use std::error::Error as _;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::{Failure, Handler, HandlerResult, Request, reply};
use crate::auth::Secret;
use crate::time::unix_ms;
use tickgate_protocol::trace_context::TRACE_HEADER;

/// The name of the signature's header.
pub const SIGNATURE_HEADER: &str = "x-tickgate-signature";

/// The `User-Agent` of all requests.
const AGENT: &str = concat!("tickgate/", env!("CARGO_PKG_VERSION"));

// Shorter than the five seconds after which Node's server closes an idle connection, which is the shortest time among the
// usual servers. A request that is sent while the server closes is lost, and most commands must not be repeated.
const IDLE: Duration = Duration::from_secs(4);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// `http = ...` of a route.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// The URL that commands are posted to.
    pub url: BackendUrl,
    /// The secret that signs every request.
    pub hmac_secret: Option<Secret>,
}

/// A backend's address: `http://host[:port]/path[?query]`, without user and password.
///
/// `Display` and `Debug` show `hidden` instead of the query, which may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct BackendUrl(Uri);

/// What stands for the query of a URL that is shown.
pub(crate) const HIDDEN: &str = "hidden";

/// A URL with [`HIDDEN`] as its query, if it has one.
pub(crate) fn hide_query(url: &str) -> Cow<'_, str> {
    match url.split_once('?') {
        Some((before, _)) => format!("{before}?{HIDDEN}").into(),
        None => url.into(),
    }
}

impl BackendUrl {
    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// A description of the problem, to follow the name of a configuration key.
    pub fn parse(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("is not a URL: {error}"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err("is https: backends are reached by plain http in a private network".to_owned()),
            _ => return Err("must begin with http://".to_owned()),
        }
        let authority = uri.authority().ok_or("has no host")?;
        if authority.host().is_empty() {
            return Err("has no host".to_owned());
        }
        if authority.as_str().contains('@') {
            return Err("must not hold a user or password; use hmac_secret_env".to_owned());
        }
        Ok(Self(uri))
    }

    /// Whether the query is [`HIDDEN`]: the URL was shown, and what was shown is taken for a URL.
    pub(crate) fn has_hidden_query(&self) -> bool {
        self.0.query() == Some(HIDDEN)
    }

    /// The host and port.
    pub(crate) fn authority(&self) -> Option<&Authority> {
        self.0.authority()
    }
}

impl fmt::Display for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hide_query(&self.0.to_string()))
    }
}

impl fmt::Debug for BackendUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BackendUrl({self})")
    }
}

/// The connections of all HTTP backends.
#[derive(Clone, Debug)]
pub struct Pool<C = HttpConnector> {
    client: Client<C, Full<Bytes>>,
}

impl Default for Pool {
    fn default() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        Self::over(connector)
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Pool<C> {
    /// Connections that this connector makes.
    pub(crate) fn over(connector: C) -> Self {
        // The client's own retries are safe: it repeats a request only if the connection closed before the first byte was
        // written.
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .retry_canceled_requests(true)
            .build(connector);
        Self { client }
    }
}

/// Why a request has no usable response.
#[derive(Debug)]
pub(crate) enum RequestError {
    /// No connection was made, and nothing was sent.
    Unreachable(String),
    /// The connection ended before the response was complete.
    Lost(String),
    /// The body is longer than allowed.
    TooLong,
    /// The body has this `Content-Encoding`.
    Encoded(String),
    /// A status other than 2xx, and where a redirect leads: scheme, host and port.
    Status(u16, Option<String>),
}

impl<C: Connect + Clone + Send + Sync + 'static> Pool<C> {
    /// Sends one request and returns the body of the response. Adds the headers that all requests have.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. The body may have at most `bytes_max` bytes.
    pub(crate) async fn request(
        &self,
        mut request: hyper::Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<Bytes, RequestError> {
        let headers = request.headers_mut();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let response = self.client.request(request).await.map_err(|error| {
            let detail = causes(&error);
            if error.is_connect() {
                RequestError::Unreachable(detail)
            } else {
                RequestError::Lost(detail)
            }
        })?;
        let status = response.status();
        let location = redirect_host(status, response.headers());
        let encoding = content_encoding(response.headers());
        // The body is read whatever the status is, so that the connection can be used again.
        let body = Limited::new(response.into_body(), bytes_max).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                RequestError::TooLong
            } else {
                RequestError::Lost(error.to_string())
            }
        })?;
        match encoding {
            _ if !status.is_success() => Err(RequestError::Status(status.as_u16(), location)),
            Some(encoding) => Err(RequestError::Encoded(encoding)),
            None => Ok(body.to_bytes()),
        }
    }
}

/// Where a redirect leads: scheme, host and port, without path and query, which may hold secrets.
fn redirect_host(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    let location = headers.get(LOCATION).filter(|_| status.is_redirection())?;
    let uri: Option<Uri> = location.to_str().ok().and_then(|location| location.parse().ok());
    Some(match uri.as_ref().map(|uri| (uri.scheme_str(), uri.authority())) {
        Some((scheme, Some(authority))) => {
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            format!("{}://{host}", scheme.unwrap_or("http"))
        }
        Some((_, None)) => "another path of the same host".to_owned(),
        None => "a location that is not a URL".to_owned(),
    })
}

/// The codings of a body other than `identity`, at most 32 characters of them; `None` for a plain body.
fn content_encoding(headers: &HeaderMap) -> Option<String> {
    headers.get_all(CONTENT_ENCODING).iter().find_map(|value| {
        let value = String::from_utf8_lossy(value.as_bytes());
        let is_coding = |coding: &&str| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity");
        let coding = value.split(',').map(str::trim).find(is_coding)?;
        Some(coding.chars().take(32).collect())
    })
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Unreachable(detail) => Self::Unreachable(detail),
            RequestError::Lost(detail) => Self::Lost(detail),
            RequestError::TooLong => Self::BadReply("it is too long".into()),
            RequestError::Encoded(coding) => Self::BadReply(encoded(&coding).into()),
            RequestError::Status(status, None) => Self::Status(status),
            RequestError::Status(status, Some(location)) => Self::StatusWithHint {
                status,
                hint: format!("it redirects to {location}, and redirects are not followed: configure the final URL"),
            },
        }
    }
}

/// The error text about a response with a `Content-Encoding`, to follow "it ".
pub(crate) fn encoded(coding: &str) -> String {
    format!("it is encoded (Content-Encoding: {coding}), although the request asked for identity")
}

/// A [`Handler`] that posts commands to one URL.
pub struct HttpBackend {
    pool: Pool,
    url: Uri,
    key: Option<hmac::Key>,
    reply_bytes_max: usize,
}

impl HttpBackend {
    /// Creates a backend that uses the connections of `pool` and accepts replies of up to `reply_bytes_max` bytes.
    #[must_use]
    pub fn new(pool: &Pool, settings: &HttpSettings, reply_bytes_max: usize) -> Self {
        Self {
            pool: pool.clone(),
            url: settings.url.0.clone(),
            key: settings
                .hmac_secret
                .as_ref()
                .map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose())),
            reply_bytes_max,
        }
    }

    async fn post(&self, request: &Request) -> HandlerResult {
        let body = reply::request_body(request);
        let mut post = hyper::Request::new(Full::new(body.clone()));
        *post.method_mut() = Method::POST;
        *post.uri_mut() = self.url.clone();
        post.headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = &self.key {
            post.headers_mut().insert(SIGNATURE_HEADER, sign(key, unix_ms(), &body));
        }
        if let Some(trace) = request.trace.map(|trace| HeaderValue::from_str(&trace.to_string())) {
            post.headers_mut()
                .insert(TRACE_HEADER, trace.expect("digits, letters and hyphens only"));
        }
        let reply = self.pool.request(post, self.reply_bytes_max).await;
        reply::parse(&reply.map_err(|error| self.failure(error))?)
    }

    /// A backend that refuses the gateway itself is told with what may be wrong.
    fn failure(&self, error: RequestError) -> Failure {
        let RequestError::Status(status @ (401 | 403), _) = error else {
            return error.into();
        };
        let hint = match self.key {
            Some(_) => "does the backend have the same HMAC secret and the right time, and does it check the raw body?",
            None => "requests are not signed: hmac_secret_env or hmac_secret_file names the secret",
        };
        Failure::StatusWithHint {
            status,
            hint: hint.to_owned(),
        }
    }
}

impl Handler for HttpBackend {
    fn call<'a>(&'a self, request: &'a Request) -> Pin<Box<dyn Future<Output = HandlerResult> + Send + 'a>> {
        Box::pin(self.post(request))
    }
}

/// The value of the signature's header.
pub(super) fn sign(key: &hmac::Key, timestamp_ms: u64, body: &[u8]) -> HeaderValue {
    let mut context = hmac::Context::with_key(key);
    context.update(timestamp_ms.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let mut header = format!("t={timestamp_ms},v1=");
    for byte in context.sign().as_ref() {
        use fmt::Write as _;
        let _ = write!(header, "{byte:02x}");
    }
    HeaderValue::from_str(&header).expect("digits and letters only")
}

// The text of an error with those of its sources. hyper-util's errors say little without them.
fn causes(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        for good in [
            "http://127.0.0.1:9000/commands",
            "http://backend/",
            "http://backend",
            "http://[::1]:1/c?x=1",
        ] {
            assert_eq!(BackendUrl::parse(good).map(|_| ()), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "not a URL"),
            ("backend:9000/x", "not a URL"),
            ("/commands", "must begin"),
            ("https://backend/", "https"),
            ("ftp://backend/", "must begin"),
            ("http://u:secret@backend/", "password"),
        ] {
            let error = BackendUrl::parse(bad).expect_err(bad);
            assert!(error.contains(why), "{bad}: {error}");
            assert!(!error.contains("secret@"));
        }
    }

    #[test]
    fn a_redirect_is_told_by_its_host_alone() {
        let host = |status: u16, location: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_static(location));
            redirect_host(StatusCode::from_u16(status).expect("a status"), &headers)
        };
        for (location, told) in [
            (
                "https://api.example.com:8443/x?token=hush",
                "https://api.example.com:8443",
            ),
            ("http://u:hush@backend/x", "http://backend"),
            ("/commands/?hush", "another path of the same host"),
            ("http://[", "a location that is not a URL"),
        ] {
            assert_eq!(host(301, location).as_deref(), Some(told), "{location}");
        }
        assert_eq!(host(200, "http://backend/"), None);
    }

    #[test]
    fn the_signature_is_the_documented_one() {
        // Computed with Python: hmac.new(b"key", b"17.{}", hashlib.sha256).hexdigest()
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"key");
        assert_eq!(
            sign(&key, 17, b"{}"),
            "t=17,v1=e66392eac42eafc68c35a01c712811e016386c12456975fc3af80c9268568e3a"
        );
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Secret::new(*b"hush")), "Secret(hidden)");
    }
}
