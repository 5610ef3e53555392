//! Encoder and decoder together: encoded messages are masked and fragmented, as a client sends them, and decoded.
//!
//! Messages may be compressed, control frames may be between their fragments, and reads may end anywhere.
//!
//! 1. The decoder returns each message unchanged, in the order in which the messages end, and nothing else.
//! 2. The encoder module's own functions read a finished frame back.

use arbitrary::{Arbitrary, Unstructured};
use tickgate_protocol::wire::deflate;
use tickgate_protocol::wire::encode::{self, Kind};

use crate::decoder::{End, MESSAGE_BYTES_MAX, Owned, decode_deflate};

/// Messages after this many bytes are left out. Longer streams would take seconds in reads of one byte.
const STREAM_BYTES_ENOUGH: usize = 80_000;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The messages of a client, and the sizes of the reads.
#[derive(Arbitrary, Debug)]
struct Stream<'d> {
    /// The sizes of the reads less one, repeated.
    reads: [u8; 3],
    frames: Vec<Sent<'d>>,
}

#[derive(Arbitrary, Debug)]
enum Sent<'d> {
    Text { text: &'d str, manner: Manner<'d> },
    Binary { bytes: &'d [u8], manner: Manner<'d> },
    Control(Control<'d>),
}

/// The way in which a data message is sent.
#[derive(Arbitrary, Debug)]
struct Manner<'d> {
    /// The number of repetitions of the content, so that some messages are long and compressible.
    times: u8,
    compressed: bool,
    mask: [u8; 4],
    /// The payload lengths of all frames but the last, each with a control frame that may follow.
    fragments: Vec<(u16, Option<Control<'d>>)>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Control<'d> {
    Ping(&'d [u8]),
    Pong(&'d [u8]),
}

/// Checks one fuzz input: a [`Stream`].
pub fn check_input(data: &[u8]) {
    if let Ok(stream) = Stream::arbitrary_take_rest(Unstructured::new(data)) {
        stream.check();
    }
}

impl Stream<'_> {
    fn check(&self) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for sent in &self.frames {
            sent.write(&mut bytes, &mut expected);
            if bytes.len() > STREAM_BYTES_ENOUGH {
                break;
            }
        }
        let sizes = self.reads.map(|size| usize::from(size) + 1);
        assert_eq!(
            decode_deflate(&bytes, &sizes, MESSAGE_BYTES_MAX),
            (expected, End::Input)
        );
    }
}

impl Sent<'_> {
    fn write(&self, bytes: &mut Vec<u8>, expected: &mut Vec<Owned>) {
        match self {
            Self::Control(control) => control.write(bytes, expected),
            Self::Text { text, manner } => {
                let text = text.repeat(manner.times(text.len()));
                let mut frame = Vec::new();
                encode::text(&mut frame, &text);
                manner.write(&frame, Owned::Text(text.into()), bytes, expected);
            }
            Self::Binary { bytes: once, manner } => {
                let all = once.repeat(manner.times(once.len()));
                // As a writer does that does not know the length in advance.
                let mut out = b"before".to_vec();
                let begun = encode::begin(&mut out);
                out.extend_from_slice(&all);
                let range = encode::finish(&mut out, begun, Kind::Binary);
                manner.write(&out[range], Owned::Binary(all), bytes, expected);
            }
        }
    }
}

impl Manner<'_> {
    fn times(&self, once_bytes: usize) -> usize {
        usize::from(self.times).min(MESSAGE_BYTES_MAX as usize / once_bytes.max(1))
    }

    /// Writes a finished frame of the encoder in fragments.
    fn write(&self, frame: &[u8], message: Owned, bytes: &mut Vec<u8>, expected: &mut Vec<Owned>) {
        check_readers(frame, &message);
        let twin = self.compressed.then(|| deflate::frame(frame, 1)).flatten();
        assert!(twin.as_ref().is_none_or(|twin| twin.len() < frame.len()));
        let frame = twin.as_deref().unwrap_or(frame);
        let mut rest = &frame[frame.len() - encode::payload_bytes(frame)..];
        let mut first = frame[0] & !FIN;
        for (length, between) in &self.fragments {
            let piece = rest
                .split_off(..usize::from(*length).min(rest.len()))
                .expect("at most the rest");
            push_frame(bytes, first, self.mask, piece);
            first = 0;
            if let Some(control) = between {
                control.write(bytes, expected);
            }
        }
        push_frame(bytes, first | FIN, self.mask, rest);
        expected.push(message);
    }
}

fn check_readers(frame: &[u8], message: &Owned) {
    let (is_text, payload) = match message {
        Owned::Text(payload) => (true, payload),
        Owned::Binary(payload) => (false, payload),
        _ => unreachable!("a data message"),
    };
    let read = encode::first(frame).expect("a whole frame");
    assert_eq!((read.is_text, read.bytes), (is_text, frame.len()));
    assert_eq!(read.payload, payload);
    assert_eq!(encode::payload_bytes(frame), payload.len());
}

impl Control<'_> {
    fn write(self, bytes: &mut Vec<u8>, expected: &mut Vec<Owned>) {
        let mut frame = Vec::new();
        match self {
            Self::Ping(payload) => encode::ping(&mut frame, payload),
            Self::Pong(payload) => encode::pong(&mut frame, payload),
        }
        let payload = &frame[frame.len() - encode::payload_bytes(&frame)..];
        push_frame(bytes, frame[0], [0x5a, 0, 0xff, 1], payload);
        expected.push(match self {
            Self::Ping(_) => Owned::Ping(payload.to_vec()),
            Self::Pong(_) => Owned::Pong(payload.to_vec()),
        });
    }
}

/// Appends a client frame: the encoder's header with another first byte and a masking key.
fn push_frame(bytes: &mut Vec<u8>, first: u8, mask: [u8; 4], payload: &[u8]) {
    let begin = bytes.len();
    bytes.extend_from_slice(encode::Header::new(Kind::Binary, payload.len()).as_slice());
    bytes[begin] = first;
    bytes[begin + 1] |= MASKED;
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
