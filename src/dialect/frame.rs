//! Frames whose length is known only when their payload is written: room for the longest header is left in front,
//! and the header is then put right before the payload.

use std::ops::Range;

pub(super) const TEXT: u8 = 0x1;
pub(super) const BINARY: u8 = 0x2;
pub(super) const CLOSE: u8 = 0x8;
pub(super) const PING: u8 = 0x9;
pub(super) const PONG: u8 = 0xA;

/// The longest header of an unmasked frame: two bytes and a 64-bit length.
pub(super) const HEADER_BYTES_MAX: usize = 10;

/// Appends a final frame whose payload `write` appends; says where the frame lies in `out`.
pub(super) fn append(out: &mut Vec<u8>, opcode: u8, write: impl FnOnce(&mut Vec<u8>)) -> Range<usize> {
    out.extend_from_slice(&[0; HEADER_BYTES_MAX]);
    let payload = out.len();
    write(out);
    let len = out.len() - payload;
    let first = 0x80 | opcode;
    let start = match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..126), _) => {
            out[payload - 2..payload].copy_from_slice(&[first, len]);
            payload - 2
        }
        (_, Ok(len)) => {
            out[payload - 4..payload - 2].copy_from_slice(&[first, 126]);
            out[payload - 2..payload].copy_from_slice(&len.to_be_bytes());
            payload - 4
        }
        _ => {
            out[payload - 10..payload - 8].copy_from_slice(&[first, 127]);
            out[payload - 8..payload].copy_from_slice(&(len as u64).to_be_bytes());
            payload - 10
        }
    };
    start..out.len()
}
