//! Channels that began and were evicted while a client was away.

use serde_json::{Value, json};

use super::support::{epoch, offsets, recover};
use super::*;
use crate::hub::StateSettings;
use tickgate_protocol::channel::{Class, Classes, History};

/// A shard whose hub keeps at most this many channels, and this many names of evicted channels.
fn rig(channels: usize, tombstones: usize) -> Rig {
    Rig::with_state(StateSettings {
        channels,
        tombstones,
        ..StateSettings::default()
    })
}

fn event_later(rig: &mut Rig, channel: &str) {
    rig.pass(1);
    rig.event(channel, "1");
}

/// Subscribes again to a pattern with these offsets; returns the answer's `data`.
fn come_back(rig: &mut Rig, pattern: &str, offsets: &[(&str, u64)]) -> Value {
    let epoch = epoch(rig);
    let key = |(name, offset): &(&str, u64)| ((*name).to_owned(), json!({"epoch": epoch, "offset": offset}));
    let keys = Value::Object(offsets.iter().map(key).collect());
    let id = rig.connect();
    recover(rig, id, pattern, &keys);
    let data = rig.read(id)[0].text()["data"].clone();
    rig.core.on_socket_error(id, rig.now);
    data
}

#[test]
fn channels_that_began_and_were_evicted_while_a_client_was_away_are_reported() {
    let mut rig = rig(1, 1_000);
    event_later(&mut rig, "grid.a.order");
    let id = rig.connect();
    rig.subscribe(id, "grid.*");
    let data = rig.read(id)[0].text()["data"].clone();
    assert_eq!(data["positions"]["grid.a.order"]["offset"], 1);
    rig.core.on_socket_error(id, rig.now);
    for channel in ["grid.b.order", "grid.c.status", "strategy.s.signal", "grid.d.order"] {
        event_later(&mut rig, channel);
    }
    let data = come_back(&mut rig, "grid.*", &[("grid.a.order", 1)]);
    // `grid.c.status` has no history, and the signal does not match the pattern.
    let told = json!({"grid.a.order": true, "grid.b.order": false, "grid.d.order": true});
    assert_eq!((&data["recovered"], &data["positions_complete"]), (&told, &Value::Null));
    let offset = |name: &str| data["positions"][name]["offset"].as_u64().expect("a position");
    let known = [
        ("grid.a.order", 1),
        ("grid.b.order", offset("grid.b.order")),
        ("grid.d.order", 7),
    ];
    assert_eq!(offset("grid.d.order"), 0, "replayed from its beginning");
    // After it is reported, it has a position like any other channel.
    let data = come_back(&mut rig, "grid.*", &known);
    assert_eq!(
        data["recovered"],
        json!({"grid.a.order": true, "grid.b.order": true, "grid.d.order": true})
    );
}

#[test]
fn a_client_learns_of_channels_evicted_after_its_newest_position_of_the_same_pattern() {
    let mut rig = rig(1, 1_000);
    // They are evicted with the numbers 3 and 5.
    for channel in ["grid.a.order", "grid.b.order", "grid.c.order"] {
        event_later(&mut rig, channel);
    }
    let told = |rig: &mut Rig, keys: &[(&str, u64)]| {
        let data = come_back(rig, "grid.*", keys);
        ["grid.a.order", "grid.b.order"].map(|name| data["recovered"][name].clone())
    };
    assert_eq!(told(&mut rig, &[("grid.c.order", 2)]), [json!(false), json!(false)]);
    assert_eq!(told(&mut rig, &[("grid.c.order", 4)]), [Value::Null, json!(false)]);
    assert_eq!(told(&mut rig, &[("grid.c.order", 5)]), [Value::Null, Value::Null]);
    // The offset is beyond all versions, so it is not of this store. A new client has no position of this store, either.
    assert_eq!(told(&mut rig, &[("grid.c.order", 99)]), [json!(false), json!(false)]);
    assert_eq!(told(&mut rig, &[]), [json!(false), json!(false)]);
    // A position that only another pattern matches does not count.
    let id = rig.connect();
    let key = |offset: u64| json!({"epoch": epoch(&rig), "offset": offset});
    let keys = json!({"grid.c.order": key(2), "strategy.s.signal": key(5)});
    let message = json!({"type": "subscribe", "channels": ["strategy.*", "grid.*"], "recover": keys});
    rig.say(id, &message.to_string());
    let data = rig.read(id)[0].text()["data"].clone();
    assert_eq!(data["recovered"]["grid.a.order"], false);
}

#[test]
fn a_position_of_an_exact_name_tells_when_the_client_was_connected_too() {
    let mut rig = rig(1, 16);
    for channel in ["grid.a.order", "grid.a.trade", "grid.a.risk"] {
        event_later(&mut rig, channel);
    }
    let id = rig.connect();
    let keys = json!({"grid.a.risk": {"epoch": epoch(&rig), "offset": 5}});
    let message = json!({"type": "subscribe", "channels": ["grid.*", "grid.a.risk"], "recover": keys});
    rig.say(id, &message.to_string());
    let data = rig.read(id)[0].text()["data"].clone();
    assert_eq!(data["recovered"], json!({"grid.a.risk": true}));
    assert_eq!(data["positions_complete"], Value::Null);
}

#[test]
fn names_beyond_the_bound_are_reported_as_a_separate_gap() {
    // One name is kept in each stripe, and all of these channels are in the same stripe.
    let mut rig = rig(1, 16);
    for channel in ["grid.a.order", "grid.a.trade", "grid.a.risk"] {
        event_later(&mut rig, channel);
    }
    assert_eq!(rig.hub.metrics().tombstones, 1);
    let mut told = |offset| {
        let data = come_back(&mut rig, "grid.*", &[("grid.a.risk", offset)]);
        let told = ["grid.a.order", "grid.a.trade"].map(|name| data["recovered"][name].clone());
        (told, data["positions_complete"].clone())
    };
    assert_eq!(told(2), ([Value::Null, json!(false)], json!(false)));
    assert_eq!(
        told(3),
        ([Value::Null, json!(false)], Value::Null),
        "nothing is said without need"
    );
    assert_eq!(told(5), ([Value::Null, Value::Null], Value::Null));
}

#[test]
fn evicted_channels_for_admins_are_reported_to_no_other_client() {
    let class = Class {
        history: Some(History::BUILT_IN),
        ..Class::default()
    };
    let settings = hub::Settings {
        classes: Arc::new(Classes::new(vec![(Pattern::parse("system.*").expect("valid"), class)])),
        state: StateSettings {
            channels: 1,
            ..StateSettings::default()
        },
        ..hub::Settings::default()
    };
    let mut rig = Rig::of(shard_settings(), settings);
    event_later(&mut rig, "system.gateway.n1");
    event_later(&mut rig, "system.note");
    event_later(&mut rig, "system.more");
    let mut told = |admin| {
        let permissions = Permissions {
            admin,
            channels: vec![Pattern::parse("*").expect("valid")],
            ..Permissions::default()
        };
        let settings = session_settings(Mode::Optional, Limits::default());
        let id = rig.connect_with(settings, Ok(Some(identity_with(Some("u"), permissions))), true);
        recover(&mut rig, id, "system.*", &json!({}));
        rig.read(id)[0].text()["data"]["recovered"].clone()
    };
    let others = json!({"system.note": false, "system.more": false});
    assert_eq!(told(false), others);
    let all = json!({"system.note": false, "system.more": false, "system.gateway.n1": false});
    assert_eq!(told(true), all);
}

// A position in the answer tells, for all channels of the client, until when it was connected.
#[test]
fn an_answer_does_not_overtake_events_of_channels_evicted_meanwhile() {
    let mut rig = rig(1, 1_000);
    let id = rig.connect();
    rig.subscribe(id, "grid.*");
    rig.read(id);
    // The first channel is evicted for the second, and the events of both are still in the inbox.
    for channel in ["grid.b.order", "strategy.s.signal"] {
        rig.pass(1);
        rig.publish(channel, "1");
    }
    rig.subscribe(id, "strategy.s.signal");
    rig.core.begin_turn(rig.now);
    assert_eq!(kinds(&rig.read(id)), Vec::<&str>::new(), "not while they are there");
    rig.core.deliver(usize::MAX);
    rig.core.begin_turn(rig.now);
    assert_eq!(kinds(&rig.read(id)), ["event", "subscribed"]);
}

// The offset in the answer would be taken for the position of the client.
#[test]
fn a_history_does_not_overtake_events_of_channels_evicted_meanwhile() {
    let mut rig = rig(2, 1_000);
    event_later(&mut rig, "grid.a.order");
    let (id, other) = (rig.connect(), rig.connect());
    rig.subscribe(id, "grid.*");
    rig.read(id);
    // The second channel is evicted for the fourth, with the number 5. All events are still in the inbox.
    for channel in ["grid.b.order", "grid.a.order", "grid.c.order", "grid.a.order"] {
        rig.pass(1);
        rig.publish(channel, "1");
    }
    let ask = |rig: &mut Rig, id, channel: &str, since: u64| {
        rig.say(
            id,
            &json!({"type": "history", "channel": channel, "since": since}).to_string(),
        );
        let got = quiet(rig.read(id));
        let data = &got.last().expect("an answer").text()["data"];
        let offsets: Vec<_> = data["events"]
            .as_array()
            .expect("events")
            .iter()
            .map(|event| event["offset"].as_u64())
            .collect();
        (
            offsets.into_iter().flatten().collect::<Vec<_>>(),
            data["offset"].as_u64(),
            data["more"] == true,
        )
    };
    assert_eq!(ask(&mut rig, id, "grid.a.order", 0), (vec![1], Some(1), true));
    assert_eq!(ask(&mut rig, id, "grid.a.order", 1), (vec![], Some(1), true));
    assert_eq!(ask(&mut rig, id, "grid.c.order", 0), (vec![], Some(0), true));
    let all = (vec![1, 3, 6], Some(6), false);
    assert_eq!(
        ask(&mut rig, other, "grid.a.order", 0),
        all,
        "who gets nothing else can miss nothing of it"
    );
    rig.core.deliver(usize::MAX);
    assert_eq!(ask(&mut rig, id, "grid.a.order", 1), (vec![3, 6], Some(6), false));
}

// Otherwise a client that disconnects in between would be taken for one that had got everything up to the newer
// event.
#[test]
fn a_replay_does_not_overtake_events_of_channels_evicted_meanwhile() {
    let mut rig = rig(2, 1_000);
    event_later(&mut rig, "grid.a.order");
    event_later(&mut rig, "grid.a.order");
    let id = rig.connect();
    let keys = json!({"grid.a.order": {"epoch": epoch(&rig), "offset": 1}});
    recover(&mut rig, id, "grid.*", &keys);
    // The third channel is evicted for the fifth, with the number 6. All events are still in the inbox.
    for channel in ["grid.b.order", "grid.a.order", "grid.c.order", "grid.a.order"] {
        rig.pass(1);
        rig.publish(channel, "1");
    }
    let mut got = Vec::new();
    for _ in 0..3 {
        got.extend(rig.read_page(id));
    }
    assert_eq!(offsets(&got), [2], "no further than the inbox is empty");
    rig.core.deliver(usize::MAX);
    for _ in 0..3 {
        got.extend(rig.read_page(id));
    }
    assert_eq!(offsets(&got), [2, 3, 5, 4, 7]);
    event_later(&mut rig, "grid.a.order");
    assert_eq!(offsets(&rig.read(id)), [8], "the replay is over");
}
