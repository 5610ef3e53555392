//! Messages that a server has compressed without context takeover (RFC 7692), inflated by another library than the
//! gateway's.
//!
//! Invariant: what is given back is what the bytes at hand say. Those that are the same as before are not inflated again,
//! so a broadcast costs the tool one inflation and a comparison for each client.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// What a client offers. Nothing is kept between messages then, whatever the server would like.
pub(crate) const OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What ends a message and is not sent (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct Inflater {
    stream: Box<DecompressorOxide>,
    /// What `message` was made of, and the tail.
    compressed: Vec<u8>,
    message: Vec<u8>,
}

impl Inflater {
    /// The message that was compressed to these bytes.
    pub(crate) fn inflate(&mut self, compressed: &[u8]) -> Result<&[u8], String> {
        if self.compressed.strip_suffix(&TAIL) != Some(compressed) {
            self.compressed.clear();
            self.message.clear();
            let message = self.inflate_anew(compressed);
            // What is wrong is never taken for known.
            message.inspect_err(|_| self.compressed.clear())?;
        }
        Ok(&self.message)
    }

    fn inflate_anew(&mut self, compressed: &[u8]) -> Result<(), String> {
        self.compressed.extend_from_slice(compressed);
        self.compressed.extend_from_slice(&TAIL);
        self.stream.init();
        let (mut taken, mut given) = (0, 0);
        loop {
            let room = (4 * self.compressed.len()).max(2 * given);
            if given + room > MESSAGE_BYTES_MAX {
                return Err("the server sent a compressed message that is too long".into());
            }
            self.message.resize(given + room, 0);
            let flags = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
            let input = &self.compressed[taken..];
            let (status, used, made) = decompress(&mut self.stream, input, &mut self.message, given, flags);
            (taken, given) = (taken + used, given + made);
            match status {
                TINFLStatus::NeedsMoreInput | TINFLStatus::Done => break,
                TINFLStatus::HasMoreOutput => {}
                _ => return Err("the server sent a compressed message that is none".into()),
            }
        }
        self.message.truncate(given);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message in one stored block, flushed.
    fn stored(message: &[u8]) -> Vec<u8> {
        let length = u16::try_from(message.len()).unwrap().to_le_bytes();
        let inverted = length.map(|byte| !byte);
        [&[0][..], &length, &inverted, message, &[0]].concat()
    }

    #[test]
    fn messages_are_inflated_each_by_itself() {
        let mut inflater = Inflater::default();
        // Section 7.2.3.1 to 7.2.3.4, and nothing at all.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for _ in 0..2 {
            assert_eq!(inflater.inflate(&hello), Ok(&b"Hello"[..]));
        }
        assert_eq!(inflater.inflate(&stored(&[b'x'; 5000])), Ok(&[b'x'; 5000][..]));
        assert_eq!(inflater.inflate(&[0x00]), Ok(&b""[..]));
        // A reference into the message before it; the same again is no better.
        for _ in 0..2 {
            assert!(inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00]).is_err());
        }
        assert_eq!(inflater.inflate(&hello), Ok(&b"Hello"[..]));
    }
}
