//! Backends that fail: the circuit breaker and repetition, on paused time where time matters.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::super::breaker::{FAILURES_IN_ROW, OPEN_MS, State};
use super::*;

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_lets_one_probe_through_and_closes() {
    let healthy = Arc::new(AtomicUsize::new(0));
    let calls = Arc::new(AtomicUsize::new(0));
    let target = in_process("flaky", {
        let (healthy, calls) = (Arc::clone(&healthy), Arc::clone(&calls));
        move |_| {
            calls.fetch_add(1, SeqCst);
            let result = match healthy.load(SeqCst) {
                0 => Err(Failure::Unreachable("planted".to_owned())),
                _ => Ok(Answer::Success(Bytes::from_static(b"1"))),
            };
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                result
            })
        }
    });
    let mut bench = Bench::with_route(route("*", target));
    for _ in 0..FAILURES_IN_ROW {
        assert_eq!(code(&bench.ask("a.b").await), "BACKEND_UNAVAILABLE");
    }
    assert_eq!(bench.router.snapshot().backends[0].state, State::Open);
    let calls_before = calls.load(SeqCst);
    assert_eq!(code(&bench.ask("a.b").await), "BACKEND_UNAVAILABLE");
    assert_eq!(
        calls.load(SeqCst),
        calls_before,
        "an open breaker keeps commands from the backend"
    );

    healthy.store(1, SeqCst);
    tokio::time::sleep(Duration::from_millis(OPEN_MS)).await;
    bench.send_from(1, "a.b", "{}");
    bench.send_from(2, "a.b", "{}");
    let mut codes = Vec::new();
    for _ in 0..2 {
        codes.push(code(&bench.answers.recv().await.expect("an answer").2));
    }
    codes.sort_unstable();
    assert_eq!(codes, ["BACKEND_UNAVAILABLE", "success"], "one probe at a time");
    assert_eq!(calls.load(SeqCst), calls_before + 1);

    assert_eq!(code(&bench.ask("a.b").await), "success");
    let backend = &bench.router.snapshot().backends[0];
    assert_eq!(
        (backend.state, backend.opened_total, backend.refused),
        (State::Closed, 1, 2)
    );
}

#[tokio::test]
async fn a_breaker_is_shared_by_the_routes_of_one_backend_only() {
    let fails = |_| -> Work { Box::pin(std::future::ready(Err(Failure::Status(500)))) };
    let mut bench = Bench::new(Settings {
        routes: vec![
            route("a.*", in_process("one", fails)),
            route("b.*", in_process("one", says("1"))),
            route("c.*", in_process("two", says("2"))),
        ],
        ..Settings::default()
    });
    for _ in 0..FAILURES_IN_ROW {
        bench.ask("a.x").await;
    }
    assert_eq!(code(&bench.ask("b.x").await), "BACKEND_UNAVAILABLE");
    assert_eq!(code(&bench.ask("c.x").await), "success");
    assert_eq!(bench.router.snapshot().backends.len(), 2);
}

#[tokio::test]
async fn a_refusal_by_the_backend_itself_does_not_open_the_breaker() {
    let mut bench = Bench::with_route(route(
        "*",
        in_process("picky", |request: Request| {
            Box::pin(std::future::ready(match request.action.as_str() {
                "a.status" => Err(Failure::Status(404)),
                _ => Ok(Answer::Failure(Bytes::from_static(
                    b"{\"code\":\"NO\",\"message\":\"no\"}",
                ))),
            }))
        }),
    ));
    for _ in 0..2 * FAILURES_IN_ROW {
        assert_eq!(code(&bench.ask("a.status").await), "BACKEND_UNAVAILABLE");
        assert_eq!(code(&bench.ask("a.other").await), "failure");
    }
    assert_eq!(bench.router.snapshot().backends[0].state, State::Closed);
}

#[tokio::test(start_paused = true)]
async fn only_idempotent_routes_are_repeated_and_only_where_it_can_help() {
    let cases: [(bool, Failure, usize); 6] = [
        (false, Failure::Unreachable(String::new()), 1),
        (false, Failure::Lost(String::new()), 1),
        (true, Failure::Lost(String::new()), 3),
        (true, Failure::Status(503), 3),
        (true, Failure::Status(404), 1),
        (true, Failure::BadReply("planted"), 1),
    ];
    for (idempotent, failure, attempts) in cases {
        let calls = Arc::new(AtomicUsize::new(0));
        let target = in_process("down", {
            let (calls, failure) = (Arc::clone(&calls), failure.clone());
            move |_| {
                calls.fetch_add(1, SeqCst);
                Box::pin(std::future::ready(Err(failure.clone())))
            }
        });
        let mut bench = Bench::with_route(RouteSettings {
            idempotent,
            ..route("*", target)
        });
        assert_eq!(code(&bench.ask("a.b").await), "BACKEND_UNAVAILABLE");
        assert_eq!(calls.load(SeqCst), attempts, "idempotent {idempotent}, {failure:?}");
        assert_eq!(bench.router.snapshot().retries, attempts as u64 - 1);
    }
}
