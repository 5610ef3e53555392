//! Brokers that answer later, and hubs that are not current yet.

use serde_json::json;

use super::support::{epoch, recover};
use super::*;
use crate::event::Refusal;
use crate::shard::core::joins::WAIT_MS;
use tickgate_protocol::channel::{Class, History, Overflow};

const PUBLISH: &str = r#"{"type":"publish","channel":"a.b","event":"e","data":1,"id":"p1"}"#;

fn code(frames: &[Received]) -> String {
    let error = frames.iter().find(|frame| frame.kind() == "error").expect("an error");
    error.text()["error"]["code"].as_str().expect("a code").to_owned()
}

fn with_history() -> Rig {
    let class = Class {
        history: Some(History::BUILT_IN),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    Rig::with_classes(vec![("kept.*", class)])
}

impl Rig {
    fn next_outcome(&self, outcome: Submitted) {
        *self.broker.outcome.lock().expect("not poisoned") = Some(outcome);
    }

    fn current_to(&self, version: Option<u64>) {
        *self.broker.is_current_to.lock().expect("not poisoned") = version;
    }

    /// Lets time pass until the requests that wait are looked at again.
    fn turn(&mut self, ms: u64) {
        self.pass(ms);
        assert!(self.core.next_turn_ms().is_none_or(|due| due <= self.now.mono_ms));
        self.core.begin_turn(self.now);
    }
}

#[test]
fn the_outcome_of_a_publish_comes_later_and_a_drain_waits_for_it() {
    let mut rig = Rig::new();
    let (id, gone) = (rig.connect(), rig.connect());
    for publisher in [id, gone] {
        rig.next_outcome(Submitted::Pending);
        rig.say(publisher, PUBLISH);
    }
    assert!(!rig.core.wants_input(id), "one event at a time");
    rig.core.on_end_of_input(gone, rig.now);
    rig.core.on_end_of_input(gone, rig.now);
    let published = |to, outcome| ShardMessage::Published {
        to,
        request: 1,
        outcome,
    };
    let receipt = Receipt {
        offset: Some(7),
        epoch: Some(rig.hub.epoch()),
        ..Receipt::default()
    };
    rig.message(published(id, Ok(receipt)));
    assert!(rig.core.wants_input(id));
    let frames = quiet(rig.read(id));
    assert_eq!(kinds(&frames), ["published"]);
    assert_eq!(frames[0].text()["data"]["offset"], 7);
    rig.message(ShardMessage::Drain { over_ms: 0 });
    rig.core.on_end_of_input(id, rig.now);
    assert!(!rig.core.is_finished(), "an event is on its way");
    rig.message(published(gone, Ok(receipt)));
    assert!(rig.core.is_finished());
}

#[test]
fn a_refused_publish_says_whether_the_event_may_have_been_published() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.next_outcome(Submitted::Refused(Refusal::Unavailable));
    rig.say(id, PUBLISH);
    assert_eq!(code(&rig.read(id)), "BROKER_UNAVAILABLE");
    rig.next_outcome(Submitted::Pending);
    rig.say(id, PUBLISH);
    rig.message(ShardMessage::Published {
        to: id,
        request: 2,
        outcome: Err(Refusal::Unknown),
    });
    assert_eq!(code(&rig.read(id)), "OUTCOME_UNKNOWN");
}

#[test]
fn a_join_waits_for_the_hub_to_come_to_what_its_client_knows() {
    let mut rig = with_history();
    let id = rig.connect();
    rig.current_to(Some(0));
    let keys = json!({"kept.a": {"epoch": epoch(&rig), "offset": 2}});
    recover(&mut rig, id, "kept.a", &keys);
    rig.subscribe(id, "other.a");
    assert_eq!(quiet(rig.read(id)), []);
    let (stranger, foreign) = (
        rig.connect(),
        json!({"kept.a": {"epoch": "0000000000000001", "offset": 2}}),
    );
    recover(&mut rig, stranger, "kept.a", &foreign);
    assert_eq!(
        kinds(&quiet(rig.read(stranger))),
        ["subscribed"],
        "its position is none of this epoch"
    );
    for number in 1..=3 {
        rig.event("kept.a", &number.to_string());
    }
    rig.turn(20);
    assert_eq!(quiet(rig.read(id)), []);
    rig.current_to(Some(2));
    rig.turn(20);
    let frames = quiet(rig.read(id));
    assert_eq!(kinds(&frames), ["subscribed", "event", "subscribed"]);
    assert_eq!(frames[0].text()["data"]["recovered"]["kept.a"], true);
    assert_eq!(frames[1].text()["data"], 3);
}

#[test]
fn a_cursor_waits_for_the_hub_as_positions_do() {
    let mut rig = with_history();
    for number in 1..=2 {
        rig.event("kept.a", &number.to_string());
    }
    rig.turn(20);
    let first = rig.connect();
    rig.subscribe(first, "kept.a");
    let frames = quiet(rig.read(first));
    let cursor = frames[0].text()["cursor"].as_str().expect("a cursor").to_owned();
    rig.event("kept.a", "3");
    // Another gateway, which has not come so far.
    rig.current_to(Some(1));
    let second = rig.connect();
    let message = json!({"type": "subscribe", "channels": ["kept.a"], "cursor": cursor});
    rig.say(second, &message.to_string());
    rig.turn(20);
    assert_eq!(quiet(rig.read(second)), []);
    rig.current_to(Some(2));
    rig.turn(20);
    let frames = quiet(rig.read(second));
    assert_eq!(frames[0].text()["data"]["recovered"], true);
    assert_eq!(frames[1].text()["data"], 3);
}

#[test]
fn a_position_that_the_hub_never_comes_to_is_not_recovered() {
    let mut rig = with_history();
    let id = rig.connect();
    rig.current_to(Some(0));
    let keys = json!({"kept.a": {"epoch": epoch(&rig), "offset": 1000}});
    recover(&mut rig, id, "kept.a", &keys);
    rig.turn(WAIT_MS - 1);
    assert_eq!(quiet(rig.read(id)), []);
    rig.turn(20);
    let frames = quiet(rig.read(id));
    assert_eq!(frames[0].text()["data"]["recovered"]["kept.a"], false);
}

#[test]
fn without_a_link_a_join_is_refused_in_the_end() {
    let mut rig = Rig::new();
    let (id, gone) = (rig.connect(), rig.connect());
    rig.current_to(None);
    for client in [id, gone] {
        rig.subscribe(client, "a.b");
    }
    rig.core.on_end_of_input(gone, rig.now);
    rig.turn(WAIT_MS - 1);
    assert_eq!(quiet(rig.read(id)), []);
    rig.turn(20);
    assert_eq!(code(&rig.read(id)), "BROKER_UNAVAILABLE");
    rig.event("a.b", "1");
    assert_eq!(quiet(rig.read(id)), [], "it is not subscribed");
    rig.current_to(Some(0));
    rig.subscribe(id, "a.b");
    rig.event("a.b", "2");
    assert_eq!(kinds(&quiet(rig.read(id))), ["subscribed", "event"]);
}

#[test]
fn a_resync_ends_every_connection() {
    let mut rig = Rig::new();
    let ids = [rig.connect(), rig.connect()];
    rig.message(ShardMessage::Resync);
    for id in ids {
        assert_eq!(quiet(rig.read(id)), [Received::Close(4010)]);
    }
}
