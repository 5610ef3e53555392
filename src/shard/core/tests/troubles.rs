//! What operators are told of clients that read slowly or have left, and traces.

use std::sync::mpsc;

use super::*;
use crate::shard::mailbox::{ClientInfo, ClientOrder, EndedClient, Trace, TraceLine, TraceTarget};

fn worst(rig: &mut Rig, by: ClientOrder) -> Vec<ClientInfo> {
    let (send, receive) = mpsc::channel();
    rig.message(ShardMessage::WorstClients {
        by,
        limit: 2,
        tenant: None,
        reply: Box::new(move |clients| send.send(clients).expect("still waited for")),
    });
    receive.recv().expect("answered")
}

fn endings(rig: &mut Rig) -> Vec<EndedClient> {
    let (send, receive) = mpsc::channel();
    rig.message(ShardMessage::Endings {
        limit: 1000,
        reply: Box::new(move |endings| send.send(endings).expect("still waited for")),
    });
    receive.recv().expect("answered")
}

#[test]
fn a_client_whose_socket_is_blocked_waits_until_everything_is_written() {
    let mut rig = Rig::new();
    let ids: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    for id in &ids {
        rig.subscribe(*id, "a.*");
        rig.read_bytes(*id);
    }
    assert!(worst(&mut rig, ClientOrder::Waiting).is_empty());
    rig.publish("a.b", "1");
    rig.core.deliver(10);
    rig.core.blocked(ids[1], rig.now);
    rig.pass(1_000);
    rig.core.blocked(ids[2], rig.now);
    rig.pass(500);
    let waiting: Vec<_> = worst(&mut rig, ClientOrder::Waiting)
        .iter()
        .map(|client| (client.id, client.waiting_ms))
        .collect();
    assert_eq!(waiting, [(ids[1], Some(1_500)), (ids[2], Some(500))]);
    assert_eq!(worst(&mut rig, ClientOrder::PendingBytes).len(), 2, "the limit");
    // A short wait is no trouble.
    let troubled: Vec<_> = (worst(&mut rig, ClientOrder::Trouble).iter())
        .map(|client| client.id)
        .collect();
    assert_eq!(troubled, [ids[1]]);

    // It wrote everything, and is blocked again by something newer: a new wait begins.
    rig.core.writable(ids[1]);
    rig.read_bytes(ids[1]);
    assert!(
        worst(&mut rig, ClientOrder::Waiting)
            .iter()
            .all(|client| client.id != ids[1])
    );
    rig.publish("a.b", "2");
    rig.core.deliver(10);
    rig.core.blocked(ids[1], rig.now);
    rig.pass(100);
    let again = worst(&mut rig, ClientOrder::Waiting);
    let waits = |id| {
        again
            .iter()
            .find(|client| client.id == id)
            .and_then(|client| client.waiting_ms)
    };
    assert_eq!((waits(ids[1]), waits(ids[2])), (Some(100), Some(600)));
}

#[test]
fn a_wave_of_clients_that_leave_hides_no_fault() {
    let mut rig = Rig::new();
    let bad = rig.connect();
    rig.core.on_message(
        ShardMessage::Disconnect {
            id: bad,
            tenant: None,
            ending: Disconnect::ByOperator,
            reply: Box::new(|_| {}),
        },
        rig.now,
    );
    for _ in 0..200 {
        let id = rig.connect();
        rig.core.on_socket_error(id, rig.now);
    }
    let endings = endings(&mut rig);
    assert_eq!(endings.len(), 65, "64 routine endings are remembered");
    assert!(endings.iter().any(|ended| ended.ending == Disconnect::ByOperator));
}

#[test]
fn a_trace_ends_in_time_and_marks_only_whom_it_follows() {
    let mut rig = Rig::new();
    let (traced, other) = (rig.connect(), rig.connect());
    let (lines, mut told) = tokio::sync::mpsc::unbounded_channel();
    let ends_ms = rig.now.mono_ms + 1_000;
    rig.message(ShardMessage::BeginTrace(Box::new(Trace {
        id: 1,
        target: TraceTarget::Connection(None, traced),
        ends_ms,
        bytes_max: 1 << 20,
        lines,
    })));
    for id in [traced, other] {
        rig.subscribe(id, "a.*");
        rig.read_bytes(id);
    }
    let is_marked = |rig: &Rig, id: ConnectionId| rig.core.connections.hot(id.slot).flags.has(Flags::TRACED);
    assert!(is_marked(&rig, traced) && !is_marked(&rig, other));
    let mut whats = Vec::new();
    while let Ok(TraceLine { what, client_id, .. }) = told.try_recv() {
        assert_eq!(client_id.as_deref(), Some(&*traced.client_id()));
        whats.push(what);
    }
    assert!(
        whats.contains(&"followed") && whats.contains(&"in") && whats.contains(&"out"),
        "{whats:?}"
    );

    rig.pass(1_000);
    rig.say(traced, r#"{"type":"get_status"}"#);
    rig.read_bytes(traced);
    assert!(
        told.try_recv().is_err() && told.is_closed(),
        "nothing is told after its end"
    );
    rig.say(traced, r#"{"type":"get_status"}"#);
    rig.read_bytes(traced);
    assert!(!is_marked(&rig, traced), "the mark goes with the trace");
}
