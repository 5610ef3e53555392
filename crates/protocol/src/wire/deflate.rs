//! permessage-deflate (RFC 7692), always without context takeover on both sides.
//!
//! Invariants: a message decides alone what it is compressed or inflated to, nothing is kept from one to the next, and
//! so nothing per connection; an inflated message never grows beyond its limit by more than one byte, whatever its
//! compressed form claims.
//!
//! Without context takeover one compressed form serves every receiver, and no secret in one message can show in the
//! length of another.
//!
//! * [`Deflate`] is what a connection negotiated; the header's grammar is in `negotiate`.
//! * [`Inflater`] is a reader's: one per thread.
//! * [`frame`] makes the compressed twin of a finished frame, with a compressor of the calling thread.

use std::cell::RefCell;

use zlib_rs::{DeflateFlush, InflateFlush, Status};

use super::Error;
use super::encode::{self, Header, Kind};

/// What ends a message that was flushed, and is not sent (section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// A final block of nothing. It ends a stream, at once and with nothing more, exactly where a block may begin.
const CLOSING: [u8; 2] = [0x03, 0x00];

/// The largest window: 32 KiB.
pub(super) const WINDOW_BITS_MAX: u8 = 15;

/// The lowest level that makes codes of its own for a message. Measured on events of 200 to 4000 bytes: level 1, with
/// the fixed code, leaves 20 to 45 % more bytes; 6 spares 6 % at best and takes twice the time on long ones.
const LEVEL: i32 = 2;

/// Memory for inflated messages that is kept for the next one.
const INFLATED_BYTES_KEPT: usize = 64 * 1024;

/// A message may end its deflate stream and begin another (section 7.2.3.4). Nobody does it more than once; each time
/// costs a reset.
const STREAMS_PER_MESSAGE_MAX: usize = 8;

/// What a connection negotiated. Both sides forget everything between messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// 9 to 15: what the client keeps to inflate with is 2 to the power of that, in bytes.
    pub window_bits: u8,
}

impl Deflate {
    /// Whether the compressed twin of a message of so many bytes can be inflated with this window: nothing in a message
    /// can refer further back than the message is long.
    #[must_use]
    pub const fn fits(self, message_bytes: usize) -> bool {
        self.window_bits >= WINDOW_BITS_MAX || message_bytes <= 1 << self.window_bits
    }
}

/// How long the compressed form of a message within the limit can be. What cannot be compressed grows: by five bytes
/// for each stored block, or by an eighth when an encoder uses nothing but the fixed code.
pub(super) const fn compressed_bytes_max(message_bytes_max: usize) -> usize {
    message_bytes_max
        .saturating_add(message_bytes_max / 8)
        .saturating_add(64)
}

/// Inflates messages, one after another and of any number of connections. Takes memory (about 40 KiB) from its first
/// message on.
#[derive(Default)]
pub struct Inflater {
    stream: Option<zlib_rs::Inflate>,
    message: Vec<u8>,
    inflated: Inflated,
}

/// What came out of an [`Inflater`], ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inflated {
    /// Messages, good or bad.
    pub messages: u64,
    /// Bytes.
    pub bytes: u64,
}

impl std::fmt::Debug for Inflater {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Inflater").finish_non_exhaustive()
    }
}

impl Inflater {
    /// What came out of it, ever.
    #[must_use]
    pub const fn inflated(&self) -> Inflated {
        self.inflated
    }

    /// Inflates one message of at most `bytes_max` bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TooBig`] as soon as it is longer than that; [`Error::Protocol`] when it is no deflate stream, or one that
    /// is cut off.
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
    // Nothing is said in one byte (section 7.2.3.6); libraries take none for the same.
    if compressed.is_empty() {
        return Ok(());
    }
    let mut streams = 1;
    // One that marks its last block final should add an empty one (section 7.2.3.4), but is whole without it.
    if inflate_part(stream, compressed, bytes_max, message, &mut streams)? {
        return Ok(());
    }
    // With a block still open, what came out would be the beginning of a message; and the tail could be read as its end.
    let inflated_bytes = message.len();
    inflate_part(stream, &TAIL, bytes_max, message, &mut streams)?;
    if message.len() == inflated_bytes && is_between_blocks(stream) {
        Ok(())
    } else {
        Err(Error::Protocol("compressed message is cut off"))
    }
}

fn is_between_blocks(stream: &mut zlib_rs::Inflate) -> bool {
    let before = (stream.total_in(), stream.total_out());
    let status = stream.decompress(&CLOSING, &mut [0], InflateFlush::SyncFlush);
    let moved = (stream.total_in() - before.0, stream.total_out() - before.1);
    matches!(status, Ok(Status::StreamEnd)) && moved == (CLOSING.len() as u64, 0)
}

/// Returns whether a stream ended with the last byte.
fn inflate_part(
    stream: &mut zlib_rs::Inflate,
    mut part: &[u8],
    bytes_max: usize,
    message: &mut Vec<u8>,
    streams: &mut usize,
) -> Result<bool, Error> {
    let mut has_ended = false;
    loop {
        // One byte more than is allowed, so that a message of exactly the limit is told from a longer one.
        let room = (bytes_max + 1 - message.len()).min((4 * part.len()).max(1024));
        let begin = message.len();
        message.resize(begin + room, 0);
        let before = (stream.total_in(), stream.total_out());
        let result = stream.decompress(part, &mut message[begin..], InflateFlush::SyncFlush);
        let taken = (stream.total_in() - before.0) as usize;
        let given = (stream.total_out() - before.1) as usize;
        message.truncate(begin + given);
        let status = result.map_err(|_| Error::Protocol("compressed message is no deflate stream"))?;
        if message.len() > bytes_max {
            return Err(Error::TooBig);
        }
        part = &part[taken..];
        has_ended = status == Status::StreamEnd || (has_ended && taken == 0 && given == 0);
        if status == Status::StreamEnd {
            *streams += 1;
            if *streams > STREAMS_PER_MESSAGE_MAX {
                return Err(Error::Protocol("compressed message of too many streams"));
            }
            stream.reset(false);
        }
        // It gives all that it can: with room left it has nothing more.
        if part.is_empty() && given < room {
            return Ok(has_ended);
        }
        if taken == 0 && given == 0 && status != Status::StreamEnd {
            return Err(Error::Protocol("compressed message is no deflate stream"));
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

/// The compressed twin of a finished data frame ([`encode`]) with at least `bytes_min` bytes of payload. `None` when it
/// is to be sent as it is: a shorter one, a control frame, several frames, or one that compression does not make
/// shorter.
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
    /// Memory for compressed messages that is kept for the next one.
    const SCRATCH_BYTES_KEPT: usize = 256 * 1024;

    /// `None` when the result would not be shorter.
    fn compress(&mut self, payload: &[u8]) -> Option<&[u8]> {
        self.scratch.truncate(Self::SCRATCH_BYTES_KEPT);
        self.scratch.shrink_to(Self::SCRATCH_BYTES_KEPT);
        // Room for whatever comes: level 1 of zlib-rs 0.6 panics when it has to go on after the output was full, and
        // what would not be shorter is rare.
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
        // A full buffer: there may be more to come.
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
    fn the_examples_of_the_rfc_are_inflated() {
        // Section 7.2.3.1 to 7.2.3.5: one block; a shared window needs context takeover and is not ours; no
        // compression; BFINAL set; two blocks.
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
        // Refers to the message before it, which is forgotten.
        let referring = inflater.inflate(&[0xf2, 0x00, 0x11, 0x00, 0x00], 99);
        assert!(matches!(referring, Err(Error::Protocol(_))), "{referring:?}");
    }

    #[test]
    fn what_is_cut_off_is_not_taken_for_a_message() {
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
            // The first byte of the last of them is a message by itself.
            for cut in (2..compressed.len()).step_by(1 + compressed.len() / cuts) {
                let result = inflater.inflate(&compressed[..cut], long.len());
                assert!(
                    matches!(result, Err(Error::Protocol(_))),
                    "cut at {cut} of {compressed:02x?}"
                );
            }
        }
        // A last block that is marked so may end the message, as some libraries have it.
        let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflater.inflate(&last, 5), Ok(&b"Hello"[..]));
        assert_eq!(inflater.inflate(&[], 0), Ok(&b""[..]));
    }

    #[test]
    fn a_bomb_is_refused_when_it_passes_the_limit() {
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
        assert_eq!(
            inflater.inflate(&[0x00], 0),
            Ok(&b""[..]),
            "and the next message is read"
        );
        let exactly = twin(&zeros[..limit]).expect("shorter");
        assert_eq!(inflater.inflate(&exactly, limit), Ok(&zeros[..limit]));
    }

    #[test]
    fn streams_within_a_message_are_bounded() {
        // An empty final block with the fixed code, over and over.
        let of = |streams: usize| [0x03, 0x00].repeat(streams);
        let mut inflater = Inflater::default();
        assert_eq!(inflater.inflate(&of(STREAMS_PER_MESSAGE_MAX - 1), 99), Ok(&b""[..]));
        assert!(inflater.inflate(&of(STREAMS_PER_MESSAGE_MAX), 99).is_err());
    }

    #[test]
    fn what_would_not_be_shorter_goes_as_it_is() {
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

    /// So that nobody reads a secret off the length of what is compressed behind it.
    #[test]
    fn what_was_compressed_before_shows_in_nothing() {
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
        fn what_is_compressed_is_inflated_to_the_same(
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

        // The window is chosen by the message's length alone: an inflater with just that window must do.
        #[test]
        fn a_message_within_a_window_is_inflated_with_no_more_than_that_window(
            window_bits in 9u8..=if cfg!(miri) { 10 } else { 15 },
            seed in any::<u8>(),
        ) {
            let length = 1usize << window_bits;
            // The same bytes far apart: a matcher is tempted to refer back as far as it can.
            let mut payload: Vec<u8> = (0..length).map(|place| (place as u8).wrapping_mul(seed | 1) ^ (place >> 8) as u8).collect();
            let (head, tail) = payload.split_at_mut(length - 200);
            tail.copy_from_slice(&head[..200]);
            if let Some(compressed) = twin(&payload) {
                let mut stream = zlib_rs::Inflate::new(false, window_bits);
                let mut out = vec![0; length + 1];
                let mut given = 0;
                // In small pieces, so that what it refers to has to be in the window and not in the output.
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
