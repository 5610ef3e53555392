//! Decompresses messages of a server that compresses without context takeover (RFC 7692), with another library than
//! the gateway uses.
//!
//! Invariant: The result depends on the given bytes only. If they equal the previous message's bytes, its result is
//! reused, so a broadcast costs one decompression and one comparison for each client.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

/// The extension that a client offers. Neither side keeps a window between messages.
pub(crate) const OFFER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// The end of a compressed message, which is not sent (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Default)]
pub(crate) struct Inflater {
    stream: Box<DecompressorOxide>,
    /// The input that `message` was decompressed from, with [`TAIL`].
    compressed: Vec<u8>,
    message: Vec<u8>,
}

impl Inflater {
    /// Decompresses a message.
    pub(crate) fn inflate(&mut self, compressed: &[u8]) -> Result<&[u8], String> {
        if self.compressed.strip_suffix(&TAIL) != Some(compressed) {
            self.compressed.clear();
            self.message.clear();
            let message = self.inflate_anew(compressed);
            // The bytes of a malformed message are forgotten, so the same bytes are an error again.
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
                _ => return Err("the server sent a malformed compressed message".into()),
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
    fn each_message_is_decompressed_independently() {
        let mut inflater = Inflater::default();
        // The examples of RFC 7692, sections 7.2.3.1 to 7.2.3.4, and an empty message.
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        for _ in 0..2 {
            assert_eq!(inflater.inflate(&hello), Ok(&b"Hello"[..]));
        }
        assert_eq!(inflater.inflate(&stored(&[b'x'; 5000])), Ok(&[b'x'; 5000][..]));
        assert_eq!(inflater.inflate(&[0x00]), Ok(&b""[..]));
        // A reference into the previous message is an error, also the second time.
        for _ in 0..2 {
            assert!(inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00]).is_err());
        }
        assert_eq!(inflater.inflate(&hello), Ok(&b"Hello"[..]));
    }
}
