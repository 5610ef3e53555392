//! Whose word on the client's address is believed, and how it is read: the PROXY protocol (versions 1 and 2, HAProxy's
//! `proxy-protocol.txt`) in front of the request, `X-Forwarded-For` and `X-Real-IP` in it.
//!
//! Invariant: only what a trusted proxy itself wrote is believed, never what it passed on from an untrusted one.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hyper::HeaderMap;
use ipnet::IpNet;
use ppp::{v1, v2};

/// A PROXY header of version 1 is at most this long, with its line end.
const V1_BYTES_MAX: usize = 107;
/// Signature, version, family and length of version 2.
const V2_FIXED_BYTES: usize = 16;
/// Longest PROXY header that is read, in bytes. Version 2 allows 64 KiB; what is in use stays far below (addresses
/// and a few extensions).
pub const HEADER_BYTES_MAX: usize = 4096;

const V1_PREFIX: &[u8] = v1::PROTOCOL_PREFIX.as_bytes();

/// `trusted_proxies`, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    networks: Vec<IpNet>,
    unix: bool,
}

/// Why an entry of `trusted_proxies` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is neither an IP address, a network such as 10.0.0.0/8, nor \"unix\"")]
pub struct ProxyError;

impl TrustedProxies {
    /// Checks the entries. On failure tells the index of the bad one.
    pub fn parse<S: AsRef<str>>(entries: &[S]) -> Result<Self, (usize, ProxyError)> {
        let mut proxies = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            match entry.as_ref() {
                "unix" => proxies.unix = true,
                text => proxies.networks.push(network(text).ok_or((index, ProxyError))?),
            }
        }
        Ok(proxies)
    }

    /// Whether the peer at this address is believed; `None` is the peer of a Unix socket.
    #[must_use]
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        let Some(peer) = peer else { return self.unix };
        // A v4 peer of a v6 socket is written ::ffff:a.b.c.d.
        let peer = peer.to_canonical();
        self.networks.iter().any(|network| network.contains(&peer))
    }
}

fn network(text: &str) -> Option<IpNet> {
    let network = IpNet::from_str(text).ok();
    network.or_else(|| IpAddr::from_str(text).ok().map(IpNet::from))
}

/// What stands at the beginning of a connection from a trusted proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Too few bytes to say.
    Incomplete,
    /// No PROXY header: HTTP begins at once.
    Absent,
    /// A PROXY header.
    Present {
        /// How many bytes it takes.
        length: usize,
        /// The client it names; `None` when it names none (`LOCAL`, `UNKNOWN`: the proxy speaks for itself).
        client: Option<IpAddr>,
    },
    /// It begins like a PROXY header and is none, or is too long.
    Invalid,
}

/// Looks for a PROXY header at the beginning of `bytes`. Says [`Header::Incomplete`] for every proper beginning of a
/// header it accepts, and never for more than [`HEADER_BYTES_MAX`] bytes.
#[must_use]
pub fn header(bytes: &[u8]) -> Header {
    if begins_alike(bytes, V1_PREFIX) {
        v1_header(bytes)
    } else if begins_alike(bytes, v2::PROTOCOL_PREFIX) {
        v2_header(bytes)
    } else {
        Header::Absent
    }
}

/// Whether one is a beginning of the other.
fn begins_alike(bytes: &[u8], signature: &[u8]) -> bool {
    let n = bytes.len().min(signature.len());
    bytes[..n] == signature[..n]
}

fn v1_header(bytes: &[u8]) -> Header {
    // `PROXYX / HTTP/1.1` would be a request, of a method that nobody has.
    let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() < V1_BYTES_MAX {
            Header::Incomplete
        } else {
            Header::Invalid
        };
    };
    // The whole line at once: the crate takes a half-written port for a wrong one.
    match v1::Header::try_from(&line[..=end]) {
        Ok(header) => {
            let client = match header.addresses {
                v1::Addresses::Tcp4(addresses) => Some(IpAddr::V4(addresses.source_address)),
                v1::Addresses::Tcp6(addresses) => Some(IpAddr::V6(addresses.source_address).to_canonical()),
                v1::Addresses::Unknown => None,
            };
            Header::Present {
                length: end + 1,
                client,
            }
        }
        Err(_) => Header::Invalid,
    }
}

fn v2_header(bytes: &[u8]) -> Header {
    if bytes.len() < V2_FIXED_BYTES {
        return Header::Incomplete;
    }
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > HEADER_BYTES_MAX {
        return Header::Invalid;
    }
    if bytes.len() < length {
        return Header::Incomplete;
    }
    match v2::Header::try_from(&bytes[..length]) {
        Ok(header) => {
            let client = match (header.command, header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(addresses)) => Some(IpAddr::V4(addresses.source_address)),
                (v2::Command::Proxy, v2::Addresses::IPv6(addresses)) => {
                    Some(IpAddr::V6(addresses.source_address).to_canonical())
                }
                _ => None,
            };
            Header::Present { length, client }
        }
        Err(_) => Header::Invalid,
    }
}

/// The client's address: the right-most in `X-Forwarded-For` that is no trusted proxy, for proxies append the address
/// they see to whatever the client sent. `hop` is who spoke to us (the PROXY header's client, else the peer; `None`
/// on a Unix socket): when it is not trusted it is the client itself, whatever the headers say.
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
            // An entry that is no address (`unknown`) hides whatever stands left of it.
            let Some(address) = address(entry) else { return client };
            client = Some(address);
            if !trusted.trusts(client) {
                return client;
            }
        }
    }
    client
}

/// An address as proxies write it: bare, with a port, or in brackets.
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
#[path = "proxy_tests.rs"]
mod tests;
