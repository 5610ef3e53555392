//! The codec by its public interface: the error of every rule of RFC 6455, and equal results however a stream is split.

#![allow(unreachable_pub, reason = "the helpers are shared with other crates")]
#![allow(missing_docs)]

#[path = "../../fuzz/src/decoder.rs"]
mod check;
#[path = "../support/frames.rs"]
mod frames;

mod corpus;
mod deflate;
mod rules;

use check::{End, Owned, decode};
use frames::{BINARY, BINARY_BEGIN, CLOSE, CONTINUE, END, Length, PING, PONG, TEXT, TEXT_BEGIN, frame, header};
use proptest::prelude::*;
use tickgate_protocol::wire::{Decoder, Error, Inflater, Message};

/// The size limit of a message, in bytes.
const LIMIT: u32 = 1000;

/// Feeds one read that completes no message.
fn feed(decoder: &mut Decoder, bytes: &[u8]) -> Result<(), Error> {
    let mut scratch = bytes.to_vec();
    let mut position = 0;
    assert_eq!(
        decoder.next(&mut scratch, &mut position, &mut Inflater::default())?,
        None
    );
    assert_eq!(position, scratch.len());
    Ok(())
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut decoder = Decoder::new(u32::MAX);
    feed(&mut decoder, &header(BINARY, Length::Bits64, u64::from(u32::MAX))).unwrap();
    feed(&mut decoder, &[0; 4]).unwrap();
    assert!(decoder.is_mid_message());
    assert!(decoder.buffered_bytes() < 512, "{}", decoder.buffered_bytes());
    feed(&mut decoder, &[0; 1000]).unwrap();
    assert!(
        (1000..2600).contains(&decoder.buffered_bytes()),
        "{}",
        decoder.buffered_bytes()
    );
}

#[test]
fn an_idle_decoder_holds_no_memory() {
    let (mut decoder, mut inflater) = (Decoder::new(LIMIT), Inflater::default());
    for part in [frame(TEXT_BEGIN, &[b'x'; 500]), frame(CONTINUE, &[b'x'; 500])] {
        feed(&mut decoder, &part).unwrap();
        assert!(decoder.buffered_bytes() > 500);
    }
    let (mut scratch, mut position) = (frame(END, b""), 0);
    assert_eq!(
        decoder.next(&mut scratch, &mut position, &mut inflater),
        Ok(Some(Message::Text(&"x".repeat(1000))))
    );
    assert_eq!(decoder.next(&mut scratch, &mut position, &mut inflater), Ok(None));
    assert_eq!((decoder.buffered_bytes(), decoder.is_mid_message()), (0, false));
}

#[test]
fn a_complete_frame_is_read_in_place() {
    let mut decoder = Decoder::new(LIMIT);
    let mut scratch = frame(TEXT, b"in place");
    let payload = scratch[6..].as_ptr();
    let (mut position, mut inflater) = (0, Inflater::default());
    let Ok(Some(Message::Text(text))) = decoder.next(&mut scratch, &mut position, &mut inflater) else {
        panic!("no text")
    };
    assert_eq!((text, text.as_ptr()), ("in place", payload));
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn invalid_text_fails_at_the_first_invalid_byte() {
    let mut decoder = Decoder::new(LIMIT);
    let mut bytes = frame(TEXT, &[b"fine ".as_slice(), b"\xf4\x90", &[b'x'; 100]].concat());
    bytes.truncate(6 + 5 + 1);
    feed(&mut decoder, &bytes).unwrap();
    // 0xf4 can start a character, but not before 0x90. The frame has 100 more bytes.
    let next = frame(TEXT, b"fine \xf4\x90")[6 + 6];
    assert_eq!(feed(&mut decoder, &[next]), Err(Error::InvalidUtf8));
    assert_eq!(decoder.buffered_bytes(), 0);
}

/// A stream of frames. Most are valid, some are damaged.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        8 => prop::sample::select(vec![TEXT, BINARY, PING, PONG, TEXT_BEGIN, BINARY_BEGIN, CONTINUE, END]),
        1 => Just(CLOSE),
        1 => any::<u8>(),
    ];
    let payload = prop_oneof![
        4 => "[a-z€🦀]{0,60}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => (any::<u16>(), "[a-zß]{0,20}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
    ];
    let part = prop_oneof![
        12 => (first, payload).prop_map(|(first, payload)| frame(first, &payload)),
        1 => (any::<u8>(), any::<u64>()).prop_map(|(first, length)| header(first, Length::Bits64, length)),
        1 => (any::<u8>(), any::<u16>()).prop_map(|(first, length)| header(first, Length::Bits16, length.into())),
        1 => prop::collection::vec(any::<u8>(), 0..20),
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// A valid stream: a text message in fragments with control frames between them. Fragments may split characters.
fn fragmented() -> impl Strategy<Value = (String, Vec<u8>)> {
    (
        "[a-zß€🦀]{0,40}",
        prop::collection::vec(0usize..12, 0..6),
        any::<bool>(),
    )
        .prop_map(|(text, lengths, pings)| {
            let (mut stream, mut rest, mut first) = (Vec::new(), text.as_bytes(), TEXT_BEGIN);
            for length in lengths {
                let (piece, later) = rest.split_at(length.min(rest.len()));
                stream.extend(frame(first, piece));
                (rest, first) = (later, CONTINUE);
                if pings {
                    stream.extend(frame(PING, b"between"));
                }
            }
            stream.extend(frame(first | 0x80, rest));
            (text, stream)
        })
}

proptest! {
    #[test]
    fn splits_do_not_matter_and_fastwebsockets_agrees(stream in stream(), sizes in prop::collection::vec(any::<u8>(), 0..6)) {
        check::check(&sizes, &stream);
    }

    #[test]
    fn a_text_in_fragments_is_read_back((text, stream) in fragmented(), size in 1usize..20) {
        let (messages, end) = decode(&stream, &[size], LIMIT);
        prop_assert_eq!(end, End::Input);
        let data: Vec<_> = messages.into_iter().filter(|message| !matches!(message, Owned::Ping(_))).collect();
        prop_assert_eq!(data, vec![Owned::Text(text.into_bytes())]);
    }
}
