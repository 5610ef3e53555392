//! Compressed and plain connections side by side.

use super::*;
use tickgate_protocol::wire::{Decoder, Inflater, Message};
use tickgate_protocol::wire::{deflate, encode};

/// The frames that a client received: whether each was compressed, and its text.
fn texts(rig: &mut Rig, id: ConnectionId) -> Vec<(bool, String)> {
    let mut bytes = Vec::new();
    while let Some(dirty) = rig.core.next_dirty() {
        let mut of_others = Vec::new();
        let taken = if dirty == id { &mut bytes } else { &mut of_others };
        while rig.write_some(dirty, usize::MAX, taken) == Some(Sent::More) {}
        assert!(dirty == id || of_others.is_empty(), "read the others before");
    }
    // As if the client had sent it, with a mask of zeros.
    let mut texts = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let header_bytes = rest.len() - encode::payload_bytes(rest);
        let length = match rest[1] {
            126 => usize::from(u16::from_be_bytes([rest[2], rest[3]])),
            127 => panic!("no test receives so much at once"),
            short => usize::from(short),
        };
        let (frame, later) = rest.split_at(header_bytes + length);
        rest = later;
        let mut masked = [&frame[..header_bytes], &[0; 4], &frame[header_bytes..]].concat();
        masked[1] |= 0x80;
        let (mut position, mut inflater) = (0, Inflater::default());
        let mut decoder = Decoder::new(u32::MAX).with_deflate();
        let message = decoder.next(&mut masked, &mut position, &mut inflater);
        match message.expect("a frame").expect("a whole one") {
            Message::Text(text) => texts.push((frame[0] & 0x40 != 0, text.to_owned())),
            Message::Close(close) => texts.push((false, format!("close {close:?}"))),
            Message::Ping(_) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    texts.retain(|(_, text)| !text.starts_with(r#"{"type":"ping""#));
    texts
}

fn connect(rig: &mut Rig, window_bits: Option<u8>) -> ConnectionId {
    let deflate = window_bits.map(|window_bits| Deflate { window_bits });
    let settings = session_settings(Mode::Off, Limits::default());
    rig.arrive(settings, Ok(None), true, deflate)
}

/// A client's compressed text message.
fn compressed(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    encode::binary(&mut plain, text);
    let twin = deflate::frame(&plain, 0).expect("shorter");
    let payload = &twin[twin.len() - encode::payload_bytes(&twin)..];
    frame(0xc1, payload)
}

fn data_of(bytes: usize) -> String {
    format!(r#""{}""#, "grid ".repeat(bytes / 5))
}

#[test]
fn every_connection_gets_every_event_in_its_own_format() {
    let mut rig = Rig::new();
    let (plain, large, small) = (
        connect(&mut rig, None),
        connect(&mut rig, Some(15)),
        connect(&mut rig, Some(9)),
    );
    for id in [plain, large, small] {
        rig.subscribe(id, "grid.*");
        assert_eq!(texts(&mut rig, id).len(), 1);
    }
    // Short messages are sent uncompressed. With the small window (512 bytes), long messages are, too.
    for (bytes, is_compressed) in [
        (10, [false, false, false]),
        (350, [false, true, true]),
        (5_000, [false, true, false]),
    ] {
        rig.event("grid.a.status", &data_of(bytes));
        let got = [plain, large, small].map(|id| {
            let dirty: Vec<_> = std::iter::from_fn(|| rig.core.next_dirty()).collect();
            assert!(dirty.contains(&id));
            for other in dirty {
                rig.core.postpone(other);
            }
            let mut frames = Vec::new();
            while rig.write_some(id, usize::MAX, &mut frames) == Some(Sent::More) {}
            frames
        });
        while rig.core.next_dirty().is_some() {}
        let is_deflated = |frame: &Vec<u8>| frame[0] == 0xc1;
        assert_eq!(got.each_ref().map(is_deflated), is_compressed, "{bytes} bytes");
        if is_compressed[2] {
            assert_eq!(got[1], got[2], "the same bytes for every window");
        }
    }
    let metrics = rig.metrics.read();
    assert_eq!((metrics.deliveries, metrics.deflated_messages), (9, 3));
    assert!(metrics.deflate_saved_bytes > 5_000, "{}", metrics.deflate_saved_bytes);
    assert_eq!(metrics.deflate_connections, 2);
}

#[test]
fn compressed_messages_have_the_same_text() {
    let mut rig = Rig::new();
    for window_bits in [None, Some(9), Some(12), Some(15)] {
        let id = connect(&mut rig, window_bits);
        rig.subscribe(id, "grid.*");
        texts(&mut rig, id);
        rig.event("grid.a.status", &data_of(400));
        let got = texts(&mut rig, id);
        assert_eq!(got.len(), 1);
        let event: serde_json::Value = serde_json::from_str(&got[0].1).expect("JSON");
        assert_eq!(event["data"].to_string(), data_of(400), "{window_bits:?}");
        rig.core.on_socket_error(id, rig.now);
    }
    assert_eq!(rig.metrics.deflate_connections.get(), 0);
}

#[test]
fn long_replies_are_compressed_short_ones_and_the_close_frame_are_not() {
    let mut rig = Rig::new();
    let id = connect(&mut rig, Some(15));
    let patterns: Vec<_> = (0..40).map(|n| format!(r#""grid.grid_{n}.*""#)).collect();
    rig.say(
        id,
        &format!(r#"{{"type":"subscribe","channels":[{}]}}"#, patterns.join(",")),
    );
    rig.say(id, r#"{"type":"ping"}"#);
    rig.say(id, "\u{1}");
    rig.core.on_bytes(id, &mut frame(0x82, b"binary"), rig.now);
    let got = texts(&mut rig, id);
    let kinds: Vec<_> = got
        .iter()
        .map(|(deflated, text)| (*deflated, &text[..text.len().min(18)]))
        .collect();
    assert_eq!(
        kinds,
        [
            (true, r#"{"type":"subscribe"#),
            (false, r#"{"type":"pong","ti"#),
            (false, r#"{"type":"error","t"#),
            (false, "close Some((1003, "),
        ]
    );
}

#[test]
fn compressed_messages_are_taken_like_plain_ones() {
    let mut rig = Rig::new();
    let id = connect(&mut rig, Some(10));
    let message = format!(
        r#"{{"type":"subscribe","channels":["grid.*"],"pad":{}}}"#,
        data_of(2_000)
    );
    let mut bytes = compressed(message.as_bytes());
    // In two reads, followed by a plain message.
    let (head, tail) = bytes.split_at_mut(20);
    rig.core.on_bytes(id, head, rig.now);
    rig.core.on_bytes(id, tail, rig.now);
    rig.say(id, r#"{"type":"ping"}"#);
    let got = texts(&mut rig, id);
    assert!(got[0].1.starts_with(r#"{"type":"subscribed""#), "{got:?}");
    assert!(got[1].1.starts_with(r#"{"type":"pong""#), "{got:?}");
    let metrics = rig.metrics.read();
    assert_eq!((metrics.messages_in, metrics.inflated_messages), (2, 1));
    assert_eq!(metrics.inflated_bytes, message.len() as u64);
}

#[test]
fn broken_compression_ends_the_connection_with_its_code() {
    for (window_bits, bytes, expected) in [
        (
            None,
            compressed(&data_of(100).into_bytes()),
            "close Some((1002, \"RSV1 is set without an extension\"",
        ),
        (
            Some(15),
            frame(0xc1, &[0xff; 9]),
            "close Some((1002, \"compressed message is not a deflate stream\"",
        ),
        // Inflates to four bytes that are not UTF-8.
        (
            Some(15),
            frame(0xc1, &[0x00, 0x02, 0x00, 0xfd, 0xff, 0xff, 0xfe, 0x00]),
            "close Some((1007, ",
        ),
        (Some(15), frame(0xc9, b""), "close Some((1002, "),
        (Some(15), compressed(&vec![b' '; 65_537]), "close Some((1009, "),
    ] {
        let mut rig = Rig::new();
        let id = connect(&mut rig, window_bits);
        rig.core.on_bytes(id, &mut bytes.clone(), rig.now);
        let got = texts(&mut rig, id);
        assert!(got[0].1.starts_with(expected), "{got:?} for {bytes:02x?}");
    }
}

#[test]
fn a_read_full_of_small_bombs_ends_the_connection_before_all_are_inflated() {
    let mut rig = Rig::new();
    let id = connect(&mut rig, Some(15));
    let bomb = compressed(&vec![b' '; 65_536]);
    let mut read = bomb.repeat(16 * 1024 / bomb.len());
    let count = read.len() / bomb.len();
    assert!(count > 40, "{count}");
    rig.core.on_bytes(id, &mut read, rig.now);
    assert!(rig.core.is_closing(id));
    assert_eq!(rig.metrics.endings(Disconnect::RateLimitAbuse), 1);
    let inflated = rig.metrics.read().inflated_messages;
    assert!((16..=20).contains(&inflated), "{inflated} of {count}");
}
