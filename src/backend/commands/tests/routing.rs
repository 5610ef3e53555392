//! The choice of the route, the guarantee of an answer, and the audit trail.

use super::*;
use crate::backend::commands::breaker::FAILURES_IN_ROW;
use tickgate_protocol::message::ErrorCode;

#[tokio::test]
async fn the_first_route_that_matches_answers() {
    let mut harness = Harness::new(Settings {
        routes: vec![
            route("grid.stop", in_process("a", says("1"))),
            route("grid.*", in_process("b", says("2"))),
            route("*", in_process("c", says("3"))),
        ],
        ..Settings::default()
    });
    for (action, answer) in [("grid.stop", "1"), ("grid.start", "2"), ("system.kill_switch", "3")] {
        assert_eq!(harness.ask(action).await, success(answer), "{action}");
    }
}

#[tokio::test]
async fn urls_that_differ_in_their_hidden_query_are_two_backends() {
    let to = |pattern: &str, url: &str| {
        let url = BackendUrl::parse(url).expect("valid");
        let hmac_secret = None;
        route(pattern, Target::Http(HttpSettings { url, hmac_secret }))
    };
    let harness = Harness::new(Settings {
        routes: vec![
            to("a.*", "http://127.0.0.1:9/c?token=first-secret"),
            to("b.*", "http://127.0.0.1:9/c?token=second-secret"),
            to("c.*", "http://127.0.0.1:9/c?token=first-secret"),
            to("d.*", "http://127.0.0.1:9/c"),
        ],
        ..Settings::default()
    });
    let backends = harness.router.read().backends;
    let names: Vec<_> = backends.iter().map(|backend| &*backend.name).collect();
    assert_eq!(
        names,
        [
            "http://127.0.0.1:9/c?hidden",
            "http://127.0.0.1:9/c?hidden (2)",
            "http://127.0.0.1:9/c"
        ]
    );
}

#[tokio::test]
async fn an_action_without_a_route_is_unknown() {
    let mut harness = Harness::with_route(route("grid.*", in_process("a", says("1"))));
    assert_eq!(code(&harness.ask("strategy.start").await), "UNKNOWN_ACTION");
    let outcomes = harness.router.read().outcomes;
    assert!(outcomes.contains(&("unknown_action", 1)), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn the_answer_at_the_deadline_says_that_the_outcome_is_unknown() {
    let mut slow = route("*", in_process("slow", |_| Box::pin(std::future::pending())));
    slow.timeout = Duration::from_secs(25);
    let mut harness = Harness::with_route(slow);
    let begun = tokio::time::Instant::now();
    let CommandOutcome::Refused { code, message } = harness.ask("grid.start").await else {
        panic!("a refusal")
    };
    assert_eq!(code, ErrorCode::Timeout);
    assert!(message.contains("outcome is unknown"), "{message}");
    let waited = begun.elapsed();
    assert!(
        waited >= Duration::from_secs(25) && waited < Duration::from_millis(25_100),
        "{waited:?}"
    );
}

#[tokio::test]
async fn a_command_is_answered_when_its_handler_panics() {
    let mut harness = Harness::with_route(route("*", in_process("bad", |_| panic!("planted"))));
    assert_eq!(code(&harness.ask("a.b").await), "INTERNAL");
    assert_eq!(harness.router.read().in_flight, 0);
    assert!(harness.answers.try_recv().is_err(), "one answer only");
}

#[test]
fn commands_are_answered_when_the_runtime_has_ended() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut harness = runtime
        .block_on(async { Harness::with_route(route("*", in_process("slow", |_| Box::pin(std::future::pending())))) });
    harness.send_from(1, "a.b", "{}");
    runtime.shutdown_timeout(Duration::from_secs(10));
    harness.send_from(1, "a.c", "{}");
    for _ in 0..2 {
        let (_, _, outcome) = harness.answers.blocking_recv().expect("an answer");
        assert_eq!(code(&outcome), "INTERNAL");
    }
}
#[tokio::test]
async fn an_audited_command_leaves_an_event_and_others_do_not() {
    let no = |_| -> Work {
        Box::pin(std::future::ready(Ok(BackendReply::Failure(Bytes::from_static(
            b"{\"code\":\"NO_GO\",\"message\":\"no\"}",
        )))))
    };
    let mut harness = Harness::new(Settings {
        routes: vec![
            RouteSettings {
                audit: true,
                ..route("system.kill_switch", in_process("a", says("1")))
            },
            RouteSettings {
                audit: true,
                ..route("system.*", in_process("b", no))
            },
            route("*", in_process("c", says("2"))),
        ],
        ..Settings::default()
    });
    for action in ["system.kill_switch", "grid.start", "system.reset"] {
        harness.ask(action).await;
    }
    // The session refused these two. Only the route of the first one is audited.
    for action in ["system.reset", "grid.stop"] {
        harness
            .router
            .forbidden("client_1", Some([10, 0, 0, 7].into()), command(9, action, "{}"));
    }
    while harness.log.0.lock().len() < 3 {
        tokio::task::yield_now().await;
    }
    let events = std::mem::take(&mut *harness.log.0.lock());
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            assert_eq!(event.channel.as_str(), "system.log");
            let data: serde_json::Value = serde_json::from_slice(&event.data).expect("JSON");
            for (field, value) in [
                ("user", "u42"),
                ("role", "trader"),
                ("client_id", "client_1"),
                ("address", "10.0.0.7"),
                ("source", "audit"),
                ("level", &event.name),
            ] {
                assert_eq!(data[field], value, "{data}");
            }
            assert!(data["received_at"].as_u64().is_some_and(|ms| ms > 0), "{data}");
            (
                event.name.to_string(),
                data["action"].clone(),
                data["outcome"].clone(),
                data["code"].clone(),
            )
        })
        .collect();
    assert_eq!(
        seen[0],
        (
            "info".to_owned(),
            "system.kill_switch".into(),
            "success".into(),
            serde_json::Value::Null
        )
    );
    assert_eq!(
        seen[1],
        (
            "warn".to_owned(),
            "system.reset".into(),
            "failure".into(),
            "NO_GO".into()
        )
    );
    assert_eq!(
        seen[2],
        (
            "warn".to_owned(),
            "system.reset".into(),
            "refused".into(),
            "FORBIDDEN".into()
        )
    );
    assert_eq!(seen.len(), 3);
}

#[tokio::test]
async fn replaced_routes_serve_the_next_command_and_keep_the_breaker_of_their_backend() {
    let fails = |_| -> Work { Box::pin(std::future::ready(Err(Failure::Status(500)))) };
    let mut harness = Harness::with_route(route("a.*", in_process("one", fails)));
    for _ in 0..FAILURES_IN_ROW {
        harness.ask("a.x").await;
    }
    harness.router.replace(
        vec![
            route("a.*", in_process("one", says("1"))),
            route("b.*", in_process("two", says("2"))),
        ],
        1024,
    );
    assert_eq!(code(&harness.ask("b.x").await), "success");
    assert_eq!(
        code(&harness.ask("a.x").await),
        "BACKEND_UNAVAILABLE",
        "the breaker is still open"
    );
    harness
        .router
        .replace(vec![route("b.*", in_process("two", says("2")))], 1024);
    assert_eq!(code(&harness.ask("a.x").await), "UNKNOWN_ACTION");
    assert_eq!(harness.router.read().backends.len(), 1);
}
