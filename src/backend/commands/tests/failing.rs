//! Failing backends: the circuit breaker and the retries. Tests that depend on time pause it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::super::breaker::{CircuitState, FAILURES_IN_ROW, OPEN_MS};
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
                _ => Ok(BackendReply::Success(Bytes::from_static(b"1"))),
            };
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                result
            })
        }
    });
    let mut harness = Harness::with_route(route("*", target));
    for _ in 0..FAILURES_IN_ROW {
        assert_eq!(code(&harness.ask("a.b").await), "BACKEND_UNAVAILABLE");
    }
    assert_eq!(harness.router.read().backends[0].circuit, CircuitState::Open);
    let calls_before = calls.load(SeqCst);
    assert_eq!(code(&harness.ask("a.b").await), "BACKEND_UNAVAILABLE");
    assert_eq!(
        calls.load(SeqCst),
        calls_before,
        "an open breaker keeps commands from the backend"
    );

    healthy.store(1, SeqCst);
    tokio::time::sleep(Duration::from_millis(OPEN_MS)).await;
    harness.send_from(1, "a.b", "{}");
    harness.send_from(2, "a.b", "{}");
    let mut codes = Vec::new();
    for _ in 0..2 {
        codes.push(code(&harness.answers.recv().await.expect("an answer").2));
    }
    codes.sort_unstable();
    assert_eq!(codes, ["BACKEND_UNAVAILABLE", "success"], "one probe at a time");
    assert_eq!(calls.load(SeqCst), calls_before + 1);

    assert_eq!(code(&harness.ask("a.b").await), "success");
    let backend = &harness.router.read().backends[0];
    assert_eq!(
        (backend.circuit, backend.opened_total, backend.refused),
        (CircuitState::Closed, 1, 2)
    );
    // Each attempt took 10 ms. Commands that were refused at once count as commands, not as attempts.
    assert_eq!(backend.duration.histogram.count(), u64::from(FAILURES_IN_ROW) + 2);
    assert!(backend.duration.histogram.sum_us >= backend.duration.histogram.count() * 10_000);
    assert_eq!(
        harness.router.read().duration.histogram.count(),
        u64::from(FAILURES_IN_ROW) + 4
    );
}

#[tokio::test]
async fn a_breaker_is_shared_by_the_routes_of_one_backend_only() {
    let fails = |_| -> Work { Box::pin(std::future::ready(Err(Failure::Status(500)))) };
    let mut harness = Harness::new(Settings {
        routes: vec![
            route("a.*", in_process("one", fails)),
            route("b.*", in_process("one", says("1"))),
            route("c.*", in_process("two", says("2"))),
        ],
        ..Settings::default()
    });
    for _ in 0..FAILURES_IN_ROW {
        harness.ask("a.x").await;
    }
    assert_eq!(code(&harness.ask("b.x").await), "BACKEND_UNAVAILABLE");
    assert_eq!(code(&harness.ask("c.x").await), "success");
    assert_eq!(harness.router.read().backends.len(), 2);
}

#[tokio::test]
async fn a_refusal_by_the_backend_itself_does_not_open_the_breaker() {
    let mut harness = Harness::with_route(route(
        "*",
        in_process("picky", |request: Request| {
            Box::pin(std::future::ready(match request.action.as_str() {
                "a.status" => Err(Failure::Status(404)),
                _ => Ok(BackendReply::Failure(Bytes::from_static(
                    b"{\"code\":\"NO\",\"message\":\"no\"}",
                ))),
            }))
        }),
    ));
    for _ in 0..2 * FAILURES_IN_ROW {
        assert_eq!(code(&harness.ask("a.status").await), "BACKEND_UNAVAILABLE");
        assert_eq!(code(&harness.ask("a.other").await), "failure");
    }
    assert_eq!(harness.router.read().backends[0].circuit, CircuitState::Closed);
}

#[tokio::test(start_paused = true)]
async fn only_transient_failures_of_idempotent_routes_are_retried() {
    let cases: [(bool, Failure, usize); 6] = [
        (false, Failure::Unreachable(String::new()), 1),
        (false, Failure::Lost(String::new()), 1),
        (true, Failure::Lost(String::new()), 3),
        (true, Failure::Status(503), 3),
        (true, Failure::Status(404), 1),
        (true, Failure::BadReply("planted".into()), 1),
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
        let mut harness = Harness::with_route(RouteSettings {
            idempotent,
            ..route("*", target)
        });
        assert_eq!(code(&harness.ask("a.b").await), "BACKEND_UNAVAILABLE");
        assert_eq!(calls.load(SeqCst), attempts, "idempotent {idempotent}, {failure:?}");
        assert_eq!(harness.router.read().retries, attempts as u64 - 1);
    }
}
