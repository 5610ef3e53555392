//! What happens to events of each class when an outbox is full.

use serde_json::json;

use super::support::{narrow, told};
use super::*;
use crate::hub::StateSettings;

#[test]
fn a_conflated_channel_continues_with_its_newest_event_and_costs_no_other_channel() {
    let mut rig = Rig::new();
    let id = narrow(&mut rig, 4);
    rig.subscribe(id, "*");
    rig.read(id);
    rig.stall(id);
    rig.event("grid.a.order", "1");
    for number in 1..=50 {
        rig.event("market.a.price", &number.to_string());
    }
    rig.event("grid.a.order", "51");
    rig.event("market.b.price", "52");
    rig.core.update_gauges();
    assert!(rig.metrics.pending_frames.get() <= 4);
    rig.core.writable(id);
    let got = told(&rig.read(id));
    assert_eq!(got, [json!(1), json!(50), json!(51), json!(52)]);
    assert_eq!(rig.metrics.dropped.get(), 0);
    assert!(rig.has_no_extra(id));
    rig.event("market.a.price", "53");
    assert_eq!(told(&rig.read(id)), [json!(53)]);
}

#[test]
fn conflated_records_come_merged_and_none_is_missing() {
    let mut rig = Rig::new();
    let id = narrow(&mut rig, 2);
    rig.subscribe(id, "strategy.s.prices");
    rig.read(id);
    rig.event("strategy.s.prices", r#"[{"code":"a","p":1},{"code":"z","p":1}]"#);
    rig.read(id);
    rig.stall(id);
    for (code, price) in [("a", 2), ("b", 1), ("c", 1), ("b", 2)] {
        rig.event("strategy.s.prices", &json!([{"code": code, "p": price}]).to_string());
    }
    rig.core.writable(id);
    // Every record that changed since the version that the client has, including queued changes; not `z`.
    assert_eq!(
        told(&rig.read(id)),
        [json!([{"code":"a","p":2},{"code":"b","p":2},{"code":"c","p":1}])]
    );
}

#[test]
fn only_an_event_that_must_not_be_dropped_ends_a_slow_client() {
    let mut rig = Rig::new();
    let id = narrow(&mut rig, 3);
    rig.subscribe(id, "*");
    rig.read(id);
    rig.stall(id);
    for number in 1..=3 {
        rig.event("grid.a.order", &number.to_string());
    }
    // Events of other classes make no room among them: they step aside, or are dropped and reported.
    rig.event("market.a.price", "4");
    rig.event("system.log", "5");
    assert!(!rig.core.is_closing(id));
    rig.event("grid.a.order", "6");
    assert!(rig.core.is_closing(id));
    rig.core.writable(id);
    let got = rig.read(id);
    assert_eq!(
        told(&got),
        [json!(1), json!(2), json!(3), json!("dropped"), json!("close")]
    );
    assert_eq!(got[3].text()["data"], json!({"count": 1, "channels": ["system.log"]}));
    assert_eq!(got[4], Received::Close(4008));
    assert_eq!(rig.metrics.endings(Disconnect::SlowConsumer), 1);
}

#[test]
fn the_class_of_the_oldest_event_decides_how_room_is_made() {
    let mut rig = Rig::new();
    let id = narrow(&mut rig, 3);
    rig.subscribe(id, "*");
    rig.read(id);
    rig.stall(id);
    rig.event("market.a.price", "1");
    rig.event("system.log", "2");
    rig.event("market.b.price", "3");
    // The first event steps aside, the second is dropped, and the event that must not be dropped has room.
    rig.event("grid.a.order", "4");
    rig.event("grid.a.order", "5");
    assert!(!rig.core.is_closing(id));
    rig.core.writable(id);
    let got = rig.read(id);
    assert_eq!(told(&got), [json!("dropped"), json!(3), json!(1), json!(4), json!(5)]);
    assert_eq!(got[0].text()["data"], json!({"count": 1, "channels": ["system.log"]}));
    rig.say(id, r#"{"type":"get_status"}"#);
    assert_eq!(rig.read(id)[0].text()["dropped"], 1);
}

#[test]
fn a_value_that_the_hub_forgot_before_it_was_read_is_reported_as_dropped() {
    let mut rig = Rig::with_state(StateSettings {
        channels: 1,
        ..StateSettings::default()
    });
    let id = narrow(&mut rig, 1);
    rig.subscribe(id, "*");
    rig.read(id);
    rig.stall(id);
    rig.event("system.log", "0");
    rig.event("market.a.price", "1");
    rig.event("market.a.price", "2");
    rig.pass(1);
    rig.event("market.b.price", "3");
    rig.core.writable(id);
    let got = rig.read(id);
    assert_eq!(told(&got), [json!(0), json!("dropped"), json!(3)]);
    assert_eq!(
        got[1].text()["data"],
        json!({"count": 1, "channels": ["market.a.price"]})
    );
}
