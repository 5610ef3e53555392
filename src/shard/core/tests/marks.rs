//! Which events are marked as snapshots.

use super::support::recover;
use super::*;
use tickgate_protocol::channel::{Class, History, Overflow};

#[test]
fn kept_state_is_marked_as_a_snapshot_and_news_is_not() {
    let keeping = |ttl_ms| Class {
        cache_last: true,
        history: Some(History { size: 100, ttl_ms }),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    let mut rig = Rig::with_classes(vec![("a.*", keeping(60_000)), ("b.*", keeping(10))]);
    let marked = |got: &[Received]| {
        let events = got
            .iter()
            .map(Received::text)
            .filter(|message| message["type"] == "event");
        let mut all: Vec<(u64, bool)> = events
            .map(|message| (message["data"].as_u64().expect("a number"), message["snapshot"] == true))
            .collect();
        all.sort_unstable();
        all
    };
    rig.event("market.a.price", "1");
    rig.event("a.x", "2");
    rig.event("a.x", "3");
    rig.event("b.x", "4");
    rig.event("grid.a.order", "5");
    // The history of `b.x` is gone then, and its last value is not.
    rig.pass(20);
    let id = rig.connect();
    rig.subscribe(id, "*");
    let got = rig.read(id);
    assert_eq!(marked(&got), [(1, true), (3, true), (4, true)]);
    let positions = got[0].text()["data"]["positions"].clone();
    for (channel, data) in [
        ("market.a.price", "6"),
        ("a.x", "7"),
        ("b.x", "8"),
        ("grid.a.order", "9"),
    ] {
        rig.event(channel, data);
    }
    assert_eq!(marked(&rig.read(id)), [(6, false), (7, false), (8, false), (9, false)]);
    // What was missed is news, even the last value of a history.
    rig.core.on_socket_error(id, rig.now);
    let id = rig.connect();
    recover(&mut rig, id, "*", &positions);
    assert_eq!(
        marked(&rig.read(id)),
        [(3, false), (6, true), (7, false), (8, false), (9, false)]
    );
    // A value that replaced older ones in the queue of a slow client is news.
    rig.stall(id);
    for data in 10..2000 {
        rig.event("market.a.price", &data.to_string());
    }
    rig.core.writable(id);
    assert_eq!(marked(&rig.read(id)).last(), Some(&(1999, false)));
}

#[test]
fn the_frame_of_a_snapshot_counts_as_kept_state() {
    let mut rig = Rig::new();
    let id = rig.connect();
    let data = format!("\"{}\"", "x".repeat(5000));
    for channel in ["market.a.price", "grid.a.lifecycle"] {
        rig.event(channel, &data);
        let before = rig.hub.metrics().state_bytes;
        rig.subscribe(id, channel);
        assert_eq!(rig.read(id).last().expect("the last value").text()["snapshot"], true);
        let grown = rig.hub.metrics().state_bytes - before;
        assert!((data.len()..2 * data.len()).contains(&grown), "{channel}: {grown}");
    }
}
