//! `tests/data/bad_input.txt`: bytes go through the decoder into the session, and each kind of bad input gets its
//! answer.

use std::sync::Arc;

use super::drive::{Drive, Seen, Tokens, permissions, settings, user};
use crate::auth::TokenError;
use crate::session::Input;
use tickgate_protocol::wire::{Decoder, Inflater, encode};

const TABLE: &str = include_str!("../../../tests/data/bad_input.txt");

struct Row<'t> {
    name: &'t str,
    client: &'t str,
    sent: &'t str,
    answer: &'t str,
}

fn rows() -> Vec<Row<'static>> {
    let lines = TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(" | ").collect();
            let [name, client, sent, answer] = cells[..] else {
                panic!("not four cells: {line}");
            };
            Row {
                name,
                client,
                sent,
                answer,
            }
        })
        .collect()
}

#[test]
fn every_kind_of_bad_input_gets_its_answer() {
    let rows = rows();
    assert!(rows.len() >= 40, "{}", rows.len());
    for row in &rows {
        let whole = play(row, usize::MAX);
        check(row, &whole);
        for chunk in [1, 3] {
            // Long inputs in small chunks take long and show nothing new.
            if row.sent.len() < 2000 && !row.sent.contains('*') {
                assert_eq!(play(row, chunk), whole, "{}, in chunks of {chunk}", row.name);
            }
        }
    }
}

fn tokens() -> Tokens {
    let may = || permissions("grid.*", "grid.*", "market.*");
    Tokens::from([
        ("good".to_owned(), Ok(Arc::new(user("u42", may())))),
        ("another".to_owned(), Ok(Arc::new(user("u43", may())))),
        ("expired".to_owned(), Err(TokenError::expired(1_703_800_000_000))),
    ])
}

fn play(row: &Row<'_>, chunk: usize) -> Vec<Seen> {
    let handshake = match row.client {
        "no_token" => None,
        "user" => Some("good"),
        other => other.strip_prefix("token "),
    };
    let mut drive = Drive::new(settings(), tokens(), handshake);
    let mut decoder = Decoder::new(drive.settings.limits.message_bytes);
    match row.sent.split_once(' ').unwrap_or((row.sent, "")) {
        ("silence", seconds) => drive.pass(seconds.parse::<u64>().unwrap() * 1000),
        sent => feed(&mut drive, &mut decoder, &bytes(sent, row), chunk),
    }
    let mut seen = std::mem::take(&mut drive.seen);
    if !drive.session.is_closed() {
        drive.pass(1000);
        drive.seen.clear();
        feed(
            &mut drive,
            &mut decoder,
            &masked(0x81, br#"{"type":"ping","id":"alive"}"#),
            usize::MAX,
        );
        let alive = matches!(&drive.seen[..], [Seen::Text(pong)] if pong.starts_with(r#"{"type":"pong","id":"alive""#));
        assert!(alive, "{}: {:?}", row.name, drive.seen);
    }
    seen.retain(|seen| !matches!(seen, Seen::Ping(_) | Seen::Pong(_) | Seen::Verify(_)));
    seen
}

fn bytes((kind, rest): (&str, &str), row: &Row<'_>) -> Vec<u8> {
    let (kind, times) = kind
        .split_once('*')
        .map_or((kind, 1), |(kind, times)| (kind, times.parse().unwrap()));
    match kind {
        "hex" => rest.split_whitespace().flat_map(hex).collect(),
        "text" => masked(0x81, rest.as_bytes()).repeat(times),
        "auth" => masked(0x81, format!(r#"{{"type":"auth","token":"{rest}"}}"#).as_bytes()),
        "ping" => masked(0x89, b"x").repeat(times),
        "pong" => masked(0x8a, b"x").repeat(times),
        other => panic!("{}: {other}", row.name),
    }
}

fn hex(word: &str) -> Vec<u8> {
    if word == "M" {
        return vec![0; 4];
    }
    let (byte, times) = word
        .split_once('*')
        .map_or((word, 1), |(byte, times)| (byte, times.parse().unwrap()));
    vec![u8::from_str_radix(byte, 16).unwrap(); times]
}

// A client's frame.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x37, 0xfa, 0x21, 0x3d];
    let kind = if first == 0x81 {
        encode::Kind::Text
    } else {
        encode::Kind::Ping
    };
    let header = encode::Header::new(kind, payload.len());
    let mut frame = header.as_slice().to_vec();
    frame[0] = first;
    frame[1] |= 0x80;
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

fn feed(drive: &mut Drive, decoder: &mut Decoder, bytes: &[u8], chunk: usize) {
    for piece in bytes.chunks(chunk.min(bytes.len().max(1))) {
        let mut piece = piece.to_vec();
        let mut position = 0;
        loop {
            match decoder.next(&mut piece, &mut position, &mut Inflater::default()) {
                Ok(Some(message)) => drive.input(Input::Frame(message)),
                Ok(None) => break,
                Err(error) => {
                    drive.input(Input::Malformed(error));
                    break;
                }
            }
            if drive.verify.is_some() {
                drive.answer_verify();
            }
        }
    }
}

fn check(row: &Row<'_>, seen: &[Seen]) {
    let (answer, naming) = row.answer.split_once(" naming ").unwrap_or((row.answer, ""));
    let (kind, code) = answer.split_once(' ').unwrap();
    if kind == "close" {
        let [.., Seen::CloseFrame(Some((sent, _))), Seen::Close(ending)] = seen else {
            panic!("{}: {seen:?}", row.name);
        };
        assert_eq!(
            (sent.to_string().as_str(), ending.code()),
            (code, *sent),
            "{}",
            row.name
        );
        return;
    }
    // A forbidden command is recorded in the audit trail too.
    let ([Seen::Text(text)] | [Seen::Text(text), Seen::Forbidden(_)]) = seen else {
        panic!("{}: {seen:?}", row.name);
    };
    let answer: serde_json::Value = serde_json::from_str(text).unwrap();
    assert_eq!(answer["type"], kind, "{}: {text}", row.name);
    assert_eq!(answer["error"]["code"], code, "{}: {text}", row.name);
    let message = answer["error"]["message"].as_str().unwrap();
    assert!(message.contains(naming), "{}: {text}", row.name);
}
