//! Compressed messages (RFC 7692) among uncompressed ones: where they are allowed, and equal results however a stream is split.

use proptest::prelude::*;
use tickgate_protocol::wire::{Error, deflate, encode};

use crate::LIMIT;
use crate::check::{Decoded, End, Owned, decode_deflate};
use crate::frames::{BINARY_BEGIN, CLOSE, CONTINUE, END, PING, TEXT, TEXT_BEGIN, frame};

/// The RSV1 bit.
const DEFLATED: u8 = 0x40;

fn compressed(message: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    encode::binary(&mut plain, message);
    let twin = deflate::frame(&plain, 0).expect("shorter");
    twin[twin.len() - encode::payload_bytes(&twin)..].to_vec()
}

fn decode_parts(parts: &[Vec<u8>]) -> Decoded<Error> {
    let stream = parts.concat();
    let whole = decode_deflate(&stream, &[], LIMIT);
    for size in 1..stream.len().min(40) {
        assert_eq!(
            decode_deflate(&stream, &[size], LIMIT),
            whole,
            "in reads of {size} bytes"
        );
    }
    whole
}

#[test]
fn every_broken_rule_has_its_error() {
    let not_first = Error::Protocol("RSV1 is set on a frame that does not begin a data message");
    let no_stream = Error::Protocol("compressed message is not a deflate stream");
    let x = |bytes: usize| vec![b'x'; bytes];
    let pieces = compressed(&x(900));
    let head = &pieces[..pieces.len() / 2];
    let noise: Vec<u8> = (0..LIMIT + LIMIT / 8 + 65).map(|byte| byte as u8).collect();
    let table: Vec<(&str, Vec<Vec<u8>>, Error)> = vec![
        ("on a ping", vec![vec![PING | DEFLATED]], not_first),
        ("on a close", vec![vec![CLOSE | DEFLATED]], not_first),
        (
            "on a continuation",
            vec![frame(TEXT_BEGIN | DEFLATED, head), vec![END | DEFLATED]],
            not_first,
        ),
        (
            "on a continuation of a plain message",
            vec![frame(TEXT_BEGIN, b"a"), vec![CONTINUE | DEFLATED]],
            not_first,
        ),
        ("alone", vec![vec![END | DEFLATED]], not_first),
        (
            "RSV2 too",
            vec![vec![TEXT | DEFLATED | 0x20]],
            Error::Protocol("RSV2 or RSV3 is set without an extension"),
        ),
        (
            "a reserved block type",
            vec![frame(TEXT | DEFLATED, &[0x06])],
            no_stream,
        ),
        (
            "a stored block whose length is not confirmed",
            vec![frame(TEXT | DEFLATED, &[0x00, 0x01, 0x00, 0x00, 0x00, b'x'])],
            no_stream,
        ),
        (
            "one byte over the limit",
            vec![frame(TEXT | DEFLATED, &compressed(&x(1001)))],
            Error::TooBig,
        ),
        (
            "a compressed form that no message within the limit has",
            vec![frame(TEXT | DEFLATED, &noise)[..8].to_vec()],
            Error::TooBig,
        ),
        (
            "the same in fragments",
            vec![
                frame(BINARY_BEGIN | DEFLATED, &noise[..1000]),
                frame(END, &noise[..190])[..4].to_vec(),
            ],
            Error::TooBig,
        ),
        (
            "not UTF-8",
            vec![frame(TEXT | DEFLATED, &compressed(&[0xff; 100]))],
            Error::InvalidUtf8,
        ),
        (
            "not UTF-8, in fragments",
            vec![frame(TEXT_BEGIN | DEFLATED, &compressed(&[0xff; 100])), frame(END, b"")],
            Error::InvalidUtf8,
        ),
    ];
    for (name, parts, expected) in table {
        assert_eq!(decode_parts(&parts).1, End::Failed(expected), "{name}");
    }
}

#[test]
fn compressed_and_plain_messages_mix() {
    let text = "compressed ".repeat(50);
    let deflated = compressed(text.as_bytes());
    let (head, tail) = deflated.split_at(9);
    let parts = [
        frame(TEXT, b"plain"),
        frame(TEXT | DEFLATED, &deflated),
        frame(TEXT_BEGIN | DEFLATED, head),
        frame(PING, b"between"),
        frame(CONTINUE, b""),
        frame(END, tail),
        frame(TEXT_BEGIN, b"pl"),
        frame(END, b"ain"),
        // A message of exactly the limit, then two empty ones: as in section 7.2.3.6 and as an empty frame.
        frame(TEXT | DEFLATED, &compressed(&[b'x'; LIMIT as usize])),
        frame(TEXT | DEFLATED, &[0x00]),
        frame(TEXT | DEFLATED, b""),
    ];
    let of = |text: &str| Owned::Text(text.into());
    let expected = vec![
        of("plain"),
        of(&text),
        Owned::Ping(b"between".to_vec()),
        of(&text),
        of("plain"),
        of(&"x".repeat(LIMIT as usize)),
        of(""),
        of(""),
    ];
    assert_eq!(decode_parts(&parts), (expected, End::Input));
}

proptest! {
    #[test]
    fn a_compressed_text_in_fragments_is_read_back(
        words in prop::collection::vec("[a-c€]{1,5}", 20..60),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        size in 1usize..30,
    ) {
        let text = words.concat();
        prop_assume!(text.len() <= LIMIT as usize);
        let mut plain = Vec::new();
        encode::text(&mut plain, &text);
        prop_assume!(deflate::frame(&plain, 0).is_some());
        let payload = compressed(text.as_bytes());
        let mut ends: Vec<_> = cuts.iter().map(|cut| cut.index(payload.len())).collect();
        ends.sort_unstable();
        let (mut stream, mut begin, mut first) = (Vec::new(), 0, TEXT_BEGIN | DEFLATED);
        for end in ends {
            stream.extend(frame(first, &payload[begin..end]));
            (begin, first) = (end, CONTINUE);
        }
        stream.extend(frame(first | 0x80, &payload[begin..]));
        prop_assert_eq!(
            decode_deflate(&stream, &[size], LIMIT),
            (vec![Owned::Text(text.into_bytes())], End::Input)
        );
    }
}
