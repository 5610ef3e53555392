use proptest::prelude::*;

use super::sample::Sample;
use super::*;
use crate::message::{MessageType, RequestId, RequestRef};
use crate::wire::{Decoder, Inflater};

fn event(name: &str, data: &str, offset: Option<u64>) -> Sample {
    Sample::new("grid.grid_abc123.order", name, data, 1_703_836_800_000, offset)
}

/// The payload of a text frame from the server. The decoder reads only masked frames, so the frame gets a mask of zeros.
fn payload(frame: &[u8]) -> String {
    assert_eq!(frame[0], 0x81);
    let length_bytes = match frame[1] {
        0..=125 => 0,
        126 => 2,
        _ => 8,
    };
    let mut masked = frame[..2 + length_bytes].to_vec();
    masked[1] |= 0x80;
    masked.extend_from_slice(&[0; 4]);
    masked.extend_from_slice(&frame[2 + length_bytes..]);
    let mut decoder = Decoder::new(u32::MAX);
    let mut position = 0;
    match decoder.next(&mut masked, &mut position, &mut Inflater::default()) {
        Ok(Some(crate::wire::Message::Text(text))) => text.to_owned(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_event_is_encoded_as_the_protocol_shows_it() {
    let data = r#"{"grid_id":"grid_abc123","level":2, "price":94000.00,"amount":1e-400,"note":"\u0041\/"}"#;
    let frame = encode_event(Encoding::Native, &event("filled", data, None).view());
    let wanted = format!(
        r#"{{"type":"event","channel":"grid.grid_abc123.order","event":"filled","timestamp":1703836800000,"data":{data}}}"#
    );
    assert_eq!(payload(&frame), wanted);
    let frame = encode_event(Encoding::Native, &event("a \"name\"", "null", Some(41)).view());
    assert_eq!(
        payload(&frame),
        r#"{"type":"event","channel":"grid.grid_abc123.order","event":"a \"name\"","timestamp":1703836800000,"offset":41,"data":null}"#
    );
}

// docs/protocol.md, docs/typed.md and docs/socket_io.md show these messages.
#[test]
fn a_deletion_is_an_event_in_every_dialect() {
    let event = Sample::new("grid.a.status", "deleted", "null", 1_703_836_800_000, None);
    let sent = |encoding| payload(&encode_event(encoding, &event.view()));
    assert_eq!(
        sent(Encoding::Native),
        r#"{"type":"event","channel":"grid.a.status","event":"deleted","timestamp":1703836800000,"data":null}"#
    );
    let typed = r#"{"type":"deleted","channel":"grid.a.status","data":null,"timestamp":"2023-12-29T08:00:00Z"}"#;
    assert_eq!(sent(Encoding::Typed), typed);
    assert_eq!(sent(Encoding::SocketIo), format!(r#"42["deleted",{typed}]"#));
}

#[test]
fn only_the_native_dialect_marks_a_snapshot() {
    let event = event("filled", "1", Some(41));
    let marked = EventView {
        is_snapshot: true,
        ..event.view()
    };
    assert_eq!(
        payload(&encode_event(Encoding::Native, &marked)),
        r#"{"type":"event","channel":"grid.grid_abc123.order","event":"filled","timestamp":1703836800000,"offset":41,"snapshot":true,"data":1}"#
    );
    for encoding in Encoding::ALL
        .into_iter()
        .filter(|encoding| *encoding != Encoding::Native)
    {
        assert_eq!(encode_event(encoding, &marked), encode_event(encoding, &event.view()));
    }
}

#[test]
fn every_request_with_a_valid_id_has_a_head() {
    let mut scratch = Scratch::default();
    let mut head = |text: &str| {
        let RequestHead { id, message_type } = Dialect::Native.request_head(text, &mut scratch)?;
        Some((id, message_type))
    };
    let command = Some(MessageType::Command);
    for (text, message_type) in [
        (r#"{"type":"command","id":"a"}"#, command),
        (r#"{"type":"auth","id":"a","token":7}"#, Some(MessageType::Auth)),
        (r#"{"type":"subscribe","id":"a","channels":["b"]}"#, None),
        (r#"{"type":"ping","id":"a","x":"command"}"#, None),
        (r#"{"type":"get_status","\u0069d":"a"}"#, None),
        (r#"{"type":"no such type","id":"a"}"#, None),
        (r#"{"id":"a"}"#, None),
        (r#"{"type":"command","type":"ping","id":"a"}"#, None),
    ] {
        assert_eq!(head(text), Some((RequestId::Text("a".into()), message_type)), "{text}");
    }
    assert_eq!(
        head(r#"{"id":-7,"type":"\u0063ommand"}"#),
        Some((RequestId::Number(-7), command))
    );
    for none in [
        r#"{"type":"command"}"#,
        r#"{"type":"command","id":[]}"#,
        r#"{"type":"command","id":"a","id":"b"}"#,
        r#"{"type":"command","id":"a""#,
        r#"{"type":"pong","id":"a"}"#,
        r#"{"type":"subscribe","channels":["b"]}"#,
        "",
    ] {
        assert_eq!(head(none), None, "{none}");
    }
    assert_eq!(
        Dialect::Echo.request_head(r#"{"type":"command","id":"a"}"#, &mut scratch),
        None
    );
}

#[test]
fn an_echo_endpoint_has_no_messages() {
    let mut out = Vec::new();
    assert_eq!(
        Dialect::Echo.encode_reply(&Reply::Ping { cursor: None }, 0, &mut out),
        None
    );
    assert!(out.is_empty());
    assert_eq!(Dialect::Echo.encoding(), None);
    assert!(
        Dialect::Echo
            .parse(r#"{"type":"ping"}"#, &mut Scratch::default())
            .is_err()
    );
}

#[test]
fn raw_fields_and_plain_strings_are_borrowed_from_the_message() {
    let text = r#"{"type":"publish","channel":"a.b","event":"e","data": [1.0 ,2]}"#;
    let mut scratch = Scratch::default();
    let Ok(ClientMessage::Publish {
        event,
        data,
        request_ref,
        ..
    }) = Dialect::Native.parse(text, &mut scratch)
    else {
        panic!("a publish");
    };
    assert_eq!(data, "[1.0 ,2]");
    assert!(matches!(event, std::borrow::Cow::Borrowed("e")));
    assert_eq!(request_ref, RequestRef::default());
}

proptest! {
    #[test]
    fn every_event_is_json_with_the_publishers_bytes_as_data(name in "[^\\p{Cc}]{1,40}", filler in 0usize..70_000, offset in any::<Option<u64>>()) {
        let data = format!("\"{}\"", "x".repeat(filler));
        let text = payload(&encode_event(Encoding::Native, &event(&name, &data, offset).view()));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(value["event"].as_str(), Some(name.as_str()));
        prop_assert_eq!(value["offset"].as_u64(), offset);
        let ending = format!("{data}}}");
        prop_assert!(text.ends_with(&ending));
    }

    #[test]
    fn any_text_is_parsed_or_refused_with_a_reason(text in "(\\{\"type\":\"[a-z_]{0,9}\",)?(\"(id|channels|data|token|action|params|event|channel|recover)\":(null|1|\"a\"|\\[\"a\"\\]|\\{\\}|\\{\"channels\":\\[\\]\\})[,}]){0,5}") {
        let mut scratch = Scratch::default();
        let parsed = Dialect::Native.parse(&text, &mut scratch);
        if let Err(malformed) = parsed {
            prop_assert!(!malformed.message.is_empty());
        }
    }
}

#[test]
fn the_examples_in_the_documentation_are_valid() {
    const FROM_CLIENTS: [&str; 8] = [
        "auth",
        "subscribe",
        "unsubscribe",
        "command",
        "publish",
        "ping",
        "pong",
        "get_status",
    ];
    let mut scratch = Scratch::default();
    let mut seen = std::collections::BTreeSet::new();
    for line in include_str!("../../../../docs/protocol.md")
        .lines()
        .filter(|line| line.starts_with('{'))
    {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let name = message["type"].as_str().unwrap().to_owned();
        if FROM_CLIENTS.contains(&name.as_str()) {
            let parsed = Dialect::Native.parse(line, &mut scratch);
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
            seen.insert(name);
        }
    }
    assert_eq!(seen.len(), FROM_CLIENTS.len(), "{seen:?}");
}
