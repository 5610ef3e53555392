//! PROXY headers, as tables and properties.

use super::*;
use proptest::prelude::*;

fn present(length: usize, client: Option<&str>) -> ProxyHeader {
    ProxyHeader::Present {
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

/// Valid headers, with the client that each names.
fn valid_headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
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
        // LOCAL is the proxy's own health check: its addresses do not count.
        (v2(0, 0x00, &[]), None),
        (v2(0, 0x11, &v4), None),
        (v2(0, 0x11, &[0; 4]), None),
        (v2(0, 0x21, &v4), None),
        (v2(0, 0x71, &[0xff; 7]), None),
        (v2(0, 0xff, &[0; 300]), None),
        (v2(1, 0x00, &[1, 2, 3]), None),
    ]
}

#[test]
fn valid_headers_are_parsed_at_every_split_and_leave_the_rest() {
    for (bytes, client) in valid_headers() {
        for n in 0..bytes.len() {
            assert_eq!(
                parse(&bytes[..n]),
                ProxyHeader::Incomplete,
                "{n} bytes of {}",
                bytes.escape_ascii()
            );
        }
        let mut followed = bytes.clone();
        followed.extend(b"GET /ws HTTP/1.1\r\n\r\n");
        for bytes in [&bytes, &followed] {
            let length = bytes.len() - if bytes == &followed { 20 } else { 0 };
            assert_eq!(parse(bytes), present(length, client), "{}", bytes.escape_ascii());
        }
    }
}

#[test]
fn a_local_header_of_any_length_is_discarded() {
    for payload in [0, 4096, usize::from(u16::MAX)] {
        let bytes = v2(0, 0x31, &vec![0xaa; payload]);
        assert_eq!(parse(&bytes[..bytes.len() - 1]), ProxyHeader::Incomplete);
        assert_eq!(parse(&bytes), present(bytes.len(), None));
        let mut named = bytes;
        named[12] = 0x21;
        let is_valid = matches!(parse(&named), ProxyHeader::Present { .. });
        assert!(payload == 0 || !is_valid, "{payload}");
    }
}

#[test]
fn other_bytes_are_absent_or_invalid() {
    let mut long = v2(1, 0x11, &[0; 12]);
    long[14] = 0xff;
    let endless = [b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat();
    for (bytes, expected) in [
        (b"GET / HTTP/1.1\r\n\r\n".as_slice(), ProxyHeader::Absent),
        (b"POST / HTTP/1.1\r\n\r\n", ProxyHeader::Absent),
        (b"PROPFIND / HTTP/1.1\r\n\r\n", ProxyHeader::Absent),
        (b"\r\nGET / HTTP/1.1\r\n\r\n", ProxyHeader::Absent),
        (b"\r\n\r\nGET / HTTP/1.1\r\n\r\n", ProxyHeader::Absent),
        (b"", ProxyHeader::Incomplete),
        (b"P", ProxyHeader::Incomplete),
        (b"\r\n", ProxyHeader::Incomplete),
        (b"PROXY TCP4 1.2.3.4\r\n", ProxyHeader::Invalid),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", ProxyHeader::Invalid),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", ProxyHeader::Invalid),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", ProxyHeader::Invalid),
        (b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", ProxyHeader::Invalid),
        (b"PROXY \xff\xff\r\n", ProxyHeader::Invalid),
        (&endless, ProxyHeader::Invalid),
        (&v2(1, 0x11, &[0; 4]), ProxyHeader::Invalid),
        (&v2(7, 0x11, &[0; 12]), ProxyHeader::Invalid),
        (&v2(1, 0x71, &[0; 12]), ProxyHeader::Invalid),
        (&long, ProxyHeader::Invalid),
    ] {
        assert_eq!(parse(bytes), expected, "{}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn no_input_panics_and_incomplete_headers_are_bounded(
        start in prop::sample::select(valid_headers()), cut in 0usize..240, noise in prop::collection::vec(any::<u8>(), 0..5000)
    ) {
        let mut bytes = start.0;
        bytes.truncate(cut);
        bytes.extend(noise);
        match parse(&bytes) {
            ProxyHeader::Present { length, .. } => prop_assert!(length <= bytes.len()),
            ProxyHeader::Incomplete if bytes.get(12) == Some(&V2_LOCAL) => prop_assert!(bytes.len() < LOCAL_BYTES_MAX),
            ProxyHeader::Incomplete => prop_assert!(bytes.len() < HEADER_BYTES_MAX),
            ProxyHeader::Absent | ProxyHeader::Invalid => {}
        }
    }
}
