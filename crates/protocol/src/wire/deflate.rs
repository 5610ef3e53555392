//! permessage-deflate (RFC 7692), without context takeover on both sides.
//!
//! Invariants:
//!
//! * Each message is compressed and inflated on its own. No state passes from one message to the next, so no connection
//!   holds any.
//! * An inflated message exceeds its size limit by at most one byte, whatever its compressed form contains.
//!
//! Without context takeover, one compressed frame serves every receiver. And the length of one message cannot reveal a secret
//! in another.
//!
//! Parts:
//!
//! * [`Deflate`] holds the negotiated parameters. The module `negotiate` reads them from the handshake.
//! * [`Inflater`] inflates messages. Each reading thread has one.
//! * [`frame`] compresses a finished frame with a compressor of the calling thread.

use std::cell::RefCell;

use zlib_rs::{DeflateFlush, InflateFlush, Status};

use super::Error;
use super::encode::{self, Header, Kind};

/// The end of a flushed message, which is not sent (RFC 7692, section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// An empty final block. It ends a deflate stream without output only at a block boundary.
const CLOSING: [u8; 2] = [0x03, 0x00];

/// The largest window, as a power of two: 32 KiB.
pub(super) const WINDOW_BITS_MAX: u8 = 15;

/// The lowest compression level with dynamic Huffman codes.
///
/// Measured on events of 200 to 4000 bytes: level 1, with fixed codes, gives 20 to 45 % more bytes. Level 6 saves at most 6 %
/// and takes twice the time on long events.
const LEVEL: i32 = 2;

/// The memory for inflated messages that is kept between messages, in bytes.
const INFLATED_BYTES_KEPT: usize = 64 * 1024;

/// The limit on deflate streams in one message.
///
/// A message may end its stream and start another (RFC 7692, section 7.2.3.4). No known client does so more than once, and each
/// stream costs a reset.
const STREAMS_PER_MESSAGE_MAX: usize = 8;

/// The negotiated parameters of a connection. Neither side uses context takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// The window of the frames to the client, as a power of two: 9 to 15, for 512 bytes to 32 KiB.
    pub window_bits: u8,
}

impl Deflate {
    /// Whether a compressed message of `message_bytes` uncompressed bytes can be inflated with this window. References in a
    /// message reach back at most the length of the message.
    #[must_use]
    pub const fn fits(self, message_bytes: usize) -> bool {
        self.window_bits >= WINDOW_BITS_MAX || message_bytes <= 1 << self.window_bits
    }
}

/// The limit on the compressed form of a message of at most `message_bytes_max` bytes.
///
/// Data that cannot be compressed grows: by five bytes for each stored block, or by an eighth if an encoder uses only fixed
/// codes.
pub(super) const fn compressed_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max
        .saturating_add(message_bytes_max / 8)
        .saturating_add(64)
}

/// Inflates messages of any number of connections, one at a time. It allocates about 40 KiB at its first message.
#[derive(Default)]
pub struct Inflater {
    stream: Option<zlib_rs::Inflate>,
    message: Vec<u8>,
    inflated: Inflated,
}

/// The totals of an [`Inflater`] since its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inflated {
    /// The number of messages, including malformed ones.
    pub messages: u64,
    /// The number of inflated bytes.
    pub bytes: u64,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inflater").finish_non_exhaustive()
    }
}

impl Inflater {
    /// The totals since the creation of this inflater.
    #[must_use]
    pub const fn inflated(&self) -> Inflated {
        self.inflated
    }

    /// Inflates one message of at most `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TooBig`] as soon as the message exceeds `bytes_max`. [`Error::Protocol`] if `compressed` is not a deflate
    /// stream or is truncated.
    pub(super) fn inflate(&mut self, compressed: &[u8], bytes_max: usize) -> Result<&[u8], Error> {
        self.message.clear();
        self.message.shrink_to(INFLATED_BYTES_KEPT);
        let stream = self
            .stream
            .get_or_insert_with(|| zlib_rs::Inflate::new(false, WINDOW_BITS_MAX));
        stream.reset(false);
        let result = inflate_whole(stream, compressed, bytes_max, &mut self.message);
        self.inflated.messages += 1;
        self.inflated.bytes += self.message.len() as u64;
        result.map(|()| self.message.as_slice())
    }
}

fn inflate_whole(
    stream: &mut zlib_rs::Inflate,
    compressed: &[u8],
    bytes_max: usize,
    message: &mut Vec<u8>,
) -> Result<(), Error> {
    // An empty message is one byte long (RFC 7692, section 7.2.3.6). Libraries accept an empty payload too.
    if compressed.is_empty() {
        return Ok(());
    }
    let mut streams = 1;
    // After a final block a sender should add an empty block (section 7.2.3.4). The message is complete without it.
    if inflate_part(stream, compressed, bytes_max, message, &mut streams)? {
        return Ok(());
    }
    let inflated_bytes = message.len();
    // Some senders leave the tail on. A message whose tail was cut off never ends with it: it ends with the three bits of a
    // block's head and with padding, all of them 0. So a message that ends with the tail needs no second one.
    if !compressed.ends_with(&TAIL) {
        inflate_part(stream, &TAIL, bytes_max, message, &mut streams)?;
    }
    // If a block is still open, the message is truncated, and the tail could be taken for the end of the block.
    if message.len() == inflated_bytes && is_between_blocks(stream) {
        Ok(())
    } else {
        Err(Error::Protocol("compressed message is truncated"))
    }
}

fn is_between_blocks(stream: &mut zlib_rs::Inflate) -> bool {
    let before = (stream.total_in(), stream.total_out());
    let status = stream.decompress(&CLOSING, &mut [0], InflateFlush::SyncFlush);
    let moved = (stream.total_in() - before.0, stream.total_out() - before.1);
    matches!(status, Ok(Status::StreamEnd)) && moved == (CLOSING.len() as u64, 0)
}

/// Inflates `part` into `message`. Returns whether a deflate stream ended with the last byte of `part`.
fn inflate_part(
    stream: &mut zlib_rs::Inflate,
    mut part: &[u8],
    bytes_max: usize,
    message: &mut Vec<u8>,
    streams: &mut usize,
) -> Result<bool, Error> {
    let mut has_ended = false;
    loop {
        // Room for one byte more than the limit, to distinguish a message of exactly the limit from a longer one.
        let room = (bytes_max + 1 - message.len()).min((4 * part.len()).max(1024));
        let begin = message.len();
        message.resize(begin + room, 0);
        let before = (stream.total_in(), stream.total_out());
        let result = stream.decompress(part, &mut message[begin..], InflateFlush::SyncFlush);
        let taken = (stream.total_in() - before.0) as usize;
        let given = (stream.total_out() - before.1) as usize;
        message.truncate(begin + given);
        let status = result.map_err(|_| Error::Protocol("compressed message is not a deflate stream"))?;
        if message.len() > bytes_max {
            return Err(Error::TooBig);
        }
        part = &part[taken..];
        has_ended = status == Status::StreamEnd || (has_ended && taken == 0 && given == 0);
        if status == Status::StreamEnd {
            *streams += 1;
            if *streams > STREAMS_PER_MESSAGE_MAX {
                return Err(Error::Protocol("compressed message has too many deflate streams"));
            }
            stream.reset(false);
        }
        // The decompressor fills the buffer if it can, so free room means that there is no more output.
        if part.is_empty() && given < room {
            return Ok(has_ended);
        }
        if taken == 0 && given == 0 && status != Status::StreamEnd {
            return Err(Error::Protocol("compressed message is not a deflate stream"));
        }
    }
}

thread_local! {
    static DEFLATER: RefCell<Option<Box<Deflater>>> = const { RefCell::new(None) };
}

struct Deflater {
    stream: zlib_rs::Deflate,
    scratch: Vec<u8>,
}

/// Compresses a finished data frame (see [`encode`]) into a frame of its own.
///
/// `None` if the frame is to be sent uncompressed: its payload has less than `bytes_min` bytes, it is a control frame, `plain`
/// is more than one frame, or compression does not make it shorter.
#[must_use]
pub fn frame(plain: &[u8], bytes_min: usize) -> Option<Vec<u8>> {
    let (kind, payload) = encode::split(plain)?;
    if payload.len() < bytes_min.max(1) || !matches!(kind, Kind::Text | Kind::Binary) {
        return None;
    }
    DEFLATER.with_borrow_mut(|deflater| {
        let deflater = deflater.get_or_insert_with(|| {
            Box::new(Deflater {
                stream: zlib_rs::Deflate::new(LEVEL, false, WINDOW_BITS_MAX),
                scratch: Vec::new(),
            })
        });
        let compressed = deflater.compress(payload)?;
        let header = Header::deflated(kind, compressed.len());
        let mut frame = Vec::with_capacity(header.as_slice().len() + compressed.len());
        frame.extend_from_slice(header.as_slice());
        frame.extend_from_slice(compressed);
        Some(frame)
    })
}

impl Deflater {
    /// The memory for compressed messages that is kept between messages, in bytes.
    const SCRATCH_BYTES_KEPT: usize = 256 * 1024;

    /// `None` if the result would not be shorter than `payload`.
    fn compress(&mut self, payload: &[u8]) -> Option<&[u8]> {
        self.scratch.truncate(Self::SCRATCH_BYTES_KEPT);
        self.scratch.shrink_to(Self::SCRATCH_BYTES_KEPT);
        // Room for the longest possible output. Level 1 of zlib-rs 0.6 panics if it has to continue after the output was full,
        // and output that is not shorter is rare.
        let room = compressed_bytes_max(payload.len());
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        self.stream.reset();
        let status = self
            .stream
            .compress(payload, &mut self.scratch, DeflateFlush::SyncFlush)
            .ok()?;
        let (taken, given) = (self.stream.total_in() as usize, self.stream.total_out() as usize);
        // A full buffer means that there may be more output.
        if status != Status::Ok || taken < payload.len() || given == self.scratch.len() {
            return None;
        }
        let compressed = self.scratch[..given].strip_suffix(&TAIL)?;
        (compressed.len() < payload.len()).then_some(compressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plain(payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        encode::binary(&mut frame, payload);
        frame
    }

    fn twin(payload: &[u8]) -> Option<Vec<u8>> {
        let frame = frame(&plain(payload), 0)?;
        assert_eq!(frame[0], 0xc2);
        let begin = match frame[1] {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        Some(frame[begin..].to_vec())
    }

    #[test]
    fn the_examples_of_rfc_7692_are_inflated() {
        // Sections 7.2.3.1 and 7.2.3.3 to 7.2.3.5: one block, no compression, BFINAL set, two blocks. Section 7.2.3.2 needs
        // context takeover.
        let mut inflater = Inflater::default();
        for compressed in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[
                0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00,
            ],
        ] {
            assert_eq!(inflater.inflate(compressed, 5), Ok(&b"Hello"[..]), "{compressed:02x?}");
            assert_eq!(inflater.inflate(compressed, 4), Err(Error::TooBig), "{compressed:02x?}");
        }
        assert_eq!(inflater.inflate(&[0x00], 0), Ok(&b""[..]), "section 7.2.3.6: empty");
        // The example of section 7.2.3.2 refers to the message before it.
        let referring = inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 99);
        assert!(matches!(referring, Err(Error::Protocol(_))), "{referring:?}");
    }

    #[test]
    fn a_truncated_message_is_refused() {
        let mut inflater = Inflater::default();
        let long: Vec<u8> = (0..if cfg!(miri) { 120 } else { 20_000u32 })
            .flat_map(|number| number.to_string().into_bytes())
            .collect();
        let cuts = if cfg!(miri) { 15 } else { 150 };
        let stored = [&[0x00, 0x05, 0x00, 0xfa, 0xff][..], b"Hello", &[0x00]].concat();
        for compressed in [
            twin(b"xxxxxxxxxx").unwrap(),
            twin(&long[..200]).unwrap(),
            twin(&long).unwrap(),
            stored,
        ] {
            assert!(inflater.inflate(&compressed, long.len()).is_ok());
            // The cuts start at 2, because the first byte of the stored block is a message by itself.
            for cut in (2..compressed.len()).step_by(1 + compressed.len() / cuts) {
                let result = inflater.inflate(&compressed[..cut], long.len());
                assert!(
                    matches!(result, Err(Error::Protocol(_))),
                    "cut at {cut} of {compressed:02x?}"
                );
            }
        }
        // Some libraries end a message with a final block and no empty block after it.
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflater.inflate(&last, 5), Ok(&b"Hello"[..]));
        assert_eq!(inflater.inflate(&[], 0), Ok(&b""[..]));
    }

    #[test]
    fn a_message_whose_tail_was_not_cut_off_is_complete() {
        let mut inflater = Inflater::default();
        let whole = |compressed: &[u8]| [compressed, &TAIL].concat();
        let long = b"abcdefghij".repeat(if cfg!(miri) { 20 } else { 5_000 });
        for payload in [&b"xxxxxxxxxx"[..], &long] {
            let uncut = whole(&twin(payload).expect("shorter"));
            assert_eq!(inflater.inflate(&uncut, payload.len()), Ok(payload));
            assert_eq!(inflater.inflate(&uncut, payload.len() - 1), Err(Error::TooBig));
            assert!(
                inflater.inflate(&uncut[..uncut.len() - 1], payload.len()).is_err(),
                "half a tail"
            );
            assert!(inflater.inflate(&whole(&uncut), payload.len()).is_err(), "two tails");
        }
        assert_eq!(inflater.inflate(&whole(&[0x00]), 0), Ok(&b""[..]), "an empty message");
        let stored = [&[0x00, 0x05, 0x00, 0xfa, 0xff][..], b"Hello", &[0x00]].concat();
        assert_eq!(
            inflater.inflate(&whole(&stored), 5),
            Ok(&b"Hello"[..]),
            "a stored block"
        );
        // The four bytes are data here: of a block that is whole, of a final block, and of one that is cut off.
        let data = |length: u8, is_last: u8| [&[is_last, length, 0x00, !length, 0xff][..], b"H", &TAIL].concat();
        let text = [&b"H"[..], &TAIL].concat();
        assert_eq!(inflater.inflate(&[data(5, 0), vec![0x00]].concat(), 5), Ok(&text[..]));
        assert_eq!(inflater.inflate(&data(5, 1), 5), Ok(&text[..]));
        let truncated = inflater.inflate(&data(6, 0), 9);
        assert_eq!(truncated, Err(Error::Protocol("compressed message is truncated")));
    }

    #[test]
    fn a_decompression_bomb_is_refused_at_the_size_limit() {
        let (limit, bytes) = if cfg!(miri) {
            (4096, 12 * 1024)
        } else {
            (65_536, 64 * 1024 * 1024)
        };
        let zeros = vec![0; bytes];
        let bomb = twin(&zeros).expect("shorter");
        assert!(bomb.len() < bytes / 64, "{}", bomb.len());
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(&bomb, limit), Err(Error::TooBig));
        assert_eq!(inflater.inflated().bytes, limit as u64 + 1, "no further");
        assert!(inflater.message.capacity() <= 2 * limit, "no memory for the rest");
        assert_eq!(inflater.inflate(&[0x00], 0), Ok(&b""[..]), "the next message is read");
        let exactly = twin(&zeros[..limit]).expect("shorter");
        assert_eq!(inflater.inflate(&exactly, limit), Ok(&zeros[..limit]));
    }

    #[test]
    fn streams_within_a_message_are_bounded() {
        // Empty final blocks with fixed codes.
        let of = |streams: usize| [0x03, 0x00].repeat(streams);
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(&of(STREAMS_PER_MESSAGE_MAX - 1), 99), Ok(&b""[..]));
        assert!(inflater.inflate(&of(STREAMS_PER_MESSAGE_MAX), 99).is_err());
    }

    #[test]
    fn a_frame_that_would_not_get_shorter_is_not_compressed() {
        let mut random = 1u32;
        let mut noise = || {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 24) as u8
        };
        for length in [1, 10, 300, if cfg!(miri) { 2000 } else { 70_000 }] {
            let payload: Vec<u8> = (0..length).map(|_| noise()).collect();
            assert_eq!(frame(&plain(&payload), 0), None, "{length} bytes of noise");
        }
        let text = plain(&[b'x'; 256]);
        assert!(frame(&text, 256).is_some());
        assert_eq!(frame(&text, 257), None, "below the threshold");
        let mut ping = Vec::new();
        encode::ping(&mut ping, &[b'x'; 125]);
        assert_eq!(frame(&ping, 0), None, "a control frame");
        assert_eq!(frame(&text.repeat(2), 0), None, "two frames");
        assert_eq!(frame(&[], 0), None);
    }

    /// Otherwise the length of a message could reveal a secret in an earlier one.
    #[test]
    fn compression_does_not_depend_on_earlier_messages() {
        let secret = br#"{"token":"7b1c9ee0f2a44c55","account":"4711"}"#.repeat(3);
        let guess = br#"{"token":"7b1c9ee0f2a44c55","balance":"1000000000000000"}"#;
        let alone = std::thread::scope(|scope| scope.spawn(|| frame(&plain(guess), 0)).join().unwrap());
        assert!(alone.is_some(), "compressed by a thread that never saw the secret");
        for _ in 0..3 {
            assert!(frame(&plain(&secret), 0).is_some());
            assert_eq!(frame(&plain(guess), 0), alone);
        }
    }

    #[test]
    fn messages_fit_windows_that_are_no_shorter() {
        for window_bits in 9..=15 {
            let deflate = Deflate { window_bits };
            assert!(deflate.fits(1 << window_bits));
            assert_eq!(deflate.fits((1 << window_bits) + 1), window_bits == 15);
        }
    }

    proptest! {
        #[test]
        fn a_compressed_message_inflates_to_the_original(
            words in prop::collection::vec(prop::collection::vec(0u8..4, 0..40), 0..200),
        ) {
            let payload = words.concat();
            if let Some(compressed) = twin(&payload) {
                prop_assert!(compressed.len() < payload.len());
                let mut inflater = Inflater::default();
                prop_assert_eq!(inflater.inflate(&compressed, payload.len()), Ok(&payload[..]));
                prop_assert_eq!(inflater.inflate(&compressed, payload.len() - 1), Err(Error::TooBig));
            }
        }

        // `Deflate::fits` compares lengths alone, so a window of the message's length must be enough for the inflater.
        #[test]
        fn a_message_of_a_windows_length_is_inflated_with_that_window(
            window_bits in 9u8..=if cfg!(miri) { 10 } else { 15 },
            seed in any::<u8>(),
        ) {
            let length = 1usize << window_bits;
            // The start is repeated at the end, so that the compressor refers back as far as it can.
            let mut payload: Vec<u8> = (0..length).map(|index| (index as u8).wrapping_mul(seed | 1) ^ (index >> 8) as u8).collect();
            let (head, tail) = payload.split_at_mut(length - 200);
            tail.copy_from_slice(&head[..200]);
            if let Some(compressed) = twin(&payload) {
                let mut stream = zlib_rs::Inflate::new(false, window_bits);
                let mut out = vec![0; length + 1];
                let mut given = 0;
                // In small pieces, so that references must be served from the window and not from the output buffer.
                for piece in [&compressed[..], &TAIL].concat().chunks(7) {
                    let mut piece = piece;
                    while !piece.is_empty() {
                        let before = (stream.total_in(), stream.total_out());
                        let room = (given + 64).min(out.len());
                        stream.decompress(piece, &mut out[given..room], InflateFlush::SyncFlush).expect("a deflate stream");
                        piece = &piece[(stream.total_in() - before.0) as usize..];
                        given += (stream.total_out() - before.1) as usize;
                    }
                }
                prop_assert_eq!(&out[..given], &payload[..]);
            }
        }
    }
}
