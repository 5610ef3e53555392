//! What the gateway's encoder writes, said by a client: masked, compressed or not, in any fragments, with control frames
//! between them, cut anywhere.
//!
//! 1. The decoder gives back each message as it was, in the order in which they ended, and nothing else.
//! 2. A finished frame is read by the encoder's own readers as what was put in.

use arbitrary::{Arbitrary, Unstructured};
use tickgate_protocol::wire::deflate;
use tickgate_protocol::wire::encode::{self, Kind};

use crate::decoder::{End, MESSAGE_BYTES_MAX, Owned, decode_deflate};

/// What is behind so many bytes is left out: byte by byte it would take seconds.
const STREAM_BYTES_ENOUGH: usize = 80_000;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// What a client says, and how its bytes arrive.
#[derive(Arbitrary, Debug)]
struct Stream<'d> {
    /// The reads' sizes less one, used over and over.
    reads: [u8; 3],
    said: Vec<Said<'d>>,
}

#[derive(Arbitrary, Debug)]
enum Said<'d> {
    Text { text: &'d str, how: How<'d> },
    Binary { bytes: &'d [u8], how: How<'d> },
    Control(Control<'d>),
}

/// How a data message is sent.
#[derive(Arbitrary, Debug)]
struct How<'d> {
    /// How often it is said within the message, so that there are long ones and some worth compressing.
    times: u8,
    compressed: bool,
    mask: [u8; 4],
    /// The lengths of all frames but the last, and what is sent between two of them.
    fragments: Vec<(u16, Option<Control<'d>>)>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Control<'d> {
    Ping(&'d [u8]),
    Pong(&'d [u8]),
}

/// One fuzz input: a [`Stream`].
pub fn check_input(data: &[u8]) {
    if let Ok(stream) = Stream::arbitrary_take_rest(Unstructured::new(data)) {
        stream.check();
    }
}

impl Stream<'_> {
    fn check(&self) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for said in &self.said {
            said.say(&mut bytes, &mut expected);
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

impl Said<'_> {
    fn say(&self, bytes: &mut Vec<u8>, expected: &mut Vec<Owned>) {
        match self {
            Self::Control(control) => control.say(bytes, expected),
            Self::Text { text, how } => {
                let text = text.repeat(how.times(text.len()));
                let mut frame = Vec::new();
                encode::text(&mut frame, &text);
                how.say(&frame, Owned::Text(text.into()), bytes, expected);
            }
            Self::Binary { bytes: once, how } => {
                let all = once.repeat(how.times(once.len()));
                // The way of a writer that does not know the length beforehand.
                let mut out = b"before".to_vec();
                let begun = encode::begin(&mut out);
                out.extend_from_slice(&all);
                let range = encode::finish(&mut out, begun, Kind::Binary);
                how.say(&out[range], Owned::Binary(all), bytes, expected);
            }
        }
    }
}

impl How<'_> {
    fn times(&self, once_bytes: usize) -> usize {
        usize::from(self.times).min(MESSAGE_BYTES_MAX as usize / once_bytes.max(1))
    }

    /// Sends a finished frame of the encoder's in pieces.
    fn say(&self, frame: &[u8], message: Owned, bytes: &mut Vec<u8>, expected: &mut Vec<Owned>) {
        check_readers(frame, &message);
        let twin = self.compressed.then(|| deflate::frame(frame, 1)).flatten();
        assert!(twin.as_ref().is_none_or(|twin| twin.len() < frame.len()));
        let frame = twin.as_deref().unwrap_or(frame);
        let mut rest = &frame[frame.len() - encode::payload_bytes(frame)..];
        let mut first = frame[0] & !FIN;
        for (length, between) in &self.fragments {
            let piece = rest
                .split_off(..usize::from(*length).min(rest.len()))
                .expect("within it");
            push_frame(bytes, first, self.mask, piece);
            first = 0;
            if let Some(control) = between {
                control.say(bytes, expected);
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
    fn say(self, bytes: &mut Vec<u8>, expected: &mut Vec<Owned>) {
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

/// A client's frame: the encoder's header with another first byte and a mask.
fn push_frame(bytes: &mut Vec<u8>, first: u8, mask: [u8; 4], payload: &[u8]) {
    let begin = bytes.len();
    bytes.extend_from_slice(encode::Header::new(Kind::Binary, payload.len()).as_slice());
    bytes[begin] = first;
    bytes[begin + 1] |= MASKED;
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
