//! permessage-deflate (RFC 7692): inflating a client's messages, compressing messages, and the negotiation.
//!
//! 1. Any bytes give a message within the size limit or an error, however they are split into reads.
//! 2. An independent inflater gives the same message, or also an error.
//! 3. A compressed message is shorter. It inflates to the original if the size limit is exactly its length.
//! 4. The response to an accepted offer has a window that the offer allows.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use tickgate_protocol::wire::{Decoder, Error, Inflater, Message, deflate, encode, negotiate};

/// The size limit of a message, in bytes. It is small, so that inputs reach it.
const MESSAGE_BYTES_MAX: u32 = 4096;

/// Checks one fuzz input. Its first byte chooses the meaning of the rest.
pub fn check_input(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    match choice % 3 {
        0 => inflate(choice, rest),
        1 => round_trip(rest),
        _ => negotiate_header(rest),
    }
}

fn inflate(choice: u8, compressed: &[u8]) {
    let whole = decode(&client_frame(compressed), usize::MAX, MESSAGE_BYTES_MAX);
    assert_eq!(
        decode(&client_frame(compressed), usize::from(choice) + 1, MESSAGE_BYTES_MAX),
        whole
    );
    if let Ok(Some(message)) = &whole {
        assert!(message.len() <= MESSAGE_BYTES_MAX as usize);
    }
    assert_eq!(
        whole.clone().ok().flatten(),
        inflate_by_reference(compressed),
        "{compressed:02x?}, {whole:02x?}"
    );
}

/// An inflater for messages (RFC 7692, section 7.2.2) that is built on miniz_oxide.
struct Reference {
    stream: DecompressorOxide,
    streams: usize,
    message: Vec<u8>,
    /// The number of bytes from all streams.
    given: usize,
    /// The number of bytes from earlier streams, to which the current one cannot refer.
    begin: usize,
}

/// Inflates a message. `None` if it is too long, is not a deflate stream, or is truncated.
fn inflate_by_reference(compressed: &[u8]) -> Option<Vec<u8>> {
    let mut reference = Reference {
        stream: DecompressorOxide::new(),
        streams: 1,
        message: vec![0; MESSAGE_BYTES_MAX as usize + 1],
        given: 0,
        begin: 0,
    };
    let ends_the_stream = compressed.is_empty() || reference.feed(compressed)?;
    let message_bytes = reference.given;
    if !ends_the_stream {
        // Some senders leave the tail on.
        let tail = [0, 0, 0xff, 0xff];
        if !compressed.ends_with(&tail) {
            reference.feed(&tail)?;
        }
        // An empty final block ends the stream only if no other block is open.
        let closed = reference.decompress(&[0x03, 0x00]) == (TINFLStatus::Done, 2, 0);
        if reference.given != message_bytes || !closed {
            return None;
        }
    }
    reference.message.truncate(message_bytes);
    Some(reference.message)
}

impl Reference {
    /// Inflates `part`. Returns whether a stream ended with its last byte; `None` on an error.
    fn feed(&mut self, mut part: &[u8]) -> Option<bool> {
        const STREAMS_MAX: usize = 8;
        loop {
            let (status, used, made) = self.decompress(part);
            part = &part[used..];
            self.given += made;
            match status {
                _ if self.given > MESSAGE_BYTES_MAX as usize => return None,
                TINFLStatus::Done if self.streams == STREAMS_MAX => return None,
                TINFLStatus::Done => {
                    self.streams += 1;
                    self.begin = self.given;
                    self.stream.init();
                    if part.is_empty() {
                        return Some(true);
                    }
                }
                TINFLStatus::NeedsMoreInput => return Some(false),
                _ => return None,
            }
        }
    }

    fn decompress(&mut self, part: &[u8]) -> (TINFLStatus, usize, usize) {
        let flags = TINFL_FLAG_HAS_MORE_INPUT | TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
        let (out, position) = (&mut self.message[self.begin..], self.given - self.begin);
        decompress(&mut self.stream, part, out, position, flags)
    }
}

fn round_trip(message: &[u8]) {
    let mut plain = Vec::new();
    encode::binary(&mut plain, message);
    let Some(twin) = deflate::frame(&plain, 1) else { return };
    assert!(twin.len() < plain.len());
    let payload = &twin[twin.len() - encode::payload_bytes(&twin)..];
    let limit = u32::try_from(message.len()).expect("a short input");
    assert_eq!(decode(&client_frame(payload), 100, limit), Ok(Some(message.to_vec())));
    assert_eq!(decode(&client_frame(payload), 100, limit - 1), Err(Error::TooBig));
}

fn negotiate_header(header: &[u8]) {
    let Ok(header) = std::str::from_utf8(header) else {
        return;
    };
    if let Some(agreement) = negotiate::accept([header]) {
        assert!((9..=15).contains(&agreement.deflate.window_bits));
        assert!(header.contains("permessage-deflate"));
        // The response is itself a valid offer with the same result.
        assert_eq!(negotiate::accept([agreement.answer().as_str()]), Some(agreement));
    }
}

/// The first message of a stream, in reads of `read_bytes`.
fn decode(stream: &[u8], read_bytes: usize, message_bytes_max: u32) -> Result<Option<Vec<u8>>, Error> {
    let mut decoder = Decoder::new(message_bytes_max).with_deflate();
    let mut inflater = Inflater::default();
    for read in stream.chunks(read_bytes.min(stream.len()).max(1)) {
        let mut scratch = read.to_vec();
        let mut position = 0;
        if let Some(message) = decoder.next(&mut scratch, &mut position, &mut inflater)? {
            let Message::Binary(bytes) = message else {
                unreachable!("a binary frame")
            };
            return Ok(Some(bytes.to_vec()));
        }
    }
    Ok(None)
}

/// A client frame with a compressed binary message and a masking key of zeros.
fn client_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = encode::Header::new(encode::Kind::Binary, payload.len())
        .as_slice()
        .to_vec();
    frame[0] |= 0x40;
    frame[1] |= 0x80;
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
