//! The PROXY protocol, versions 1 and 2 (HAProxy's `proxy-protocol.txt`): the header in front of a connection that names
//! the client. It is read only from trusted proxies.

use std::net::IpAddr;

use ppp::{v1, v2};

/// Longest PROXY header of version 1, in bytes, with its line end.
const V1_BYTES_MAX: usize = 107;
/// Length of the fixed part of version 2, in bytes: signature, version, family and length.
const V2_FIXED_BYTES: usize = 16;
/// Longest accepted PROXY header that names a client, in bytes. Version 2 allows 64 KiB, but addresses and a few
/// extensions need far less.
pub const HEADER_BYTES_MAX: usize = 4096;
/// Longest PROXY header of version 2, in bytes. A `LOCAL` header may have this length.
pub const LOCAL_BYTES_MAX: usize = V2_FIXED_BYTES + u16::MAX as usize;
/// Version 2 and the command `LOCAL`, in one byte.
const V2_LOCAL: u8 = 0x20;

const V1_PREFIX: &[u8] = v1::PROTOCOL_PREFIX.as_bytes();

/// The beginning of a connection from a trusted proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// More bytes are needed.
    Incomplete,
    /// There is no PROXY header: HTTP begins at once.
    Absent,
    /// A PROXY header.
    Present {
        /// Its length in bytes.
        length: usize,
        /// The client that it names; `None` for `LOCAL` and `UNKNOWN`, when the proxy speaks for itself.
        client: Option<IpAddr>,
    },
    /// It begins like a PROXY header and is malformed, or is too long.
    Invalid,
}

/// Parses the PROXY header at the beginning of `bytes`.
///
/// The result is [`ProxyHeader::Incomplete`] for every proper prefix of a valid header, and never for more than
/// [`HEADER_BYTES_MAX`] bytes ([`LOCAL_BYTES_MAX`] for `LOCAL`).
#[must_use]
pub fn parse(bytes: &[u8]) -> ProxyHeader {
    if is_prefix(bytes, V1_PREFIX) {
        v1_header(bytes)
    } else if is_prefix(bytes, v2::PROTOCOL_PREFIX) {
        v2_header(bytes)
    } else {
        ProxyHeader::Absent
    }
}

/// Whether one of the two is a prefix of the other.
fn is_prefix(bytes: &[u8], signature: &[u8]) -> bool {
    let n = bytes.len().min(signature.len());
    bytes[..n] == signature[..n]
}

fn v1_header(bytes: &[u8]) -> ProxyHeader {
    // A request of a method that begins with `PROXY`, such as `PROXYX / HTTP/1.1`, is refused: no such method exists.
    let line = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', line) else {
        return if line.len() < V1_BYTES_MAX {
            ProxyHeader::Incomplete
        } else {
            ProxyHeader::Invalid
        };
    };
    // Only the whole line is parsed: the crate calls a line invalid that ends within a port.
    match v1::Header::try_from(&line[..=end]) {
        Ok(header) => {
            let client = match header.addresses {
                v1::Addresses::Tcp4(addresses) => Some(IpAddr::V4(addresses.source_address)),
                v1::Addresses::Tcp6(addresses) => Some(IpAddr::V6(addresses.source_address).to_canonical()),
                v1::Addresses::Unknown => None,
            };
            ProxyHeader::Present {
                length: end + 1,
                client,
            }
        }
        Err(_) => ProxyHeader::Invalid,
    }
}

fn v2_header(bytes: &[u8]) -> ProxyHeader {
    if bytes.len() < V2_FIXED_BYTES {
        return ProxyHeader::Incomplete;
    }
    let length = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let is_local = bytes[12] == V2_LOCAL;
    if length > HEADER_BYTES_MAX && !is_local {
        return ProxyHeader::Invalid;
    }
    if bytes.len() < length {
        return ProxyHeader::Incomplete;
    }
    if is_local {
        // The receiver must accept it and discard the block, whatever family it has (section 2.2 of the specification).
        return ProxyHeader::Present { length, client: None };
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
            ProxyHeader::Present { length, client }
        }
        Err(_) => ProxyHeader::Invalid,
    }
}

#[cfg(test)]
#[path = "tests/proxy_headers.rs"]
mod tests;
