//! The rules of keys, through the router and on virtual time.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::backend::commands::keys;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::message::CommandKey;

/// A handler that takes 100 ms and does what the action says, and counts how often it was called.
pub(super) fn backend(calls: &Arc<AtomicUsize>) -> Target {
    let calls = Arc::clone(calls);
    in_process("keyed", move |request: Request| {
        let number = calls.fetch_add(1, SeqCst);
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            match request.action.as_str().split('.').next_back() {
                Some("refuses") => Ok(BackendReply::Failure(Bytes::from_static(
                    b"{\"code\":\"NO\",\"message\":\"no\"}",
                ))),
                Some("unreachable") => Err(Failure::Unreachable(String::new())),
                Some("lost") => Err(Failure::Lost(String::new())),
                Some("fails") => Err(Failure::Status(503)),
                Some("garbled") => Err(Failure::BadReply("planted".into())),
                Some("hangs") => std::future::pending().await,
                Some("panics") => panic!("planted"),
                _ => Ok(BackendReply::Success(Bytes::from(number.to_string()))),
            }
        })
    })
}

fn key(text: &str) -> Option<CommandKey> {
    Some(CommandKey::parse(text).expect("a key"))
}

fn identity(user: &str) -> Arc<Identity> {
    let Command { identity, .. } = command(1, "a.b", "{}");
    let mut identity = Arc::into_inner(identity).expect("not shared");
    identity.user = Some(user.into());
    Arc::new(identity)
}

impl Harness {
    fn keyed(calls: &Arc<AtomicUsize>, idempotent: bool) -> Self {
        Self::with_route(RouteSettings {
            idempotent,
            timeout: Duration::from_secs(2),
            ..route("a.*", backend(calls))
        })
    }

    pub(super) fn send_keyed(&mut self, slot: u32, user: &str, action: &str, params: &str, text: &str) -> u32 {
        self.requests += 1;
        let command = Command {
            key: key(text),
            identity: identity(user),
            ..command(self.requests, action, params)
        };
        let source = CommandSource {
            connection: connection(slot),
            request: self.requests,
            client_id: "client_1",
            address: None,
        };
        self.router.route(source, command);
        self.requests
    }

    pub(super) async fn ask_keyed(&mut self, action: &str, text: &str) -> CommandOutcome {
        let sent = self.send_keyed(1, "u42", action, "{}", text);
        let (_, request, outcome) = self.answers.recv().await.expect("an answer");
        assert_eq!(request, sent);
        outcome
    }

    pub(super) async fn status(&mut self, user: &str, text: &str) -> CommandOutcome {
        self.requests += 1;
        let key = CommandKey::parse(text).expect("a key");
        self.router.status(connection(9), self.requests, &identity(user), &key);
        let (to, request, outcome) = self.answers.recv().await.expect("an answer");
        assert_eq!((to, request), (connection(9), self.requests));
        outcome
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_with_a_known_outcome_is_carried_out_once() {
    let calls = Arc::default();
    let mut harness = Harness::keyed(&calls, false);
    assert_eq!(harness.ask_keyed("a.works", "k").await, success("0"));
    assert_eq!(harness.ask_keyed("a.works", "k").await, success("0"));
    let refusal = harness.ask_keyed("a.refuses", "r").await;
    assert!(matches!(refusal, CommandOutcome::Failure { .. }));
    assert_eq!(
        harness.ask_keyed("a.refuses", "r").await,
        refusal,
        "what a backend refused stays refused"
    );
    assert_eq!(calls.load(SeqCst), 2);
    assert_eq!(harness.router.read().repeats, 2);
    assert_eq!(
        harness.status("u42", "k").await,
        success(r#"{"state":"done","response":{"success":true,"data":0}}"#)
    );
    assert_eq!(
        harness.status("u42", "r").await,
        success(r#"{"state":"done","response":{"success":false,"error":{"code":"NO","message":"no"}}}"#)
    );
    assert_eq!(code(&harness.status("u42", "never").await), "UNKNOWN_KEY");
    // Without a key, every command is carried out.
    assert_eq!(harness.ask("a.works").await, success("2"));
    assert_eq!(harness.ask("a.works").await, success("3"));
}

#[tokio::test(start_paused = true)]
async fn a_command_waits_for_the_one_in_flight_from_any_connection() {
    let calls = Arc::default();
    let mut harness = Harness::keyed(&calls, false);
    let all: Vec<u32> = (1..=5)
        .map(|slot| harness.send_keyed(slot, "u42", "a.works", "{}", "k"))
        .collect();
    assert_eq!(harness.status("u42", "k").await, success(r#"{"state":"running"}"#));
    let mut answered = Vec::new();
    for _ in 0..5 {
        let (to, request, outcome) = harness.answers.recv().await.expect("an answer");
        assert_eq!(
            (to, outcome),
            (connection(request), success("0")),
            "each gets its own answer"
        );
        answered.push(request);
    }
    answered.sort_unstable();
    assert_eq!(answered, all);
    assert_eq!((calls.load(SeqCst), harness.router.read().in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn too_many_commands_do_not_wait_for_one_key() {
    let mut harness = Harness::keyed(&Arc::default(), false);
    let sent: Vec<u32> = (0..66)
        .map(|_| harness.send_keyed(1, "u42", "a.works", "{}", "k"))
        .collect();
    let (_, request, outcome) = harness.answers.recv().await.expect("an answer");
    assert_eq!((request, code(&outcome)), (sent[65], "RATE_LIMITED"));
    for _ in 0..65 {
        assert_eq!(harness.answers.recv().await.expect("an answer").2, success("0"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_nobody_knows_is_recorded_and_only_idempotent_routes_repeat() {
    // The action, the answer to it without a key, and how often an idempotent route tries each time.
    let cases = [
        ("a.lost", "BACKEND_UNAVAILABLE", 3),
        ("a.fails", "BACKEND_UNAVAILABLE", 3),
        ("a.garbled", "BACKEND_UNAVAILABLE", 1),
        ("a.hangs", "TIMEOUT", 1),
        ("a.panics", "INTERNAL", 1),
    ];
    for (action, without_key, attempts) in cases {
        for idempotent in [false, true] {
            let mut harness = Harness::keyed(&Arc::default(), idempotent);
            assert_eq!(code(&harness.ask(action).await), without_key, "{action}");
            let calls = Arc::default();
            let mut harness = Harness::keyed(&calls, idempotent);
            for sent in 1..=2 {
                assert_eq!(code(&harness.ask_keyed(action, "k").await), "UNKNOWN", "{action}");
                // The breaker opens after five failures, and the sixth attempt is not made.
                let expected = if idempotent { (sent * attempts).min(5) } else { 1 };
                assert_eq!(calls.load(SeqCst), expected, "{action}, idempotent: {idempotent}");
            }
            let CommandOutcome::Success { data } = harness.status("u42", "k").await else {
                panic!("known");
            };
            assert!(data.starts_with(br#"{"state":"done","response":{"success":false,"error":{"code":"UNKNOWN""#));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_surely_not_sent_frees_the_key() {
    let calls = Arc::default();
    let open = Arc::new(tokio::sync::Semaphore::new(0));
    let mut narrow = route(
        "a.narrow",
        in_process("narrow", {
            let open = Arc::clone(&open);
            move |_| {
                let open = Arc::clone(&open);
                Box::pin(async move {
                    open.acquire().await.expect("open").forget();
                    Ok(BackendReply::Success(Bytes::from_static(b"1")))
                })
            }
        }),
    );
    narrow.in_flight_max = 1;
    let mut harness = Harness::new(Settings {
        routes: vec![narrow, route("a.*", backend(&calls))],
        ..Settings::default()
    });
    for (action, refusal) in [("a.unreachable", "BACKEND_UNAVAILABLE"), ("b.c", "UNKNOWN_ACTION")] {
        for _ in 0..2 {
            assert_eq!(code(&harness.ask_keyed(action, "k").await), refusal);
            assert_eq!(code(&harness.status("u42", "k").await), "UNKNOWN_KEY", "{action}");
        }
    }
    assert_eq!(calls.load(SeqCst), 2);
    // Those that wait get the same refusal.
    let first = harness.send_keyed(1, "u42", "a.unreachable", "{}", "w");
    let second = harness.send_keyed(2, "u42", "a.unreachable", "{}", "w");
    let mut refused = Vec::new();
    for _ in 0..2 {
        let (_, request, outcome) = harness.answers.recv().await.expect("an answer");
        assert_eq!(code(&outcome), "BACKEND_UNAVAILABLE");
        refused.push(request);
    }
    refused.sort_unstable();
    assert_eq!(refused, [first, second]);
    // A route that is full.
    let running = harness.send_keyed(1, "u42", "a.narrow", "{}", "n1");
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(code(&harness.ask_keyed("a.narrow", "n2").await), "BACKEND_UNAVAILABLE");
    open.add_permits(2);
    let (_, request, outcome) = harness.answers.recv().await.expect("an answer");
    assert_eq!((request, outcome), (running, success("1")));
    assert_eq!(
        harness.ask_keyed("a.narrow", "n2").await,
        success("1"),
        "the key was free"
    );
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_that_may_have_arrived_keeps_the_outcome_unknown() {
    let calls = Arc::new(AtomicUsize::new(0));
    let target = in_process("mixed", {
        let calls = Arc::clone(&calls);
        move |_| {
            let failure = if calls.fetch_add(1, SeqCst) == 0 {
                Failure::Lost(String::new())
            } else {
                Failure::Unreachable(String::new())
            };
            Box::pin(std::future::ready(Err(failure)))
        }
    });
    let mut harness = Harness::with_route(RouteSettings {
        idempotent: true,
        ..route("*", target)
    });
    assert_eq!(code(&harness.ask_keyed("a.b", "k").await), "UNKNOWN");
    assert_eq!(calls.load(SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn a_repeat_that_is_not_sent_leaves_the_outcome_of_the_first_one_unknown() {
    let calls = Arc::new(AtomicUsize::new(0));
    let target = in_process("mixed", {
        let calls = Arc::clone(&calls);
        move |_| {
            let failure = if calls.fetch_add(1, SeqCst) == 0 {
                Failure::BadReply("planted".into())
            } else {
                Failure::Unreachable(String::new())
            };
            Box::pin(std::future::ready(Err(failure)))
        }
    });
    let mut harness = Harness::with_route(RouteSettings {
        idempotent: true,
        ..route("a.*", target)
    });
    for attempts in [1, 4] {
        assert_eq!(code(&harness.ask_keyed("a.b", "k").await), "UNKNOWN");
        assert_eq!(calls.load(SeqCst), attempts);
    }
    assert_eq!(code(&harness.status("u42", "k").await), "success", "the key is known");
}

#[tokio::test(start_paused = true)]
async fn a_key_belongs_to_one_user_and_one_command() {
    let calls = Arc::default();
    let mut harness = Harness::keyed(&calls, false);
    assert_eq!(harness.ask_keyed("a.works", "k").await, success("0"));
    for (action, params) in [("a.other", "{}"), ("a.works", "{} "), ("a.work", "s{}")] {
        harness.send_keyed(1, "u42", action, params, "k");
        assert_eq!(code(&harness.answers.recv().await.expect("an answer").2), "KEY_REUSED");
    }
    harness.send_keyed(1, "u43", "a.other", "{}", "k");
    assert_eq!(harness.answers.recv().await.expect("an answer").2, success("1"));
    assert_eq!(code(&harness.status("u44", "k").await), "UNKNOWN_KEY");
    assert_eq!(calls.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn users_of_two_tenants_have_their_own_keys() {
    let calls = Arc::default();
    let mut harness = Harness::keyed(&calls, false);
    assert_eq!(harness.ask_keyed("a.works", "k").await, success("0"));
    let mut other = Arc::into_inner(identity("u42")).expect("not shared");
    other.tenant = Tenant::new(1).expect("in range");
    let other = Arc::new(other);
    let k = CommandKey::parse("k").expect("a key");
    harness.router.status(connection(1), 7, &other, &k);
    assert_eq!(code(&harness.answers.recv().await.expect("an answer").2), "UNKNOWN_KEY");
    let source = CommandSource {
        connection: connection(1),
        request: 8,
        client_id: "client_1",
        address: None,
    };
    let keyed = Command {
        key: Some(k),
        identity: other,
        ..command(8, "a.other", "{}")
    };
    harness.router.route(source, keyed);
    assert_eq!(harness.answers.recv().await.expect("an answer").2, success("1"));
    assert_eq!(harness.router.read().keys, 2);
}

#[tokio::test(start_paused = true)]
async fn a_key_lives_for_ten_minutes_after_its_outcome() {
    let calls = Arc::default();
    let mut harness = Harness::keyed(&calls, false);
    assert_eq!(harness.ask_keyed("a.works", "k").await, success("0"));
    tokio::time::advance(Duration::from_millis(599_999)).await;
    assert_eq!(harness.ask_keyed("a.works", "k").await, success("0"));
    assert_eq!(harness.router.read().keys, 1);
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(code(&harness.status("u42", "k").await), "UNKNOWN_KEY");
    assert_eq!(harness.ask_keyed("a.works", "k").await, success("1"));
    tokio::time::advance(Duration::from_secs(600)).await;
    let read = harness.router.read();
    assert_eq!((read.keys, read.key_bytes, harness.router.held_bytes()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_table_refuses_new_keys_and_forgets_none() {
    let reply_bytes_max = Settings::default().reply_bytes_max;
    let bounds = [
        // Keys, bytes, and how many keys of one user and of all users fit.
        (20, usize::MAX, 2, 20),
        (1000, 20 * (reply_bytes_max + 300), 2, 20),
    ];
    for (keys_max, bytes_max, of_user, of_all) in bounds {
        let calls = Arc::default();
        let mut harness = Harness::new(Settings {
            routes: vec![route("a.*", backend(&calls))],
            keys: keys::Settings {
                keys_max,
                bytes_max,
                ..keys::Settings::default()
            },
            ..Settings::default()
        });
        let mut in_flight = 0;
        let mut refusals = Vec::new();
        for user in 0..of_all {
            for number in 0..=of_user {
                let sent = harness.send_keyed(1, &format!("u{user}"), "a.works", "{}", &format!("k{number}"));
                while let Ok((_, request, outcome)) = harness.answers.try_recv() {
                    assert_eq!(request, sent);
                    refusals.push(code(&outcome));
                }
                in_flight = harness.router.read().in_flight;
            }
        }
        assert_eq!(in_flight, of_all, "{keys_max} keys, {bytes_max} bytes");
        let half = usize::try_from(of_all / of_user).expect("small") - 1;
        assert!(
            refusals[..half].iter().all(|code| *code == "RATE_LIMITED"),
            "{refusals:?}"
        );
        assert!(
            refusals[half..].iter().all(|code| *code == "OVERLOADED"),
            "{refusals:?}"
        );
        for _ in 0..of_all {
            assert_eq!(code(&harness.answers.recv().await.expect("an answer").2), "success");
        }
        // Outcomes are shorter than what was reserved for them.
        assert_eq!(code(&harness.status("u0", "k0").await), "success");
        harness.send_keyed(1, "u42", "a.works", "{}", "k");
        let (_, _, outcome) = harness.answers.recv().await.expect("an answer");
        assert_eq!(
            code(&outcome),
            if bytes_max == usize::MAX {
                "OVERLOADED"
            } else {
                "success"
            }
        );
        assert_eq!(calls.load(SeqCst) as u64, harness.router.read().keys);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_that_finds_no_room_to_be_repeated_keeps_its_outcome() {
    let calls = Arc::default();
    // Room for the outcomes of two commands, and for one in flight.
    let reserve = Settings::default().reply_bytes_max + 300;
    let mut harness = Harness::new(Settings {
        routes: vec![RouteSettings {
            idempotent: true,
            ..route("a.*", backend(&calls))
        }],
        keys: keys::Settings {
            bytes_max: reserve + 700,
            ..keys::Settings::default()
        },
        ..Settings::default()
    });
    assert_eq!(code(&harness.ask_keyed("a.garbled", "k").await), "UNKNOWN");
    assert_eq!(code(&harness.ask_keyed("a.garbled", "k").await), "UNKNOWN");
    assert_eq!(calls.load(SeqCst), 2, "it is repeated while there is room");
    let running = harness.send_keyed(1, "u43", "a.works", "{}", "k");
    assert_eq!(code(&harness.ask_keyed("a.garbled", "k").await), "UNKNOWN");
    assert_eq!(
        code(&harness.status("u42", "k").await),
        "success",
        "the key is not forgotten"
    );
    let (_, request, outcome) = harness.answers.recv().await.expect("an answer");
    assert_eq!((request, outcome), (running, success("2")));
    assert_eq!(calls.load(SeqCst), 3);
    assert_eq!(code(&harness.ask_keyed("a.garbled", "k").await), "UNKNOWN");
    assert_eq!(calls.load(SeqCst), 4);
}

#[tokio::test(start_paused = true)]
async fn keys_survive_a_drain() {
    let calls = Arc::default();
    let mut before = Harness::keyed(&calls, true);
    assert_eq!(before.ask_keyed("a.works", "works").await, success("0"));
    assert!(matches!(
        before.ask_keyed("a.refuses", "refuses").await,
        CommandOutcome::Failure { .. }
    ));
    assert_eq!(code(&before.ask_keyed("a.garbled", "garbled").await), "UNKNOWN");
    let hanging = before.send_keyed(1, "u42", "a.hangs", "{}", "hangs");
    tokio::time::sleep(Duration::from_millis(1)).await;
    before.router.drain(Duration::from_millis(10)).await;
    let (_, request, outcome) = before.answers.recv().await.expect("an answer");
    assert_eq!((request, code(&outcome)), (hanging, "UNKNOWN"), "it was given up");
    let mut exported = before.router.export_keys();
    assert_eq!(exported.len(), 4);
    exported[0].until_unix_ms = 0;
    let mut after = Harness::keyed(&calls, false);
    assert_eq!(after.router.restore_keys(exported), 0);
    assert_eq!(
        code(&after.status("u42", "works").await),
        "UNKNOWN_KEY",
        "its time was over"
    );
    assert!(matches!(
        after.ask_keyed("a.refuses", "refuses").await,
        CommandOutcome::Failure { .. }
    ));
    assert_eq!(calls.load(SeqCst), 4);
    assert_eq!(code(&after.status("u42", "hangs").await), "success");
    // It is carried out again, because its route was idempotent.
    assert_eq!(code(&after.ask_keyed("a.garbled", "garbled").await), "UNKNOWN");
    assert_eq!(code(&after.ask_keyed("a.garbled", "garbled").await), "UNKNOWN");
    assert_eq!(calls.load(SeqCst), 5, "once: the new route is not idempotent");
}
