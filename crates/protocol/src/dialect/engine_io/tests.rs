//! Packets and payloads: the cases of the protocol documents, and the framing of the reference implementation.

use proptest::prelude::*;

use super::payload::{BadPayload, Item, append, next};
use super::*;
use crate::wire::encode::first;

fn read(revision: Revision, body: &[u8]) -> Result<Vec<Item<'_>>, BadPayload> {
    let mut position = Some(0);
    std::iter::from_fn(|| next(revision, body, &mut position)).collect()
}

fn text(packet: &str) -> Item<'_> {
    Item::Text(packet.into())
}

fn written(revision: Revision, packets: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for packet in packets {
        append(revision, packet, &mut out);
    }
    out
}

#[test]
fn packets_are_parsed_and_encoded() {
    for (wire, packet) in [
        ("0{}", Packet::Open("{}")),
        ("1", Packet::Close),
        ("2", Packet::Ping("")),
        ("2probe", Packet::Ping("probe")),
        ("3probe", Packet::Pong("probe")),
        ("4hello", Packet::Message("hello")),
        ("4", Packet::Message("")),
        ("5", Packet::Upgrade),
        ("6", Packet::Noop),
    ] {
        assert_eq!(Packet::parse(wire), Some(packet), "{wire}");
        let mut frame = Vec::new();
        encode_packet(&mut frame, packet);
        let whole = first(&frame).expect("one frame");
        assert_eq!(
            (whole.payload, whole.bytes, whole.is_text),
            (wire.as_bytes(), frame.len(), true)
        );
    }
    for wire in ["", "7", "abc", "b", "é", "-1"] {
        assert_eq!(Packet::parse(wire), None, "{wire}");
    }
}

#[test]
fn payloads_of_revision_4_are_split_at_separators() {
    let read = |body: &'static str| read(Revision::Four, body.as_bytes());
    assert_eq!(read("4hello"), Ok(vec![text("4hello")]));
    assert_eq!(
        read("4test1\u{1e}4test2\u{1e}2"),
        Ok(vec![text("4test1"), text("4test2"), text("2")])
    );
    assert_eq!(
        read("4hello\u{1e}bAQIDBA=="),
        Ok(vec![text("4hello"), Item::Binary(vec![1, 2, 3, 4])])
    );
    assert_eq!(read("bAQIDBA"), Ok(vec![Item::Binary(vec![1, 2, 3, 4])]));
    // An empty text is not a packet. The session refuses it.
    assert_eq!(read(""), Ok(vec![text("")]));
    assert_eq!(read("2\u{1e}"), Ok(vec![text("2"), text("")]));
    assert_eq!(read("b!"), Err(BadPayload));
    assert_eq!(
        super::payload::next(Revision::Four, &[b'4', 0xff], &mut Some(0)),
        Some(Err(BadPayload))
    );
    assert_eq!(written(Revision::Four, &["4a", "2", "4b"]), b"4a\x1e2\x1e4b");
}

#[test]
fn payloads_of_revision_3_count_utf_16_code_units() {
    let read = |body: &'static str| read(Revision::Three, body.as_bytes());
    assert_eq!(read("6:4hello2:4€"), Ok(vec![text("4hello"), text("4€")]));
    // A character outside the basic multilingual plane has two code units.
    assert_eq!(read("3:4😀1:2"), Ok(vec![text("4😀"), text("2")]));
    assert_eq!(read("10:b4AQIDBA=="), Ok(vec![Item::Binary(vec![1, 2, 3, 4])]));
    assert_eq!(read(""), Ok(vec![]));
    assert_eq!(
        written(Revision::Three, &["4hello", "4€", "4😀"]),
        "6:4hello2:4€3:4😀".as_bytes()
    );
    assert_eq!(
        String::from_utf8(written(
            Revision::Three,
            &["42[\"é€\",\"😀\"]", "44/é,\"ü\"", "42[\"a\"]"]
        ))
        .unwrap(),
        r#"33:42["\u00e9\u20ac","\ud83d\ude00"]13:44/é,"\u00fc"7:42["a"]"#,
        "JSON has only ASCII"
    );
    for bad in [
        "4hello",
        "5:4hi",
        ":4",
        "x:4hi",
        "-1:4",
        "2:4😀",
        "1:2x",
        "99999999999:4",
        "10:b5AQIDBA==",
    ] {
        assert_eq!(read(bad), Err(BadPayload), "{bad}");
    }
}

#[test]
fn a_payload_that_version_1_encoded_twice_is_decoded_twice() {
    let read = |body: &'static str| read(Revision::Three, body.as_bytes());
    // As `socket.io-client` 1.7.4 writes `42["é€😀"]` where it has no binary XMLHttpRequest.
    assert_eq!(
        read("15:42[\"\u{c3}\u{a9}\u{e2}\u{82}\u{ac}\u{f0}\u{9f}\u{98}\u{80}\"]1:2"),
        Ok(vec![text("42[\"é€😀\"]"), text("2")])
    );
    for once in ["4:4é\u{c3}x", "3:4é€", "4:4\u{c3}\u{a9}€", "2:4ß"] {
        let (_, packet) = once.split_once(':').unwrap();
        assert_eq!(read(once), Ok(vec![text(packet)]), "version 2");
    }
}

#[test]
fn payloads_of_revision_3_may_have_binary_framing() {
    let body = [
        &[0, 6, 255][..],
        b"4hello",
        &[0, 4, 255],
        "4€".as_bytes(),
        &[1, 5, 255, 4, 1, 2, 3, 4],
    ]
    .concat();
    assert_eq!(
        read(Revision::Three, &body),
        Ok(vec![text("4hello"), text("4€"), Item::Binary(vec![1, 2, 3, 4])])
    );
    for bad in [
        &[0, 255][..],
        &[0, 2, 255, b'4'],
        &[0, 10, 255, b'4'],
        &[0, 1, 255, b'2', 2, 1, 255, b'2'],
        &[1, 2, 255, 5, 1],
        &[0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 255],
        &[0, 2, 255, b'4', 0xff],
    ] {
        assert_eq!(read(Revision::Three, bad), Err(BadPayload), "{bad:?}");
    }
}

#[test]
fn a_session_id_is_read_back_and_its_debug_output_has_no_secret() {
    let sid = Sid {
        connection: 0x0123_4567_89ab_cdef,
        secret: *b"0123456789abcdef",
    };
    let name = sid.to_text();
    assert_eq!((name.len(), Sid::parse(&name)), (32, Some(sid)));
    assert!(
        name.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    );
    assert!(!format!("{sid:?}").contains("secret"));
    for none in [
        "",
        "abc",
        &name[1..],
        &format!("{name}A"),
        &name.replacen('A', "=", 1),
        &"é".repeat(16),
    ] {
        assert_ne!(Sid::parse(none), Some(sid), "{none}");
    }
}

#[test]
fn the_open_packet_has_all_fields_of_the_handshake() {
    let sid = Sid {
        connection: 1,
        secret: [2; SECRET_BYTES],
    };
    let mut out = vec![b'x'];
    let range = encode_open(
        &Handshake {
            sid: &sid,
            may_upgrade: true,
            ping_interval_ms: 25_000,
            ping_timeout_ms: 20_000,
            payload_bytes_max: 65_536,
        },
        &mut out,
    );
    let payload = first(&out[range]).expect("a frame").payload;
    let value: serde_json::Value = serde_json::from_slice(&payload[1..]).expect("JSON");
    assert_eq!(
        (payload[0], value),
        (
            b'0',
            serde_json::json!({"sid": sid.to_text(), "upgrades": ["websocket"], "pingInterval": 25_000,
                "pingTimeout": 20_000, "maxPayload": 65_536})
        )
    );
}

proptest! {
    #[test]
    fn a_written_payload_is_read_back(packets in prop::collection::vec("[0-6][^\u{1e}]{0,40}", 1..12)) {
        let packets: Vec<&str> = packets.iter().map(String::as_str).collect();
        let body = written(Revision::Four, &packets);
        prop_assert_eq!(read(Revision::Four, &body), Ok(packets.into_iter().map(text).collect()));
    }

    #[test]
    fn the_json_of_a_payload_of_revision_3_is_ascii_and_the_same(texts in prop::collection::vec(any::<String>(), 1..12)) {
        let packets: Vec<String> = texts.iter().map(|text| format!("42{}", serde_json::json!([text]))).collect();
        let body = written(Revision::Three, &packets.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert!(body.is_ascii());
        let items = read(Revision::Three, &body).unwrap();
        prop_assert_eq!(items.len(), texts.len());
        for (item, text) in items.iter().zip(&texts) {
            let Item::Text(packet) = item else { panic!("{item:?}") };
            let [read]: [String; 1] = serde_json::from_str(&packet[2..]).unwrap();
            prop_assert_eq!(&read, text);
        }
    }

    #[test]
    fn reading_any_body_makes_progress_and_ends(body in prop::collection::vec(prop_oneof![any::<u8>(), Just(b':'), Just(0x1e), 0u8..12, Just(255u8), b'0'..=b'9'], 0..200), four: bool) {
        let revision = if four { Revision::Four } else { Revision::Three };
        let mut position = Some(0);
        let mut before = None;
        while let Some(item) = next(revision, &body, &mut position) {
            prop_assert!(position != before || position.is_none(), "no byte was consumed");
            before = position;
            if item.is_err() {
                prop_assert!(position.is_none());
            }
        }
    }
}
