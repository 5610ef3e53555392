//! The frame header (RFC 6455, section 5.2) and every rule that the header alone can break.
//!
//! Invariant: rules are checked in the order of the bytes they depend on, each as soon as its byte has arrived. So the first
//! broken rule does not depend on how the header is split into reads, and an invalid first byte is refused at once.

use super::Error;
use super::deflate::compressed_bytes_max;
use super::encode::CONTROL_BYTES_MAX;

/// The length of the longest client header, in bytes: two bytes, a 64-bit length and the masking key.
pub(super) const HEADER_BYTES_MAX: usize = 14;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// A header that passed all checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header {
    pub(super) fin: bool,
    pub(super) opcode: Opcode,
    /// Whether RSV1 is set: the message that starts with this frame is compressed (RFC 7692, section 6).
    pub(super) deflated: bool,
    pub(super) mask: [u8; 4],
    pub(super) payload_bytes: usize,
}

impl Header {
    /// Whether the frame is a control frame or a whole unfragmented message.
    pub(super) const fn stands_alone(&self) -> bool {
        self.opcode.is_control() || (self.fin && !matches!(self.opcode, Opcode::Continuation))
    }
}

/// The state of the connection that a header is checked against.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context {
    /// Whether permessage-deflate was negotiated.
    pub(super) deflate: bool,
    /// The fragmented message in progress, if any.
    pub(super) assembled: Option<Assembled>,
    /// The size limit of a whole message, in bytes.
    pub(super) message_bytes_max: usize,
}

/// A fragmented message in progress.
#[derive(Clone, Copy, Debug)]
pub(super) struct Assembled {
    /// The number of payload bytes so far, as they arrived.
    pub(super) bytes: usize,
    /// Whether the message is compressed.
    pub(super) deflated: bool,
}

/// Reads the header at the start of `bytes`. Returns it with its length in bytes, or `None` if it is incomplete.
pub(super) fn parse(bytes: &[u8], context: Context) -> Result<Option<(Header, usize)>, Error> {
    let [first, rest @ ..] = bytes else { return Ok(None) };
    let opcode = check_first(*first, context)?;
    let deflated = first & RSV1 != 0;
    let [second, rest @ ..] = rest else { return Ok(None) };
    let length_code = check_second(*second, opcode)?;
    let Some((length, rest)) = parse_length(length_code, rest)? else {
        return Ok(None);
    };
    let payload_bytes = check_limit(length, opcode, deflated, context)?;
    let Some((mask, rest)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let header = Header {
        fin: first & 0x80 != 0,
        opcode,
        deflated,
        mask: *mask,
        payload_bytes,
    };
    Ok(Some((header, bytes.len() - rest.len())))
}

const RSV1: u8 = 0x40;

fn check_first(byte: u8, context: Context) -> Result<Opcode, Error> {
    let in_message = context.assembled.is_some();
    if byte & RSV1 != 0 && !context.deflate {
        return Err(Error::Protocol("RSV1 is set without an extension"));
    }
    if byte & 0x30 != 0 {
        return Err(Error::Protocol("RSV2 or RSV3 is set without an extension"));
    }
    let opcode = match byte & 0x0f {
        0x0 => Opcode::Continuation,
        0x1 => Opcode::Text,
        0x2 => Opcode::Binary,
        0x8 => Opcode::Close,
        0x9 => Opcode::Ping,
        0xa => Opcode::Pong,
        _ => return Err(Error::Protocol("reserved opcode")),
    };
    // Only the first frame of a compressed message has RSV1 set (RFC 7692, section 6.1).
    if byte & RSV1 != 0 && !matches!(opcode, Opcode::Text | Opcode::Binary) {
        return Err(Error::Protocol(
            "RSV1 is set on a frame that does not begin a data message",
        ));
    }
    let fin = byte & 0x80 != 0;
    match opcode {
        Opcode::Close | Opcode::Ping | Opcode::Pong if !fin => Err(Error::Protocol("fragmented control frame")),
        Opcode::Continuation if !in_message => Err(Error::Protocol("continuation without a message")),
        Opcode::Text | Opcode::Binary if in_message => Err(Error::Protocol("new message inside a fragmented one")),
        _ => Ok(opcode),
    }
}

fn check_second(byte: u8, opcode: Opcode) -> Result<u8, Error> {
    if byte & 0x80 == 0 {
        return Err(Error::Protocol("frame is not masked"));
    }
    let length_code = byte & 0x7f;
    if opcode.is_control() && usize::from(length_code) > CONTROL_BYTES_MAX {
        return Err(Error::Protocol("control frame longer than 125 bytes"));
    }
    Ok(length_code)
}

/// Reads the payload length. Returns it with the bytes after it.
fn parse_length(length_code: u8, rest: &[u8]) -> Result<Option<(u64, &[u8])>, Error> {
    let (length, shortest, rest) = match length_code {
        126 => match rest.split_first_chunk::<2>() {
            Some((field, rest)) => (u64::from(u16::from_be_bytes(*field)), 126, rest),
            None => return Ok(None),
        },
        127 => match rest.split_first_chunk::<8>() {
            Some((field, rest)) => (u64::from_be_bytes(*field), 1 << 16, rest),
            None => return Ok(None),
        },
        short => (u64::from(short), 0, rest),
    };
    if length >> 63 != 0 {
        return Err(Error::Protocol("top bit of a 64-bit length is set"));
    }
    if length < shortest {
        return Err(Error::Protocol("length is not in its shortest form"));
    }
    Ok(Some((length, rest)))
}

/// Refuses a message above the size limit before memory is allocated for it.
fn check_limit(length: u64, opcode: Opcode, deflated: bool, context: Context) -> Result<usize, Error> {
    let length = usize::try_from(length).map_err(|_| Error::TooBig)?;
    let assembled = context.assembled.unwrap_or(Assembled { bytes: 0, deflated });
    let max = if assembled.deflated {
        compressed_bytes_max(context.message_bytes_max)
    } else {
        context.message_bytes_max
    };
    let room = max.saturating_sub(assembled.bytes);
    if !opcode.is_control() && length > room {
        return Err(Error::TooBig);
    }
    Ok(length)
}
