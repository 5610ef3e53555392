//! Random sequences of inputs cause no panic, one ending, one response to every command, and an answer with every id.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::drive::{Drive, Seen, Tokens, epoch, permissions, settings, user};
use crate::session::{CommandOutcome, HistoryPage, Input, Settings};
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::dialect::Dialect;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::ErrorCode;
use tickgate_protocol::wire;

#[derive(Clone, Debug)]
enum Step {
    Text(String),
    // A command with an id of its own and these other members.
    Command(String),
    Burst(u8),
    Ping,
    Pong,
    Pass(u64),
    Verified,
    Subscribed,
    Published,
    Responded(prop::sample::Index),
    GoingAway,
    Frame(u8),
    End,
}

fn channel() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "grid\\.[a-c](\\.[*])?",
        2 => "market\\.[a-c]",
        1 => Just("*".to_owned()),
        1 => ".{0,8}".prop_map(|text| text.replace(['"', '\\'], "").chars().filter(|c| !c.is_control()).collect()),
    ]
}

fn message() -> impl Strategy<Value = String> {
    let channels = || prop::collection::vec(channel(), 0..4).prop_map(|names| serde_json::to_string(&names).unwrap());
    prop_oneof![
        3 => (channels(), any::<u8>()).prop_map(|(c, id)| format!(r#"{{"type":"subscribe","channels":{c},"id":{id}}}"#)),
        1 => "[a-c.]{1,2}".prop_map(|s| format!(r#"{{"type":"subscribe","symbol":"{s}","target":"{s}","id":3}}"#)),
        3 => channels().prop_map(|c| format!(r#"{{"type":"unsubscribe","channels":{c},"id":"u"}}"#)),
        2 => "(good|another|less|bad)".prop_map(|token| format!(r#"{{"type":"auth","token":"{token}","id":"a"}}"#)),
        1 => Just(r#"{"type":"get_status","id":1}"#.to_owned()),
        1 => channel().prop_map(|c| format!(r#"{{"type":"publish","channel":"{c}","event":"e","id":"p"}}"#)),
        2 => (channels(), channel(), 0u64..9, any::<bool>()).prop_map(|(c, key, offset, more)| {
            let key = format!(r#""{key}":{{"epoch":"e","offset":{offset}}}"#);
            format!(r#"{{"type":"subscribe","channels":{c},"recover":{{{key}}},"more":{more},"id":"r"}}"#)
        }),
        1 => channel().prop_map(|c| format!(r#"{{"type":"history","channel":"{c}","since":1,"id":"h"}}"#)),
        1 => Just(r#"{"type":"ping","id":2}"#.to_owned()),
        1 => Just(r#"{"type":"pong"}"#.to_owned()),
        1 => "[{}\\[\\]\",:a-z0-9]{0,20}",
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => message().prop_map(Step::Text),
        6 => prop_oneof![
            3 => Just(r#""action":"grid.start","params":{"a":[1]}"#.to_owned()),
            1 => Just(r#""action":"system.kill""#.to_owned()),
            1 => Just(r#""action":7"#.to_owned()),
            1 => Just(r#""x":1"#.to_owned()),
        ].prop_map(Step::Command),
        1 => any::<u8>().prop_map(Step::Burst),
        1 => Just(Step::Ping),
        1 => Just(Step::Pong),
        3 => prop_oneof![0u64..1500, 0u64..40_000].prop_map(Step::Pass),
        4 => Just(Step::Verified),
        4 => Just(Step::Subscribed),
        4 => Just(Step::Published),
        4 => any::<prop::sample::Index>().prop_map(Step::Responded),
        1 => Just(Step::GoingAway),
        1 => (0u8..60).prop_map(Step::Frame),
        1 => prop_oneof![30 => Just(Step::Ping), 1 => Just(Step::End)],
    ]
}

#[derive(Default)]
struct Model {
    // How many responses each command got, by its id.
    responses: BTreeMap<String, u32>,
    // How many requests with this id wait for their answer.
    open: BTreeMap<String, i64>,
    ended: bool,
}

impl Model {
    fn sent(&mut self, text: &str) {
        if let Ok(serde_json::Value::Object(message)) = serde_json::from_str(text)
            && message.get("type").is_some_and(serde_json::Value::is_string)
            && let Some(id) = message.get("id").filter(|id| id.is_string() || id.is_u64())
        {
            *self.open.entry(id.to_string()).or_default() += 1;
        }
    }

    fn saw(&mut self, seen: &Seen) {
        assert!(!self.ended, "after the end: {seen:?}");
        match seen {
            Seen::Close(_) => self.ended = true,
            Seen::Text(text) => {
                let message: serde_json::Value = serde_json::from_str(text).expect("every message is JSON");
                if let Some(id) = message.get("id") {
                    let open = self.open.entry(id.to_string()).or_default();
                    *open -= 1;
                    assert!(*open >= 0, "an answer to an id that has no open request: {text}");
                }
                if message["type"] == "response" {
                    let id = message["id"]
                        .as_str()
                        .expect("commands here have string ids")
                        .to_owned();
                    let count = self
                        .responses
                        .get_mut(&id)
                        .expect("a response to a command that was sent");
                    *count += 1;
                    assert_eq!(*count, 1, "{text}");
                }
            }
            _ => {}
        }
    }
}

fn tokens() -> Tokens {
    Tokens::from([
        (
            "good".to_owned(),
            Ok(Arc::new(user(
                "u42",
                permissions("grid.*,market.*", "grid.*", "grid.*"),
            ))),
        ),
        (
            "less".to_owned(),
            Ok(Arc::new(user("u42", permissions("grid.a.*,market.a", "", "")))),
        ),
        (
            "another".to_owned(),
            Ok(Arc::new(user("u43", permissions("grid.*", "", "")))),
        ),
    ])
}

// A typed endpoint with automatic subscriptions. The test's users may have some of them.
fn typed_settings() -> Settings {
    Settings {
        dialect: Dialect::Typed(Arc::default()),
        auto_subscribe: ["grid.a.*", "market.a", "system.log"]
            .map(|name| Pattern::parse(name).unwrap())
            .into(),
        ..settings()
    }
}

fn play(settings: Settings, steps: Vec<Step>, handshake: Option<&str>) {
    let mut drive = Drive::new(settings, tokens(), handshake);
    let mut model = Model::default();
    let mut commands = 0;
    for step in steps {
        answer_history(&mut drive);
        match step {
            Step::Text(text) if drive.session.wants_input() => {
                if !drive.session.is_closed() {
                    model.sent(&text);
                }
                drive.input(Input::Frame(wire::Message::Text(&text)));
            }
            Step::Command(rest) if drive.session.wants_input() && !drive.session.is_closed() => {
                commands += 1;
                let id = format!("c{commands}");
                let text = format!(r#"{{"type":"command","id":"{id}",{rest}}}"#);
                model.sent(&text);
                model.responses.insert(id, 0);
                drive.input(Input::Frame(wire::Message::Text(&text)));
            }
            Step::Burst(times) if drive.session.wants_input() => {
                for _ in 0..times {
                    drive.input(Input::Frame(wire::Message::Text(r#"{"type":"pong"}"#)));
                }
            }
            Step::Ping => drive.input(Input::Frame(wire::Message::Ping(b"p"))),
            Step::Pong => drive.input(Input::Frame(wire::Message::Pong(b"p"))),
            Step::Pass(ms) => drive.pass(ms),
            Step::Verified if drive.verify.is_some() => drive.answer_verify(),
            Step::Subscribed if drive.subscribe.is_some() => drive.answer_subscribe(),
            Step::Published if drive.publish.is_some() => drive.answer_publish(None),
            Step::Responded(which) if !drive.commands.is_empty() => {
                let (_, id) = drive.commands[which.index(drive.commands.len())].clone();
                let outcome = CommandOutcome::Refused {
                    code: ErrorCode::Timeout,
                    message: "late".into(),
                };
                drive.answer_command(&id, outcome);
            }
            Step::GoingAway => drive.input(Input::GoingAway {
                close_in_ms: 1,
                reconnect_after_ms: 2,
            }),
            Step::Frame(0) => drive.input(Input::Frame(wire::Message::Binary(b"b"))),
            Step::Frame(1) => drive.input(Input::Frame(wire::Message::Close(None))),
            Step::Frame(2) => drive.input(Input::Malformed(wire::Error::TooBig)),
            Step::Frame(3) => drive.input(Input::Lost),
            Step::End => drive.input(Input::End(Disconnect::SlowConsumer)),
            _ => {}
        }
        for seen in std::mem::take(&mut drive.seen) {
            model.saw(&seen);
        }
    }
    settle(&mut drive, &mut model);
}

// A shard answers history requests at once.
fn answer_history(drive: &mut Drive) {
    if drive.history.is_some() {
        drive.answer_history(HistoryPage {
            epoch: epoch(),
            events: vec!["{}".into()],
            complete: true,
            offset: Some(1),
            more: false,
        });
    }
}

// Answers every pending request. Then no request may be open, unless the connection has ended.
fn settle(drive: &mut Drive, model: &mut Model) {
    answer_history(drive);
    for seen in std::mem::take(&mut drive.seen) {
        model.saw(&seen);
    }
    while drive.verify.is_some() || drive.subscribe.is_some() || drive.publish.is_some() || !drive.commands.is_empty() {
        if drive.verify.is_some() {
            drive.answer_verify();
        } else if drive.subscribe.is_some() {
            drive.answer_subscribe();
        } else if drive.publish.is_some() {
            drive.answer_publish(Some(7));
        } else {
            let (_, id) = drive.commands[0].clone();
            drive.answer_command(&id, CommandOutcome::Success { data: "{}".into() });
        }
        for seen in std::mem::take(&mut drive.seen) {
            model.saw(&seen);
        }
    }
    assert_eq!(drive.session.is_closed(), model.ended);
    if !model.ended {
        assert!(drive.session.wants_input());
        for (id, open) in &model.open {
            assert_eq!(*open, 0, "requests without an answer, by their id {id}");
        }
        for (id, responses) in &model.responses {
            assert_eq!(*responses, 1, "command {id}");
        }
        let identity = drive.session.identity();
        for pattern in drive.session.patterns() {
            assert!(
                identity.is_some_and(|identity| identity.may_subscribe(pattern)),
                "{pattern}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn any_sequence_of_inputs_keeps_the_contract(
        steps in prop::collection::vec(step(), 1..120), authenticated in any::<bool>(), typed in any::<bool>(),
    ) {
        play(if typed { typed_settings() } else { settings() }, steps, authenticated.then_some("good"));
    }

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        play(settings(), vec![Step::Text(text.clone())], Some("good"));
        play(typed_settings(), vec![Step::Text(text)], Some("good"));
    }
}
