//! The HTTPS client of key sets, which the exporter of spans uses, too.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};

use crate::backend::commands::http::{HIDDEN, Pool, RequestError, encoded, hide_query};

/// The URL of a key set: `https://…`, or `http://…` of this machine, without user and password.
///
/// `Display` and `Debug` show `hidden` instead of the query, which may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct JwksUrl(Uri);

impl FromStr for JwksUrl {
    /// A description of the problem, to follow the name of a configuration key.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|error| format!("is not a URL: {error}"))?;
        let authority = uri.authority().ok_or("must begin with https:// and a host")?;
        if authority.host().is_empty() {
            return Err("has no host".to_owned());
        }
        if authority.as_str().contains('@') {
            return Err("must not hold a user or password".to_owned());
        }
        if uri.query() == Some(HIDDEN) {
            return Err(format!(
                "has the query `{HIDDEN}`, which stands for one that is not shown"
            ));
        }
        match uri.scheme_str() {
            Some("https") => {}
            Some("http") if is_this_machine(authority.host()) => {}
            Some("http") => {
                return Err(
                    "must begin with https://: whoever can change the answer could sign tokens (http:// only to \
                            localhost)"
                        .to_owned(),
                );
            }
            _ => return Err("must begin with https://".to_owned()),
        }
        Ok(Self(uri))
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hide_query(&self.0.to_string()))
    }
}

impl fmt::Debug for JwksUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JwksUrl({self})")
    }
}

/// Reads URLs.
#[derive(Clone)]
pub(in crate::backend) struct Client(Pool<HttpsConnector<HttpConnector>>);

impl Client {
    /// A client that trusts the certificates of the system.
    pub(in crate::backend) fn of_system() -> Self {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a certificate of the system cannot be used");
        }
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 {
            tracing::warn!("the system has no certificates (ca-certificates): no https:// URL can be read");
        }
        Self::with_roots(roots)
    }

    /// A client for `http://` URLs.
    pub(in crate::backend) fn without_certificates() -> Self {
        Self::with_roots(RootCertStore::empty())
    }

    /// A client that trusts these certificates.
    pub(super) fn with_roots(roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has the cipher suites of both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        Self(Pool::over(https))
    }

    /// Sends a request and returns the body of its answer.
    ///
    /// # Errors
    ///
    /// See [`RequestError`]. The body may have at most `bytes_max` bytes.
    pub(in crate::backend) async fn request(
        &self,
        request: Request<Full<Bytes>>,
        bytes_max: usize,
    ) -> Result<Bytes, RequestError> {
        self.0.request(request, bytes_max).await
    }

    /// Reads a URL. The error is a description for people.
    pub(super) async fn get(&self, url: &JwksUrl, bytes_max: usize) -> Result<Bytes, String> {
        let request = Request::get(url.0.clone()).body(Full::default());
        let request = request.map_err(|error| error.to_string())?;
        let answer = self.0.request(request, bytes_max).await;
        answer.map_err(|error| match error {
            RequestError::Unreachable(detail) => format!("no connection: {detail}"),
            RequestError::Lost(detail) => format!("the connection was lost: {detail}"),
            RequestError::TooLong => format!("it is longer than {bytes_max} bytes"),
            RequestError::Encoded(coding) => encoded(&coding),
            RequestError::Status(status, None) => format!("status {status}"),
            RequestError::Status(status, Some(host)) => {
                format!("status {status}, a redirect to {host}: name its target")
            }
        })
    }
}
