//! `history`, and the position of a published event in it.

use serde_json::{Value, json};

use super::support::epoch;
use super::*;
use tickgate_protocol::channel::{Class, History, Overflow};
use tickgate_protocol::message::HistoryRange;

#[test]
fn a_history_is_read_in_bounded_answers() {
    let mut rig = Rig::new();
    let id = rig.connect();
    let pad = "x".repeat(2_000);
    for number in 1..=300 {
        rig.event("grid.a.order", &json!({"n": number, "pad": pad}).to_string());
    }
    let (mut since, mut numbers, mut answers) = (0, Vec::new(), 0);
    loop {
        let ask = json!({"type": "history", "channel": "grid.a.order", "since": since, "limit": 1000});
        rig.say(id, &ask.to_string());
        let got = rig.read_bytes(id);
        assert!(got.len() <= 256 * 1024, "{}", got.len());
        let answer: Value = serde_json::from_slice(&got[10..]).expect("one long message");
        let data = &answer["data"];
        let events = data["events"].as_array().expect("an array");
        numbers.extend(events.iter().filter_map(|event| event["data"]["n"].as_u64()));
        since = data["offset"].as_u64().expect("where to go on");
        answers += 1;
        assert_eq!((&data["epoch"], &data["complete"]), (&json!(epoch(&rig)), &json!(true)));
        if data["more"] == false {
            break;
        }
    }
    assert_eq!(numbers, (1..=300).collect::<Vec<_>>());
    assert!(answers > 3, "{answers}");
}

#[test]
fn a_history_page_tells_what_is_missing() {
    let mut rig = Rig::with_classes(vec![(
        "grid.*",
        Class {
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
    let id = rig.connect();
    for (ask, values, complete, more) in [
        (json!({}), vec![3, 4, 5], false, false),
        (json!({"since": 1}), vec![3, 4, 5], false, false),
        (json!({"since": 1, "limit": 2}), vec![3, 4], false, true),
        (json!({"since": 2}), vec![3, 4, 5], true, false),
        (json!({"since": 2, "limit": 2}), vec![3, 4], true, true),
        (json!({"since": 5}), vec![], true, false),
        (json!({"since": 9}), vec![3, 4, 5], false, false),
        (
            json!({"since": 4, "epoch": "0000000000000000"}),
            vec![3, 4, 5],
            false,
            false,
        ),
    ] {
        let mut message = json!({"type": "history", "channel": "grid.a.x"});
        for (key, value) in ask.as_object().expect("an object") {
            message[key] = value.clone();
        }
        rig.say(id, &message.to_string());
        let got = rig.read(id);
        let data = &got[0].text()["data"];
        let events = data["events"].as_array().expect("an array");
        let got: Vec<u64> = events.iter().filter_map(|event| event["data"].as_u64()).collect();
        let told = (got, &data["complete"], &data["more"]);
        assert_eq!(told, (values, &json!(complete), &json!(more)), "{message}");
    }
    rig.say(id, r#"{"type":"history","channel":"system.log"}"#);
    let got = rig.read(id);
    assert_eq!(got[0].text()["data"]["events"], json!([]));
}

#[test]
fn published_tells_the_position_in_the_history() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.say(id, r#"{"type":"publish","channel":"grid.a.order","event":"e","id":1}"#);
    rig.say(id, r#"{"type":"publish","channel":"system.log","event":"e","id":2}"#);
    let got = rig.read(id);
    assert_eq!(got[0].text()["data"], json!({"epoch": epoch(&rig), "offset": 1}));
    assert_eq!(got[1].text()["data"], json!({}));
}

#[test]
fn a_history_that_is_trimmed_while_it_is_read_is_never_empty() {
    let mut rig = Rig::with_classes(vec![(
        "grid.*",
        Class {
            history: Some(History {
                size: 1,
                ttl_ms: 60_000,
            }),
            ..Class::default()
        },
    )]);
    rig.event("grid.a.x", "0");
    let id = rig.connect();
    let (hub, is_over) = (Arc::clone(&rig.hub), Arc::new(AtomicBool::new(false)));
    let until = Arc::clone(&is_over);
    let publisher = std::thread::spawn(move || {
        while !until.load(Ordering::Relaxed) {
            let event = NewEvent {
                channel: Channel::parse("grid.a.x").expect("valid"),
                name: "update".into(),
                data: "1".into(),
                timestamp_ms: START.unix_ms,
                options: PublishOptions::default(),
            };
            let credit = hub
                .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, event.data.len())
                .expect("room");
            hub.publish(event, START, credit, &mut Wakes::default());
        }
    });
    let (slot, channel) = (
        rig.core.connections.open_slot(id).expect("open"),
        Channel::parse("grid.a.x").expect("valid"),
    );
    let ask = || HistoryRange {
        since: None,
        epoch: None,
        limit: 10,
    };
    let mut size = || rig.core.history_page(slot, &channel, ask(), START).events.len();
    let sizes: Vec<usize> = (0..2_000).map(|_| size()).collect();
    is_over.store(true, Ordering::Relaxed);
    publisher.join().expect("no panic");
    assert_eq!(sizes, [1; 2_000]);
}
