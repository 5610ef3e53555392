//! What an endpoint asks of a request besides its path: a listener, a host, a subprotocol.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use hyper::HeaderMap;
use hyper::header::{HOST, SEC_WEBSOCKET_PROTOCOL};

use super::http::ListenerName;
use super::http::request;
use super::origin::host_name;

/// What an endpoint asks of a request besides its path. The default asks nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// The listener that the connection was accepted on; `None`: any.
    pub listen: Option<ListenerName>,
    /// The hosts of which one must be in `Host`; empty: any, also none.
    pub hosts: Vec<HostPattern>,
    /// The subprotocols of which the client must offer one; empty: none is needed. They are compared with case
    /// (RFC 6455, section 4.1).
    pub subprotocols: Vec<Box<str>>,
}

/// A host name, or `*.` with a domain for all its subdomains. In lower case, without a port and a final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern(Box<str>);

/// A text is not a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a host name, an IP address or *.domain, without a scheme, a port and a path")]
pub struct HostError;

impl FromStr for HostPattern {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let host = normalize(text);
        let name = host.strip_prefix("*.").unwrap_or(&host);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
        let fine = !name.is_empty() && !name.starts_with('.') && host_name(name) == name && name.bytes().all(is_name);
        if fine { Ok(Self(host.into())) } else { Err(HostError) }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HostPattern {
    /// How specific the pattern is among those that fit `host`, which is in the form of [`normalize`]: a name is more
    /// specific than any domain, and a long domain more than a short one. `None`: it does not fit.
    fn fit(&self, host: &str) -> Option<usize> {
        match self.0.strip_prefix('*') {
            None => (*self.0 == *host).then_some(usize::MAX),
            Some(domain) => {
                let sub = host.strip_suffix(domain)?;
                (!sub.is_empty()).then_some(domain.len())
            }
        }
    }
}

/// The one form of a host: its name in lower case, without a final dot.
fn normalize(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// The host of a request: `Host` without the port. `None` when it is missing, given twice or not text.
pub(super) fn host(headers: &HeaderMap) -> Option<String> {
    let mut values = headers.get_all(HOST).iter();
    let value = values.next().filter(|_| values.next().is_none())?;
    Some(normalize(host_name(value.to_str().ok()?)))
}

/// How well an endpoint fits a request. The greatest one serves it: the listener counts first, then the host, then the
/// subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fit {
    names_the_listener: bool,
    /// 0 without hosts.
    host: usize,
    /// The place of the subprotocol in the client's list of preference; `None` without subprotocols.
    subprotocol: Option<Reverse<usize>>,
}

impl Selector {
    /// Whether two endpoints of one path fit some request equally well on a listener that serves both.
    #[must_use]
    pub fn ties_with(&self, other: &Self) -> bool {
        fn overlap<T: PartialEq>(one: &[T], other: &[T]) -> bool {
            (one.is_empty() && other.is_empty()) || one.iter().any(|item| other.contains(item))
        }
        self.listen.is_some() == other.listen.is_some()
            && overlap(&self.hosts, &other.hosts)
            && overlap(&self.subprotocols, &other.subprotocols)
    }

    /// The subprotocol to agree on: the client's first one that the endpoint has.
    pub(super) fn subprotocol<'a>(&'a self, headers: &HeaderMap) -> Option<&'a str> {
        self.offered(headers).map(|(_, name)| name)
    }

    /// The client's first offer that the endpoint has, with its place in the client's list.
    fn offered<'a>(&'a self, headers: &HeaderMap) -> Option<(usize, &'a str)> {
        let mut offers = request::tokens(headers, SEC_WEBSOCKET_PROTOCOL).enumerate();
        offers.find_map(|(place, offered)| {
            let ours = self.subprotocols.iter().find(|ours| ***ours == *offered)?;
            Some((place, &**ours))
        })
    }

    /// How well the endpoint fits a request that came over a listener of its own or of all endpoints.
    pub(super) fn fit(&self, host: Option<&str>, headers: &HeaderMap) -> Option<Fit> {
        Some(Fit {
            names_the_listener: self.listen.is_some(),
            host: match (&*self.hosts, host) {
                ([], _) => 0,
                (hosts, host) => hosts.iter().filter_map(|pattern| pattern.fit(host?)).max()?,
            },
            subprotocol: match &*self.subprotocols {
                [] => None,
                _ => Some(Reverse(self.offered(headers)?.0)),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_without_case_and_final_dot() {
        for (text, written) in [
            ("WS.Example.com", "ws.example.com"),
            ("ws.example.com.", "ws.example.com"),
            ("*.Example.com", "*.example.com"),
            ("192.0.2.1", "192.0.2.1"),
            ("[::1]", "[::1]"),
            ("localhost", "localhost"),
        ] {
            assert_eq!(text.parse::<HostPattern>().expect(text).to_string(), written);
        }
        for text in [
            "",
            ".",
            "*",
            "*.",
            "*.*.x",
            "a*.x",
            "x:80",
            "[::1]:80",
            "https://x",
            "x/y",
            "x y",
            "[::1",
        ] {
            assert_eq!(text.parse::<HostPattern>(), Err(HostError), "{text}");
        }
    }
}
