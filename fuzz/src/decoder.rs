//! Properties of the frame decoder for every stream of bytes that a client can send. The fuzz target, the replay of its corpus
//! and the property tests share them.
//!
//! 1. The messages and the error do not depend on how the stream is split into reads.
//! 2. They are those of the reader of fastwebsockets, apart from rules that it is known not to check ([`tolerates`]).
//! 3. A decoded message, encoded as a server frame, is read back by a fastwebsockets client. Its compressed frame is read back
//!    by our own decoder.
//! 4. The first property holds with permessage-deflate too. A stream without compressed messages gives the same result with
//!    and without it.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use fastwebsockets::{FragmentCollector, Frame, OpCode, Role, WebSocket, WebSocketError};
use tickgate_protocol::wire::{Decoder, Error, Inflater, Message, deflate, encode};

/// The size limit of a message, in bytes. It exceeds 65,536, so that 64-bit lengths can be valid.
pub const MESSAGE_BYTES_MAX: u32 = 70_000;

/// A message that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owned {
    Text(Vec<u8>),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<(u16, Vec<u8>)>),
}

/// The end of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End<E> {
    /// The bytes ended.
    Input,
    /// A Close frame.
    Closed,
    /// A rule was broken.
    Failed(E),
}

/// The messages of a stream and its end.
pub type Decoded<E> = (Vec<Owned>, End<E>);

/// Checks one fuzz input: a count `n`, `n` chunk sizes less one, then the client's bytes. The sizes are repeated; without any,
/// the stream is one chunk.
pub fn check_input(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else {
        return;
    };
    let count = usize::from(count % 16).min(rest.len());
    let (sizes, stream) = rest.split_at(count);
    check(sizes, stream);
}

/// Checks all properties for one stream and one sequence of chunk sizes.
pub fn check(sizes: &[u8], stream: &[u8]) {
    let whole = decode(stream, &[], MESSAGE_BYTES_MAX);
    let sizes: Vec<usize> = sizes.iter().map(|size| usize::from(*size) + 1).collect();
    assert_eq!(
        decode(stream, &sizes, MESSAGE_BYTES_MAX),
        whole,
        "cut into chunks of {sizes:?}"
    );
    assert_eq!(decode(stream, &[1], MESSAGE_BYTES_MAX), whole, "cut into single bytes");
    check_against_fastwebsockets(stream, &whole);
    check_deflate(&sizes, stream, &whole);
    for message in &whole.0 {
        check_round_trip(message);
    }
}

/// Decodes `stream` in reads of the given sizes, which are repeated; without sizes in one read. Checks the decoder's promises
/// about its position and its memory.
pub fn decode(stream: &[u8], sizes: &[usize], message_bytes_max: u32) -> Decoded<Error> {
    decode_with(Decoder::new(message_bytes_max), stream, sizes)
}

/// Like [`decode`], on a connection with permessage-deflate.
pub fn decode_deflate(stream: &[u8], sizes: &[usize], message_bytes_max: u32) -> Decoded<Error> {
    decode_with(Decoder::new(message_bytes_max).with_deflate(), stream, sizes)
}

fn decode_with(mut decoder: Decoder, stream: &[u8], sizes: &[usize]) -> Decoded<Error> {
    let mut inflater = Inflater::default();
    let mut messages = Vec::new();
    let mut sizes = sizes.iter().copied().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let (read, later) = rest.split_at(sizes.next().unwrap_or(rest.len()).min(rest.len()));
        rest = later;
        // Exactly as long as the read, so that a sanitizer detects any access beyond it.
        let mut scratch = read.to_vec().into_boxed_slice();
        let mut position = 0;
        loop {
            let before = position;
            let next = decoder.next(&mut scratch, &mut position, &mut inflater);
            let next = next.map(|message| message.map(own));
            assert!(before <= position && position <= scratch.len());
            match next {
                Ok(Some(Owned::Close(close))) => {
                    messages.push(Owned::Close(close));
                    assert_ended(&mut decoder);
                    return (messages, End::Closed);
                }
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(position, scratch.len());
                    assert_ended(&mut decoder);
                    return (messages, End::Failed(error));
                }
            }
        }
        assert_eq!(position, scratch.len());
        // At most twice the bytes that arrived, plus a fixed part.
        assert!(decoder.buffered_bytes() <= 2 * stream.len() + 512);
        assert_eq!(decoder.is_mid_message(), decoder.buffered_bytes() > 0);
    }
    (messages, End::Input)
}

fn assert_ended(decoder: &mut Decoder) {
    assert!(decoder.has_ended());
    let (mut position, mut valid_ping) = (0, [0x89, 0x80, 0, 0, 0, 0]);
    let mut inflater = Inflater::default();
    assert_eq!(decoder.next(&mut valid_ping, &mut position, &mut inflater), Ok(None));
    assert_eq!(position, valid_ping.len());
    assert_eq!(decoder.buffered_bytes(), 0);
}

fn own(message: Message<'_>) -> Owned {
    match message {
        Message::Text(text) => Owned::Text(text.as_bytes().to_vec()),
        Message::Binary(bytes) => Owned::Binary(bytes.to_vec()),
        Message::Ping(bytes) => Owned::Ping(bytes.to_vec()),
        Message::Pong(bytes) => Owned::Pong(bytes.to_vec()),
        Message::Close(close) => Owned::Close(close.map(|(code, reason)| (code, reason.as_bytes().to_vec()))),
    }
}

fn check_deflate(sizes: &[usize], stream: &[u8], plain: &Decoded<Error>) {
    let whole = decode_deflate(stream, &[], MESSAGE_BYTES_MAX);
    assert_eq!(
        decode_deflate(stream, sizes, MESSAGE_BYTES_MAX),
        whole,
        "cut into chunks of {sizes:?}"
    );
    assert_eq!(
        decode_deflate(stream, &[1], MESSAGE_BYTES_MAX),
        whole,
        "cut into single bytes"
    );
    // Without the extension the first compressed message is an error. Before it the results are the same.
    if matches!(plain.1, End::Failed(Error::Protocol(rule)) if rule.starts_with("RSV1")) {
        assert_eq!(plain.0[..], whole.0[..plain.0.len()]);
    } else {
        assert_eq!(*plain, whole);
    }
    for (message, frame) in whole
        .0
        .iter()
        .filter_map(|message| Some((message, plain_frame(message)?)))
    {
        let Some(twin) = deflate::frame(&frame, 1) else {
            continue;
        };
        assert!(twin.len() < frame.len());
        assert_eq!(
            decode_deflate(&as_from_client(&twin), &[], MESSAGE_BYTES_MAX).0,
            std::slice::from_ref(message)
        );
    }
}

fn plain_frame(message: &Owned) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    match message {
        Owned::Text(bytes) => encode::text(&mut frame, std::str::from_utf8(bytes).expect("checked by the decoder")),
        Owned::Binary(bytes) => encode::binary(&mut frame, bytes),
        Owned::Ping(_) | Owned::Pong(_) | Owned::Close(_) => return None,
    }
    Some(frame)
}

/// A server frame with a masking key of zeros.
fn as_from_client(frame: &[u8]) -> Vec<u8> {
    let (header, payload) = frame.split_at(frame.len() - encode::payload_bytes(frame));
    let mut masked = header.to_vec();
    masked[1] |= 0x80;
    masked.extend([0; 4]);
    masked.extend(payload);
    masked
}

/// Whether fastwebsockets 0.10 is known to continue after this error. It must refuse every other error too.
fn tolerates(error: Error) -> bool {
    match error {
        Error::Protocol(rule) => matches!(
            rule,
            "frame is not masked"
                | "length is not in its shortest form"
                | "control frame longer than 125 bytes"
                | "new message inside a fragmented one"
        ),
        // It drops an incomplete character at the end of a fragmented text.
        Error::InvalidUtf8 => true,
        // Its size limit applies to frames.
        Error::TooBig => true,
    }
}

fn check_against_fastwebsockets(stream: &[u8], (ours, our_end): &Decoded<Error>) {
    let (theirs, their_end) = read_with_fastwebsockets(stream, Role::Server);
    let common = ours.len().min(theirs.len());
    assert_eq!(ours[..common], theirs[..common]);
    match our_end {
        End::Failed(error) => {
            assert!(theirs.len() >= ours.len(), "fastwebsockets lacks a message");
            let continues = theirs.len() > ours.len() || their_end == End::Closed;
            assert!(
                !continues || tolerates(*error),
                "fastwebsockets accepts what we refuse with {error:?}"
            );
        }
        // It does not know the close code 1014, which was registered later.
        End::Closed if matches!(ours.last(), Some(Owned::Close(Some((1014, _))))) => {
            assert_eq!(their_end, End::Failed("InvalidCloseCode".into()));
        }
        End::Closed | End::Input => {
            assert_eq!(*ours, theirs);
            let their_end = match their_end {
                End::Failed(error) if error == "UnexpectedEOF" => End::Input,
                other => other,
            };
            let same = matches!(
                (our_end, &their_end),
                (End::Closed, End::Closed) | (End::Input, End::Input)
            );
            assert!(same, "we end with {our_end:?}, fastwebsockets with {their_end:?}");
        }
    }
}

fn check_round_trip(message: &Owned) {
    let mut frame = Vec::new();
    match message {
        Owned::Text(bytes) => {
            // As an encoder does that writes the payload in place, after other frames.
            let mut out = vec![0xff; bytes.len() % 5];
            let begun = encode::begin(&mut out);
            out.extend_from_slice(bytes);
            let range = encode::finish(&mut out, begun, encode::Kind::Text);
            frame.extend_from_slice(&out[range]);
            let mut appended = Vec::new();
            encode::text(
                &mut appended,
                std::str::from_utf8(bytes).expect("checked by the decoder"),
            );
            assert_eq!(appended, frame);
        }
        Owned::Binary(bytes) => encode::binary(&mut frame, bytes),
        Owned::Ping(bytes) => encode::ping(&mut frame, bytes),
        Owned::Pong(bytes) => encode::pong(&mut frame, bytes),
        // The answer to a Close frame has only the code.
        Owned::Close(Some((1014, _))) => return,
        Owned::Close(close) => {
            encode::close_echo(&mut frame, close.as_ref().map(|(code, _)| *code));
            let expected = Owned::Close(close.as_ref().map(|(code, _)| (*code, Vec::new())));
            assert_eq!(
                read_with_fastwebsockets(&frame, Role::Client),
                (vec![expected], End::Closed)
            );
            return;
        }
    }
    assert_eq!(
        read_with_fastwebsockets(&frame, Role::Client).0,
        std::slice::from_ref(message)
    );
}

/// The messages and the end of a stream, by the reader of fastwebsockets.
pub fn read_with_fastwebsockets(stream: &[u8], role: Role) -> Decoded<String> {
    let mut socket = WebSocket::after_handshake(tokio::io::join(stream, tokio::io::sink()), role);
    socket.set_auto_pong(false);
    // It refuses frames of exactly this size too.
    socket.set_max_message_size(MESSAGE_BYTES_MAX as usize + 1);
    let mut reader = FragmentCollector::new(socket);
    let mut messages = Vec::new();
    loop {
        match read_frame(&mut reader) {
            Ok(frame) => {
                let is_close = frame.opcode == OpCode::Close;
                messages.push(own_frame(&frame));
                if is_close {
                    return (messages, End::Closed);
                }
            }
            Err(error) => return (messages, End::Failed(format!("{error:?}"))),
        }
    }
}

type Stream<'a> = tokio::io::Join<&'a [u8], tokio::io::Sink>;

fn read_frame(reader: &mut FragmentCollector<Stream<'_>>) -> Result<Frame<'static>, WebSocketError> {
    // Reading from memory and writing to a sink never wait, so one poll is enough.
    match pin!(reader.read_frame()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(frame) => frame,
        Poll::Pending => unreachable!("a reader in memory waits"),
    }
}

fn own_frame(frame: &Frame<'_>) -> Owned {
    let payload = frame.payload.to_vec();
    match frame.opcode {
        OpCode::Text => Owned::Text(payload),
        OpCode::Binary => Owned::Binary(payload),
        OpCode::Ping => Owned::Ping(payload),
        OpCode::Pong => Owned::Pong(payload),
        OpCode::Close if payload.len() < 2 => Owned::Close(None),
        OpCode::Close => Owned::Close(Some((
            u16::from_be_bytes([payload[0], payload[1]]),
            payload[2..].to_vec(),
        ))),
        OpCode::Continuation => unreachable!("fragments are collected"),
    }
}
