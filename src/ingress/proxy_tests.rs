//! PROXY headers and forwarded addresses, as tables and properties.

use super::*;
use hyper::header::{HeaderName, HeaderValue};
use proptest::prelude::*;

fn present(length: usize, client: Option<&str>) -> Header {
    Header::Present {
        length,
        client: client.map(|client| client.parse().expect("an address")),
    }
}

fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
    bytes.extend([0x20 | command, family]);
    bytes.extend(u16::try_from(payload.len()).expect("short").to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Headers that are accepted, and the client each names.
fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0xc0, 0, 0, 80];
    let mut v6 = [0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    v6[15] = 7;
    let mut with_extension = v4.to_vec();
    with_extension.extend([0x04, 0, 3, 1, 2, 3]);
    vec![
        (
            b"PROXY TCP4 192.0.2.1 10.0.0.1 49152 80\r\n".to_vec(),
            Some("192.0.2.1"),
        ),
        (b"PROXY TCP6 2001:db8::7 ::1 49152 80\r\n".to_vec(), Some("2001:db8::7")),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 ::1 49152 80\r\n".to_vec(),
            Some("192.0.2.1"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(),
            None,
        ),
        (v2(1, 0x11, &v4), Some("192.0.2.1")),
        (v2(1, 0x11, &with_extension), Some("192.0.2.1")),
        (v2(1, 0x21, &v6), Some("2001:db8::7")),
        (v2(1, 0x31, &[0; 216]), None),
        (v2(1, 0x00, &[]), None),
        // LOCAL: the proxy's own health check, whatever it says about addresses.
        (v2(0, 0x00, &[]), None),
        (v2(0, 0x11, &v4), None),
    ]
}

#[test]
fn good_headers_are_read_at_every_split_and_leave_the_rest() {
    for (bytes, client) in good() {
        for n in 0..bytes.len() {
            assert_eq!(
                header(&bytes[..n]),
                Header::Incomplete,
                "{n} bytes of {}",
                bytes.escape_ascii()
            );
        }
        let mut followed = bytes.clone();
        followed.extend(b"GET /ws HTTP/1.1\r\n\r\n");
        for bytes in [&bytes, &followed] {
            let length = bytes.len() - if bytes == &followed { 20 } else { 0 };
            assert_eq!(header(bytes), present(length, client), "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn what_is_no_header_is_absent_or_invalid() {
    let mut long = v2(1, 0x11, &[0; 12]);
    long[14] = 0xff;
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    for (bytes, expected) in [
        (b"GET / HTTP/1.1\r\n\r\n".as_slice(), Header::Absent),
        (b"POST / HTTP/1.1\r\n\r\n", Header::Absent),
        (b"PROPFIND / HTTP/1.1\r\n\r\n", Header::Absent),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", Header::Absent),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", Header::Absent),
        (b"", Header::Incomplete),
        (b"P", Header::Incomplete),
        (b"\r\n", Header::Incomplete),
        (b"PROXY TCP4 1.2.3.4\r\n", Header::Invalid),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", Header::Invalid),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", Header::Invalid),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", Header::Invalid),
        (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", Header::Invalid),
        (b"PROXY \xff\xff\r\n", Header::Invalid),
        (&endless, Header::Invalid),
        (&v2(1, 0x11, &[0; 4]), Header::Invalid),
        (&v2(7, 0x11, &[0; 12]), Header::Invalid),
        (&v2(1, 0x71, &[0; 12]), Header::Invalid),
        (&long, Header::Invalid),
    ] {
        assert_eq!(header(bytes), expected, "{}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn no_bytes_panic_and_incomplete_is_bounded(
        start in prop::sample::select(good()), cut in 0usize..240, noise in prop::collection::vec(any::<u8>(), 0..5000)
    ) {
        let mut bytes = start.0;
        bytes.truncate(cut);
        bytes.extend(noise);
        match header(&bytes) {
            Header::Present { length, .. } => prop_assert!(length <= bytes.len()),
            Header::Incomplete => prop_assert!(bytes.len() < HEADER_BYTES_MAX),
            Header::Absent | Header::Invalid => {}
        }
    }

    #[test]
    fn no_forwarded_header_panics_or_beats_an_untrusted_peer(value in prop::collection::vec(any::<u8>(), 0..80)) {
        let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-for", value);
        let trusted = TrustedProxies::parse(&["10.0.0.0/8"]).expect("good");
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
        // The client itself sent the left ones.
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
        // What a proxy appends counts, not what it passes on.
        ("10.0.0.1", &[(REAL, "9.9.9.9"), (XFF, "1.1.1.1")], "1.1.1.1"),
        ("fd00::1", &[(XFF, "1.1.1.1")], "1.1.1.1"),
        ("::ffff:10.0.0.1", &[(XFF, "1.1.1.1")], "1.1.1.1"),
    ];
    let trusted = TrustedProxies::parse(&["10.0.0.0/8", "fd00::/8", "unix"]).expect("good");
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
fn proxies_are_networks_addresses_or_unix() {
    let proxies = TrustedProxies::parse(&["127.0.0.0/8", "2001:db8::1"]).expect("good");
    assert!(proxies.trusts("127.3.4.5".parse().ok()));
    assert!(proxies.trusts("2001:db8::1".parse().ok()));
    assert!(!proxies.trusts("2001:db8::2".parse().ok()));
    assert!(!proxies.trusts(None));
    assert!(TrustedProxies::parse(&["unix"]).expect("good").trusts(None));
    for entry in ["", "localhost", "10.0.0.0/33", "10.0.0.0/", "Unix"] {
        assert_eq!(TrustedProxies::parse(&["unix", entry]), Err((1, ProxyError)), "{entry}");
    }
}
