//! Engine.IO and Socket.IO, both revisions: payloads of polls, packets, and events.
//!
//! 1. Reading a body ends: each packet takes at least one byte, the packets have no more bytes than the body, and an error is the
//!    last item. Text is split as JavaScript does it, by UTF-16 code units.
//! 2. Packets that were read can be written in either revision and read back.
//! 3. A Socket.IO packet that was parsed can be written and parsed again with the same result.
//! 4. An event that is accepted is a JSON array. `request_head` gives the id of the
//!    acknowledgement that a request asks for, and the id of a command.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::dialect::engine_io::payload::{self, BadPayload, Item};
use tickgate_protocol::dialect::engine_io::{Packet, Revision, Sid, encode_packet};
use tickgate_protocol::dialect::socket_io::{self, ATTACHMENTS_MAX, Kind};
use tickgate_protocol::json::Scratch;
use tickgate_protocol::message::ClientMessage;
use tickgate_protocol::wire::encode::first;

const REVISIONS: [Revision; 2] = [Revision::Three, Revision::Four];
const SEPARATOR: char = '\u{1e}';

/// Checks one fuzz input. Its first byte chooses the meaning of the rest.
pub fn check_input(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else {
        return;
    };
    match (choice % 4, std::str::from_utf8(rest)) {
        (0, _) => REVISIONS.into_iter().for_each(|revision| body(revision, rest)),
        (1, Ok(text)) => packet(text),
        (2, Ok(text)) => message(text),
        (3, Ok(text)) => REVISIONS.into_iter().for_each(|revision| written(revision, text)),
        _ => {}
    }
}

fn body(revision: Revision, body: &[u8]) {
    let items = read(revision, body);
    if let Ok(text) = std::str::from_utf8(body)
        && !(revision == Revision::Three && text.starts_with(['\0', '\u{1}']))
    {
        check_against_javascript(revision, text, &items);
    }
    let texts = items.iter().flatten().filter_map(|item| match item {
        Item::Text(text) if Packet::parse(text).is_some() => Some(text.to_string()),
        // An empty text is not a packet and is never written.
        Item::Text(_) => None,
        Item::Binary(bytes) => Some(format!("b{}", STANDARD.encode(bytes))),
    });
    let texts: Vec<_> = texts.collect();
    check_round_trip(&texts);
}

/// Reads all packets of a body.
fn read(revision: Revision, body: &[u8]) -> Vec<Result<Item<'_>, BadPayload>> {
    let mut position = Some(0);
    let mut items = Vec::new();
    let mut bytes = 0;
    while let Some(item) = payload::next(revision, body, &mut position) {
        assert!(items.len() <= body.len(), "more packets than bytes");
        bytes += match &item {
            Ok(Item::Text(text)) => text.len(),
            Ok(Item::Binary(data)) => data.len(),
            Err(BadPayload) => 0,
        };
        assert!(bytes <= body.len(), "{bytes} bytes out of {}", body.len());
        assert!(item.is_ok() || position.is_none(), "a packet after an error");
        items.push(item);
    }
    assert_eq!(payload::next(revision, body, &mut position), None);
    items
}

/// Compares our packets with those of [`packets_of`]. Only a binary packet with invalid base64 may end ours early.
fn check_against_javascript(revision: Revision, text: &str, ours: &[Result<Item<'_>, BadPayload>]) {
    let (packets, is_whole) = packets_of(revision, text);
    let mut ours = ours.iter();
    for packet in packets {
        match ours.next() {
            Some(Ok(Item::Text(text))) => assert_eq!(*text, decoded(revision, &packet)),
            Some(Ok(Item::Binary(_))) => assert!(packet.starts_with('b'), "{packet:?} is read as binary"),
            Some(Err(BadPayload)) => {
                assert!(packet.starts_with('b'), "{packet:?} is refused");
                assert_eq!(ours.next(), None);
                return;
            }
            None => panic!("{packet:?} is not read"),
        }
    }
    assert_eq!(ours.next(), (!is_whole).then_some(&Err(BadPayload)));
}

/// A naive reader. Returns the packets, and whether the whole body was valid.
fn packets_of(revision: Revision, text: &str) -> (Vec<String>, bool) {
    if revision == Revision::Four {
        return (text.split(SEPARATOR).map(str::to_owned).collect(), true);
    }
    let units: Vec<u16> = text.encode_utf16().collect();
    let mut rest = &units[..];
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let Some((packet, after)) = counted(rest) else {
            return (packets, false);
        };
        packets.push(packet);
        rest = after;
    }
    (packets, true)
}

/// Reads `<code units>:<packet>` with a length of at most nine digits; `None` if the packet splits a character.
fn counted(units: &[u16]) -> Option<(String, &[u16])> {
    let colon = units.iter().take(10).position(|unit| *unit == u16::from(b':'))?;
    let digits = String::from_utf16(&units[..colon]).ok()?;
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let (packet, after) = units[colon + 1..].split_at_checked(digits.parse().ok()?)?;
    Some((String::from_utf16(packet).ok()?, after))
}

/// Writes the lines that are packets as a body, and reads it back.
fn written(revision: Revision, text: &str) {
    let packets: Vec<_> = text.lines().filter(|line| Packet::parse(line).is_some()).collect();
    let mut body = Vec::new();
    for packet in &packets {
        payload::append(revision, packet, &mut body);
    }
    let (split, is_whole) = packets_of(revision, std::str::from_utf8(&body).expect("text"));
    assert!(is_whole);
    if revision == Revision::Three || !text.contains(SEPARATOR) && !packets.is_empty() {
        let packets: Vec<_> = packets.iter().map(|packet| escaped(revision, packet)).collect();
        assert_eq!(split, packets);
    }
    check_round_trip(&packets.into_iter().map(str::to_owned).collect::<Vec<_>>());
}

/// Writes packets in both revisions and reads them back. Binary packets are base64 after a `b`.
fn check_round_trip(packets: &[String]) {
    for revision in REVISIONS {
        let mut packets = packets.to_vec();
        let mut expected = Vec::new();
        if revision == Revision::Four {
            packets.retain(|packet| !packet.contains(SEPARATOR));
        }
        let mut body = Vec::new();
        for packet in &packets {
            let Some(data) = packet.strip_prefix('b') else {
                payload::append(revision, packet, &mut body);
                expected.push(Ok(Item::Text(decoded(revision, &escaped(revision, packet)).into())));
                continue;
            };
            let kind = if revision == Revision::Three { "b4" } else { "b" };
            payload::append(revision, &format!("{kind}{data}"), &mut body);
            expected.push(Ok(Item::Binary(STANDARD.decode(data).expect("encoded here"))));
        }
        if !packets.is_empty() {
            assert_eq!(read(revision, &body), expected, "{revision:?}");
        }
    }
}

/// The packet as it is written: in revision 3 what can be JSON is ASCII.
fn escaped(revision: Revision, packet: &str) -> String {
    let json = packet.find(['[', '{', '"']).unwrap_or(packet.len());
    let mut text = packet.to_owned();
    if revision == Revision::Three {
        text.truncate(json);
        for unit in packet[json..].encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => text.push(byte.into()),
                _ => write!(text, "\\u{unit:04x}").expect("memory"),
            }
        }
    }
    text
}

/// The packet as it is read: in revision 3 it is decoded again if its characters are the bytes of UTF-8.
fn decoded(revision: Revision, packet: &str) -> String {
    let bytes: Option<Vec<u8>> = packet.chars().map(|character| u8::try_from(character).ok()).collect();
    match bytes.map(String::from_utf8) {
        Some(Ok(text)) if revision == Revision::Three => text,
        _ => packet.to_owned(),
    }
}

/// Checks an Engine.IO packet or a session id.
fn packet(text: &str) {
    if let Some(packet) = Packet::parse(text) {
        let mut frame = Vec::new();
        encode_packet(&mut frame, packet);
        assert_eq!(Packet::parse(payload_of(&frame)), Some(packet));
    }
    if let Some(sid) = Sid::parse(text) {
        assert_eq!(sid.to_text(), text);
    }
}

/// Checks the data of an Engine.IO message: a Socket.IO packet.
fn message(text: &str) {
    let Some(packet) = socket_io::Packet::parse(text) else {
        return;
    };
    assert!(packet.attachments <= ATTACHMENTS_MAX);
    assert_eq!(socket_io::Packet::parse(&to_text(&packet)), Some(packet));
    if !packet.is_main() {
        check_refused_namespace(&packet);
    }
    let mut scratch = Scratch::default();
    let token = socket_io::connect_token(&packet, &mut scratch);
    assert_eq!(token, socket_io::connect_token(&packet, &mut scratch));
    if let Ok(Some(token)) = token {
        assert!(token.len() <= packet.payload.len());
        assert!(is_json(packet.payload));
    }
    for user in [None, Some("4")] {
        event(text, &packet, user, &mut scratch);
    }
}

fn event(text: &str, packet: &socket_io::Packet<'_>, user: Option<&str>, scratch: &mut Scratch) {
    let dialect = Dialect::SocketIo(socket_io::Settings::default());
    let head = dialect.request_head(&format!("4{text}"), scratch);
    let parsed = socket_io::parse_event(packet, user, scratch);
    let again = socket_io::parse_event(packet, user, scratch);
    assert_eq!(format!("{parsed:?}"), format!("{again:?}"));
    let Ok(message) = parsed else { return };
    assert!(
        packet.payload.trim_ascii_start().starts_with('[') && is_json(packet.payload),
        "{text:?} is accepted and is not an array"
    );
    match message {
        ClientMessage::Command { id, .. } | ClientMessage::CommandStatus { id, .. } if packet.kind == Kind::Event => {
            assert_eq!(head.map(|head| head.id), Some(id));
        }
        _ if matches!(packet.kind, Kind::Event | Kind::BinaryEvent) => {
            assert_eq!(head.is_some(), packet.acknowledgement.is_some());
        }
        _ => {}
    }
}

/// Checks that the packet that refuses a namespace names it.
fn check_refused_namespace(packet: &socket_io::Packet<'_>) {
    for revision in REVISIONS {
        let mut frame = Vec::new();
        let range = socket_io::encode_invalid_namespace(revision, packet.namespace, &mut frame);
        let Some(Packet::Message(data)) = Packet::parse(payload_of(&frame[range])) else {
            panic!("no message");
        };
        let refusal = socket_io::Packet::parse(data).expect("a packet");
        assert_eq!((refusal.kind, refusal.namespace), (Kind::Error, packet.namespace));
        assert!(is_json(refusal.payload));
    }
}

/// Writes a packet with all optional parts.
fn to_text(packet: &socket_io::Packet<'_>) -> String {
    let (digit, is_binary) = match packet.kind {
        Kind::Connect => (0, false),
        Kind::Disconnect => (1, false),
        Kind::Event => (2, false),
        Kind::Acknowledgement => (3, false),
        Kind::Error => (4, false),
        Kind::BinaryEvent => (5, true),
        Kind::BinaryAcknowledgement => (6, true),
    };
    let mut text = digit.to_string();
    if is_binary {
        write!(text, "{}-", packet.attachments).expect("a string");
    }
    write!(text, "{},", packet.namespace).expect("a string");
    if let Some(number) = packet.acknowledgement {
        write!(text, "{number}").expect("a string");
    }
    text + packet.payload
}

fn payload_of(frame: &[u8]) -> &str {
    let whole = first(frame).expect("a frame");
    assert!(whole.is_text && whole.bytes == frame.len());
    std::str::from_utf8(whole.payload).expect("text")
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}
