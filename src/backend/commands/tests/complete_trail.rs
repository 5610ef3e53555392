//! A complete audit trail whose writer stalls. The tests are the writer: it gives the room of a line back.

use super::super::audit::AuditRoom;
use super::*;

/// A router with an audited and another route, and room for one line.
fn harness() -> (Harness, AuditRoom) {
    let room = AuditRoom::new(1);
    let audited = RouteSettings {
        audit: true,
        timeout: Duration::from_secs(25),
        ..route("audited.*", in_process("a", says("1")))
    };
    let harness = Harness::new(Settings {
        routes: vec![audited, route("*", in_process("b", says("2")))],
        in_flight_max: 4,
        audit_room: Some(room.clone()),
        ..Settings::default()
    });
    (harness, room)
}

/// How many commands a backend has seen.
fn carried_out(harness: &Harness, name: &str) -> u64 {
    let backends = harness.router.read().backends;
    let backend = backends.iter().find(|backend| *backend.name == *name);
    backend.expect("known").attempts
}

async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_audited_command_is_carried_out_only_when_there_is_room_for_its_line() {
    let (mut harness, room) = harness();
    assert_eq!(harness.ask("audited.x").await, success("1"), "the first line has room");
    // More than may be in flight: a command that waits for room takes nothing from the others.
    let waiting: Vec<u32> = (2..8).map(|slot| harness.send_from(slot, "audited.x", "{}")).collect();
    settle().await;
    assert_eq!(harness.router.read().audit.waiting, 6);
    assert_eq!(carried_out(&harness, "a"), 1);
    assert_eq!(harness.ask("other.x").await, success("2"));
    // A line is written, so one more command is carried out.
    room.written();
    let (_, request, outcome) = harness.answers.recv().await.expect("an answer");
    assert_eq!((request, outcome), (waiting[0], success("1")));
    settle().await;
    assert_eq!(carried_out(&harness, "a"), 2);
    // The others are refused when their time is over. Their lines wait for room.
    for _ in &waiting[1..] {
        let (_, _, outcome) = harness.answers.recv().await.expect("an answer");
        let CommandOutcome::Refused { code, message } = outcome else {
            panic!("carried out")
        };
        assert_eq!(code.as_str(), "BACKEND_UNAVAILABLE");
        assert!(message.contains("not carried out"), "{message}");
    }
    assert_eq!(carried_out(&harness, "a"), 2);
    assert_eq!(harness.router.read().audit.waiting, 5);
    for _ in 0..6 {
        assert!(room.flush(Duration::ZERO).await > 0);
        room.written();
        settle().await;
    }
    assert_eq!(room.flush(Duration::ZERO).await, 0, "every line is written");
    assert_eq!(harness.router.read().audit, Default::default());
}

#[tokio::test(start_paused = true)]
async fn lines_of_forbidden_commands_wait_for_room_up_to_a_bound() {
    let (mut harness, room) = harness();
    assert_eq!(harness.ask("audited.x").await, success("1"));
    let forbid = |harness: &Harness| {
        let command = command(9, "audited.x", "{}");
        harness.router.forbidden("client_1", None, command);
    };
    for _ in 0..8192 {
        forbid(&harness);
    }
    let before = harness.router.read().audit;
    assert_eq!((before.waiting, before.lines_lost), (8192, 0));
    forbid(&harness);
    assert_eq!(harness.router.read().audit.lines_lost, 1, "counted");
    room.written();
    settle().await;
    assert_eq!(harness.router.read().audit.waiting, 8191);
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_commands_that_wait_for_room() {
    let (mut harness, _room) = harness();
    assert_eq!(harness.ask("audited.x").await, success("1"));
    harness.send_from(2, "audited.x", "{}");
    settle().await;
    harness.router.drain(Duration::from_secs(60)).await;
    let (_, _, outcome) = harness.answers.recv().await.expect("an answer");
    assert_eq!(code(&outcome), "BACKEND_UNAVAILABLE");
    assert_eq!(carried_out(&harness, "a"), 1);
}
