//! The router against in-process handlers, on paused time where time matters.

mod over_http;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::breaker::{FAILURES_IN_ROW, OPEN_MS, State};
use super::*;
use crate::auth::{Identity, Permissions};
use crate::event::NewEvent;
use crate::hub::{Broker, Receipt};
use crate::message::ErrorCode;
use crate::session::Command;

/// Collects answers.
struct Answers {
    sender: mpsc::UnboundedSender<(ConnectionId, u32, CommandOutcome)>,
}

impl Responder for Answers {
    fn respond(&self, to: ConnectionId, request: u32, outcome: CommandOutcome) {
        self.sender.send((to, request, outcome)).expect("the test listens");
    }
}

/// Collects events.
#[derive(Default)]
struct Log(Mutex<Vec<NewEvent>>);

impl Broker for Log {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Vec<Receipt>> + Send + '_>> {
        let receipts = vec![Receipt::default(); events.len()];
        self.0.lock().extend(events);
        Box::pin(std::future::ready(receipts))
    }
    fn try_publish(&self, _: u16, event: NewEvent) -> Result<Receipt, NewEvent> {
        self.0.lock().push(event);
        Ok(Receipt::default())
    }
    fn is_ready(&self) -> bool {
        true
    }
}

/// A router and what it answers.
struct Bench {
    router: Router,
    answers: mpsc::UnboundedReceiver<(ConnectionId, u32, CommandOutcome)>,
    log: Arc<Log>,
    requests: u32,
}

fn connection(slot: u32) -> ConnectionId {
    ConnectionId {
        shard: 0,
        slot,
        generation: 0,
    }
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        let log = Arc::new(Log::default());
        let broker = Arc::clone(&log) as Arc<dyn Broker>;
        let router = Router::new(
            settings,
            Box::new(Answers { sender }),
            broker,
            tokio::runtime::Handle::current(),
        );
        Self {
            router,
            answers,
            log,
            requests: 0,
        }
    }

    fn with_route(route: RouteSettings) -> Self {
        Self::new(Settings {
            routes: vec![route],
            ..Settings::default()
        })
    }

    fn send_from(&mut self, slot: u32, action: &str, params: &str) -> u32 {
        self.requests += 1;
        let origin = Origin {
            connection: connection(slot),
            request: self.requests,
            client_id: "client_1",
            address: Some([10, 0, 0, 7].into()),
        };
        let command = Command {
            id: RequestId::Text(format!("cmd_{}", self.requests).into()),
            action: Channel::parse(action).expect("a valid action"),
            params: Bytes::copy_from_slice(params.as_bytes()),
            identity: Arc::new(Identity {
                user: Some("u42".into()),
                role: Some("trader".into()),
                permissions: Arc::new(Permissions::default()),
                expires_at_ms: None,
                exp_ms: None,
                token_id: None,
            }),
        };
        self.router.route(origin, command);
        self.requests
    }

    /// Sends one command and waits for its answer.
    async fn ask(&mut self, action: &str) -> CommandOutcome {
        let sent = self.send_from(1, action, "{}");
        let (to, request, outcome) = self.answers.recv().await.expect("an answer");
        assert_eq!((to, request), (connection(1), sent));
        outcome
    }
}

fn code(outcome: &CommandOutcome) -> &'static str {
    match outcome {
        CommandOutcome::Success { .. } => "success",
        CommandOutcome::Failure { .. } => "failure",
        CommandOutcome::Refused { code, .. } => code.as_str(),
    }
}

type Work = Pin<Box<dyn Future<Output = HandlerResult> + Send>>;

/// A handler made of a function.
struct Script<F>(F);

impl<F: Fn(Request) -> Work + Send + Sync> Handler for Script<F> {
    fn call<'a>(&'a self, request: &'a Request) -> Pin<Box<dyn Future<Output = HandlerResult> + Send + 'a>> {
        (self.0)(request.clone())
    }
}

fn in_process(name: &str, work: impl Fn(Request) -> Work + Send + Sync + 'static) -> Target {
    Target::InProcess {
        name: name.into(),
        handler: Arc::new(Script(work)),
    }
}

fn route(pattern: &str, target: Target) -> RouteSettings {
    RouteSettings::new(Pattern::parse(pattern).expect("a valid pattern"), target)
}

fn says(text: &'static str) -> impl Fn(Request) -> Work + Send + Sync + 'static {
    move |_| {
        Box::pin(std::future::ready(Ok(Answer::Success(Bytes::from_static(
            text.as_bytes(),
        )))))
    }
}

fn success(text: &'static str) -> CommandOutcome {
    CommandOutcome::Success {
        data: Bytes::from_static(text.as_bytes()),
    }
}

#[tokio::test]
async fn the_first_route_that_matches_answers() {
    let mut bench = Bench::new(Settings {
        routes: vec![
            route("grid.stop", in_process("a", says("1"))),
            route("grid.*", in_process("b", says("2"))),
            route("*", in_process("c", says("3"))),
        ],
        ..Settings::default()
    });
    for (action, answer) in [("grid.stop", "1"), ("grid.start", "2"), ("system.kill_switch", "3")] {
        assert_eq!(bench.ask(action).await, success(answer), "{action}");
    }
}

#[tokio::test]
async fn an_action_without_a_route_is_unknown() {
    let mut bench = Bench::with_route(route("grid.*", in_process("a", says("1"))));
    assert_eq!(code(&bench.ask("strategy.start").await), "UNKNOWN_ACTION");
    let outcomes = bench.router.snapshot().outcomes;
    assert!(outcomes.contains(&("unknown_action", 1)), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_answers_and_says_that_the_outcome_is_unknown() {
    let mut slow = route("*", in_process("slow", |_| Box::pin(std::future::pending())));
    slow.timeout = Duration::from_secs(25);
    let mut bench = Bench::with_route(slow);
    let begun = tokio::time::Instant::now();
    let CommandOutcome::Refused { code, message } = bench.ask("grid.start").await else {
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
async fn a_panicking_handler_is_answered_for() {
    let mut bench = Bench::with_route(route("*", in_process("bad", |_| panic!("planted"))));
    assert_eq!(code(&bench.ask("a.b").await), "INTERNAL");
    assert_eq!(bench.router.snapshot().in_flight, 0);
    assert!(bench.answers.try_recv().is_err(), "one answer only");
}

#[test]
fn a_runtime_that_ends_answers_what_is_in_flight_and_what_comes_later() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut bench = runtime
        .block_on(async { Bench::with_route(route("*", in_process("slow", |_| Box::pin(std::future::pending())))) });
    bench.send_from(1, "a.b", "{}");
    runtime.shutdown_timeout(Duration::from_secs(10));
    bench.send_from(1, "a.c", "{}");
    for _ in 0..2 {
        let (_, _, outcome) = bench.answers.blocking_recv().expect("an answer");
        assert_eq!(code(&outcome), "INTERNAL");
    }
}

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

#[tokio::test]
async fn commands_in_flight_are_limited_in_all_by_route_and_by_connection() {
    let open = Arc::new(Semaphore::new(0));
    let waits = |open: &Arc<Semaphore>| {
        let open = Arc::clone(open);
        move |_| -> Work {
            let open = Arc::clone(&open);
            Box::pin(async move {
                open.acquire().await.expect("open").forget();
                Ok(Answer::Success(Bytes::from_static(b"1")))
            })
        }
    };
    let mut narrow = route("narrow.*", in_process("a", waits(&open)));
    narrow.in_flight_max = 2;
    let mut bench = Bench::new(Settings {
        routes: vec![narrow, route("*", in_process("b", waits(&open)))],
        in_flight_max: 5,
        in_flight_per_connection_max: 3,
        ..Settings::default()
    });
    // Each line: connection, action, and the refusal it meets, if any.
    let steps = [
        (1, "narrow.x", None),
        (2, "narrow.x", None),
        (3, "narrow.x", Some("BACKEND_UNAVAILABLE")),
        (1, "wide.x", None),
        (1, "wide.x", None),
        (1, "wide.x", Some("RATE_LIMITED")),
        (2, "wide.x", None),
        (2, "wide.x", Some("BACKEND_UNAVAILABLE")),
    ];
    let mut taken = 0;
    for (slot, action, refusal) in steps {
        let sent = bench.send_from(slot, action, "{}");
        match refusal {
            Some(refusal) => {
                let (_, request, outcome) = bench.answers.recv().await.expect("an answer");
                assert_eq!((request, code(&outcome)), (sent, refusal));
            }
            None => {
                taken += 1;
                while bench
                    .router
                    .snapshot()
                    .backends
                    .iter()
                    .map(|backend| backend.in_flight)
                    .sum::<i64>()
                    < taken
                {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
    open.add_permits(5);
    for _ in 0..taken {
        assert_eq!(code(&bench.answers.recv().await.expect("an answer").2), "success");
    }
    open.add_permits(1);
    assert_eq!(bench.ask("wide.x").await, success("1"), "places are given back");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_refuses_newcomers_and_then_gives_up() {
    let target = in_process("mixed", |request: Request| {
        Box::pin(async move {
            let ms = if request.action.as_str() == "a.quick" {
                500
            } else {
                60_000
            };
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(Answer::Success(Bytes::from_static(b"1")))
        })
    });
    let mut bench = Bench::with_route(RouteSettings {
        timeout: Duration::from_secs(100),
        ..route("*", target)
    });
    let quick = bench.send_from(1, "a.quick", "{}");
    let slow = bench.send_from(1, "a.slow", "{}");
    while bench.router.snapshot().backends[0].in_flight < 2 {
        tokio::task::yield_now().await;
    }
    let mut codes = Vec::new();
    let drain = bench.router.drain(Duration::from_secs(5));
    tokio::pin!(drain);
    assert!(
        tokio::time::timeout(Duration::from_millis(1), &mut drain)
            .await
            .is_err()
    );
    bench.router.route(
        Origin {
            connection: connection(1),
            request: 99,
            client_id: "c",
            address: None,
        },
        Command {
            id: RequestId::Number(1),
            action: Channel::parse("a.late").expect("valid"),
            params: Bytes::from_static(b"{}"),
            identity: Arc::new(Identity {
                user: None,
                role: None,
                permissions: Arc::new(Permissions::default()),
                expires_at_ms: None,
                exp_ms: None,
                token_id: None,
            }),
        },
    );
    drain.await;
    for _ in 0..3 {
        let (_, request, outcome) = bench.answers.recv().await.expect("an answer");
        codes.push((request, code(&outcome)));
    }
    codes.sort_unstable();
    assert_eq!(
        codes,
        [(quick, "success"), (slow, "TIMEOUT"), (99, "BACKEND_UNAVAILABLE")]
    );
}

#[tokio::test]
async fn an_audited_command_leaves_an_event_and_others_do_not() {
    let no = |_| -> Work {
        Box::pin(std::future::ready(Ok(Answer::Failure(Bytes::from_static(
            b"{\"code\":\"NO_GO\",\"message\":\"no\"}",
        )))))
    };
    let mut bench = Bench::new(Settings {
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
        bench.ask(action).await;
    }
    while bench.log.0.lock().len() < 2 {
        tokio::task::yield_now().await;
    }
    let events = std::mem::take(&mut *bench.log.0.lock());
    let told: Vec<_> = events
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
        told[0],
        (
            "info".to_owned(),
            "system.kill_switch".into(),
            "success".into(),
            serde_json::Value::Null
        )
    );
    assert_eq!(
        told[1],
        (
            "warn".to_owned(),
            "system.reset".into(),
            "failure".into(),
            "NO_GO".into()
        )
    );
    assert_eq!(told.len(), 2);
}
