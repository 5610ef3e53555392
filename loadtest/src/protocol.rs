//! The parts of HTTP/1.1 and RFC 6455 that a client needs, deliberately independent of the gateway's own codec.

use std::fmt::Write as _;

use memchr::memmem::Finder;

use crate::adapter::TokenBy;
use crate::deflate;
use crate::options::Url;

/// A constant key suffices, and its `Sec-WebSocket-Accept` is known (RFC 6455, section 1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The upgrade request; with `compression` it offers [`deflate::OFFER`].
pub(crate) fn upgrade_request(url: &Url, by: TokenBy, token: Option<&str>, compression: bool) -> String {
    let Url { host, path, .. } = url;
    let (mut query, mut header) = (String::new(), String::new());
    match (by, token) {
        (TokenBy::Query, Some(token)) => {
            let separator = if path.contains('?') { '&' } else { '?' };
            query = format!("{separator}token={token}");
        }
        (TokenBy::Header, Some(token)) => header = format!("Authorization: Bearer {token}\r\n"),
        _ => {}
    }
    if compression {
        header.push_str(&format!("Sec-WebSocket-Extensions: {}\r\n", deflate::OFFER));
    }
    format!(
        "GET {path}{query} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{header}\r\n"
    )
}

/// The length of the server's response, or `None` while it is incomplete. It is an error if the response refuses the
/// upgrade, declines compression that was offered, or agrees on any other extension.
pub(crate) fn upgrade_response(bytes: &[u8], compression: bool) -> Result<Option<usize>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(format!("bad handshake response: {error}")),
    };
    if response.code != Some(101) {
        let body = String::from_utf8_lossy(&bytes[length..]);
        return Err(format!("the server answered {} {body}", response.code.unwrap_or(0)));
    }
    let accept = response
        .headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("sec-websocket-accept"));
    if accept.is_none_or(|header| header.value != ACCEPT.as_bytes()) {
        return Err("wrong Sec-WebSocket-Accept".into());
    }
    check_extensions(response.headers, compression)?;
    Ok(Some(length))
}

fn check_extensions(headers: &[httparse::Header<'_>], compression: bool) -> Result<(), String> {
    let values = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("sec-websocket-extensions"))
        .map(|header| String::from_utf8_lossy(header.value));
    let agreed = values.collect::<Vec<_>>().join(", ");
    let mut parts = agreed.split(';').map(str::trim);
    match parts.next() {
        Some("") if !compression => Ok(()),
        Some("") => Err("the server does not compress".into()),
        Some("permessage-deflate") if compression && !agreed.contains(',') => parts
            .any(|part| part == "server_no_context_takeover")
            .then_some(())
            .ok_or_else(|| format!("the server keeps a window between messages: {agreed}")),
        _ => Err(format!(
            "the server agreed on an extension that was not offered: {agreed}"
        )),
    }
}

/// A client's frame. The mask is zero, which is legal though not random; the server has to unmask the payload anyway.
pub(crate) fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        middle @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((middle as u16).to_be_bytes());
        }
        long => {
            frame.push(0x80 | 127);
            frame.extend((long as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend_from_slice(payload);
    frame
}

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// One complete server frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame<'a> {
    pub(crate) opcode: u8,
    pub(crate) deflated: bool,
    pub(crate) payload: &'a [u8],
}

/// The frame at the start of `bytes` and its length, or `None` while it is incomplete.
pub(crate) fn server_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, usize)>, String> {
    let [first, second, rest @ ..] = bytes else {
        return Ok(None);
    };
    if first & 0x80 == 0 || second & 0x80 != 0 {
        return Err("the server sent a fragment or a masked frame".into());
    }
    if first & 0x30 != 0 {
        return Err("the server sent a frame of an extension that was not offered".into());
    }
    let (length, head) = match second {
        126 => match rest.first_chunk::<2>() {
            Some(field) => (u64::from(u16::from_be_bytes(*field)), 4),
            None => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(field) => (u64::from_be_bytes(*field), 10),
            None => return Ok(None),
        },
        short => (u64::from(*short), 2),
    };
    let end = usize::try_from(length)
        .ok()
        .and_then(|length| length.checked_add(head))
        .ok_or("impossible length")?;
    Ok(bytes.get(head..end).map(|payload| {
        (
            Frame {
                opcode: first & 0x0f,
                deflated: first & 0x40 != 0,
                payload,
            },
            end,
        )
    }))
}

/// The stamp that the tool puts into an event's `data`. Any server that passes the data on can be measured by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Index of the channel.
    pub(crate) channel: u64,
    /// Number of the event in its channel, from 1.
    pub(crate) sequence: u64,
    /// When the event was due, in nanoseconds since the tool started.
    pub(crate) due_ns: u64,
}

const MARK: &[u8] = b"\"loadtest\":[";

impl Stamp {
    /// The `data` of exactly `bytes` bytes, or the shortest possible one if that is longer.
    pub(crate) fn data(&self, bytes: usize) -> String {
        let Self {
            channel,
            sequence,
            due_ns,
        } = self;
        let mut data = format!("{{\"loadtest\":[{channel},{sequence},{due_ns}],\"pad\":\"");
        let pad_bytes = bytes.saturating_sub(data.len() + 2);
        pad(
            &mut data,
            pad_bytes,
            channel.wrapping_mul(1 << 32).wrapping_add(*sequence),
        );
        data.push_str("\"}");
        data
    }

    /// Calls `each` with every stamp in a message. Some servers put several events into one message.
    pub(crate) fn each(finder: &Finder<'_>, message: &[u8], mut each: impl FnMut(Self)) {
        let mut rest = message;
        while let Some(at) = finder.find(rest) {
            rest = &rest[at + MARK.len()..];
            if let Some(([channel, sequence, due_ns], b']')) = numbers(rest, b',') {
                each(Self {
                    channel,
                    sequence,
                    due_ns,
                });
            }
        }
    }

    pub(crate) fn finder() -> Finder<'static> {
        Finder::new(MARK)
    }
}

/// Appends `bytes` bytes of text like that of real events, with names that repeat and numbers that do not. So it
/// compresses about as well as real events. The same seed gives the same text.
fn pad(text: &mut String, bytes: usize, seed: u64) {
    const NAMES: [&str; 6] = [
        "price",
        "quantity",
        "filled",
        "order_id",
        "updated_at",
        "unrealized_pnl",
    ];
    let (end, mut random) = (text.len() + bytes, seed);
    for name in NAMES.iter().cycle() {
        if text.len() >= end {
            break;
        }
        // Knuth's MMIX generator; its high bits are the most random ones.
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        // Writing to a string cannot fail.
        let _ = write!(text, "{name}:{}.{:02},", random >> 48, (random >> 32) % 100);
    }
    text.truncate(end);
}

/// The id of a request. Its answer repeats the id, which says when the request was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestId {
    pub(crate) due_ns: u64,
    pub(crate) sequence: u64,
}

const REQUEST_MARK: &[u8] = b"lt:";

impl RequestId {
    pub(crate) fn text(&self) -> String {
        format!("lt:{}:{}:", self.due_ns, self.sequence)
    }

    /// The id in an answer, if there is one.
    pub(crate) fn find(finder: &Finder<'_>, message: &[u8]) -> Option<Self> {
        let at = finder.find(message)? + REQUEST_MARK.len();
        let ([due_ns, sequence], _) = numbers(&message[at..], b':')?;
        Some(Self { due_ns, sequence })
    }

    pub(crate) fn finder() -> Finder<'static> {
        Finder::new(REQUEST_MARK)
    }
}

/// `N` decimal numbers with `separator` between them, and the byte after the last one.
fn numbers<const N: usize>(bytes: &[u8], separator: u8) -> Option<([u64; N], u8)> {
    let (mut numbers, mut index) = ([0u64; N], 0);
    for &byte in bytes {
        match byte {
            b'0'..=b'9' => numbers[index] = numbers[index].wrapping_mul(10).wrapping_add(u64::from(byte - b'0')),
            end if index + 1 == N => return Some((numbers, end)),
            _ if byte == separator => index += 1,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_found_in_an_envelope() {
        let stamp = Stamp {
            channel: 3,
            sequence: 41,
            due_ns: 123_456_789,
        };
        let data = stamp.data(157);
        assert_eq!(data.len(), 157);
        assert_eq!(stamp.data(10).len(), stamp.data(60).len().min(stamp.data(0).len()));
        let found = |message: &str| {
            let mut all = Vec::new();
            Stamp::each(&Stamp::finder(), message.as_bytes(), |stamp| all.push(stamp));
            all
        };
        let message = format!("{{\"type\":\"event\",\"channel\":\"load.3\",\"data\":{data}}}");
        assert_eq!(found(&message), [stamp]);
        assert_eq!(found(&format!("{message}\n{message}")), [stamp, stamp]);
        assert_eq!(found("{\"loadtest\":[1,2"), []);
        assert_eq!(found("{\"loadtest\":[1,2,3,4]"), []);
        assert_eq!(found("{\"type\":\"pong\"}"), []);
    }

    #[test]
    fn a_request_id_is_found_in_an_answer() {
        let id = RequestId {
            due_ns: 1_234_567,
            sequence: 9,
        };
        let find = |message: &str| RequestId::find(&RequestId::finder(), message.as_bytes());
        assert_eq!(
            find(&format!("{{\"id\":\"{}\",\"success\":true}}", id.text())),
            Some(id)
        );
        assert_eq!(find(&id.text()), Some(id));
        assert_eq!(find("{\"result\":1}"), None);
        assert_eq!(find("lt:12"), None);
    }

    #[test]
    fn a_token_is_sent_in_the_query_or_the_header() {
        let url = |path: &str| Url::parse(&format!("ws://127.0.0.1:1{path}"), "/").unwrap();
        for (path, by, token, expected) in [
            ("/ws", TokenBy::Query, Some("t"), "GET /ws?token=t HTTP/1.1\r\n"),
            (
                "/s/?EIO=4",
                TokenBy::Query,
                Some("t"),
                "GET /s/?EIO=4&token=t HTTP/1.1\r\n",
            ),
            ("/ws", TokenBy::Query, None, "GET /ws HTTP/1.1\r\n"),
            ("/ws", TokenBy::Header, Some("t"), "\r\nAuthorization: Bearer t\r\n"),
            ("/ws", TokenBy::Frame, Some("t"), "GET /ws HTTP/1.1\r\n"),
        ] {
            let request = upgrade_request(&url(path), by, token, false);
            assert!(request.contains(expected) && request.ends_with("\r\n\r\n"), "{request}");
            assert!(!request.contains("Extensions"), "{request}");
        }
    }

    #[test]
    fn server_frames_of_every_length_encoding_are_parsed() {
        for length in [0usize, 5, 125, 126, 65_535, 65_536] {
            let mut bytes = vec![0x81];
            match length {
                0..126 => bytes.push(length as u8),
                126..65_536 => bytes.extend([&[126][..], &(length as u16).to_be_bytes()].concat()),
                _ => bytes.extend([&[127][..], &(length as u64).to_be_bytes()].concat()),
            }
            bytes.extend(vec![b'x'; length]);
            let whole = bytes.len();
            assert_eq!(server_frame(&bytes[..whole - 1]), Ok(None));
            bytes.push(0x89);
            let (frame, used) = server_frame(&bytes).unwrap().unwrap();
            assert_eq!((frame.opcode, frame.payload.len(), used), (TEXT, length, whole));
            assert!(!frame.deflated);
        }
        assert!(server_frame(&[0xc1, 0]).unwrap().unwrap().0.deflated);
        assert!(server_frame(&[0xa1, 0]).is_err());
        assert!(server_frame(&[0x01, 0]).is_err());
        assert!(server_frame(&[0x81, 0x80, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn the_handshake_is_checked() {
        let good = format!("HTTP/1.1 101 Switching Protocols\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n");
        assert_eq!(upgrade_response(good.as_bytes(), false), Ok(Some(good.len())));
        assert_eq!(upgrade_response(&good.as_bytes()[..30], false), Ok(None));
        assert!(
            upgrade_response(b"HTTP/1.1 401 Unauthorized\r\n\r\n{}", false)
                .unwrap_err()
                .contains("401")
        );
        assert!(upgrade_response(b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: no\r\n\r\n", false).is_err());
    }

    #[test]
    fn declined_compression_is_an_error() {
        let url = Url::parse("ws://127.0.0.1:1/ws", "/").unwrap();
        let request = upgrade_request(&url, TokenBy::Header, Some("t"), true);
        let offer = format!("\r\nSec-WebSocket-Extensions: {}\r\n\r\n", deflate::OFFER);
        assert!(
            request.contains("Bearer t\r\n") && request.ends_with(&offer),
            "{request}"
        );
        let answer = |extensions: &str, compression| {
            let head = format!("HTTP/1.1 101 X\r\nsec-websocket-accept: {ACCEPT}\r\n{extensions}\r\n");
            upgrade_response(head.as_bytes(), compression).map(|length| length.is_some())
        };
        let header = |value: &str| format!("Sec-WebSocket-Extensions: {value}\r\n");
        let forgets = header("permessage-deflate; server_max_window_bits=12; server_no_context_takeover");
        assert_eq!(answer(&forgets, true), Ok(true));
        for (extensions, compression, told) in [
            (forgets.as_str(), false, "not offered"),
            ("", true, "does not compress"),
            (&header("permessage-deflate"), true, "keeps a window"),
            (&header("x-other"), true, "not offered"),
            (&(forgets.clone() + &header("x-other")), true, "not offered"),
        ] {
            let error = answer(extensions, compression).unwrap_err();
            assert!(error.contains(told), "{extensions}: {error}");
        }
    }
}
