//! The checks of a WebSocket handshake (RFC 6455, section 4.2.1), and what it negotiates. No I/O.
//!
//! Invariant: a head that passes gets a correct 101. The checks are needed because fastwebsockets also accepts a POST,
//! HTTP/1.0, and a GET without `Upgrade`.

use base64::Engine;
use base64::alphabet;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use hyper::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, ORIGIN, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::{Method, Version};

use crate::ingress::http::request;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::wire::negotiate::{self, Agreement};

/// Why a request is not a valid handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeError {
    /// The method is not GET.
    Method,
    /// The version is not HTTP/1.1.
    HttpVersion,
    /// `Host` is missing, empty, or given twice.
    Host,
    /// `Upgrade` does not name `websocket`.
    Upgrade,
    /// `Connection` does not name `upgrade`.
    Connection,
    /// `Sec-WebSocket-Version` is not 13.
    Version,
    /// `Sec-WebSocket-Key` is missing, given twice, or not 16 bytes in base64.
    Key,
    /// `Origin` is given twice or is not ASCII.
    Origin,
}

/// What a valid handshake says about the page and the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// The `Host` header, never empty.
    pub host: &'a str,
    /// The `Origin` header. Browsers send it.
    pub origin: Option<&'a str>,
}

/// Checks the head of a handshake.
///
/// # Errors
///
/// The first failed check, in the order of [`HandshakeError`]; [`HandshakeError::Origin`] comes last.
pub fn check<'a>(method: &Method, version: Version, headers: &'a HeaderMap) -> Result<Handshake<'a>, HandshakeError> {
    if method != Method::GET {
        return Err(HandshakeError::Method);
    }
    if version != Version::HTTP_11 {
        return Err(HandshakeError::HttpVersion);
    }
    let host = match single(headers, HOST) {
        Single::One(host) if !host.is_empty() => host,
        _ => return Err(HandshakeError::Host),
    };
    if !request::has_token(headers, UPGRADE, "websocket") {
        return Err(HandshakeError::Upgrade);
    }
    if !request::has_token(headers, CONNECTION, "upgrade") {
        return Err(HandshakeError::Connection);
    }
    if single(headers, SEC_WEBSOCKET_VERSION) != Single::One("13") {
        return Err(HandshakeError::Version);
    }
    if !matches!(single(headers, SEC_WEBSOCKET_KEY), Single::One(key) if is_key(key)) {
        return Err(HandshakeError::Key);
    }
    match single(headers, ORIGIN) {
        Single::None => Ok(Handshake { host, origin: None }),
        Single::One(origin) => Ok(Handshake {
            host,
            origin: Some(origin),
        }),
        Single::Invalid => Err(HandshakeError::Origin),
    }
}

/// The subprotocol for the 101: the dialect's own when the client offers it, else `None`. The client is served in both
/// cases.
#[must_use]
pub fn subprotocol(dialect: &Dialect, headers: &HeaderMap) -> Option<HeaderValue> {
    const NATIVE: &str = "zigquant-v2";
    let ours = match dialect {
        Dialect::Native => NATIVE,
        Dialect::Typed(_) | Dialect::SocketIo(_) | Dialect::Echo => return None,
    };
    // Subprotocols are case-sensitive (RFC 6455, section 4.1).
    let offered = request::tokens(headers, SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == ours);
    offered.then(|| HeaderValue::from_static(ours))
}

/// The compression to agree on: the first acceptable offer, if there is one (RFC 7692, section 5).
#[must_use]
pub fn deflate(headers: &HeaderMap) -> Option<Agreement> {
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS);
    negotiate::accept(offers.iter().filter_map(|value| value.to_str().ok()))
}

#[derive(Debug, PartialEq, Eq)]
enum Single<'a> {
    None,
    One(&'a str),
    // Given twice, or not ASCII.
    Invalid,
}

/// The value of a header that may be given once.
fn single(headers: &HeaderMap, name: HeaderName) -> Single<'_> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Single::None,
        (Some(value), None) => value.to_str().map_or(Single::Invalid, Single::One),
        (Some(_), Some(_)) => Single::Invalid,
    }
}

/// Accepts unused bits in the last character, which some clients set.
const KEY: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn is_key(text: &str) -> bool {
    let mut key = [0; 18];
    text.len() == 24 && KEY.decode_slice(text, &mut key) == Ok(16)
}
