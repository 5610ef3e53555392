//! Pauses of the process: nobody is blamed for a time in which nobody could be heard.

use super::*;

const CLIENTS: usize = 40;
/// The time before a drain closes the first one.
const GRACE_MS: u64 = 250;
/// Longer than any time that a client has for anything.
const HOUR_MS: u64 = 3_600_000;

impl Rig {
    /// The process is stopped for an hour.
    fn stop(&mut self) {
        self.now = self.now.after_ms(HOUR_MS);
        self.core.end_pause(HOUR_MS, self.now);
    }

    fn is_open(&self, id: ConnectionId) -> bool {
        self.core.connections.open_slot(id).is_some()
    }

    fn settle_timers(&mut self) {
        while self.core.run_timers(512, self.now) {}
    }
}

fn crowd(rig: &mut Rig) -> Vec<ConnectionId> {
    (0..CLIENTS).map(|_| rig.connect()).collect()
}

#[test]
fn after_a_pause_everyone_is_pinged_first_and_the_closes_of_the_silent_are_spread() {
    let mut rig = Rig::new();
    let clients = crowd(&mut rig);
    let settings = session_settings(Mode::Off, Limits::default());
    rig.stop();
    rig.settle_timers();
    for id in &clients {
        let kinds: Vec<_> = rig.read(*id).iter().map(|frame| frame.kind().to_owned()).collect();
        assert!(rig.is_open(*id) && kinds.iter().any(|kind| kind == "ping"), "{kinds:?}");
    }
    // Half of them answer, the other half has left.
    let (answering, silent) = clients.split_at(CLIENTS / 2);
    rig.pass(1_000);
    for id in answering {
        rig.say(*id, r#"{"type":"pong"}"#);
    }
    let resumed_ms = rig.now.mono_ms - 1_000;
    let mut times = std::collections::BTreeSet::new();
    let (interval_ms, timeout_ms) = (settings.heartbeat_interval_ms, settings.heartbeat_timeout_ms);
    while rig.now.mono_ms < resumed_ms + timeout_ms + interval_ms + 500 {
        let before = silent.iter().filter(|id| rig.is_open(**id)).count();
        rig.pass(500);
        for id in answering {
            rig.say(*id, r#"{"type":"pong"}"#);
            rig.read(*id);
        }
        let after = silent.iter().filter(|id| rig.is_open(**id)).count();
        if after < before {
            assert!(
                rig.now.mono_ms >= resumed_ms + timeout_ms,
                "the whole time begins again"
            );
            times.insert(rig.now.mono_ms);
        }
    }
    assert!(silent.iter().all(|id| !rig.is_open(*id)));
    assert!(times.len() > CLIENTS / 8, "{times:?}");
    assert!(answering.iter().all(|id| rig.is_open(*id)));
}

#[test]
fn without_the_report_of_a_pause_all_would_be_closed() {
    let mut rig = Rig::new();
    let clients = crowd(&mut rig);
    rig.now = rig.now.after_ms(HOUR_MS);
    rig.settle_timers();
    assert!(clients.iter().all(|id| !rig.is_open(*id)), "the planted fault is found");
}

#[test]
fn a_half_received_message_and_an_authentication_have_their_time_again() {
    let mut rig = Rig::new();
    let half = rig.connect();
    // A frame of which only the head has come.
    rig.core
        .on_bytes(half, &mut [0x81, 0xfe, 1, 0, 0, 0, 0, 0, b'x'], rig.now);
    let unknown = rig.connect_with(session_settings(Mode::Required, Limits::default()), Ok(None), false);
    rig.stop();
    rig.settle_timers();
    assert!(rig.is_open(half) && rig.is_open(unknown));
    // The token, which lay in the socket, counts although its time had passed.
    rig.say(unknown, r#"{"type":"auth","token":"t"}"#);
    assert!(rig.is_open(unknown) && !rig.asked.verify.lock().expect("not poisoned").is_empty());
    rig.pass(120_000);
    assert!(!rig.is_open(half), "not for ever");
}

#[test]
fn the_driver_is_told_from_whom_to_read_before_they_are_blamed() {
    let mut rig = Rig::new();
    let clients = crowd(&mut rig);
    let settings = session_settings(Mode::Off, Limits::default());
    // The thread ran all the time, but got too little CPU to read.
    rig.now = rig.now.after_ms(settings.heartbeat_timeout_ms + 1_000);
    rig.core.find_due(512, rig.now);
    let (mut next, mut suspects) = (0, Vec::new());
    while let Some((id, index)) = rig.core.next_suspect(next, rig.now) {
        next = index;
        suspects.push(id);
    }
    suspects.sort_by_key(|id| id.slot);
    assert_eq!(suspects, clients);
    for id in &clients[1..] {
        rig.say(*id, r#"{"type":"ping"}"#);
    }
    rig.settle_timers();
    assert!(!rig.is_open(clients[0]) && clients[1..].iter().all(|id| rig.is_open(*id)));
}

#[test]
fn a_drain_goes_on_after_a_pause_and_closes_nobody_early() {
    const OVER_MS: u64 = 20_000;
    // With the planted fault, the shard does not learn of the pause.
    for knows_of_pause in [true, false] {
        let mut rig = Rig::new();
        let clients = crowd(&mut rig);
        rig.message(ShardMessage::Drain { over_ms: OVER_MS });
        rig.settle_timers();
        let open = |rig: &Rig| clients.iter().filter(|id| rig.is_open(**id)).count();
        rig.pass(GRACE_MS);
        assert!(open(&rig) > CLIENTS / 2);
        if knows_of_pause {
            rig.stop();
        } else {
            rig.now = rig.now.after_ms(HOUR_MS);
        }
        rig.settle_timers();
        assert_eq!(open(&rig) > CLIENTS / 2, knows_of_pause);
        rig.pass(OVER_MS);
        assert_eq!(open(&rig), 0);
    }
}
