//! Input before the upgrade: the PROXY header, the head of the handshake, addresses, origins and query values.
//!
//! 1. Once a PROXY header is accepted or refused, more bytes do not change the result.
//! 2. An accepted head has exactly one `Host` and exactly one `Sec-WebSocket-Key`.
//! 3. The client's address is taken only from a trusted proxy.

use std::net::{IpAddr, Ipv4Addr};

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Version};
use tickgate::ingress::http::request;
use tickgate::ingress::{AllowedOrigins, TrustedProxies, client_address, handshake, proxy_protocol};

/// Checks one fuzz input. Its first byte chooses the meaning of the rest.
pub fn check_input(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    match choice % 3 {
        0 => proxy_header(rest),
        1 => head(rest),
        _ => texts(rest),
    }
}

fn proxy_header(bytes: &[u8]) {
    let mut result = None;
    for length in 0..=bytes.len().min(600) {
        let header = proxy_protocol::parse(&bytes[..length]);
        if let proxy_protocol::ProxyHeader::Present { length: used, .. } = &header {
            assert!(*used <= length);
        }
        let shown = format!("{header:?}");
        if let Some(before) = &result {
            assert_eq!(*before, shown, "changed with {length} bytes");
        } else if !matches!(header, proxy_protocol::ProxyHeader::Incomplete) {
            result = Some(shown);
        }
    }
}

fn head(text: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in text.split(|byte| *byte == b'\n').take(40) {
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(value)) = (parts.next(), parts.next()) else {
            continue;
        };
        if let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(name),
            HeaderValue::from_bytes(value.trim_ascii()),
        ) {
            headers.append(name, value);
        }
    }
    if let Ok(good) = handshake::check(&Method::GET, Version::HTTP_11, &headers) {
        assert_eq!(headers.get_all("host").iter().count(), 1);
        assert_eq!(headers.get_all("sec-websocket-key").iter().count(), 1);
        assert_eq!(
            headers.get("sec-websocket-version").map(HeaderValue::as_bytes),
            Some(&b"13"[..])
        );
        assert_eq!(good.origin.is_some(), headers.contains_key("origin"));
        if let Some(origin) = good.origin {
            let _ = AllowedOrigins::default().allows(origin, good.host);
        }
    }
    let _ = handshake::deflate(&headers);
    let _ = request::bearer(&headers);
    let untrusted = Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)));
    let trusted = TrustedProxies::parse(&["127.0.0.0/8"]).expect("a good entry");
    assert_eq!(client_address(&trusted, untrusted, &headers), untrusted);
    let _ = client_address(&trusted, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), &headers);
}

fn texts(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    let _ = request::query_value(first, "token");
    let _ = request::decode(first);
    if let Ok(origins) = AllowedOrigins::parse(&[first]) {
        let _ = origins.allows(second, "gateway.example");
        assert!(first == "*" || !origins.allows("null", "gateway.example"));
    }
    if let Ok(trusted) = TrustedProxies::parse(&[first]) {
        let _ = trusted.trusts(None);
    }
}
