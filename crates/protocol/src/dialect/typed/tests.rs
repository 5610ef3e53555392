use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Settings, Timestamps};
use crate::channel::Channel;
use crate::dialect::sample::Sample;
use crate::dialect::{Dialect, encode_event};
use crate::event::Encoding;
use crate::json::Scratch;
use crate::message::{Beyond, ClientMessage, ErrorCode, Malformed, Reply};

// 2025-11-24T10:30:00.999Z
const TIME_MS: u64 = 1_763_980_200_999;

fn event(channel: &str, name: &str, data: &str, timestamp_ms: u64) -> Sample {
    Sample::new(channel, name, data, timestamp_ms, None)
}

/// The payload of a text frame from the server.
fn payload(frame: &[u8]) -> &str {
    assert_eq!(frame[0], 0x81);
    let header = match frame[1] {
        0..=125 => 2,
        126 => 4,
        _ => 10,
    };
    std::str::from_utf8(&frame[header..]).unwrap()
}

fn text(event: &Sample) -> String {
    payload(&encode_event(Encoding::Typed, &event.view())).to_owned()
}

fn dialect() -> Dialect {
    Dialect::Typed(Arc::new(Settings::default()))
}

#[test]
fn events_are_encoded_as_the_protocol_shows_them() {
    for (channel, name, data, wanted) in [
        (
            "strategy.volume_wave.prices",
            "price_update",
            r#"[{"code":"600519","price":1850.50,"volume":12345678}]"#,
            r#"{"type":"price_update","channel":"strategy.volume_wave.prices","data":[{"code":"600519","price":1850.50,"volume":12345678}],"count":1,"timestamp":"2025-11-24T10:30:00Z"}"#,
        ),
        (
            "market.KOGE/USDT.price",
            "price_update",
            r#"{"symbol":"KOGE/USDT","price":5.432e-3,"change_24h":0.025}"#,
            r#"{"type":"price_update","channel":"market.KOGE/USDT.price","data":{"symbol":"KOGE/USDT","price":5.432e-3,"change_24h":0.025},"timestamp":"2025-11-24T10:30:00Z"}"#,
        ),
        (
            "user.4.balance",
            "balance_update",
            r#"{"total_balance":10000.0}"#,
            r#"{"type":"balance_update","channel":"user.4.balance","data":{"total_balance":10000.0},"timestamp":"2025-11-24T10:30:00Z","user_id":4}"#,
        ),
        (
            "a",
            "say \"hi\"",
            "[]",
            r#"{"type":"say \"hi\"","channel":"a","data":[],"count":0,"timestamp":"2025-11-24T10:30:00Z"}"#,
        ),
    ] {
        assert_eq!(text(&event(channel, name, data, TIME_MS)), wanted);
    }
}

#[test]
fn naive_timestamps_differ_only_in_the_missing_z() {
    let event = event("market.a.price", "price_update", "{}", TIME_MS);
    let (utc, naive) = (text(&event), encode_event(Encoding::TypedNaive, &event.view()));
    assert_eq!(payload(&naive), utc.replace("00Z\"", "00\""));
    assert!(payload(&naive).ends_with("\"timestamp\":\"2025-11-24T10:30:00\"}"));
}

#[test]
fn times_are_whole_seconds_up_to_the_year_9999() {
    let time = |timestamp_ms| {
        let message: Value = serde_json::from_str(&text(&event("a", "e", "1", timestamp_ms))).unwrap();
        message["timestamp"].as_str().unwrap().to_owned()
    };
    assert_eq!(time(0), "1970-01-01T00:00:00Z");
    assert_eq!(time(999), "1970-01-01T00:00:00Z");
    assert_eq!(time(951_782_400_000), "2000-02-29T00:00:00Z");
    assert_eq!(time(4_102_444_799_999), "2099-12-31T23:59:59Z");
    assert!(time(u64::MAX).starts_with("9999-12-"));
}

#[test]
fn a_user_id_is_a_number_if_no_digit_is_lost() {
    let user = |channel: &str| {
        let message: Value = serde_json::from_str(&text(&event(channel, "e", "1", TIME_MS))).unwrap();
        message.get("user_id").cloned()
    };
    for (id, wanted) in [
        ("0", json!(0)),
        ("4", json!(4)),
        ("9007199254740991", json!(9_007_199_254_740_991_u64)),
        ("9007199254740992", json!("9007199254740992")),
        ("99999999999999999999", json!("99999999999999999999")),
        ("007", json!("007")),
        ("00", json!("00")),
        ("-4", json!("-4")),
        ("+4", json!("+4")),
        ("4x", json!("4x")),
        ("٤", json!("٤")),
        ("u\"42", json!("u\"42")),
    ] {
        assert_eq!(user(&format!("user.{id}.balance")), Some(wanted), "{id}");
    }
    assert_eq!(user("user.4.orders.new"), Some(json!(4)));
    for none in ["user", "user.4", "users.4.balance", "grid.user.4"] {
        assert_eq!(user(none), None, "{none}");
    }
}

#[test]
fn events_with_control_names_are_renamed() {
    let name = |channel: &str, name: &str| {
        let message: Value = serde_json::from_str(&text(&event(channel, name, "1", TIME_MS))).unwrap();
        message["type"].as_str().unwrap().to_owned()
    };
    const LISTED: &str = "connected subscribed unsubscribed error status ping pong dropped going_away auth_result \
                          response history connect connect_error disconnect disconnecting newListener removeListener \
                          reconnect stale fresh";
    for control in LISTED.split(' ').chain(["auth_expiring", "published"]) {
        assert_eq!(name("system.log", control), format!("system_{control}"));
    }
    assert_eq!(name("connect.x", "error"), "connect_connect_error");
    for other in ["price_update", "connected_", "Error", "test", "subscribe"] {
        assert_eq!(name("system.log", other), other);
    }
}

#[test]
fn events_never_have_the_name_of_a_reply() {
    let mut scratch = Vec::new();
    let request_ref = crate::message::RequestRef::default();
    let id = crate::message::RequestId::Number(1);
    let (code, message) = (ErrorCode::Internal, "m");
    for reply in [
        Reply::Connected {
            client_id: "c",
            user: None,
        },
        Reply::AuthRefused {
            request_ref: &request_ref,
            code,
            message,
        },
        Reply::AuthExpiring { expires_at_ms: 1 },
        Reply::Subscribed {
            request_ref: &request_ref,
            patterns: &[],
            active: 0,
            outcome: &crate::message::SubscribeOutcome::default(),
            max_rate: None,
            ignored: &[],
            cursor: None,
            beyond: Beyond::default(),
        },
        Reply::Unsubscribed {
            request_ref: &request_ref,
            patterns: &[],
            active: 0,
            lost_permission: true,
        },
        Reply::CommandRefused { id: &id, code, message },
        Reply::Published {
            request_ref: &request_ref,
            position: None,
        },
        Reply::History {
            request_ref: &request_ref,
            epoch: crate::event::Epoch(1),
            events: &[],
            complete: true,
            offset: None,
            more: true,
            cursor: None,
        },
        Reply::Ping { cursor: None },
        Reply::Pong {
            request_ref: &request_ref,
        },
        Reply::Error {
            request_ref: &request_ref,
            code,
            message,
        },
        Reply::RateLimited {
            request_ref: &request_ref,
            retry_after_ms: 1,
            refused: 1,
        },
        Reply::Overloaded {
            request_ref: &request_ref,
            retry_after_ms: 1,
        },
        Reply::Dropped {
            count: 1,
            channels: &[],
        },
        Reply::Freshness {
            is_stale: true,
            count: 1,
            channels: &[],
        },
        Reply::Freshness {
            is_stale: false,
            count: 1,
            channels: &[],
        },
        Reply::GoingAway {
            close_in_ms: 1,
            reconnect_after_ms: 1,
            cursor: None,
            beyond: Beyond::default(),
        },
    ] {
        let range = dialect().encode_reply(&reply, TIME_MS, &mut scratch).unwrap();
        let message: Value = serde_json::from_str(payload(&scratch[range])).unwrap();
        let sent = message["type"].as_str().unwrap();
        let renamed: Value = serde_json::from_str(&text(&event("x.y", sent, "1", TIME_MS))).unwrap();
        assert_eq!(renamed["type"], format!("x_{sent}"));
        let times = message.get("timestamp").and_then(Value::as_str);
        assert!(
            sent == "published" || times == Some("2025-11-24T10:30:00Z"),
            "{message}"
        );
    }
}

fn selected(request: &str) -> Result<(Vec<String>, String), (ErrorCode, String)> {
    let text = format!(r#"{{"type":"subscribe",{request}}}"#);
    let mut scratch = Scratch::default();
    match dialect().parse(&text, &mut scratch) {
        Ok(ClientMessage::Subscribe {
            patterns, request_ref, ..
        }) => {
            let names = patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect();
            Ok((names, request_ref.members.into()))
        }
        Ok(other) => panic!("{other:?}"),
        Err(Malformed { code, message, .. }) => Err((code, message.into())),
    }
}

#[test]
fn subscriptions_are_named_by_type_symbol_or_channel() {
    for (request, patterns, repeated) in [
        (
            r#""subscription_type":"strategy","target":"volume_wave""#,
            &["strategy.volume_wave.prices"][..],
            r#","subscription_type":"strategy","target":"volume_wave""#,
        ),
        (r#""target":"a""#, &["strategy.a.prices"], r#","target":"a""#),
        (
            r#""target":"600519","subscription_type":"stock""#,
            &["stock.600519.price"],
            r#","subscription_type":"stock","target":"600519""#,
        ),
        (
            r#""subscription_type":"market","target":"\u4e3b\u677f""#,
            &["board.主板.prices"],
            r#","subscription_type":"market","target":"\u4e3b\u677f""#,
        ),
        (
            r#""symbol":"KOGE/USDT""#,
            &["market.KOGE/USDT.*"],
            r#","symbol":"KOGE/USDT""#,
        ),
        (
            r#""symbols": ["A/B", "C"]"#,
            &["market.A/B.*", "market.C.*"],
            r#","symbols":["A/B", "C"]"#,
        ),
        (r#""symbols":[]"#, &[], r#","symbols":[]"#),
        (r#""channels":["a.*","b"]"#, &["a.*", "b"], r#","channels":["a.*","b"]"#),
        (r#""data":{"channels":["a.*"]}"#, &["a.*"], r#","channels":["a.*"]"#),
        (r#""data":{"symbol":"A"}"#, &["market.A.*"], r#","symbol":"A""#),
        (
            r#""channels":["b"],"symbols":["D"],"symbol":"C","target":"t","id":7,"x":1"#,
            &["strategy.t.prices", "market.C.*", "market.D.*", "b"],
            r#","target":"t","symbol":"C","symbols":["D"],"channels":["b"]"#,
        ),
        (
            r#""subscription_type":"market","symbol":"C","target":null"#,
            &["market.C.*"],
            r#","subscription_type":"market","symbol":"C""#,
        ),
    ] {
        let (got, members) = selected(request).unwrap_or_else(|error| panic!("{request}: {error:?}"));
        assert_eq!(
            (got.as_slice(), members.as_str()),
            (
                &patterns.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()[..],
                repeated
            ),
            "{request}"
        );
    }
}

#[test]
fn invalid_subscriptions_are_refused_with_the_name_of_the_field() {
    use ErrorCode::{InvalidChannel, InvalidMessage};
    let long = format!(r#""target":"{}""#, "x".repeat(240));
    let many = format!(r#""symbols":[{}]"#, vec!["\"a\""; 1001].join(","));
    for (request, code, names) in [
        (r#""id":1"#, InvalidMessage, "`target`"),
        (r#""data":{}"#, InvalidMessage, "`target`"),
        (r#""data":"x""#, InvalidMessage, "`target`"),
        (
            r#""subscription_type":"strategy""#,
            InvalidMessage,
            "`target` is missing",
        ),
        (
            r#""subscription_type":"futures","target":"a""#,
            InvalidMessage,
            "\"futures\"",
        ),
        (
            r#""subscription_type":"futures","target":"a""#,
            InvalidMessage,
            "market, stock, strategy",
        ),
        (
            r#""subscription_type":"futures","symbol":"a""#,
            InvalidMessage,
            "`subscription_type`",
        ),
        (
            r#""subscription_type":7,"target":"a""#,
            InvalidMessage,
            "`subscription_type`",
        ),
        (r#""target":600519"#, InvalidMessage, "`target`"),
        (r#""target":"a.b""#, InvalidChannel, "target \"a.b\""),
        (r#""target":"*""#, InvalidChannel, "target \"*\""),
        (r#""target":"""#, InvalidMessage, "`target`"),
        (&long, InvalidChannel, "too long"),
        (r#""symbol":"A B""#, InvalidChannel, "symbol \"A B\""),
        (r#""symbol":["A"]"#, InvalidMessage, "`symbol`"),
        (r#""symbols":"A""#, InvalidMessage, "`symbols`"),
        (r#""symbols":["A",1]"#, InvalidMessage, "`symbols`"),
        (r#""symbols":["A",">"]"#, InvalidChannel, "symbol \">\""),
        (&many, InvalidMessage, "`symbols`"),
        (r#""channels":["a..b"]"#, InvalidChannel, "a..b"),
        (r#""channels":{}"#, InvalidMessage, "`channels`"),
        (r#""target":"a","target":"b""#, InvalidMessage, "`target` occurs twice"),
        (r#""target":"a","recover":{"b":1}"#, InvalidMessage, "`recover`"),
    ] {
        let (got, message) = selected(request).expect_err(request);
        assert_eq!(got, code, "{request}: {message}");
        assert!(message.contains(names), "{request}: {message}");
    }
}

#[test]
fn status_lists_subscriptions_in_the_fields_that_create_them() {
    let mut out = Vec::new();
    let names = [
        "strategy.volume_wave.prices",
        "stock.600519.price",
        "board.main.prices",
        "market.KOGE/USDT.*",
        "market.*",
        "market.KOGE/USDT.price",
        "strategy.*.prices",
        "system.status",
    ];
    let patterns: Vec<_> = names
        .iter()
        .map(|name| crate::channel::Pattern::parse(name).unwrap())
        .collect();
    crate::dialect::native::Style::push_subscriptions(&Settings::default(), &patterns, &mut out);
    assert_eq!(
        String::from_utf8(out).unwrap(),
        r#"[{"subscription_type":"strategy","target":"volume_wave"},{"subscription_type":"stock","target":"600519"},{"subscription_type":"market","target":"main"},"KOGE/USDT","market.*","market.KOGE/USDT.price","strategy.*.prices","system.status"]"#
    );
}

fn data() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(Value::from),
        "[\\[\\],\"\\\\{}a]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 32, 5, |inner| {
        prop_oneof![
            2 => prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            1 => prop::collection::vec(("[a,\\[\"]{0,3}", inner), 0..3).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_event_is_json_and_has_the_count_of_serde_json(
        data in data(), name in "[^\\p{Cc}]{1,40}", user in "[^.*>\\s\\p{Cc}]{1,20}", timestamp_ms in any::<u64>(), naive in any::<bool>(),
    ) {
        let channel = format!("user.{user}.x");
        prop_assume!(Channel::parse(&channel).is_ok());
        let event = event(&channel, &name, &data.to_string(), timestamp_ms);
        let frame = encode_event(if naive { Encoding::TypedNaive } else { Encoding::Typed }, &event.view());
        let message: Value = serde_json::from_str(payload(&frame)).unwrap();
        prop_assert_eq!(&message["data"], &data);
        prop_assert_eq!(message["channel"].as_str(), Some(channel.as_str()));
        let count = message.get("count").map(|count| count.as_u64().unwrap() as usize);
        prop_assert_eq!(count, data.as_array().map(Vec::len));
        let shown = message["user_id"].as_u64().map(|number| number.to_string());
        prop_assert_eq!(shown.as_deref().or(message["user_id"].as_str()), Some(user.as_str()));
        let time = message["timestamp"].as_str().unwrap();
        prop_assert_eq!((time.len(), time.ends_with('Z')), if naive { (19, false) } else { (20, true) });
    }

    #[test]
    fn any_request_is_parsed_or_refused_with_a_reason(
        request in "(\"(subscription_type|target|symbol|symbols|channels|data)\":(null|1|\"a\"|\"stock\"|\"\\*\"|\\[\"a\"\\]|\\{\\}|\\{\"symbol\":\"a\"\\}),){0,4}\"id\":1",
    ) {
        if let Err((_, message)) = selected(&request) {
            prop_assert!(!message.is_empty());
        }
    }
}

#[test]
fn naive_replies_have_naive_times() {
    let settings = Settings {
        timestamps: Timestamps::Naive,
        ..Settings::default()
    };
    let mut out = Vec::new();
    let range = Dialect::Typed(Arc::new(settings))
        .encode_reply(&Reply::Ping { cursor: None }, TIME_MS, &mut out)
        .unwrap();
    assert_eq!(
        payload(&out[range]),
        r#"{"type":"ping","timestamp":"2025-11-24T10:30:00"}"#
    );
}

#[derive(serde::Deserialize)]
struct Example<'l> {
    #[serde(rename = "type")]
    name: &'l str,
    channel: Option<&'l str>,
    #[serde(borrow)]
    data: Option<&'l serde_json::value::RawValue>,
}

#[test]
fn the_examples_in_the_documentation_are_valid() {
    const REFERENCE: &str = include_str!("../../../../../docs/typed.md");
    let mut scratch = Scratch::default();
    let (mut requests, mut events, mut rows) = (0, 0, 0);
    for line in REFERENCE.lines().filter(|line| line.starts_with('{')) {
        let example: Example<'_> = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        match example {
            Example {
                name,
                channel: Some(channel),
                data: Some(data),
            } => {
                assert_eq!(text(&event(channel, name, data.get(), TIME_MS)), line);
                events += 1;
            }
            Example {
                name: "auth" | "subscribe" | "unsubscribe" | "get_status" | "ping",
                ..
            } => {
                let parsed = dialect().parse(line, &mut scratch);
                assert!(parsed.is_ok(), "{line}: {parsed:?}");
                requests += 1;
            }
            _ => {}
        }
    }
    // The rows of the table of subscriptions have the shape: | `fields` | `pattern`: ...
    for line in REFERENCE.lines() {
        if let Some((fields, meaning)) = line.strip_prefix("| `").and_then(|row| row.split_once("` | `"))
            && let Some((pattern, _)) = meaning.split_once("`:")
        {
            let (patterns, _) = selected(fields).unwrap_or_else(|error| panic!("{line}: {error:?}"));
            assert_eq!(patterns, [pattern], "{line}");
            rows += 1;
        }
    }
    assert!(requests >= 6 && events == 7 && rows == 4, "{requests} {events} {rows}");
}
