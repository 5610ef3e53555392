//! Packets by the cases of the protocol document, events by those of the platform.

use super::*;
use crate::dialect::sample::Sample;
use crate::dialect::{Dialect, encode_event as encode};
use crate::event::Encoding;
use crate::json::Scratch;
use crate::message::{ClientMessage, ErrorCode, MessageType, RequestHead, RequestId};
use crate::wire::encode::first;

fn packet(
    kind: Kind,
    attachments: u32,
    namespace: &'static str,
    number: Option<u64>,
    payload: &'static str,
) -> Packet<'static> {
    Packet {
        kind,
        attachments,
        namespace,
        acknowledgement: number,
        payload,
    }
}

#[test]
fn packets_are_parsed_as_the_protocol_shows_them() {
    for (wire, wanted) in [
        ("0", packet(Kind::Connect, 0, "/", None, "")),
        (
            r#"0{"token":"t"}"#,
            packet(Kind::Connect, 0, "/", None, r#"{"token":"t"}"#),
        ),
        (
            r#"0/admin,{"sid":"x"}"#,
            packet(Kind::Connect, 0, "/admin", None, r#"{"sid":"x"}"#),
        ),
        ("0/admin", packet(Kind::Connect, 0, "/admin", None, "")),
        ("0/admin?token=t,", packet(Kind::Connect, 0, "/admin", None, "")),
        ("1", packet(Kind::Disconnect, 0, "/", None, "")),
        ("1/admin,", packet(Kind::Disconnect, 0, "/admin", None, "")),
        (r#"2["foo"]"#, packet(Kind::Event, 0, "/", None, r#"["foo"]"#)),
        (r#"212["foo"]"#, packet(Kind::Event, 0, "/", Some(12), r#"["foo"]"#)),
        (
            r#"3/admin,13["bar"]"#,
            packet(Kind::Acknowledgement, 0, "/admin", Some(13), r#"["bar"]"#),
        ),
        (
            r#"4{"message":"no"}"#,
            packet(Kind::Error, 0, "/", None, r#"{"message":"no"}"#),
        ),
        (
            r#"51-["baz",{}]"#,
            packet(Kind::BinaryEvent, 1, "/", None, r#"["baz",{}]"#),
        ),
        (
            r#"52-/admin,["baz"]"#,
            packet(Kind::BinaryEvent, 2, "/admin", None, r#"["baz"]"#),
        ),
        (
            r#"61-15["bar"]"#,
            packet(Kind::BinaryAcknowledgement, 1, "/", Some(15), r#"["bar"]"#),
        ),
        (r#"2abc["x"]"#, packet(Kind::Event, 0, "/", None, r#"abc["x"]"#)),
    ] {
        assert_eq!(Packet::parse(wire), Some(wanted), "{wire}");
    }
    for wire in [
        "",
        "7",
        "abc",
        "5",
        "51[]",
        "5-[]",
        "511-[]",
        "2123456789012345678[]",
        "5999999999999-[]",
    ] {
        assert_eq!(Packet::parse(wire), None, "{wire}");
    }
}

fn parse<'t>(text: &'t str, scratch: &mut Scratch) -> Result<ClientMessage<'t>, EventError> {
    parse_event(&Packet::parse(text).expect("a packet"), Some("4"), scratch)
}

#[test]
fn events_are_parsed_into_client_messages() {
    let mut scratch = Scratch::default();
    let names = |message: &ClientMessage<'_>| match message {
        ClientMessage::Subscribe {
            patterns, request_ref, ..
        }
        | ClientMessage::Unsubscribe { patterns, request_ref } => {
            let patterns: Vec<_> = patterns.iter().map(|pattern| pattern.as_str()).collect();
            format!("{} {}", patterns.join(" "), request_ref.members)
        }
        other => panic!("{other:?}"),
    };
    for (wire, wanted) in [
        (
            r#"2["subscribe_trading"]"#,
            r#"user.4.balance user.4.positions user.4.pnl user.4.orders ,"types":["balance","positions","pnl","orders"]"#,
        ),
        (
            r#"2["subscribe_trading",null]"#,
            r#"user.4.balance user.4.positions user.4.pnl user.4.orders ,"types":["balance","positions","pnl","orders"]"#,
        ),
        (
            r#"2["subscribe_trading",{"types":["pnl","pnl"]}]"#,
            r#"user.4.pnl ,"types":["pnl"]"#,
        ),
        (
            r#"2["unsubscribe_trading",{"subscribeTypes":["orders"]}]"#,
            r#"user.4.orders ,"types":["orders"]"#,
        ),
        (
            r#"2["subscribe",{"channels":["grid.*"]}]"#,
            r#"grid.* ,"channels":["grid.*"]"#,
        ),
        (
            r#"2["\u0073ubscribe",{"channels":["a"]},1,[2]]"#,
            r#"a ,"channels":["a"]"#,
        ),
    ] {
        assert_eq!(
            parse(wire, &mut scratch).map(|message| names(&message)).as_deref(),
            Ok(wanted),
            "{wire}"
        );
    }
    let command = parse(
        r#"27["command",{"action":"grid.start","params":{"a":1.0}}]"#,
        &mut scratch,
    );
    let Ok(ClientMessage::Command {
        id,
        action,
        params,
        key: None,
        trace: None,
    }) = command
    else {
        panic!("{command:?}");
    };
    assert_eq!(id, RequestId::Acknowledgement { number: 7, id: None });
    assert_eq!((action.as_str(), params), ("grid.start", r#"{"a":1.0}"#));
}

#[test]
fn protocol_errors_differ_from_unknown_and_invalid_events() {
    let mut scratch = Scratch::default();
    for broken in [
        "2",
        "2{}",
        "2[]",
        r#"2"x""#,
        r#"2["x""#,
        "2[{}]",
        "2[null]",
        r#"2["connect"]"#,
        r#"2["newListener"]"#,
        r#"2abc["message-with-ack",1]"#,
    ] {
        assert!(
            matches!(parse(broken, &mut scratch), Err(EventError::Protocol(_))),
            "{broken}"
        );
    }
    for (wire, code) in [
        (r#"2["nothing"]"#, ErrorCode::UnknownType),
        (r#"2[1]"#, ErrorCode::UnknownType),
        (r#"2["\ud800"]"#, ErrorCode::UnknownType),
        (r#"2["subscribe"]"#, ErrorCode::InvalidMessage),
        (r#"2["subscribe",[]]"#, ErrorCode::InvalidMessage),
        (r#"2["subscribe",{"channels":["a..b"]}]"#, ErrorCode::InvalidChannel),
        (
            r#"2["subscribe_trading",{"types":["money"]}]"#,
            ErrorCode::InvalidMessage,
        ),
        (r#"2["subscribe_trading",{"types":"pnl"}]"#, ErrorCode::InvalidMessage),
        (r#"2["command",{"action":"a.b"}]"#, ErrorCode::InvalidMessage),
    ] {
        let Err(EventError::Malformed(malformed)) = parse(wire, &mut scratch) else {
            panic!("{wire}");
        };
        assert_eq!(malformed.code, code, "{wire}: {}", malformed.message);
    }
    let deep = format!("2[\"subscribe\",{}{}]", "[".repeat(2000), "]".repeat(2000));
    assert!(
        matches!(parse(&deep, &mut scratch), Err(EventError::Malformed(_))),
        "valid JSON that is nested too deep"
    );
    let anonymous = parse_event(&Packet::parse(r#"2["subscribe_trading"]"#).unwrap(), None, &mut scratch);
    assert!(matches!(anonymous, Err(EventError::Malformed(malformed)) if malformed.code == ErrorCode::Forbidden));
}

#[test]
fn commands_and_events_with_an_acknowledgement_have_a_head() {
    let dialect = Dialect::SocketIo(Settings::default());
    let mut scratch = Scratch::default();
    for text in [
        r#"423["subscribe",{"channels":["command"]}]"#,
        r#"423["get_status"]"#,
        r#"423["no such event",{"id":"a"}]"#,
        r#"423["command""#,
        r#"451-3["command",{"id":"a"}]"#,
    ] {
        let head = RequestHead {
            id: RequestId::Acknowledgement { number: 3, id: None },
            message_type: None,
        };
        assert_eq!(dialect.request_head(text, &mut scratch), Some(head), "{text}");
    }
    let mut id = |text: &str| {
        let head = dialect.request_head(text, &mut scratch)?;
        assert_eq!(head.message_type, Some(MessageType::Command), "{text}");
        Some(head.id)
    };
    assert_eq!(id(r#"42["command",{"id":"a"}]"#), Some(RequestId::Text("a".into())));
    assert_eq!(
        id(r#"423["command"]"#),
        Some(RequestId::Acknowledgement { number: 3, id: None })
    );
    let acknowledged = RequestId::Acknowledgement {
        number: 1,
        id: Some("a".into()),
    };
    assert_eq!(
        id(r#"421["command",{"id":"a"}]"#),
        Some(acknowledged),
        "found by fuzzing: the answer had no id, unlike that to a parsed message"
    );
    let far = format!(r#"42[{}"command",{{"id":7}}]"#, " ".repeat(70));
    assert_eq!(id(&far), Some(RequestId::Number(7)), "found by fuzzing");
    for none in [
        r#"42["command",{}]"#,
        r#"42["command"]"#,
        r#"42["command",{"id":"a","id":"b"}]"#,
        r#"42["subscribe",{"id":"a"}]"#,
        r#"451-["x",{"id":"a"}]"#,
        "433[]",
        "40",
        "2",
        "",
    ] {
        assert_eq!(id(none), None, "{none}");
    }
}

#[test]
fn an_event_with_a_name_that_a_client_library_emits_itself_is_renamed() {
    let name = |channel: &str, name: &str| {
        let event = Sample::new(channel, name, "1", 0, None);
        let frame = encode(Encoding::SocketIo, &event.view());
        let text = String::from_utf8(first(&frame).expect("a frame").payload.to_vec()).unwrap();
        let (name, message): (String, serde_json::Value) = serde_json::from_str(&text[2..]).unwrap();
        assert_eq!(message["type"], name.as_str());
        name
    };
    // Versions 1 and 2 of the JavaScript client, Java 1 and Dart; versions 3 and 4; Swift; Python.
    let listed = "connect connect_error connect_timeout connecting disconnect error reconnect reconnect_attempt \
                  reconnect_failed reconnect_error reconnecting ping pong \
                  disconnecting newListener removeListener \
                  reconnectAttempt statusChange websocketUpgrade __disconnect_final";
    for reserved in listed.split_whitespace() {
        assert_eq!(name("system.log", reserved), format!("system_{reserved}"));
    }
    assert_eq!(name("reconnect.x", "error"), "reconnect_reconnect_error");
    for other in ["price_update", "message", "open", "close", "status_change", "subscribe"] {
        assert_eq!(name("system.log", other), other);
    }
}

#[test]
fn an_event_packet_has_the_name_and_the_typed_message() {
    let event = |channel: &str, name: &str, data: &str| Sample::new(channel, name, data, 1_703_836_800_999, Some(7));
    let payload = |encoding, event: &Sample| {
        let frame = encode(encoding, &event.view());
        let whole = first(&frame).expect("a frame");
        assert_eq!((whole.bytes, whole.is_text), (frame.len(), true));
        String::from_utf8(whole.payload.to_vec()).unwrap()
    };
    assert_eq!(
        payload(
            Encoding::SocketIo,
            &event("user.4.positions", "positions_update", "[{\"size\":1.50}]")
        ),
        r#"42["positions_update",{"type":"positions_update","channel":"user.4.positions","data":[{"size":1.50}],"timestamp":"2023-12-29T08:00:00Z","offset":7,"user_id":4}]"#
    );
    assert_eq!(
        payload(Encoding::SocketIoNaive, &event("system.log", "error", "null")),
        r#"42["system_error",{"type":"system_error","channel":"system.log","data":null,"timestamp":"2023-12-29T08:00:00","offset":7}]"#
    );
    assert_eq!(
        payload(Encoding::SocketIo, &event("user.x.balance", "a\"b", "1")),
        r#"42["a\"b",{"type":"a\"b","channel":"user.x.balance","data":1,"timestamp":"2023-12-29T08:00:00Z","offset":7,"user_id":"x"}]"#
    );
}
