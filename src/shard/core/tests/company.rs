//! Events that wait so that others can share their send.

use super::*;

const WAIT_MS: u64 = 7;

impl Rig {
    /// A client of `grid.*`, in a shard that lets events wait.
    fn waiting() -> (Self, ConnectionId) {
        let mut rig = Self::new();
        let id = rig.connect();
        rig.subscribe(id, "grid.*");
        rig.read(id);
        rig.core.set_company_wait(u32::try_from(WAIT_MS).expect("small"));
        rig.skip(1_000);
        (rig, id)
    }

    /// Begins a turn this much later. No timer runs.
    fn skip(&mut self, ms: u64) {
        self.now = self.now.after_ms(ms);
        self.core.begin_turn(self.now);
    }
}

fn data(frames: &[Received]) -> Vec<u64> {
    let number = |frame: &Received| frame.text()["data"].as_u64().expect("a number");
    frames.iter().map(number).collect()
}

#[test]
fn the_first_event_waits_and_those_that_come_meanwhile_go_with_it() {
    let (mut rig, id) = Rig::waiting();
    rig.event("grid.a", "1");
    let ends_ms = rig.now.mono_ms + WAIT_MS;
    rig.skip(WAIT_MS - 1);
    rig.event("grid.b", "2");
    assert!(!rig.core.has_dirty());
    assert_eq!(rig.core.next_turn_ms(), Some(ends_ms));
    rig.skip(1);
    assert_eq!(data(&rig.read(id)), [1, 2]);
    assert_eq!(rig.core.next_turn_ms(), None);
    // The next one waits again, and no longer than the first.
    rig.event("grid.a", "3");
    rig.skip(WAIT_MS);
    assert_eq!(data(&rig.read(id)), [3]);
}

#[test]
fn a_reply_does_not_wait_and_takes_the_events_with_it_in_their_order() {
    let (mut rig, id) = Rig::waiting();
    rig.event("grid.a", "1");
    rig.say(id, r#"{"type":"ping"}"#);
    assert_eq!(kinds(&rig.read(id)), ["event", "pong"]);
    rig.skip(WAIT_MS);
    assert!(!rig.core.has_dirty(), "everything is written");
    assert_eq!(rig.core.next_turn_ms(), None);
}

#[test]
fn a_pause_of_the_thread_and_another_wait_lose_no_event() {
    for (pause_ms, then_ms) in [(1_000_000, 7), (1, 0), (WAIT_MS, 63), (64, 1_000)] {
        let (mut rig, id) = Rig::waiting();
        rig.event("grid.a", "1");
        rig.core.set_company_wait(then_ms);
        rig.skip(pause_ms);
        rig.skip(WAIT_MS);
        assert_eq!(data(&rig.read(id)), [1], "after {pause_ms} ms");
        rig.event("grid.a", "2");
        rig.skip(u64::from(then_ms.min(63)));
        assert_eq!(data(&rig.read(id)), [2], "a wait of {then_ms} ms");
    }
}

#[test]
fn an_outbox_that_is_half_full_does_not_wait() {
    let (mut rig, id) = Rig::waiting();
    let mut events = 0;
    while !rig.core.has_dirty() {
        rig.event("grid.a", "1");
        events += 1;
    }
    assert!(events > 1 && rig.core.is_pressed());
    assert_eq!(rig.read(id).len(), events);
}

#[test]
fn the_measured_time_of_an_event_includes_its_wait() {
    let (mut rig, id) = Rig::waiting();
    // One of some events is measured.
    for _ in 0..200 {
        rig.event("grid.a", "1");
    }
    assert_eq!(rig.core.take_measured_us(), None, "it waits");
    rig.skip(WAIT_MS);
    rig.read(id);
    assert!(rig.core.take_measured_us().is_some());
}

#[test]
fn the_next_connection_of_a_slot_gets_what_is_its_own() {
    let (mut rig, id) = Rig::waiting();
    rig.event("grid.a", "1");
    rig.core.on_socket_error(id, rig.now);
    rig.actions();
    let next = rig.connect();
    assert!(next.slot == id.slot && next != id);
    rig.subscribe(next, "grid.*");
    rig.read(next);
    rig.event("grid.a", "2");
    rig.skip(WAIT_MS);
    assert_eq!(data(&rig.read(next)), [2]);
}
