//! Last values and recovery.

use serde_json::{Value, json};

use super::support::{epoch, narrow, offsets, recover, told};
use super::*;
use crate::hub::StateSettings;
use tickgate_protocol::channel::{Class, History, Overflow};

#[test]
fn a_new_client_gets_each_last_value_once_and_then_live_events() {
    let mut rig = Rig::new();
    rig.event("market.a.price", "1");
    rig.event("market.b.price", "2");
    rig.event("market.a.price", "3");
    rig.event("market.a.note", "4");
    let id = rig.connect();
    rig.say(
        id,
        r#"{"type":"subscribe","channels":["market.a.price","market.*","market.*.price"]}"#,
    );
    rig.event("market.b.price", "5");
    let got = rig.read(id);
    assert_eq!(got[0].kind(), "subscribed");
    let mut values = told(&got[1..]);
    values.sort_by_key(Value::to_string);
    assert_eq!(values, [json!(3), json!(5)]);
    // A channel that is covered already brings no last value again.
    rig.subscribe(id, "*.a.price");
    rig.event("market.a.price", "6");
    assert_eq!(told(&rig.read(id)), [json!("subscribed"), json!(6)]);
    assert_eq!(rig.metrics.catch_ups.get(), 2);
    assert!(rig.has_no_extra(id), "nothing is kept of it");
}

#[test]
fn automatic_subscriptions_bring_last_values_too() {
    let mut rig = Rig::new();
    rig.event("market.a.price", "1");
    let settings = session::Settings {
        auto_subscribe: [Pattern::parse("market.*").expect("valid")].into(),
        ..(*session_settings(Mode::Off, Limits::default())).clone()
    };
    let id = rig.connect_with(Arc::new(settings), Ok(None), true);
    assert_eq!(told(&rig.read(id)), [json!(1)]);
}

#[test]
fn channels_for_admins_reach_no_other_client() {
    let mut rig = Rig::with_classes(vec![(
        "system.*",
        Class {
            cache_last: true,
            history: Some(History::BUILT_IN),
            overflow: Overflow::Disconnect,
            ..Class::default()
        },
    )]);
    rig.event("system.gateway.n1", "1");
    rig.event("system.note", "2");
    let identity = |admin| {
        let permissions = Permissions {
            admin,
            channels: vec![Pattern::parse("*").expect("valid")],
            ..Permissions::default()
        };
        identity_with(Some("u"), permissions)
    };
    let settings = session_settings(Mode::Optional, Limits::default());
    let user = rig.connect_with(settings.clone(), Ok(Some(identity(false))), true);
    let admin = rig.connect_with(settings, Ok(Some(identity(true))), true);
    let keys = json!({"system.gateway.n1": {"epoch": epoch(&rig), "offset": 0}});
    recover(&mut rig, user, "system.*", &keys);
    recover(&mut rig, admin, "system.*", &keys);
    rig.event("system.gateway.n1", "3");
    let got = rig.read(user);
    let subscribed = &got[0].text()["data"];
    assert_eq!(subscribed["positions"].as_object().map(|names| names.len()), Some(1));
    assert_eq!(subscribed["recovered"]["system.gateway.n1"], false);
    assert_eq!(told(&got[1..]), [json!(2)]);
    let got = rig.read(admin);
    assert_eq!(got[0].text()["data"]["recovered"]["system.gateway.n1"], true);
    assert_eq!(got.len(), 4, "{got:?}");
    rig.say(user, r#"{"type":"history","channel":"system.gateway.n1","id":1}"#);
    assert_eq!(rig.read(user)[0].text()["error"]["code"], "FORBIDDEN");
}

// The offset of a client that was connected before the channel's first event.
fn recover_all(rig: &mut Rig, id: ConnectionId, pattern: &str) {
    let keys = json!({"grid.a.order": {"epoch": epoch(rig), "offset": 0}});
    recover(rig, id, pattern, &keys);
}

#[test]
fn a_returning_client_gets_everything_after_its_offset_once_and_in_order() {
    let mut rig = Rig::new();
    let first = rig.connect();
    rig.subscribe(first, "grid.*");
    rig.event("grid.a.order", "1");
    let got = rig.read(first);
    assert_eq!(got[0].text()["data"].get("positions"), None, "there is none yet");
    let at = offsets(&got)[0];
    rig.core.on_socket_error(first, rig.now);
    for number in 2..200 {
        rig.event("grid.a.order", &number.to_string());
    }
    rig.event("grid.b.order", "1000");
    let id = rig.connect();
    let keys = json!({"grid.a.order": {"epoch": epoch(&rig), "offset": at}});
    // Some events are still in the inbox. They are part of what is read.
    rig.subscribe(first, "grid.*");
    let other = rig.connect();
    rig.subscribe(other, "grid.*");
    rig.publish("grid.a.order", "200");
    recover(&mut rig, id, "grid.*", &keys);
    rig.publish("grid.a.order", "201");
    rig.core.deliver(usize::MAX);
    rig.event("grid.a.order", "202");
    let got = rig.read(id);
    let subscribed = &got[0].text()["data"];
    // A channel that began since is replayed from its beginning.
    assert_eq!(
        subscribed["recovered"],
        json!({"grid.a.order": true, "grid.b.order": true})
    );
    assert_eq!(subscribed["positions"]["grid.a.order"]["offset"], at);
    assert_eq!(subscribed["positions"]["grid.b.order"]["offset"], 0);
    let of = |channel: &str| -> Vec<u64> {
        let texts = got[1..].iter().map(Received::text);
        let texts = texts.filter(|text| text["channel"] == channel);
        texts.filter_map(|text| text["data"].as_u64()).collect()
    };
    assert_eq!(of("grid.a.order"), (2..=202).collect::<Vec<_>>());
    assert_eq!(of("grid.b.order"), [1000]);
    assert_eq!(rig.metrics.recovered.get(), 2);
    assert!(rig.has_no_extra(id));
}

#[test]
fn a_channel_that_may_be_older_than_the_store_is_not_reported_as_recovered() {
    let mut rig = Rig::new();
    rig.event("grid.y.order", "2");
    // The client has keys of the previous store, which may have had events of `y`, too; or it has no keys at all.
    let old = json!({"epoch": "00000000000000e1", "offset": 1});
    for keys in [json!({"grid.x.order": old}), json!({})] {
        let id = rig.connect();
        recover(&mut rig, id, "grid.*", &keys);
        let got = rig.read(id);
        let subscribed = &got[0].text()["data"];
        assert_eq!(subscribed["recovered"]["grid.y.order"], false, "{keys}");
        assert_eq!(subscribed["positions"]["grid.y.order"]["offset"], 1, "{keys}");
        assert_eq!(got.len(), 1, "{got:?}");
    }
    // One key of this store shows that the client was connected to it.
    rig.event("grid.x.order", "1");
    let id = rig.connect();
    let known = json!({"epoch": epoch(&rig), "offset": 0});
    recover(
        &mut rig,
        id,
        "grid.*",
        &json!({"grid.x.order": known, "grid.z.order": old}),
    );
    let recovered = &rig.read(id)[0].text()["data"]["recovered"].clone();
    assert_eq!(
        *recovered,
        json!({"grid.x.order": true, "grid.y.order": true, "grid.z.order": false})
    );
}

#[test]
fn an_unrecovered_channel_without_state_gets_a_position_to_continue_from() {
    let mut rig = Rig::new();
    let id = rig.connect();
    let old = json!({"epoch": "00000000000000e1", "offset": 7});
    recover(&mut rig, id, "*", &json!({"grid.a.order": old, "system.log": old}));
    let got = rig.read(id);
    let subscribed = &got[0].text()["data"];
    assert_eq!(
        subscribed["recovered"],
        json!({"grid.a.order": false, "system.log": false})
    );
    let position = json!({"epoch": epoch(&rig), "offset": 0});
    assert_eq!(subscribed["positions"], json!({"grid.a.order": position}));
    rig.core.on_socket_error(id, rig.now);
    rig.event("grid.a.order", "1");
    let id = rig.connect();
    recover(&mut rig, id, "grid.*", &json!({"grid.a.order": position}));
    let got = rig.read(id);
    assert_eq!(got[0].text()["data"]["recovered"]["grid.a.order"], true);
    assert_eq!(told(&got[1..]), [json!(1)]);
}

#[test]
fn queued_events_of_a_channel_survive_unsubscribe_and_subscribe() {
    // A last value and a history; a history that is trimmed to nothing; no history.
    let class = |ttl_ms: Option<u64>| Class {
        cache_last: true,
        history: ttl_ms.map(|ttl_ms| History { size: 100, ttl_ms }),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    for (class, wait_ms) in [(class(Some(60_000)), 0), (class(Some(10)), 20), (class(None), 0)] {
        let mut rig = Rig::with_classes(vec![("grid.*", class)]);
        let id = rig.connect();
        rig.subscribe(id, "grid.a.x");
        rig.read(id);
        rig.stall(id);
        for number in 42..=45 {
            rig.event("grid.a.x", &number.to_string());
        }
        rig.pass(wait_ms);
        rig.say(id, r#"{"type":"unsubscribe","channels":["grid.a.x"]}"#);
        rig.subscribe(id, "grid.a.x");
        rig.event("grid.a.x", "46");
        rig.core.writable(id);
        let mut got = told(&rig.read(id));
        let numbers = |got: &[Value]| got.iter().filter_map(Value::as_u64).collect::<Vec<_>>();
        let again = got.split_off(got.iter().position(|data| data == "unsubscribed").expect("answered"));
        // The newest event may come as the last value instead.
        assert!(numbers(&got).starts_with(&[42, 43, 44]), "{got:?} {again:?}");
        let mut all = [numbers(&got), numbers(&again)].concat();
        all.dedup();
        assert_eq!(all.iter().filter(|number| **number == 46).count(), 1, "{all:?}");
        assert_eq!(*all, [42, 43, 44, 45, 46]);
    }
}

#[test]
fn a_gap_is_reported_and_followed_by_the_last_value() {
    let mut rig = Rig::with_classes(vec![(
        "grid.*",
        Class {
            cache_last: true,
            history: Some(History {
                size: 3,
                ttl_ms: 60_000,
            }),
            overflow: Overflow::Disconnect,
            ..Class::default()
        },
    )]);
    for number in 1..=5 {
        rig.event("grid.a.x", &number.to_string());
    }
    let epoch = epoch(&rig);
    for (epoch, offset, is_whole, values) in [
        (&*epoch, 0, false, vec![5]),
        (&epoch, 1, false, vec![5]),
        (&epoch, 2, true, vec![3, 4, 5]),
        (&epoch, 5, true, vec![]),
        (&epoch, 6, false, vec![5]),
        ("0000000000000000", 2, false, vec![5]),
        ("another gateway's", 2, false, vec![5]),
    ] {
        let id = rig.connect();
        recover(
            &mut rig,
            id,
            "grid.*",
            &json!({"grid.a.x": {"epoch": epoch, "offset": offset}}),
        );
        let got = rig.read(id);
        let subscribed = &got[0].text()["data"];
        assert_eq!(subscribed["recovered"]["grid.a.x"], is_whole, "{epoch} {offset}");
        let values: Vec<Value> = values.into_iter().map(Value::from).collect();
        assert_eq!(told(&got[1..]), values, "{epoch} {offset}");
        // A client that disconnects here returns with this offset and gets the rest.
        let position = subscribed["positions"]["grid.a.x"]["offset"].as_u64();
        assert_eq!(position, Some(if is_whole { offset } else { 4 }), "{epoch} {offset}");
    }
}

#[test]
fn a_channel_without_kept_events_is_recovered_when_none_was_missed() {
    let mut rig = Rig::with_state(StateSettings {
        channels: 1,
        ..StateSettings::default()
    });
    // The state of each channel is evicted for the next channel.
    for channel in ["grid.a.order", "grid.a.trade", "grid.a.risk"] {
        rig.event(channel, "1");
        rig.pass(1);
    }
    let epoch = epoch(&rig);
    // The only event of the channel has the version 1; the newest eviction has 5.
    for (offset, is_whole) in [(0, false), (1, true), (5, true), (6, false)] {
        let id = rig.connect();
        let keys = json!({"grid.a.order": {"epoch": epoch, "offset": offset}});
        recover(&mut rig, id, "grid.*", &keys);
        let got = rig.read(id);
        let recovered = &got[0].text()["data"]["recovered"];
        assert_eq!(recovered["grid.a.order"], is_whole, "{offset}");
        // This channel began since and was never evicted.
        assert_eq!(recovered["grid.a.risk"], true, "{offset}");
        rig.core.on_socket_error(id, rig.now);
    }
}

#[test]
fn a_replay_of_any_length_goes_through_a_small_outbox_with_live_events_between() {
    let mut rig = Rig::new();
    for number in 0..1_000 {
        rig.event("grid.a.order", &number.to_string());
    }
    let id = narrow(&mut rig, 2);
    recover_all(&mut rig, id, "*");
    rig.read_page(id);
    let mut got = Vec::new();
    for number in 0..200 {
        // Further events of the channel, and of other channels, which must not wait for the end of the replay.
        rig.event("grid.a.order", &(1_000 + number).to_string());
        rig.event("system.log", "\"live\"");
        got.extend(told(&rig.read_page(id)));
    }
    got.extend(told(&rig.read(id)));
    let live = json!("live");
    assert_eq!(got.iter().filter(|data| **data == live).count(), 200);
    let first_live = got.iter().position(|data| *data == live);
    assert!(first_live.is_some_and(|at| at < 300), "{first_live:?}");
    let replayed: Vec<u64> = got.iter().filter_map(Value::as_u64).collect();
    assert_eq!(
        replayed,
        (64..1_200).collect::<Vec<_>>(),
        "the first page was read before"
    );
    assert_eq!(rig.metrics.dropped.get(), 0);
    assert!(rig.has_no_extra(id));
}

#[test]
fn trimming_that_overtakes_a_replay_ends_the_connection() {
    let mut rig = Rig::with_classes(vec![(
        "grid.*",
        Class {
            history: Some(History {
                size: 80,
                ttl_ms: 60_000,
            }),
            overflow: Overflow::Disconnect,
            ..Class::default()
        },
    )]);
    for number in 0..80 {
        rig.event("grid.a.order", &number.to_string());
    }
    let id = rig.connect();
    recover_all(&mut rig, id, "grid.*");
    assert_eq!(rig.read_page(id).len(), 65);
    for number in 80..300 {
        rig.event("grid.a.order", &number.to_string());
    }
    let got = rig.read(id);
    assert_eq!(got.last(), Some(&Received::Close(4008)), "{got:?}");
    assert_eq!(rig.core.queued_frames(), 0);
}

#[test]
fn unsubscribing_ends_the_catch_up_of_channels_that_no_other_pattern_covers() {
    let mut rig = Rig::new();
    rig.event("market.a.price", "1");
    rig.event("market.b.price", "2");
    let id = rig.connect();
    rig.subscribe(id, "market.*");
    rig.subscribe(id, "market.b.*");
    rig.say(id, r#"{"type":"unsubscribe","channels":["market.*"]}"#);
    let got = told(&rig.read(id));
    assert_eq!(
        got,
        [
            json!("subscribed"),
            json!(2),
            json!("subscribed"),
            json!("unsubscribed")
        ]
    );
    // The channel is subscribed again, and is newly covered once more.
    rig.subscribe(id, "market.a.price");
    assert_eq!(told(&rig.read(id)), [json!("subscribed"), json!(1)]);
}

#[test]
fn a_connection_that_ends_while_it_catches_up_leaves_nothing_behind() {
    let mut rig = Rig::new();
    for number in 0..500 {
        rig.event("grid.a.order", &number.to_string());
    }
    for _ in 0..20 {
        let id = rig.connect();
        recover_all(&mut rig, id, "*");
        rig.read_page(id);
        rig.core.on_socket_error(id, rig.now);
    }
    rig.core.begin_turn(rig.now);
    assert!(!rig.core.has_turn_to_begin());
    assert_eq!(rig.core.queued_frames(), 0);
    rig.core.update_gauges();
    assert_eq!(
        (rig.metrics.pending_frames.get(), rig.metrics.pending_bytes.get()),
        (0, 0)
    );
}

#[test]
fn many_recovering_connections_share_the_turns() {
    let mut rig = Rig::new();
    for number in 0..500 {
        rig.event("grid.a.order", &number.to_string());
    }
    let crowd: Vec<_> = (0..300).map(|_| rig.connect()).collect();
    for &id in &crowd {
        recover_all(&mut rig, id, "*");
    }
    let mut turns = 0;
    let mut frames = vec![0; crowd.len()];
    while rig.core.has_dirty() || rig.core.has_turn_to_begin() {
        rig.core.begin_turn(rig.now);
        let before = rig.metrics.caught_up.get();
        for (index, count) in rig.flush_turn(&crowd) {
            frames[index] += count;
        }
        let read = rig.metrics.caught_up.get() - before;
        assert!(read <= 128 * 64, "{read} events in a turn");
        turns += 1;
        let (least, most) = (frames.iter().min(), frames.iter().max());
        // No connection is more than two pages ahead of another.
        assert!(
            most.zip(least).is_some_and(|(most, least)| most - least <= 2 * 64),
            "{frames:?}"
        );
    }
    assert!(frames.iter().all(|count| *count == 501), "{frames:?}");
    assert!(turns >= 300 * 500 / (128 * 64), "{turns}");
}

#[test]
fn wide_subscribes_wait_for_the_next_turn_when_the_steps_are_used_up() {
    // A channel that does not match is looked at, too.
    for pattern in ["*", "market.*.zz1"] {
        wide_subscribes_wait(pattern);
    }
}

fn wide_subscribes_wait(pattern: &str) {
    let mut rig = Rig::new();
    for number in 0..400 {
        rig.event(&format!("market.s{number}.price"), "1");
    }
    rig.core.begin_turn(rig.now);
    let ids: Vec<_> = (0..400).map(|_| rig.connect()).collect();
    for &id in &ids {
        rig.subscribe(id, pattern);
    }
    let joined = |rig: &Rig| rig.core.fanout.table().subscriptions();
    let first = joined(&rig);
    assert!(first > 0 && first < 400, "{first}");
    rig.core.on_socket_error(ids[399], rig.now);
    while rig.core.has_turn_to_begin() {
        rig.core.begin_turn(rig.now);
        rig.flush_turn(&ids);
    }
    assert_eq!(joined(&rig), 399);
}
