//! The address of a collector.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;

use crate::backend::commands::http::{HIDDEN, hide_query};

/// The path of OTLP over HTTP, if the URL has none.
const PATH: &str = "/v1/traces";

/// The URL of a collector: `http://` or `https://`, without user and password.
///
/// `Display` and `Debug` show `hidden` instead of the query, which may hold a token.
#[derive(Clone, PartialEq, Eq)]
pub struct CollectorUrl(Uri);

impl CollectorUrl {
    pub(super) const fn uri(&self) -> &Uri {
        &self.0
    }
}

impl FromStr for CollectorUrl {
    /// A description of the problem, to follow the name of a configuration key.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let not_url = |error: hyper::http::uri::InvalidUri| format!("is not a URL: {error}");
        let uri: Uri = text.parse().map_err(not_url)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err("must begin with http:// or https:// (OTLP over HTTP, usually port 4318)".to_owned());
        }
        let authority = uri.authority().ok_or("has no host")?;
        if authority.host().is_empty() {
            return Err("has no host".to_owned());
        }
        if authority.as_str().contains('@') {
            return Err("must not hold a user or password: a collector beside the gateway adds them".to_owned());
        }
        if uri.query() == Some(HIDDEN) {
            return Err(format!(
                "has the query `{HIDDEN}`, which stands for one that is not shown"
            ));
        }
        if uri.path() != "/" || uri.query().is_some() {
            return Ok(Self(uri));
        }
        let with_path = format!("{}{PATH}", text.trim_end_matches('/'));
        with_path.parse().map(Self).map_err(not_url)
    }
}

impl fmt::Display for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hide_query(&self.0.to_string()))
    }
}

impl fmt::Debug for CollectorUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CollectorUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_gets_that_of_otlp() {
        for (text, shown) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://collector:4318/", "http://collector:4318/v1/traces"),
            ("https://collector/otlp/v1/traces", "https://collector/otlp/v1/traces"),
            ("https://collector/x?token=hush", "https://collector/x?hidden"),
        ] {
            let url: CollectorUrl = text.parse().unwrap_or_else(|error| panic!("{text} {error}"));
            assert_eq!(url.to_string(), shown);
        }
        for (text, why) in [
            ("collector:4318", "must begin"),
            ("grpc://collector:4317", "must begin"),
            ("http://u:hush@collector", "password"),
            ("http://collector/?hidden", "hidden"),
        ] {
            let error = text.parse::<CollectorUrl>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
