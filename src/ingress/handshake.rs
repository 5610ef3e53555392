//! The checks before the upgrade (RFC 6455, section 4.2.1). Pure: a request's head in, a verdict out.
//!
//! Invariant: a head that passes is answered by a correct 101; fastwebsockets' own handshake would also answer a
//! POST, HTTP/1.0, or a GET without `Upgrade`.

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

/// What is wrong with a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// 405.
    Method,
    /// 426: no WebSocket handshake, or of another version.
    UpgradeRequired(&'static str),
    /// 400.
    Malformed(&'static str),
    /// 403: more than one `Origin`, or one that is not ASCII.
    Origin,
}

/// What a good handshake says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake<'a> {
    /// The `Host`.
    pub host: &'a str,
    /// The `Origin`: browsers send one.
    pub origin: Option<&'a str>,
}

/// Checks the head of a handshake.
pub fn check<'a>(method: &Method, version: Version, headers: &'a HeaderMap) -> Result<Handshake<'a>, Flaw> {
    if method != Method::GET {
        return Err(Flaw::Method);
    }
    if version != Version::HTTP_11 {
        return Err(Flaw::UpgradeRequired("WebSocket needs HTTP/1.1"));
    }
    let host = match single(headers, HOST) {
        Single::One(host) if !host.is_empty() => host,
        _ => return Err(Flaw::Malformed("exactly one Host is needed")),
    };
    if !request::has_token(headers, UPGRADE, "websocket") {
        return Err(Flaw::UpgradeRequired(
            "this is a WebSocket endpoint: Upgrade: websocket is needed",
        ));
    }
    if !request::has_token(headers, CONNECTION, "upgrade") {
        return Err(Flaw::UpgradeRequired("Connection: upgrade is needed"));
    }
    if single(headers, SEC_WEBSOCKET_VERSION) != Single::One("13") {
        return Err(Flaw::UpgradeRequired("Sec-WebSocket-Version: 13 is needed"));
    }
    if !matches!(single(headers, SEC_WEBSOCKET_KEY), Single::One(key) if is_key(key)) {
        return Err(Flaw::Malformed(
            "exactly one Sec-WebSocket-Key of 16 bytes in base64 is needed",
        ));
    }
    match single(headers, ORIGIN) {
        Single::None => Ok(Handshake { host, origin: None }),
        Single::One(origin) => Ok(Handshake {
            host,
            origin: Some(origin),
        }),
        Single::Bad => Err(Flaw::Origin),
    }
}

/// The subprotocol to answer with: the dialect's own when the client offers it, else none (the client is served all
/// the same).
#[must_use]
pub fn subprotocol(dialect: &Dialect, headers: &HeaderMap) -> Option<HeaderValue> {
    const NATIVE: &str = "zigquant-v2";
    let ours = match dialect {
        Dialect::Native => NATIVE,
        Dialect::Typed(_) | Dialect::SocketIo(_) | Dialect::Echo => return None,
    };
    // Subprotocols are compared as they are written (RFC 6455, section 4.1).
    let offered = request::tokens(headers, SEC_WEBSOCKET_PROTOCOL).any(|offered| offered == ours);
    offered.then(|| HeaderValue::from_static(ours))
}

/// What to agree on: the first acceptable offer of compression, if there is one.
#[must_use]
pub fn deflate(headers: &HeaderMap) -> Option<Agreement> {
    let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS);
    negotiate::accept(offers.iter().filter_map(|value| value.to_str().ok()))
}

#[derive(Debug, PartialEq, Eq)]
enum Single<'a> {
    None,
    One(&'a str),
    Bad,
}

/// A header that may stand there once.
fn single(headers: &HeaderMap, name: HeaderName) -> Single<'_> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Single::None,
        (Some(value), None) => value.to_str().map_or(Single::Bad, Single::One),
        (Some(_), Some(_)) => Single::Bad,
    }
}

/// Some clients leave the unused bits of the last character set.
const KEY: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

fn is_key(text: &str) -> bool {
    let mut key = [0; 18];
    text.len() == 24 && KEY.decode_slice(text, &mut key) == Ok(16)
}
