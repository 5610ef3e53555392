//! From polls to a socket, in any order of requests.

use proptest::prelude::*;

use super::*;

#[test]
fn a_probed_socket_takes_over_after_what_was_polled() {
    let mut client = Client::new(Limits::default());
    let mut waiting = client.get().expect("taken");
    assert!(client.candidate().is_some());
    assert_eq!(client.candidate(), None, "one is enough");
    assert_eq!(waiting.try_recv(), Err(TryRecvError::Empty));
    client.say("2probe");
    assert!(client.rig.actions().contains(&Action::AnswerProbe(client.id)));
    assert_eq!(text(&waiting.try_recv().expect("let go")), "6");
    client.event("1");
    assert_eq!(data(&client.poll()), [1], "polls still carry it");
    assert_eq!(client.poll(), "6", "and do not wait");
    client.event("2");
    assert_eq!(client.post("3"), Ok(()));
    assert_eq!(client.written(), Vec::<String>::new());
    client.say("5");
    client.event("3");
    let written = client.written();
    assert_eq!(data(&written.join("\u{1e}")), [2, 3]);
    let refusal = PollError::BadRequest("the session uses a WebSocket");
    assert_eq!(client.get().err(), Some(refusal), "and is left alone");
    assert_eq!(client.post("3"), Err(refusal));
    client.say("42[\"get_status\"]");
    assert!(client.written()[0].starts_with("42[\"status\""));
    assert_eq!(client.rig.metrics.polling.get(), 0);
    assert_eq!(client.rig.metrics.transports_upgraded.get(), 1);
    client.say("1");
    assert_eq!(client.rig.metrics.endings(Disconnect::Normal), 1);
}

#[test]
fn probe_and_upgrade_in_one_read_answer_a_waiting_get() {
    let mut client = Client::new(Limits::default());
    let mut waiting = client.get().expect("taken");
    assert!(client.candidate().is_some());
    let mut bytes = [
        frame(0x81, b"2probe"),
        frame(0x81, b"5"),
        frame(0x81, b"42[\"get_status\"]"),
    ]
    .concat();
    client.rig.core.on_bytes(client.id, &mut bytes, client.rig.now);
    assert_eq!(text(&waiting.try_recv().expect("let go")), "6");
    assert_eq!(client.rig.actions()[0], Action::AnswerProbe(client.id));
    assert!(client.written()[0].starts_with("42[\"status\""));
}

/// A session that an operator ends while its client has a socket and no GET waits.
fn ended(says: &[&str]) -> Client {
    let mut client = Client::new(Limits::default());
    assert!(client.candidate().is_some());
    for packet in says {
        client.say(packet);
    }
    let (reply, ended) = oneshot::channel();
    client.rig.message(ShardMessage::Disconnect {
        id: client.id,
        tenant: None,
        ending: Disconnect::ByOperator,
        reply: Box::new(|was_there| reply.send(was_there).expect("heard")),
    });
    assert_eq!(ended.blocking_recv(), Ok(true));
    client
}

#[test]
fn a_session_end_between_the_last_get_and_the_upgrade_is_reported_on_the_socket() {
    let mut client = ended(&["2probe"]);
    client.say("5");
    let told = client.written();
    assert_eq!(told.len(), 4, "{told:?}");
    assert!(
        told[0].starts_with("42[\"error\"") && told[0].contains("BY_OPERATOR"),
        "{told:?}"
    );
    assert_eq!(told[1..3], ["41", "1"]);
    assert!(
        told[3].ends_with("disconnected by an operator"),
        "a Close frame: {told:?}"
    );
    assert!(client.rig.actions().contains(&Action::ShutDown(client.id)));
    client.say("3");
    client.rig.core.on_end_of_input(client.id, client.rig.now);
    assert!(client.is_gone());
    assert_eq!(client.rig.metrics.polling.get(), 0);
}

#[test]
fn a_client_that_is_to_come_back_gets_a_close_frame_and_no_close_packet() {
    let mut client = Client::new(Limits::default());
    assert!(client.candidate().is_some());
    client.say("2probe");
    client.rig.message(ShardMessage::Drain { over_ms: 0 });
    client.rig.pass(10);
    client.say("5");
    let told = client.written();
    let [.., reason, close] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(reason.starts_with("42[\"error\""), "{told:?}");
    assert!(
        close.ends_with("gateway going away") || close.ends_with("gateway restarting"),
        "a Close frame: {told:?}"
    );
    client.rig.core.on_end_of_input(client.id, client.rig.now);
    assert!(client.is_gone());
}

#[test]
fn a_session_end_before_the_probe_is_reported_wherever_the_client_continues() {
    // The probe is answered. The client learns of the end from its last GET, and completes the upgrade or not.
    for completes in [true, false] {
        let mut client = ended(&[]);
        client.say("2probe");
        assert!(client.rig.actions().contains(&Action::AnswerProbe(client.id)));
        let told = client.poll();
        assert!(told.contains("BY_OPERATOR") && told.ends_with("\u{1e}41"), "{told}");
        if completes {
            client.say("5");
            assert_eq!(client.written()[0], "1");
            client.rig.core.on_end_of_input(client.id, client.rig.now);
        } else {
            assert_eq!(client.poll(), "1");
        }
        assert!(client.is_gone(), "{completes}");
    }
    // A socket that fails its probe does not change the GETs.
    let mut client = ended(&["2probe"]);
    client.rig.core.on_end_of_input(client.id, client.rig.now);
    assert!(client.poll().contains("BY_OPERATOR"));
    // The client sends no request any more.
    let mut client = ended(&["2probe"]);
    client.rig.pass(5_250);
    assert!(client.is_gone());
}

#[test]
fn the_compression_of_the_socket_begins_with_the_upgrade_and_ends_with_the_session() {
    let mut client = Client::new(Limits::default());
    client.deflate = Some(Deflate { window_bits: 15 });
    let long = format!("\"{}\"", "x".repeat(5_000));
    assert!(client.candidate().is_some());
    client.say("2probe");
    client.event(&long);
    assert!(client.poll().contains(&long), "polls are plain");
    client.event(&long);
    client.say("5");
    client.event(&long);
    assert_eq!(client.rig.metrics.deflate_connections.get(), 1);
    let written: Vec<usize> = client.written().iter().map(String::len).collect();
    assert!(
        written.len() == 2 && written[0] > 5_000 && written[1] < 1_000,
        "{written:?}"
    );
    client.say("1");
    client.written();
    client.rig.core.on_end_of_input(client.id, client.rig.now);
    assert!(client.is_gone());
    assert_eq!(client.rig.metrics.deflate_connections.get(), 0);
    client.rig.publish("grid.a", "1");
}

#[test]
fn a_socket_that_fails_its_probe_is_dropped_and_the_session_polls_on() {
    let ways: [fn(&mut Client); 5] = [
        |client| client.say("4hello"),
        |client| client.rig.core.on_end_of_input(client.id, client.rig.now),
        |client| client.rig.core.on_socket_error(client.id, client.rig.now),
        |client| {
            let mut ping = frame(0x89, b"");
            client.rig.core.on_bytes(client.id, &mut ping, client.rig.now);
        },
        |client| client.rig.pass(10_250),
    ];
    for (way, fail) in ways.into_iter().enumerate() {
        let mut client = Client::new(Limits::default());
        assert!(client.candidate().is_some());
        client.say("2probe");
        client.rig.actions();
        fail(&mut client);
        assert!(client.rig.actions().contains(&Action::Drop(client.id)), "{way}");
        client.event("1");
        assert_eq!(data(&client.poll()), [1], "{way}");
        let mut waiting = client.get().expect("taken");
        assert_eq!(waiting.try_recv(), Err(TryRecvError::Empty), "{way}: it waits again");
        assert!(client.candidate().is_some(), "{way}: another may come");
    }
}

#[test]
fn a_post_whose_body_comes_after_the_upgrade_is_refused_and_ends_the_session() {
    let mut client = Client::new(Limits::default());
    assert_eq!(client.begin_post(100), Ok(()));
    assert!(client.candidate().is_some());
    client.say("2probe");
    client.say("5");
    assert_eq!(client.rig.metrics.endings(Disconnect::Protocol), 1);
    let (reply, mut answer) = oneshot::channel();
    client.tell(
        100,
        PollRequest::PostBody(Bytes::from_static(b"42[\"get_status\"]"), reply),
    );
    assert!(answer.try_recv().expect("answered at once").is_err());
    assert!(!client.written().join("").contains("status"));
}

#[test]
fn a_partial_message_on_a_candidate_is_bounded_and_dropped_with_its_socket() {
    let partial = |client: &Client| {
        let connections = &client.rig.core.connections;
        let slot = connections.slot(client.id).expect("a session");
        let cold = connections.cold(slot).expect("a session");
        cold.decoder.buffered_bytes()
    };
    let mut client = Client::new(Limits::default());
    assert!(client.candidate().is_some());
    let mut half = frame(0x81, &[b'x'; 1000]);
    half.truncate(500);
    client.rig.core.on_bytes(client.id, &mut half, client.rig.now);
    assert!(
        client.rig.actions().contains(&Action::Drop(client.id)),
        "no probe is so long"
    );
    assert_eq!(partial(&client), 0);
    assert!(client.candidate().is_some());
    let mut half = frame(0x81, b"2probe");
    half.truncate(8);
    client.rig.core.on_bytes(client.id, &mut half, client.rig.now);
    assert!(partial(&client) > 0);
    client.rig.core.on_end_of_input(client.id, client.rig.now);
    assert_eq!(partial(&client), 0);
    // The limit holds only during the probe.
    assert!(client.candidate().is_some());
    client.say("2probe");
    client.say("5");
    client.say(&format!("42[\"get_status\",{{\"x\":\"{}\"}}]", "x".repeat(10_000)));
    assert!(client.written()[0].starts_with("42[\"status\""));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever the order of events, polls, a probe and the upgrade, the client gets every event once and in order.
    #[test]
    fn an_upgrade_under_load_loses_and_reorders_nothing(before in prop::collection::vec(0u8..4, 0..40), between in prop::collection::vec(0u8..4, 0..40), after in 0u64..20) {
        let mut client = Client::new(Limits::default());
        let (mut heard, mut sent) = (Vec::new(), 0);
        let mut waiting: Option<oneshot::Receiver<Bytes>> = None;
        let run = |client: &mut Client, steps: Vec<u8>, heard: &mut Vec<u64>, sent: &mut u64, waiting: &mut Option<oneshot::Receiver<Bytes>>| {
            for step in steps {
                match step {
                    0 | 1 => {
                        client.event(&sent.to_string());
                        *sent += 1;
                    }
                    2 => assert_eq!(client.post("3"), Ok(())),
                    _ if waiting.is_none() => *waiting = Some(client.get().expect("taken")),
                    _ => {}
                }
                if let Some(Ok(body)) = waiting.as_mut().map(oneshot::Receiver::try_recv) {
                    *waiting = None;
                    heard.extend(data(&text(&body)));
                }
            }
        };
        run(&mut client, before, &mut heard, &mut sent, &mut waiting);
        prop_assert!(client.candidate().is_some());
        client.say("2probe");
        run(&mut client, between, &mut heard, &mut sent, &mut waiting);
        if let Some(body) = &mut waiting {
            heard.extend(data(&text(&body.try_recv().expect("let go"))));
        }
        client.say("5");
        for _ in 0..after {
            client.event(&sent.to_string());
            sent += 1;
        }
        heard.extend(data(&client.written().join("\u{1e}")));
        prop_assert_eq!(heard, (0..sent).collect::<Vec<_>>());
    }
}
