//! Every rule of RFC 6455 with its error, and what is right, as tables.

use tickgate_protocol::wire::Error;

use crate::LIMIT;
use crate::check::{Decoded, End, Owned, decode};
use crate::frames::{BINARY, BINARY_BEGIN, CLOSE, CONTINUE, END, Length, PING, PONG, TEXT, TEXT_BEGIN, frame, header};

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
fn valid_streams_are_decoded() {
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
fn registered_close_codes_are_accepted_and_end_the_input() {
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
