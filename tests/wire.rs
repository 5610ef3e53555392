//! The codec from outside: every rule of RFC 6455 with its error, and the same result for every way to cut a stream.

#![allow(unreachable_pub, reason = "the helpers are shared with other crates")]
#![allow(missing_docs)]

#[path = "../fuzz/src/decoder.rs"]
mod check;
#[path = "support/frames.rs"]
mod frames;

use check::{Decoded, End, Owned, decode};
use frames::{BINARY, BINARY_BEGIN, CLOSE, CONTINUE, END, Length, PING, PONG, TEXT, TEXT_BEGIN, frame, header};
use proptest::prelude::*;
use tickgate::wire::{Decoder, Error, Message};

const LIMIT: u32 = 1000;

fn decode_parts(parts: &[Vec<u8>]) -> Decoded<Error> {
    let stream = parts.concat();
    let whole = decode(&stream, &[], LIMIT);
    for size in 1..stream.len().min(40) {
        assert_eq!(decode(&stream, &[size], LIMIT), whole, "in reads of {size} bytes");
    }
    whole
}

fn error_of(parts: &[Vec<u8>]) -> Error {
    match decode_parts(parts).1 {
        End::Failed(error) => error,
        other => panic!("{other:02x?} instead of an error"),
    }
}

#[test]
fn every_broken_rule_has_its_error() {
    let protocol = Error::Protocol;
    let close = |code: u16| frame(CLOSE, &code.to_be_bytes());
    let long = vec![b'x'; 126];
    let table: Vec<(&str, Vec<Vec<u8>>, Error)> = vec![
        ("RSV1", vec![vec![0xc1]], protocol("RSV1 is set without an extension")),
        (
            "RSV2",
            vec![vec![0xa1]],
            protocol("RSV2 or RSV3 is set without an extension"),
        ),
        (
            "RSV3",
            vec![vec![0x91]],
            protocol("RSV2 or RSV3 is set without an extension"),
        ),
        ("opcode 3", vec![vec![0x83]], protocol("reserved opcode")),
        ("opcode 7", vec![vec![0x87]], protocol("reserved opcode")),
        ("opcode 11", vec![vec![0x8b]], protocol("reserved opcode")),
        ("opcode 15", vec![vec![0x8f]], protocol("reserved opcode")),
        (
            "fragmented ping",
            vec![vec![0x09]],
            protocol("fragmented control frame"),
        ),
        (
            "fragmented pong",
            vec![vec![0x0a]],
            protocol("fragmented control frame"),
        ),
        (
            "fragmented close",
            vec![vec![0x08]],
            protocol("fragmented control frame"),
        ),
        (
            "unmasked text",
            vec![vec![TEXT, 0x02, b'h', b'i']],
            protocol("frame is not masked"),
        ),
        (
            "unmasked, empty",
            vec![vec![PING, 0x00]],
            protocol("frame is not masked"),
        ),
        (
            "long ping",
            vec![frame(PING, &long)],
            protocol("control frame longer than 125 bytes"),
        ),
        (
            "long pong",
            vec![frame(PONG, &long)],
            protocol("control frame longer than 125 bytes"),
        ),
        (
            "long close",
            vec![frame(CLOSE, &long)],
            protocol("control frame longer than 125 bytes"),
        ),
        (
            "continuation first",
            vec![frame(END, b"x")],
            protocol("continuation without a message"),
        ),
        (
            "continuation after a whole message",
            vec![frame(TEXT, b"x"), frame(CONTINUE, b"x")],
            protocol("continuation without a message"),
        ),
        (
            "text inside text",
            vec![frame(TEXT_BEGIN, b"x"), frame(TEXT, b"x")],
            protocol("new message inside a fragmented one"),
        ),
        (
            "begin inside binary",
            vec![frame(BINARY_BEGIN, b""), frame(TEXT_BEGIN, b"x")],
            protocol("new message inside a fragmented one"),
        ),
        (
            "16 bits for 125",
            vec![header(TEXT, Length::Bits16, 125)],
            protocol("length is not in its shortest form"),
        ),
        (
            "64 bits for 125",
            vec![header(TEXT, Length::Bits64, 125)],
            protocol("length is not in its shortest form"),
        ),
        (
            "64 bits for 65535",
            vec![header(TEXT, Length::Bits64, 65_535)],
            protocol("length is not in its shortest form"),
        ),
        (
            "64th bit",
            vec![header(TEXT, Length::Bits64, 1 << 63)],
            protocol("top bit of a 64-bit length is set"),
        ),
        (
            "one byte above the limit",
            vec![header(TEXT, Length::Shortest, 1001)],
            Error::TooBig,
        ),
        (
            "far above the limit",
            vec![header(BINARY, Length::Bits64, u64::MAX >> 1)],
            Error::TooBig,
        ),
        (
            "above the limit in fragments",
            vec![
                frame(TEXT_BEGIN, &[b'x'; 600]),
                frame(CONTINUE, &[b'x'; 400]),
                header(END, Length::Shortest, 1),
            ],
            Error::TooBig,
        ),
        ("not UTF-8", vec![frame(TEXT, b"\xff")], Error::InvalidUtf8),
        (
            "text ends inside a character",
            vec![frame(TEXT, b"\xe2\x82")],
            Error::InvalidUtf8,
        ),
        (
            "fragmented text ends inside a character",
            vec![frame(TEXT_BEGIN, b"ok\xe2"), frame(END, b"\x82")],
            Error::InvalidUtf8,
        ),
        (
            "character broken by the next fragment",
            vec![frame(TEXT_BEGIN, b"\xe2"), frame(CONTINUE, b"x")],
            Error::InvalidUtf8,
        ),
        ("surrogate", vec![frame(TEXT, b"\xed\xa0\x80")], Error::InvalidUtf8),
        (
            "close with half a code",
            vec![frame(CLOSE, b"\x03")],
            protocol("close frame with half a code"),
        ),
        (
            "close reason not UTF-8",
            vec![frame(CLOSE, b"\x03\xe8\xff")],
            Error::InvalidUtf8,
        ),
        ("close 0", vec![close(0)], protocol("close code that must not be sent")),
        (
            "close 999",
            vec![close(999)],
            protocol("close code that must not be sent"),
        ),
        (
            "close 1004",
            vec![close(1004)],
            protocol("close code that must not be sent"),
        ),
        (
            "close 1005",
            vec![close(1005)],
            protocol("close code that must not be sent"),
        ),
        (
            "close 1006",
            vec![close(1006)],
            protocol("close code that must not be sent"),
        ),
        (
            "close 1015",
            vec![close(1015)],
            protocol("close code that must not be sent"),
        ),
        (
            "close 1016",
            vec![close(1016)],
            protocol("close code that must not be sent"),
        ),
        (
            "close 2999",
            vec![close(2999)],
            protocol("close code that must not be sent"),
        ),
        (
            "close 5000",
            vec![close(5000)],
            protocol("close code that must not be sent"),
        ),
        (
            "close 65535",
            vec![close(65_535)],
            protocol("close code that must not be sent"),
        ),
    ];
    for (name, parts, expected) in table {
        assert_eq!(error_of(&parts), expected, "{name}");
    }
}

#[test]
fn what_is_right_comes_through() {
    let text = |text: &str| Owned::Text(text.into());
    let table = [
        ("empty text", vec![frame(TEXT, b"")], vec![text("")]),
        ("empty binary", vec![frame(BINARY, b"")], vec![Owned::Binary(vec![])]),
        (
            "125 bytes",
            vec![frame(BINARY, &[7; 125])],
            vec![Owned::Binary(vec![7; 125])],
        ),
        (
            "126 bytes",
            vec![frame(BINARY, &[7; 126])],
            vec![Owned::Binary(vec![7; 126])],
        ),
        (
            "exactly the limit",
            vec![frame(BINARY, &[7; 1000])],
            vec![Owned::Binary(vec![7; 1000])],
        ),
        (
            "several in one read",
            vec![frame(TEXT, b"a"), frame(TEXT, "\u{20ac}".as_bytes()), frame(PING, b"?")],
            vec![text("a"), text("\u{20ac}"), Owned::Ping(b"?".to_vec())],
        ),
        (
            "fragments",
            vec![frame(TEXT_BEGIN, b"a"), frame(CONTINUE, b"b"), frame(END, b"c")],
            vec![text("abc")],
        ),
        (
            "empty fragments",
            vec![frame(BINARY_BEGIN, b""), frame(CONTINUE, b""), frame(END, b"")],
            vec![Owned::Binary(vec![])],
        ),
        (
            "a character over fragments",
            vec![
                frame(TEXT_BEGIN, b"\xf0\x9f"),
                frame(CONTINUE, b"\xa6"),
                frame(END, b"\x80!"),
            ],
            vec![text("\u{1f980}!")],
        ),
        (
            "binary need not be UTF-8",
            vec![frame(BINARY, b"\xff\xfe")],
            vec![Owned::Binary(vec![0xff, 0xfe])],
        ),
        (
            "ping and pong between fragments",
            vec![
                frame(TEXT_BEGIN, b"a"),
                frame(PING, b"p"),
                frame(CONTINUE, b""),
                frame(PONG, b""),
                frame(END, b"z"),
            ],
            vec![Owned::Ping(b"p".to_vec()), Owned::Pong(vec![]), text("az")],
        ),
        (
            "two fragmented messages",
            vec![
                frame(TEXT_BEGIN, b"a"),
                frame(END, b"b"),
                frame(BINARY_BEGIN, b"c"),
                frame(END, b"d"),
            ],
            vec![text("ab"), Owned::Binary(b"cd".to_vec())],
        ),
        (
            "longest ping",
            vec![frame(PING, &[1; 125])],
            vec![Owned::Ping(vec![1; 125])],
        ),
        (
            "exactly the limit in fragments",
            vec![frame(BINARY_BEGIN, &[1; 999]), frame(END, &[1])],
            vec![Owned::Binary(vec![1; 1000])],
        ),
    ];
    for (name, parts, expected) in table {
        assert_eq!(decode_parts(&parts), (expected, End::Input), "{name}");
    }
}

#[test]
fn close_codes_of_the_registry_pass_and_nothing_is_read_after_them() {
    assert_eq!(
        decode_parts(&[frame(CLOSE, b""), vec![0xff; 9]]),
        (vec![Owned::Close(None)], End::Closed)
    );
    for code in [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999u16,
    ] {
        let payload = [&code.to_be_bytes()[..], "tschüß".as_bytes()].concat();
        let expected = Owned::Close(Some((code, "tschüß".into())));
        let parts = [frame(CLOSE, &payload), frame(TEXT, b"late")];
        assert_eq!(decode_parts(&parts), (vec![expected], End::Closed), "{code}");
    }
    let in_a_message = [frame(TEXT_BEGIN, b"never ends"), frame(CLOSE, b"\x03\xe8")];
    assert_eq!(
        decode_parts(&in_a_message),
        (vec![Owned::Close(Some((1000, vec![])))], End::Closed)
    );
}

/// Feeds one read that brings no whole message.
fn feed(decoder: &mut Decoder, bytes: &[u8]) -> Result<(), Error> {
    let mut scratch = bytes.to_vec();
    let mut position = 0;
    assert_eq!(decoder.next(&mut scratch, &mut position)?, None);
    assert_eq!(position, scratch.len());
    Ok(())
}

#[test]
fn a_claimed_length_reserves_nothing() {
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
fn an_idle_decoder_owns_nothing() {
    let mut decoder = Decoder::new(LIMIT);
    for part in [frame(TEXT_BEGIN, &[b'x'; 500]), frame(CONTINUE, &[b'x'; 500])] {
        feed(&mut decoder, &part).unwrap();
        assert!(decoder.buffered_bytes() > 500);
    }
    let (mut scratch, mut position) = (frame(END, b""), 0);
    assert_eq!(
        decoder.next(&mut scratch, &mut position),
        Ok(Some(Message::Text(&"x".repeat(1000))))
    );
    assert_eq!(decoder.next(&mut scratch, &mut position), Ok(None));
    assert_eq!((decoder.buffered_bytes(), decoder.is_mid_message()), (0, false));
}

#[test]
fn a_whole_frame_is_read_where_it_lies() {
    let mut decoder = Decoder::new(LIMIT);
    let mut scratch = frame(TEXT, b"in place");
    let payload = scratch[6..].as_ptr();
    let mut position = 0;
    let Ok(Some(Message::Text(text))) = decoder.next(&mut scratch, &mut position) else {
        panic!("no text")
    };
    assert_eq!((text, text.as_ptr()), ("in place", payload));
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn text_fails_inside_a_frame_as_soon_as_it_is_wrong() {
    let mut decoder = Decoder::new(LIMIT);
    let mut bytes = frame(TEXT, &[b"fine ".as_slice(), b"\xf4\x90", &[b'x'; 100]].concat());
    bytes.truncate(6 + 5 + 1);
    feed(&mut decoder, &bytes).unwrap();
    // 0xf4 may begin a character, but not with 0x90 behind it; 100 bytes of the frame are still to come.
    let next = frame(TEXT, b"fine \xf4\x90")[6 + 6];
    assert_eq!(feed(&mut decoder, &[next]), Err(Error::InvalidUtf8));
    assert_eq!(decoder.buffered_bytes(), 0);
}

/// Replays the fuzzer's corpus (`fuzz/corpus/decoder`), so that what it once found stays right.
#[test]
fn the_fuzz_corpus_holds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/decoder");
    let inputs: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(inputs.len() >= 50, "only {} inputs in {folder}", inputs.len());
    for input in inputs {
        println!("{}", input.display());
        check::check_input(&std::fs::read(&input).unwrap());
    }
}

/// The part of the corpus that was written by hand: each kind of stream, right and wrong.
#[test]
fn the_named_part_of_the_corpus_is_what_its_names_say() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decoder");
    for (name, parts) in seeds() {
        let stream = parts.concat();
        // Reads of 3 and of 200 bytes in turn.
        let input = [&[2, 2, 199][..], &stream].concat();
        let path = folder.join(name);
        if std::env::var_os("TICKGATE_WRITE_CORPUS").is_some() {
            std::fs::write(&path, &input).unwrap();
        }
        assert_eq!(
            std::fs::read(&path).unwrap(),
            input,
            "{name}: set TICKGATE_WRITE_CORPUS to write it anew"
        );
    }
}

fn seeds() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let json = br#"{"type":"subscribe","channels":["grid.*"],"id":"s1"}"#;
    let euro = "\u{20ac}".as_bytes();
    vec![
        ("text-json", vec![frame(TEXT, json)]),
        ("text-empty", vec![frame(TEXT, b"")]),
        ("text-126", vec![frame(TEXT, &[b'a'; 126])]),
        ("text-after-text", vec![frame(TEXT, json), frame(TEXT, json)]),
        ("text-invalid-utf8", vec![frame(TEXT, b"ab\xffcd")]),
        ("text-cut-character", vec![frame(TEXT, &euro[..2])]),
        ("binary", vec![frame(BINARY, &[0, 1, 254, 255])]),
        (
            "fragments-text",
            vec![frame(TEXT_BEGIN, b"a"), frame(CONTINUE, b"b"), frame(END, b"c")],
        ),
        (
            "fragments-empty",
            vec![frame(BINARY_BEGIN, b""), frame(CONTINUE, b""), frame(END, b"")],
        ),
        (
            "fragments-character",
            vec![
                frame(TEXT_BEGIN, &euro[..1]),
                frame(CONTINUE, &euro[1..2]),
                frame(END, &euro[2..]),
            ],
        ),
        (
            "fragments-cut-character",
            vec![frame(TEXT_BEGIN, b"x"), frame(END, &euro[..2])],
        ),
        (
            "fragments-with-ping",
            vec![
                frame(TEXT_BEGIN, b"a"),
                frame(PING, b"p"),
                frame(PONG, b"q"),
                frame(END, b"c"),
            ],
        ),
        (
            "fragments-with-close",
            vec![frame(TEXT_BEGIN, b"a"), frame(CLOSE, b"\x03\xe8bye")],
        ),
        ("fragments-new-text", vec![frame(TEXT_BEGIN, b"a"), frame(TEXT, b"b")]),
        (
            "fragments-new-begin",
            vec![frame(TEXT_BEGIN, b"a"), frame(BINARY_BEGIN, b"b"), frame(END, b"c")],
        ),
        ("continuation-alone", vec![frame(END, b"x")]),
        ("ping-125", vec![frame(PING, &[b'p'; 125])]),
        ("ping-126", vec![frame(PING, &[b'p'; 126])]),
        ("pong-126", vec![frame(PONG, &[b'p'; 126])]),
        ("close-empty-then-text", vec![frame(CLOSE, b""), frame(TEXT, b"late")]),
        ("close-half-code", vec![frame(CLOSE, b"\x03")]),
        ("close-1014", vec![frame(CLOSE, b"\x03\xf6")]),
        ("close-1005", vec![frame(CLOSE, b"\x03\xed")]),
        ("close-invalid-utf8", vec![frame(CLOSE, b"\x03\xe8\xff")]),
        ("unmasked", vec![vec![TEXT, 2, b'h', b'i']]),
        ("rsv1", vec![frame(TEXT | 0x40, b"deflated")]),
        (
            "length-16-too-long-form",
            vec![header(TEXT, Length::Bits16, 5), vec![0; 9]],
        ),
        (
            "length-64-too-long-form",
            vec![header(TEXT, Length::Bits64, 300), vec![0; 304]],
        ),
        (
            "length-64-top-bit",
            vec![header(TEXT, Length::Bits64, 1 << 63), vec![0; 4]],
        ),
        (
            "length-64-valid",
            vec![header(BINARY, Length::Bits64, 65_536), vec![0; 30]],
        ),
        (
            "length-over-limit",
            vec![header(BINARY, Length::Bits64, 70_001), vec![0; 30]],
        ),
        ("header-cut", vec![header(BINARY, Length::Bits64, 65_536)[..7].to_vec()]),
    ]
}

/// A stream of frames, most of them right, some damaged.
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

/// Fragmented text with control frames between, cut anywhere, also inside characters: always right.
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
    fn the_cut_does_not_matter_and_fastwebsockets_agrees(stream in stream(), sizes in prop::collection::vec(any::<u8>(), 0..6)) {
        check::check(&sizes, &stream);
    }

    #[test]
    fn fragments_give_the_text_back((text, stream) in fragmented(), size in 1usize..20) {
        let (messages, end) = decode(&stream, &[size], LIMIT);
        prop_assert_eq!(end, End::Input);
        let data: Vec<_> = messages.into_iter().filter(|message| !matches!(message, Owned::Ping(_))).collect();
        prop_assert_eq!(data, vec![Owned::Text(text.into_bytes())]);
    }
}
