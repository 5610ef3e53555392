//! Writes the frames of the gateway, which are neither masked nor fragmented (RFC 6455, sections 5.1 and 5.4).
//!
//! Invariant: a finished frame is one contiguous range of bytes, header and payload.
//!
//! [`text`] and the similar functions append a payload that exists already. To write a payload in place, call [`begin`], which
//! reserves room for the longest header, append the payload, and call [`finish`]. The length of the header depends on that of
//! the payload, so [`finish`] puts the header directly before the payload and returns where the frame starts. Up to eight
//! bytes before the frame stay unused. Nothing is moved.
//!
//! ```
//! use tickgate_protocol::wire::encode::{self, Kind};
//!
//! let mut out = Vec::new();
//! let frame = encode::begin(&mut out);
//! out.extend_from_slice(br#"{"type":"pong"}"#);
//! let range = encode::finish(&mut out, frame, Kind::Text);
//! assert_eq!(&out[range], b"\x81\x0f{\"type\":\"pong\"}");
//! ```

use std::ops::Range;

use crate::disconnect::Disconnect;

/// The length of the longest server header, in bytes: two bytes and a 64-bit length.
pub const HEADER_BYTES_MAX: usize = 10;

/// The limit on the payload of a control frame, in bytes (RFC 6455, section 5.5).
pub(super) const CONTROL_BYTES_MAX: usize = 125;

/// The RSV1 bit, which marks a compressed message (RFC 7692, section 6).
const RSV1: u8 = 0x40;

/// The kind of a frame, as its opcode (RFC 6455, section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A whole text message.
    Text = 0x1,
    /// A whole binary message.
    Binary = 0x2,
    /// A Close frame.
    Close = 0x8,
    /// A Ping frame.
    Ping = 0x9,
    /// A Pong frame.
    Pong = 0xa,
}

/// A frame header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    bytes: [u8; HEADER_BYTES_MAX],
    length: u8,
}

impl Header {
    /// The header of an unmasked, unfragmented frame with `payload_bytes` bytes of payload.
    #[must_use]
    pub fn new(kind: Kind, payload_bytes: usize) -> Self {
        let mut bytes = [0; HEADER_BYTES_MAX];
        bytes[0] = 0x80 | kind as u8;
        let length = if payload_bytes <= 125 {
            bytes[1] = payload_bytes as u8;
            2
        } else if let Ok(short) = u16::try_from(payload_bytes) {
            bytes[1] = 126;
            bytes[2..4].copy_from_slice(&short.to_be_bytes());
            4
        } else {
            bytes[1] = 127;
            bytes[2..10].copy_from_slice(&(payload_bytes as u64).to_be_bytes());
            10
        };
        Self { bytes, length }
    }

    /// The header of a compressed message: with RSV1 set (RFC 7692, section 6.1).
    pub(super) fn deflated(kind: Kind, payload_bytes: usize) -> Self {
        let mut header = Self::new(kind, payload_bytes);
        header.bytes[0] |= RSV1;
        header
    }

    /// The bytes of the header: 2, 4 or 10.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// A frame whose payload is being written. See [`begin`].
#[derive(Debug)]
#[must_use = "the frame has no header until `finish`"]
pub struct Begun {
    payload_start: usize,
}

/// Reserves room for a header at the end of `out`. Append the payload to `out`, then call [`finish`].
pub fn begin(out: &mut Vec<u8>) -> Begun {
    out.extend_from_slice(&[0; HEADER_BYTES_MAX]);
    Begun {
        payload_start: out.len(),
    }
}

/// Writes the header before the payload and returns the range of the frame in `out`.
///
/// The bytes that `out` held before [`begin`] must still be there.
pub fn finish(out: &mut [u8], begun: Begun, kind: Kind) -> Range<usize> {
    let header = Header::new(kind, out.len() - begun.payload_start);
    let start = begun.payload_start - header.as_slice().len();
    out[start..begun.payload_start].copy_from_slice(header.as_slice());
    start..out.len()
}

/// The first frame of a sequence of finished frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First<'f> {
    /// Whether the frame is an uncompressed text message.
    pub is_text: bool,
    /// Whether it is a Close frame.
    pub is_close: bool,
    /// The payload.
    pub payload: &'f [u8],
    /// The length of the frame in bytes, including the header.
    pub bytes: usize,
}

/// Reads the first of several frames that this module wrote, for a transport that needs only the payloads. `None` if the frame
/// is incomplete.
#[must_use]
pub fn first(frames: &[u8]) -> Option<First<'_>> {
    let [first, length, ..] = *frames else { return None };
    let (header, payload) = match length {
        127 => (
            10,
            usize::try_from(u64::from_be_bytes(*frames.get(2..)?.first_chunk()?)).ok()?,
        ),
        126 => (4, u16::from_be_bytes(*frames.get(2..)?.first_chunk()?).into()),
        length => (2, length.into()),
    };
    Some(First {
        is_text: first == 0x80 | Kind::Text as u8,
        is_close: first == 0x80 | Kind::Close as u8,
        payload: frames.get(header..)?.get(..payload)?,
        bytes: header + payload,
    })
}

/// The kind and the payload of one finished uncompressed frame; `None` for any other bytes.
pub(super) fn split(frame: &[u8]) -> Option<(Kind, &[u8])> {
    let [first, second, rest @ ..] = frame else { return None };
    let kind = [Kind::Text, Kind::Binary, Kind::Close, Kind::Ping, Kind::Pong]
        .into_iter()
        .find(|kind| *first == 0x80 | *kind as u8)?;
    let (length, payload) = match second {
        126 => rest
            .split_first_chunk::<2>()
            .map(|(length, payload)| (u64::from(u16::from_be_bytes(*length)), payload))?,
        127 => rest
            .split_first_chunk::<8>()
            .map(|(length, payload)| (u64::from_be_bytes(*length), payload))?,
        short => (u64::from(*short), rest),
    };
    (length == payload.len() as u64).then_some((kind, payload))
}

/// The length of the payload of one finished frame, in bytes. The frame may be compressed.
#[must_use]
pub fn payload_bytes(frame: &[u8]) -> usize {
    let header_bytes = match frame.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    };
    frame.len().saturating_sub(header_bytes)
}

/// Appends a text frame.
pub fn text(out: &mut Vec<u8>, payload: &str) {
    append(out, Kind::Text, payload.as_bytes());
}

/// Appends a binary frame.
pub fn binary(out: &mut Vec<u8>, payload: &[u8]) {
    append(out, Kind::Binary, payload);
}

/// Appends a Ping frame with at most the first 125 bytes of `payload`.
pub fn ping(out: &mut Vec<u8>, payload: &[u8]) {
    append(out, Kind::Ping, control(payload));
}

/// Appends a Pong frame with at most the first 125 bytes of `payload`. The payload of a Ping from the decoder is never longer.
pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    append(out, Kind::Pong, control(payload));
}

/// Appends the Close frame for the end of a connection. Appends nothing for [`Disconnect::Lost`], whose code must not be sent.
pub fn close(out: &mut Vec<u8>, ending: Disconnect) {
    close_because(out, ending, ending.reason());
}

/// Like [`close`], with a reason of at most 123 bytes instead of the usual one.
pub fn close_because(out: &mut Vec<u8>, ending: Disconnect, reason: &'static str) {
    debug_assert!(reason.len() <= REASON_BYTES_MAX, "{reason}");
    if ending != Disconnect::Lost {
        close_with(out, ending.code(), reason);
    }
}

/// Appends the Close frame that answers the client's: with the same code, or without a code (RFC 6455, section 5.5.1).
pub fn close_echo(out: &mut Vec<u8>, received: Option<u16>) {
    match received {
        Some(code) => append(out, Kind::Close, &code.to_be_bytes()),
        None => append(out, Kind::Close, &[]),
    }
}

/// The limit on the reason of a Close frame, in bytes: a control frame has at most 125, and the code takes two.
const REASON_BYTES_MAX: usize = 123;

fn close_with(out: &mut Vec<u8>, code: u16, reason: &str) {
    let [high, low] = code.to_be_bytes();
    out.extend_from_slice(Header::new(Kind::Close, 2 + reason.len()).as_slice());
    out.extend_from_slice(&[high, low]);
    out.extend_from_slice(reason.as_bytes());
}

fn append(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    let header = Header::new(kind, payload.len());
    out.reserve(header.as_slice().len() + payload.len());
    out.extend_from_slice(header.as_slice());
    out.extend_from_slice(payload);
}

fn control(payload: &[u8]) -> &[u8] {
    &payload[..payload.len().min(CONTROL_BYTES_MAX)]
}
