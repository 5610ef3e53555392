//! permessage-deflate: what a client sends as a compressed message, and what the gateway compresses.
//!
//! 1. Any bytes are a message within the limit or an error, the same for every cut into reads.
//! 2. Another inflater, which shares no code with the gateway's, says the same: the same message, or that there is none.
//! 3. What the gateway compresses is shorter, and is inflated to the same with exactly the limit it needs.
//! 4. A header's offer that is accepted is answered with a window that it allows.

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::{TINFL_FLAG_HAS_MORE_INPUT, TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF};
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};
use tickgate_protocol::wire::{Decoder, Error, Inflater, Message, deflate, encode, negotiate};

/// The limit on a message, small so that it is met.
const MESSAGE_BYTES_MAX: u32 = 4096;

/// One fuzz input: its first byte chooses what the rest is.
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

/// miniz_oxide, made to read a message as RFC 7692 has it (section 7.2.2).
struct Reference {
    stream: DecompressorOxide,
    streams: usize,
    message: Vec<u8>,
    /// Bytes of all streams, and of those before this one, to which it cannot refer.
    given: usize,
    begin: usize,
}

/// `None`: it is too long, or no deflate stream, or one that is cut off.
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
        reference.feed(&[0, 0, 0xff, 0xff])?;
        // A block of nothing that is marked as the last shows that no other was open.
        let closed = reference.decompress(&[0x03, 0x00]) == (TINFLStatus::Done, 2, 0);
        if reference.given != message_bytes || !closed {
            return None;
        }
    }
    reference.message.truncate(message_bytes);
    Some(reference.message)
}

impl Reference {
    /// Returns whether a stream ended with the last byte.
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
        // The answer is itself an offer that would be accepted as the same.
        assert_eq!(negotiate::accept([agreement.answer().as_str()]), Some(agreement));
    }
}

/// The one message of a stream, in reads of `read_bytes`.
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

/// A compressed binary message with a mask of zeros.
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
