use super::*;
use crate::auth::Mode;
use crate::session::CommandOutcome;
use tickgate_protocol::message::ErrorCode;

#[test]
fn replies_over_their_bound_end_with_4008_as_the_last_frame() {
    let mut rig = Rig::new();
    let limits = Limits {
        messages_per_second: 1_000,
        reply_frames: 20,
        ..Limits::default()
    };
    let id = rig.connect_with(session_settings(Mode::Off, limits), Ok(None), true);
    rig.stall(id);
    for _ in 0..100 {
        rig.say(id, r#"{"type":"ping"}"#);
    }
    assert!(rig.core.is_closing(id));
    rig.core.writable(id);
    let got = rig.read(id);
    assert_eq!(got.len(), 21, "twenty replies and the Close frame");
    assert_eq!(got[20], Received::Close(4008));
    assert_eq!(rig.metrics.endings(Disconnect::SlowConsumer), 1);
}

/// A client that may send many messages but have few replies pending.
fn greedy() -> Limits {
    Limits {
        messages_per_second: 1_000,
        reply_frames: 20,
        reply_bytes: 4096,
        message_bytes: 1 << 20,
        ..Limits::default()
    }
}

#[test]
fn a_client_that_reads_its_replies_may_ask_for_many_at_once() {
    let mut rig = Rig::new();
    let id = rig.connect_with(session_settings(Mode::Off, greedy()), Ok(None), true);
    let mut requests = frame(0x81, br#"{"type":"get_status"}"#).repeat(500);
    rig.core.on_bytes(id, &mut requests, rig.now);
    assert!(rig.core.queued_frames() <= 20, "the rest waits");
    assert!(!rig.core.wants_input(id));
    assert_eq!(kinds(&rig.read(id)), ["status"; 500]);
    assert!(rig.core.wants_input(id));
    assert_eq!(rig.actions(), [Action::Resume(id)]);
}

#[test]
fn answers_that_come_all_at_once_end_only_a_client_that_does_not_read_them() {
    for reads in [true, false] {
        let mut rig = Rig::new();
        let limits = Limits {
            commands_per_second: 50,
            ..greedy()
        };
        let id = rig.connect_with(session_settings(Mode::Off, limits), Ok(None), true);
        for number in 0..50 {
            rig.say(id, &format!(r#"{{"type":"command","id":{number},"action":"a"}}"#));
        }
        let asked = std::mem::take(&mut *rig.asked.command.lock().expect("not poisoned"));
        assert_eq!(asked.len(), 50);
        for (to, _, request, _) in asked {
            let data = "1".repeat(200).into();
            let outcome = CommandOutcome::Success { data };
            rig.message(ShardMessage::Responded { to, request, outcome });
        }
        if reads {
            assert_eq!(kinds(&rig.read(id)), ["response"; 50]);
            assert!(!rig.core.is_closing(id));
        } else {
            rig.core.next_dirty();
            rig.core.blocked(id, rig.now);
            assert!(rig.core.is_closing(id));
            assert_eq!(rig.metrics.endings(Disconnect::SlowConsumer), 1);
        }
    }
}

#[test]
fn an_echo_reads_no_more_until_its_client_has_read() {
    let mut rig = Rig::new();
    let settings = session::Settings {
        dialect: Dialect::Echo,
        ..(*session_settings(Mode::Off, greedy())).clone()
    };
    let id = rig.connect_with(Arc::new(settings), Ok(None), true);
    // Each message is longer than the bound on pending replies, and there are several.
    let mut messages = frame(0x81, format!("\"{}\"", "x".repeat(6000)).as_bytes()).repeat(50);
    rig.core.on_bytes(id, &mut messages, rig.now);
    rig.core.next_dirty();
    rig.core.blocked(id, rig.now);
    assert!(!rig.core.wants_input(id));
    assert_eq!(rig.core.queued_frames(), 1);
    // Its own pings do not end the connection, either.
    rig.pass(45_000);
    assert!(!rig.core.is_closing(id));
    rig.core.writable(id);
    let texts = quiet(rig.read(id)).len();
    assert_eq!(texts, 50);
    assert!(rig.core.wants_input(id));
}

#[test]
fn a_publish_without_credit_parks_its_connection_until_there_is_some() {
    let mut rig = Rig::new();
    let (id, other) = (rig.connect(), rig.connect());
    rig.subscribe(id, "*");
    rig.read(id);
    rig.broker.refuses.store(true, Ordering::Relaxed);
    rig.say(
        id,
        r#"{"type":"publish","channel":"a.b","event":"e","data":1,"id":"p1"}"#,
    );
    rig.say(
        other,
        r#"{"type":"publish","channel":"a.b","event":"e","data":2,"id":"p2"}"#,
    );
    assert!(!rig.core.wants_input(other), "behind the first in the line");
    rig.say(
        id,
        r#"{"type":"publish","channel":"a.b","event":"e","data":3,"id":"p3"}"#,
    );
    rig.say(id, r#"{"type":"ping","id":"after"}"#);
    assert!(!rig.core.wants_input(id));
    rig.core.retry_parked(rig.now);
    // A client is not closed for a silence that the gateway has caused.
    rig.pass(120_000);
    assert!(!rig.core.is_closing(id));
    rig.read(id);
    rig.broker.refuses.store(false, Ordering::Relaxed);
    rig.core.retry_parked(rig.now);
    assert!(rig.core.wants_input(id));
    assert_eq!(rig.actions(), [Action::Resume(other), Action::Resume(id)]);
    rig.core.deliver(usize::MAX);
    let got = quiet(rig.read(id));
    assert_eq!(
        kinds(&got),
        ["published", "published", "pong", "event", "event", "event"]
    );
    let data: Vec<_> = got[3..].iter().map(|frame| frame.text()["data"].as_u64()).collect();
    assert_eq!(data, [Some(1), Some(2), Some(3)]);
}

#[test]
fn a_parked_publish_is_published_even_if_its_client_is_gone() {
    let mut rig = Rig::new();
    let (publisher, subscriber) = (rig.connect(), rig.connect());
    rig.subscribe(subscriber, "*");
    rig.read(subscriber);
    rig.broker.refuses.store(true, Ordering::Relaxed);
    rig.say(publisher, r#"{"type":"publish","channel":"a.b","event":"e","data":1}"#);
    rig.core.on_end_of_input(publisher, rig.now);
    assert_eq!(rig.actions(), [Action::Remove(publisher)]);
    rig.broker.refuses.store(false, Ordering::Relaxed);
    rig.core.retry_parked(rig.now);
    rig.core.deliver(usize::MAX);
    assert_eq!(kinds(&rig.read(subscriber)), ["event"]);
}

#[test]
fn a_drain_waits_for_an_event_that_waits_for_credit() {
    let mut rig = Rig::new();
    let publisher = rig.connect();
    rig.broker.refuses.store(true, Ordering::Relaxed);
    rig.say(publisher, r#"{"type":"publish","channel":"a.b","event":"e","data":1}"#);
    rig.core.on_end_of_input(publisher, rig.now);
    rig.message(ShardMessage::Drain { over_ms: 0 });
    assert_eq!(rig.core.connections(), 0);
    assert!(!rig.core.is_finished());
    rig.broker.refuses.store(false, Ordering::Relaxed);
    rig.core.retry_parked(rig.now);
    assert!(rig.core.is_finished());
}

#[test]
fn input_after_an_auth_waits_for_the_result_and_a_stale_result_reaches_no_client() {
    let mut rig = Rig::new();
    let settings = session_settings(Mode::Required, Limits::default());
    let id = rig.connect_with(settings.clone(), Ok(None), true);
    let mut input = frame(0x81, br#"{"type":"auth","token":"t"}"#);
    input.extend(frame(0x81, br#"{"type":"subscribe","channels":["a.b"]}"#));
    rig.core.on_bytes(id, &mut input, rig.now);
    assert!(!rig.core.wants_input(id));
    let (from, request, token) = rig.asked.verify.lock().expect("not poisoned").remove(0);
    assert_eq!((from, &*token), (id, "t"));
    let stale = ConnectionId {
        generation: id.generation.wrapping_sub(1),
        ..id
    };
    for to in [stale, id] {
        let outcome = Ok(identity(Some("u1")));
        rig.message(ShardMessage::Verified { to, request, outcome });
        assert_eq!(rig.core.wants_input(id), to == id);
    }
    assert_eq!(rig.actions(), [Action::Resume(id)]);
    assert_eq!(kinds(&rig.read(id)), ["auth_result", "subscribed"]);
}

#[test]
fn a_user_with_too_many_connections_is_refused_in_band() {
    let mut rig = Rig::new();
    let id = rig.connect_with(session_settings(Mode::Required, Limits::default()), Ok(None), false);
    rig.say(id, r#"{"type":"auth","token":"t"}"#);
    let (to, request, _) = rig.asked.verify.lock().expect("not poisoned").remove(0);
    let outcome = Ok(identity(Some("u1")));
    rig.message(ShardMessage::Verified { to, request, outcome });
    let got = rig.read(id);
    assert_eq!(got[0].text()["success"], false);
    assert_eq!(got[0].text()["error"]["code"], "RATE_LIMITED");
}

#[test]
fn a_command_carries_the_client_id_and_its_answer_reaches_the_client() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.say(
        id,
        r#"{"type":"command","id":"c1","action":"grid.start","params":{"a":1.0}}"#,
    );
    let (to, client_id, request, command) = rig.asked.command.lock().expect("not poisoned").remove(0);
    assert_eq!(ConnectionId::from_client_id(&client_id), Some(id));
    assert_eq!(&*command.params, br#"{"a":1.0}"#);
    let outcome = CommandOutcome::Success {
        data: "{\"ok\":1}".into(),
    };
    rig.message(ShardMessage::Responded { to, request, outcome });
    let got = rig.read(id);
    assert_eq!(got[0].text()["data"]["ok"], 1);
    rig.say(id, r#"{"type":"get_status"}"#);
    assert_eq!(rig.read(id)[0].text()["client_id"], client_id.as_str());
}

#[test]
fn a_forbidden_command_goes_to_the_audit_trail_and_to_no_backend() {
    let mut rig = Rig::new();
    let limits = Limits::default();
    let identity = identity_with(Some("u7"), Permissions::default());
    let id = rig.connect_with(session_settings(Mode::Required, limits), Ok(Some(identity)), true);
    rig.say(id, r#"{"type":"command","id":"c1","action":"system.kill_switch"}"#);
    assert_eq!(rig.read(id)[0].text()["error"]["code"], "FORBIDDEN");
    let (client_id, command) = rig.asked.forbidden.lock().expect("not poisoned").remove(0);
    assert_eq!(ConnectionId::from_client_id(&client_id), Some(id));
    assert_eq!(command.action.as_str(), "system.kill_switch");
    assert_eq!(command.identity.user.as_deref(), Some("u7"));
    assert!(rig.asked.command.lock().expect("not poisoned").is_empty());
}

#[test]
fn a_message_must_be_complete_in_time_however_it_is_cut() {
    let mut rig = Rig::new();
    let id = rig.connect();
    // An endless message: a fragment every second, which satisfies the heartbeat.
    rig.core.on_bytes(id, &mut frame(0x01, b"\"a"), rig.now);
    for _ in 0..29 {
        rig.pass(1_000);
        rig.core.on_bytes(id, &mut frame(0x00, b"a"), rig.now);
        rig.core.on_bytes(id, &mut frame(0x8a, b""), rig.now);
    }
    assert!(!rig.core.is_closing(id));
    rig.pass(1_250);
    let got = rig.read(id);
    assert_eq!(got.last(), Some(&Received::Close(1008)));
}

#[test]
fn a_message_that_is_completed_gives_the_next_one_its_own_time() {
    let mut rig = Rig::new();
    let id = rig.connect();
    let whole = frame(0x81, br#"{"type":"ping"}"#);
    let (first, second) = whole.split_at(9);
    rig.core.on_bytes(id, &mut first.to_vec(), rig.now);
    for _ in 0..5 {
        rig.pass(20_000);
        let mut rest = [second, first].concat();
        rig.core.on_bytes(id, &mut rest, rig.now);
    }
    assert!(!rig.core.is_closing(id));
}

#[test]
fn over_the_budget_the_largest_half_received_message_ends_its_connection() {
    let mut rig = Rig::with(Settings {
        assembly_bytes: 40_000,
        ..shard_settings()
    });
    let (large, small, trigger) = (rig.connect(), rig.connect(), rig.connect());
    rig.core.on_bytes(large, &mut frame(0x01, &[b'a'; 30_000]), rig.now);
    rig.core.on_bytes(small, &mut frame(0x01, b"abc"), rig.now);
    assert!(!rig.core.is_closing(large));
    rig.core.on_bytes(trigger, &mut frame(0x01, &[b'a'; 10_000]), rig.now);
    assert_eq!(rig.read(large), [Received::Close(1013)]);
    assert!(!rig.core.is_closing(small) && !rig.core.is_closing(trigger));
    let before = rig.core.connections.assembly_bytes();
    assert!(before < 40_000);
    rig.core.on_bytes(small, &mut frame(0x80, b""), rig.now);
    rig.core.on_socket_error(trigger, rig.now);
    assert_eq!(
        (rig.core.connections.assembly_bytes(), rig.core.connections.assemblies()),
        (0, 0)
    );
}

#[test]
fn every_cut_of_the_input_gives_the_same_answers() {
    let input = [
        frame(0x81, br#"{"type":"subscribe","channels":["a.*"],"id":1}"#),
        frame(0x89, b"hello"),
        frame(0x01, br#"{"type":"pi"#),
        frame(0x80, br#"ng","id":2}"#),
        frame(0x81, br#"{"type":"nonsense"}"#),
        frame(0x88, &1000u16.to_be_bytes()),
    ]
    .concat();
    let answers = |chunk: usize| {
        // An epoch stands in the cursor.
        let settings = hub::Settings {
            epoch: Some(hub::Epoch(7)),
            ..hub::Settings::default()
        };
        let mut rig = Rig::of(shard_settings(), settings);
        let id = rig.connect();
        for part in input.chunks(chunk) {
            rig.core.on_bytes(id, &mut part.to_vec(), rig.now);
        }
        rig.read(id)
    };
    let whole = answers(input.len());
    assert_eq!(kinds(&whole), ["subscribed", "pong frame", "pong", "error", "close"]);
    for chunk in 1..input.len() {
        assert_eq!(answers(chunk), whole, "chunks of {chunk}");
    }
}

#[test]
fn a_refused_handshake_token_is_reported_and_the_connection_closed() {
    let mut rig = Rig::new();
    let refusal = TokenError {
        code: ErrorCode::TokenExpired,
        message: "token expired".into(),
    };
    let settings = session_settings(Mode::Required, Limits::default());
    let id = rig.connect_with(settings, Err(refusal), true);
    let got = rig.read(id);
    assert_eq!(kinds(&got), ["auth_result", "close"]);
    assert_eq!(got[1], Received::Close(4001));
}
