//! The limits in flight, and the drain.

use tokio::sync::Semaphore;

use super::*;
use tickgate_protocol::channel::{Tenant, TenantNames};

/// Work that succeeds when there is a permit.
fn waits(open: &Arc<Semaphore>) -> impl Fn(Request) -> Work + use<> {
    let open = Arc::clone(open);
    move |_| {
        let open = Arc::clone(&open);
        Box::pin(async move {
            open.acquire().await.expect("open").forget();
            Ok(BackendReply::Success(Bytes::from_static(b"1")))
        })
    }
}

#[tokio::test]
async fn a_tenant_that_fills_its_share_leaves_the_others_theirs() {
    let open = Arc::new(Semaphore::new(0));
    let other = Tenant::new(1).expect("a tenant");
    let mut of_other = route("*", in_process("b", waits(&open)));
    of_other.pattern = of_other.pattern.in_tenant(other);
    let mut harness = Harness::new(Settings {
        routes: vec![route("*", in_process("a", waits(&open))), of_other],
        tenants: TenantNames::new(["other".into()].into()),
        in_flight_max: 4,
        in_flight_per_connection_max: 100,
        ..Settings::default()
    });
    let mut send = |tenant: Tenant| {
        harness.requests += 1;
        let mut command = command(harness.requests, "a.b", "{}");
        command.action = command.action.in_tenant(tenant);
        let source = CommandSource {
            connection: connection(1),
            request: harness.requests,
            client_id: "client_1",
            address: None,
        };
        harness.router.route(source, command);
        harness.requests
    };
    // Each has two of the four. The third of the first tenant is refused, and both of the other tenant run.
    let own = [0, 1, 2].map(|_| send(Tenant::DEFAULT));
    let others = [0, 1].map(|_| send(other));
    let (_, request, outcome) = harness.answers.recv().await.expect("an answer");
    assert_eq!((request, code(&outcome)), (own[2], "BACKEND_UNAVAILABLE"));
    let in_flight = || {
        let backends = harness.router.read().backends;
        backends.iter().map(|backend| backend.in_flight).sum::<i64>()
    };
    while in_flight() < 4 {
        tokio::task::yield_now().await;
    }
    open.add_permits(4);
    let mut succeeded = Vec::new();
    for _ in 0..4 {
        let (_, request, outcome) = harness.answers.recv().await.expect("an answer");
        assert_eq!(code(&outcome), "success");
        succeeded.push(request);
    }
    succeeded.sort_unstable();
    assert_eq!(succeeded, [own[0], own[1], others[0], others[1]]);
}

#[tokio::test]
async fn commands_in_flight_are_limited_in_all_by_route_and_by_connection() {
    let open = Arc::new(Semaphore::new(0));
    let mut narrow = route("narrow.*", in_process("a", waits(&open)));
    narrow.in_flight_max = 2;
    let mut harness = Harness::new(Settings {
        routes: vec![narrow, route("*", in_process("b", waits(&open)))],
        in_flight_max: 5,
        in_flight_per_connection_max: 3,
        ..Settings::default()
    });
    // Each line: connection, action, and the expected refusal, if any.
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
        let sent = harness.send_from(slot, action, "{}");
        match refusal {
            Some(refusal) => {
                let (_, request, outcome) = harness.answers.recv().await.expect("an answer");
                assert_eq!((request, code(&outcome)), (sent, refusal));
            }
            None => {
                taken += 1;
                while harness
                    .router
                    .read()
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
        assert_eq!(code(&harness.answers.recv().await.expect("an answer").2), "success");
    }
    open.add_permits(1);
    assert_eq!(harness.ask("wide.x").await, success("1"), "permits are released");
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_refuses_new_commands_and_then_gives_up() {
    let target = in_process("mixed", |request: Request| {
        Box::pin(async move {
            let ms = if request.action.as_str() == "a.quick" {
                500
            } else {
                60_000
            };
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok(BackendReply::Success(Bytes::from_static(b"1")))
        })
    });
    let mut harness = Harness::with_route(RouteSettings {
        timeout: Duration::from_secs(100),
        ..route("*", target)
    });
    let quick = harness.send_from(1, "a.quick", "{}");
    let slow = harness.send_from(1, "a.slow", "{}");
    while harness.router.read().backends[0].in_flight < 2 {
        tokio::task::yield_now().await;
    }
    let mut codes = Vec::new();
    let drain = harness.router.drain(Duration::from_secs(5));
    tokio::pin!(drain);
    assert!(
        tokio::time::timeout(Duration::from_millis(1), &mut drain)
            .await
            .is_err()
    );
    harness.router.route(
        CommandSource {
            connection: connection(1),
            request: 99,
            client_id: "c",
            address: None,
        },
        Command {
            id: RequestId::Number(1),
            action: Channel::parse("a.late").expect("valid"),
            params: Bytes::from_static(b"{}"),
            key: None,
            trace: None,
            identity: Arc::new(Identity {
                tenant: tickgate_protocol::channel::Tenant::DEFAULT,
                user: None,
                role: None,
                permissions: Arc::new(Permissions::default()),
                expires_at_ms: None,
                exp_ms: None,
                token_id: None,
                issued_at_ms: None,
            }),
        },
    );
    drain.await;
    for _ in 0..3 {
        let (_, request, outcome) = harness.answers.recv().await.expect("an answer");
        codes.push((request, code(&outcome)));
    }
    codes.sort_unstable();
    assert_eq!(
        codes,
        [(quick, "success"), (slow, "TIMEOUT"), (99, "BACKEND_UNAVAILABLE")]
    );
}
