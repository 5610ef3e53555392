//! Replays the corpus of the fuzz target `decoder`, and checks its handwritten inputs.

use crate::check;
use crate::frames::{BINARY, BINARY_BEGIN, CLOSE, CONTINUE, END, Length, PING, PONG, TEXT, TEXT_BEGIN, frame, header};

/// Replays `fuzz/corpus/decoder`, so that old findings stay fixed.
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

/// The handwritten inputs: valid and invalid streams of each kind.
#[test]
fn the_handwritten_inputs_of_the_corpus_are_up_to_date() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/decoder");
    for (name, parts) in seeds() {
        let stream = parts.concat();
        // Reads of 3 and 200 bytes alternate.
        let input = [&[2, 2, 199][..], &stream].concat();
        let path = folder.join(name);
        if std::env::var_os("TICKGATE_WRITE_CORPUS").is_some() {
            std::fs::write(&path, &input).unwrap();
        }
        assert_eq!(
            std::fs::read(&path).unwrap(),
            input,
            "{name}: set TICKGATE_WRITE_CORPUS to write it again"
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
