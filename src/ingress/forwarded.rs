//! The client's address, as trusted proxies tell it: `X-Forwarded-For` and `X-Real-IP`.
//!
//! Invariant: only an address that a trusted proxy itself wrote counts, never one that it passed on from an untrusted
//! peer.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::HeaderMap;
use ipnet::IpNet;

/// The checked entries of `trusted_proxies`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    unix: bool,
}

/// An entry of `trusted_proxies` is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an IP address, a network such as 10.0.0.0/8, or \"unix\"")]
pub struct TrustedProxyError;

impl TrustedProxies {
    /// Checks the entries: addresses, networks, and `unix` for the peers of Unix sockets.
    ///
    /// # Errors
    ///
    /// The index of the first entry that is not valid.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, (usize, TrustedProxyError)> {
        let mut proxies = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            match entry.as_ref() {
                "unix" => proxies.unix = true,
                text => proxies.networks.push(network(text).ok_or((index, TrustedProxyError))?),
            }
        }
        Ok(proxies)
    }

    /// Whether the peer at this address is a trusted proxy; `None` is the peer of a Unix socket.
    #[must_use]
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        let Some(peer) = peer else { return self.unix };
        // An IPv4 peer of an IPv6 socket has the address ::ffff:a.b.c.d.
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }
}

fn network(text: &str) -> Option<IpNet> {
    let network = IpNet::from_str(text).ok();
    let network = network.or_else(|| IpAddr::from_str(text).ok().map(IpNet::from))?;
    Some(canonical(network))
}

/// An IPv4-mapped network (`::ffff:10.0.0.0/104`) as the IPv4 network that it stands for: peers are compared in this form.
fn canonical(network: IpNet) -> IpNet {
    const MAPPED_PREFIX_BITS: u8 = 96;
    let (address, bits) = (network.addr().to_canonical(), network.prefix_len());
    match bits.checked_sub(MAPPED_PREFIX_BITS) {
        Some(bits) if address.is_ipv4() && network.addr().is_ipv6() => IpNet::new(address, bits).unwrap_or(network),
        _ => network,
    }
}

/// The client's address: the right-most one in `X-Forwarded-For` that is not a trusted proxy. Proxies append the address
/// of their peer to what the client sent.
///
/// `hop` is the last hop in front of the gateway: the client that the PROXY header names, else the peer; `None` for a Unix
/// socket. When it is not trusted, it is the client itself, and the headers do not matter.
#[must_use]
pub fn client_address(trusted: &TrustedProxies, hop: Option<IpAddr>, headers: &HeaderMap) -> Option<IpAddr> {
    if !trusted.trusts(hop) {
        return hop;
    }
    let mut client = hop;
    let mut lines = headers.get_all("x-forwarded-for").iter().rev().peekable();
    if lines.peek().is_none() {
        let mut real = headers.get_all("x-real-ip").iter();
        return match (real.next(), real.next()) {
            (Some(only), None) => only.to_str().ok().and_then(address).or(hop),
            _ => hop,
        };
    }
    for line in lines {
        let Ok(line) = line.to_str() else { return client };
        for entry in line.rsplit(',') {
            // Entries to the left of one that is not an address (such as `unknown`) cannot be trusted.
            let Some(address) = address(entry) else { return client };
            client = Some(address);
            if !trusted.trusts(client) {
                return client;
            }
        }
    }
    client
}

/// Parses an address as proxies write it: bare, with a port, or in brackets.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address = bare
        .parse()
        .ok()
        .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_forwarded_header_panics_or_replaces_an_untrusted_peer(value in prop::collection::vec(any::<u8>(), 0..80)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", value);
            let trusted = TrustedProxies::parse(&["10.0.0.0/8"]).expect("valid entries");
            let peer = Some(IpAddr::from([192, 0, 2, 9]));
            prop_assert_eq!(client_address(&trusted, peer, &headers), peer);
            let _ = client_address(&trusted, Some(IpAddr::from([10, 0, 0, 1])), &headers);
        }
    }

    #[test]
    fn the_right_most_untrusted_address_is_the_client() {
        const XFF: &str = "x-forwarded-for";
        const REAL: &str = "x-real-ip";
        // (peer, headers, client); trusted are 10.0.0.0/8, fd00::/8 and Unix sockets.
        type Row<'a> = (&'a str, &'a [(&'static str, &'static str)], &'a str);
        const TABLE: &[Row<'_>] = &[
            ("192.0.2.9", &[], "192.0.2.9"),
            ("192.0.2.9", &[(XFF, "1.1.1.1"), (REAL, "2.2.2.2")], "192.0.2.9"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[(XFF, "1.1.1.1")], "1.1.1.1"),
            ("unix", &[(XFF, "1.1.1.1")], "1.1.1.1"),
            ("unix", &[], "none"),
            // The client itself sent the entries on the left.
            ("10.0.0.1", &[(XFF, "9.9.9.9, 1.1.1.1")], "1.1.1.1"),
            ("10.0.0.1", &[(XFF, "9.9.9.9"), (XFF, "1.1.1.1")], "1.1.1.1"),
            ("10.0.0.1", &[(XFF, "10.9.9.9, 1.1.1.1, 10.0.0.2")], "1.1.1.1"),
            ("10.0.0.1", &[(XFF, "10.0.0.3, 10.0.0.2")], "10.0.0.3"),
            ("10.0.0.1", &[(XFF, "1.1.1.1:4711")], "1.1.1.1"),
            ("10.0.0.1", &[(XFF, "[2001:db8::1]:4711")], "2001:db8::1"),
            ("10.0.0.1", &[(XFF, "[2001:db8::1]")], "2001:db8::1"),
            ("10.0.0.1", &[(XFF, "2001:db8::1")], "2001:db8::1"),
            ("10.0.0.1", &[(XFF, "::ffff:1.1.1.1")], "1.1.1.1"),
            ("10.0.0.1", &[(XFF, "1.1.1.1, unknown")], "10.0.0.1"),
            ("10.0.0.1", &[(XFF, "1.1.1.1, unknown, 10.0.0.2")], "10.0.0.2"),
            ("10.0.0.1", &[(XFF, "")], "10.0.0.1"),
            ("10.0.0.1", &[(REAL, "1.1.1.1")], "1.1.1.1"),
            ("10.0.0.1", &[(REAL, "x")], "10.0.0.1"),
            ("10.0.0.1", &[(REAL, "1.1.1.1"), (REAL, "2.2.2.2")], "10.0.0.1"),
            // The header that a proxy appends to counts, not one that it passes on.
            ("10.0.0.1", &[(REAL, "9.9.9.9"), (XFF, "1.1.1.1")], "1.1.1.1"),
            ("fd00::1", &[(XFF, "1.1.1.1")], "1.1.1.1"),
            ("::ffff:10.0.0.1", &[(XFF, "1.1.1.1")], "1.1.1.1"),
        ];
        let trusted = TrustedProxies::parse(&["10.0.0.0/8", "fd00::/8", "unix"]).expect("valid entries");
        for (peer, lines, client) in TABLE {
            let mut headers = HeaderMap::new();
            for (name, value) in *lines {
                headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            let found = client_address(&trusted, peer.parse().ok(), &headers);
            let found = found.map_or("none".to_owned(), |found| found.to_string());
            assert_eq!(found, *client, "{peer} {lines:?}");
        }
    }

    #[test]
    fn trusted_proxies_are_addresses_networks_or_unix() {
        let proxies = TrustedProxies::parse(&["127.0.0.0/8", "2001:db8::1"]).expect("valid entries");
        assert!(proxies.trusts("127.3.4.5".parse().ok()));
        assert!(proxies.trusts("2001:db8::1".parse().ok()));
        assert!(!proxies.trusts("2001:db8::2".parse().ok()));
        assert!(!proxies.trusts(None));
        assert!(TrustedProxies::parse(&["unix"]).expect("valid entries").trusts(None));
        let mapped = TrustedProxies::parse(&["::ffff:10.0.0.0/104", "::ffff:192.0.2.1"]).expect("valid entries");
        for (peer, is_trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("192.0.2.1", true),
            ("11.1.2.3", false),
        ] {
            assert_eq!(mapped.trusts(peer.parse().ok()), is_trusted, "{peer}");
        }
        for entry in ["", "localhost", "10.0.0.0/33", "10.0.0.0/", "Unix"] {
            assert_eq!(
                TrustedProxies::parse(&["unix", entry]),
                Err((1, TrustedProxyError)),
                "{entry}"
            );
        }
    }
}
