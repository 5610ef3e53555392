//! Returning with a cursor.

mod on_one_connection;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::support::{few, offsets, told, whole};
use super::*;
use crate::hub::StateSettings;
use tickgate_protocol::channel::{Class, History, Overflow};
use tickgate_protocol::message::Cursor;

fn resume(rig: &mut Rig, id: ConnectionId, patterns: &[&str], cursor: &str) {
    let message = json!({"type": "subscribe", "channels": patterns, "cursor": cursor});
    rig.say(id, &message.to_string());
}

/// The cursor of the last message that has one.
fn last_cursor(frames: &[Received]) -> Option<String> {
    let mut texts = frames.iter().filter_map(|frame| match frame {
        Received::Text(message) => message["cursor"].as_str(),
        _ => None,
    });
    texts.next_back().map(str::to_owned)
}

fn version(cursor: &str) -> u64 {
    Cursor::parse(cursor).expect("a cursor").version
}

impl Rig {
    /// Begins a turn a moment later, so that what was published before is covered by cursors.
    fn next_turn(&mut self) {
        self.now = self.now.after_ms(1);
        self.core.begin_turn(self.now);
        self.core.deliver(usize::MAX);
    }

    /// A client that subscribed, and its cursor.
    fn subscribed(&mut self, patterns: &[&str]) -> (ConnectionId, String) {
        self.next_turn();
        let id = self.connect();
        self.say(id, &json!({"type": "subscribe", "channels": patterns}).to_string());
        let got = self.read(id);
        let cursor = last_cursor(&got).expect("a cursor");
        (id, cursor)
    }

    /// A client that returns; what it gets at once.
    fn returns(&mut self, patterns: &[&str], cursor: &str) -> (ConnectionId, Vec<Received>) {
        self.next_turn();
        let id = self.connect();
        resume(self, id, patterns, cursor);
        let got = self.read(id);
        (id, got)
    }
}

#[test]
fn a_client_gets_everything_after_its_cursor_once_and_in_the_order_of_publishing() {
    let mut rig = Rig::new();
    rig.event("grid.a.order", "0");
    let (first, cursor) = rig.subscribed(&["grid.*"]);
    rig.core.on_socket_error(first, rig.now);
    for (channel, data) in [
        ("b.trade", "1"),
        ("a.order", "2"),
        ("b.trade", "3"),
        ("c.risk", "4"),
        ("a.order", "5"),
    ] {
        rig.event(&format!("grid.{channel}"), data);
    }
    let (second, got) = rig.returns(&["grid.*"], &cursor);
    assert_eq!(got[0].text()["data"]["recovered"], true);
    assert_eq!(
        got[0].text()["data"]["positions"],
        Value::Null,
        "the cursor stands for them"
    );
    // A `cursor` comes behind the last missed event.
    assert_eq!(
        told(&got[1..]),
        [json!(1), json!(2), json!(3), json!(4), json!(5), json!("cursor")]
    );
    assert!(offsets(&got).is_sorted());
    rig.event("grid.a.order", "6");
    assert_eq!(told(&rig.read(second)), [json!(6)]);
    // The cursor of the answer is from before what is owed, so that a break loses nothing; the last one is behind it.
    let [begin, end] = [&got[0], got.last().expect("a cursor")].map(|frame| last_cursor(std::slice::from_ref(frame)));
    let (begin, end) = (begin.expect("a cursor"), end.expect("a cursor"));
    assert_eq!(version(&begin), version(&cursor));
    assert_eq!(version(&end), 6);
    let (_, again) = rig.returns(&["grid.*"], &begin);
    assert_eq!(offsets(&again), [2, 3, 4, 5, 6, 7]);
    let (_, again) = rig.returns(&["grid.*"], &end);
    assert_eq!(offsets(&again), [7]);
}

#[test]
fn what_a_client_has_beyond_its_cursor_is_skipped() {
    let mut rig = Rig::new();
    let (_, cursor) = rig.subscribed(&["grid.*"]);
    for n in 1..=4 {
        rig.event("grid.a.order", &n.to_string());
        rig.event("grid.b.order", &n.to_string());
    }
    rig.next_turn();
    let id = rig.connect();
    let seen = json!({"grid.a.order": 5, "grid.b.order": 8, "grid.c.order": 1, "market.a.trade": 1});
    let message = json!({"type": "subscribe", "channels": ["grid.*"], "cursor": cursor, "seen": seen});
    rig.say(id, &message.to_string());
    let got = rig.read(id);
    assert_eq!(got[0].text()["data"]["recovered"], true);
    assert_eq!(offsets(&got), [7]);
}

#[test]
fn positions_say_which_events_are_from_before_the_first_subscription() {
    let mut rig = Rig::new();
    // The shard has not read the head since, so the cursor does not cover it.
    rig.event("grid.a.order", "1");
    let id = rig.connect();
    rig.subscribe(id, "grid.*");
    let got = rig.read(id);
    assert_eq!(got[0].text()["data"]["positions"]["grid.a.order"]["offset"], 1);
    let cursor = last_cursor(&got).expect("a cursor");
    assert_eq!(version(&cursor), 0);
    rig.event("grid.a.order", "2");
    let (_, got) = rig.returns(&["grid.*"], &cursor);
    assert_eq!(offsets(&got), [1, 2]);
}

#[test]
fn channels_that_are_not_recovered_are_named() {
    let mut rig = Rig::with_classes(vec![(
        "life.*",
        Class {
            cache_last: true,
            history: Some(History {
                size: 2,
                ttl_ms: 1_000_000,
            }),
            overflow: Overflow::Disconnect,
            ..Class::default()
        },
    )]);
    let (_, cursor) = rig.subscribed(&["life.*"]);
    for n in 1..=3 {
        rig.event("life.a", &n.to_string());
    }
    rig.event("life.b", "9");
    let (_, got) = rig.returns(&["life.*"], &cursor);
    let data = &got[0].text()["data"];
    assert_eq!(data["recovered"], json!({"life.a": false}));
    assert_eq!(data["positions_complete"], Value::Null);
    // The last value of the one, and what was missed of the other.
    let mut got = told(&got[1..]);
    got.sort_by_key(Value::to_string);
    assert_eq!(got, [json!("cursor"), json!(3), json!(9)]);
}

#[test]
fn a_channel_that_came_and_was_evicted_is_named_only_if_something_was_missed() {
    let mut rig = Rig::with_state(StateSettings {
        channels: 2,
        ..StateSettings::default()
    });
    rig.event("grid.a.order", "1");
    let (_, cursor) = rig.subscribed(&["grid.*"]);
    // The first is evicted without having had another event; the second comes and goes.
    for (channel, data) in [("b", "2"), ("c", "3"), ("d", "4")] {
        rig.event(&format!("grid.{channel}.order"), data);
    }
    let (_, got) = rig.returns(&["grid.*"], &cursor);
    assert_eq!(got[0].text()["data"]["recovered"], json!({"grid.b.order": false}));
    assert_eq!(told(&got[1..]), [json!(3), json!(4), json!("cursor")]);
}

#[test]
fn a_cursor_that_says_nothing_of_this_store_recovers_nothing_and_says_so() {
    let mut rig = Rig::new();
    rig.event("grid.a.order", "1");
    let (_, cursor) = rig.subscribed(&["grid.*"]);
    let cursor = Cursor::parse(&cursor).expect("a cursor");
    let another_epoch = Cursor {
        epoch: tickgate_protocol::event::Epoch(7),
        ..cursor
    };
    let future = Cursor {
        version: 1_000,
        ..cursor
    };
    let another_user = Cursor {
        holder: cursor.holder + 1,
        ..cursor
    };
    rig.event("grid.a.order", "2");
    let texts = [another_epoch, future, another_user].map(|cursor| cursor.to_string());
    for text in texts.iter().map(String::as_str).chain(["1703836800000-0"]) {
        let (_, got) = rig.returns(&["grid.*"], text);
        let data = &got[0].text()["data"];
        assert_eq!(data["recovered"], json!({"grid.a.order": false}), "{text}");
        assert_eq!(data["positions_complete"], false, "{text}");
        assert!(offsets(&got).is_empty(), "{text}");
        // From here on everything is recovered.
        let next = last_cursor(&got).expect("a cursor");
        let (_, got) = rig.returns(&["grid.*"], &next);
        assert_eq!(got[0].text()["data"]["recovered"], true, "{text}");
    }
    let (_, got) = rig.returns(&["grid.*"], &cursor.to_string());
    assert_eq!(offsets(&got), [2]);
}

#[test]
fn a_last_value_that_was_owed_comes_after_the_return() {
    let mut rig = Rig::new();
    rig.event("system.kill_switch", "1");
    let (first, cursor) = rig.subscribed(&["system.kill_switch"]);
    assert!(cursor.ends_with('v'), "{cursor}");
    // It broke off before it got the value.
    rig.core.on_socket_error(first, rig.now);
    let (second, got) = rig.returns(&["system.kill_switch"], &cursor);
    assert_eq!(got[0].text()["data"]["recovered"], true);
    assert_eq!(told(&got[1..]), [json!(1), json!("cursor")]);
    assert_eq!(got[1].text()["snapshot"], true);
    let cursor = last_cursor(&got).expect("a cursor");
    assert!(!cursor.ends_with('v'), "{cursor}");
    rig.core.on_socket_error(second, rig.now);
    let (_, got) = rig.returns(&["system.kill_switch"], &cursor);
    assert_eq!(told(&got[1..]), [] as [Value; 0]);
}

#[test]
fn no_cursor_is_given_before_a_loss_is_reported() {
    let mut rig = Rig::new();
    rig.next_turn();
    let id = rig.connect_with(few(2), Ok(None), true);
    rig.subscribe(id, "market.*");
    let before = last_cursor(&rig.read(id)).expect("a cursor");
    rig.stall(id);
    for n in 1..=5 {
        rig.event("market.a.trade", &n.to_string());
    }
    let history = r#"{"type":"history","channel":"market.a.trade","limit":1,"id":1}"#;
    rig.next_turn();
    rig.say(id, history);
    rig.core.writable(id);
    let got = rig.read(id);
    assert_eq!(kinds(&got), ["dropped", "event", "event", "history"]);
    assert_eq!(
        last_cursor(&got),
        None,
        "the loss was not reported when the answer was made"
    );
    rig.say(id, history);
    let cursor = last_cursor(&rig.read(id)).expect("a cursor");
    assert_eq!(version(&cursor), 5, "behind what was reported");
    // What was dropped comes after a return from before it, and not after a later one.
    for (cursor, expected) in [(before, &[1, 2, 3, 4, 5][..]), (cursor, &[])] {
        let (_, got) = rig.returns(&["market.*"], &cursor);
        assert_eq!(got[0].text()["data"]["recovered"], true);
        assert_eq!(offsets(&got), expected);
    }
}

#[test]
fn a_cursor_does_not_overtake_a_loss_that_finds_no_room_among_the_replies() {
    let limits = Limits {
        outbox_frames: 4,
        reply_frames: 2,
        ..Limits::default()
    };
    let mut rig = Rig::new();
    rig.next_turn();
    let id = rig.connect_with(session_settings(Mode::Off, limits), Ok(None), true);
    rig.subscribe(id, "market.*");
    rig.read(id);
    rig.stall(id);
    for n in 1..=4 {
        rig.event("market.a.trade", &n.to_string());
    }
    rig.next_turn();
    // Its cursor covers all four events. None of them is lost yet.
    rig.say(id, r#"{"type":"history","channel":"market.a.trade","limit":1,"id":1}"#);
    rig.say(id, r#"{"type":"ping"}"#);
    rig.event("market.a.trade", "5");
    rig.core.writable(id);
    let got = rig.read(id);
    let expected = ["dropped", "event", "event", "event", "history", "pong", "event"];
    assert_eq!(kinds(&got), expected);
    assert_eq!(version(&last_cursor(&got).expect("a cursor")), 4);

    // What is queued before the loss leaves before it is told.
    rig.stall(id);
    for _ in 0..2 {
        rig.say(id, r#"{"type":"ping"}"#);
    }
    for n in 6..=10 {
        rig.event("market.a.trade", &n.to_string());
    }
    rig.core.writable(id);
    let expected = ["pong", "pong", "dropped", "event", "event", "event", "event"];
    assert_eq!(kinds(&rig.read(id)), expected);
}

#[test]
fn a_ping_before_the_answer_has_no_cursor_and_later_ones_do() {
    let mut rig = Rig::with(Settings {
        subscribe_steps: 2,
        ..shard_settings()
    });
    for n in 0..100 {
        rig.event(&format!("grid.g{n}.order"), "1");
    }
    rig.next_turn();
    let id = rig.connect();
    rig.pass(30_000);
    rig.subscribe(id, "grid.*");
    rig.pass(30_000);
    let mut got = Vec::new();
    while got.iter().all(|frame: &Received| frame.kind() != "subscribed") {
        rig.next_turn();
        got.extend(rig.read_page(id));
    }
    let pings = got.iter().filter(|frame| frame.kind() == "ping");
    let cursors: Vec<_> = pings.map(|frame| frame.text()["cursor"].clone()).collect();
    assert_eq!(cursors, [Value::Null, Value::Null], "nothing is confirmed yet");
    rig.core.on_bytes(id, &mut frame(0x8a, b""), rig.now);
    rig.next_turn();
    rig.pass(30_000);
    let cursor = last_cursor(&rig.read(id)).expect("a cursor");
    assert_eq!(version(&cursor), 100);
    rig.message(ShardMessage::Drain { over_ms: 1_000 });
    rig.pass(10);
    let got = rig.read(id);
    assert_eq!(got[0].kind(), "going_away");
    assert_eq!(got[0].text()["cursor"], cursor);
}

#[test]
fn answers_that_others_follow_have_no_cursor() {
    let mut rig = Rig::with(Settings {
        subscribe_steps: 2,
        ..shard_settings()
    });
    for n in 0..20 {
        rig.event(&format!("grid.g{n}.order"), "1");
    }
    rig.next_turn();
    let id = rig.connect();
    // A client that spreads what it had over two messages: with the cursor of the first answer alone, it would lose what it
    // missed of the second pattern.
    rig.subscribe(id, "grid.*");
    rig.subscribe(id, "market.*");
    let mut got = Vec::new();
    while got.len() < 2 {
        rig.next_turn();
        got.extend(rig.read_page(id));
    }
    assert_eq!(kinds(&got), ["subscribed", "subscribed"]);
    assert_eq!(got[0].text()["cursor"], Value::Null);
    assert!(got[1].text()["cursor"].is_string());
}

#[test]
fn a_client_is_told_how_far_it_is_without_being_gathered_twice() {
    let mut rig = Rig::new();
    let (_, cursor) = rig.subscribed(&["grid.*"]);
    for n in 0..500 {
        rig.event(&format!("grid.g{n}.order"), "1");
    }
    rig.next_turn();
    let id = rig.connect();
    resume(&mut rig, id, &["grid.*"], &cursor);
    let (mut bytes, mut turns) = (Vec::new(), 0);
    while rig.core.has_dirty() || turns == 0 {
        // As io_uring does: everything is gathered before anything is written.
        let mut gathered = 0;
        while let Some(dirty) = rig.core.next_dirty() {
            gathered += usize::from(dirty == id);
            rig.core.pending(dirty, rig.now, &mut [IoSlice::new(&[]); 512]);
        }
        assert_eq!(gathered, 1, "in turn {turns}");
        while rig.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) && !bytes.is_empty() {}
        rig.next_turn();
        turns += 1;
    }
    let got = received(&bytes);
    assert_eq!(offsets(&got).len(), 500);
    let cursors = got.iter().filter(|frame| frame.kind() == "cursor").count();
    assert!((3..=8).contains(&cursors), "{cursors} reports in {} bytes", bytes.len());
}

/// A client whose link is cut again and again.
#[derive(Default)]
struct Unlucky {
    cursor: String,
    newest: BTreeMap<String, u64>,
    got: BTreeMap<String, Vec<u64>>,
    doubles: usize,
}

impl Unlucky {
    fn take(&mut self, frames: &[Received]) {
        for frame in frames {
            let message = frame.text();
            if let Some(cursor) = message["cursor"].as_str() {
                cursor.clone_into(&mut self.cursor);
            }
            if message["type"] == "subscribed" {
                assert_eq!(message["data"]["recovered"], true);
            }
            if message["type"] == "event" {
                let (channel, offset) = (message["channel"].as_str().expect("a name"), message["offset"].as_u64());
                let newest = self.newest.entry(channel.to_owned()).or_default();
                if offset <= Some(*newest) {
                    self.doubles += 1;
                    continue;
                }
                *newest = offset.expect("an offset");
                let number = message["data"].as_u64().expect("a number");
                self.got.entry(channel.to_owned()).or_default().push(number);
            }
        }
    }
}

#[test]
fn five_thousand_histories_are_replayed_over_a_link_that_is_cut_every_second() {
    const CHANNELS: usize = 5_000;
    const EVENTS: usize = 3;
    const LINK_BYTES_PER_TURN: usize = 2_048;
    let mut rig = Rig::with_state(StateSettings {
        channels: 2 * CHANNELS,
        ..StateSettings::default()
    });
    let (first, cursor) = rig.subscribed(&["grid.*"]);
    rig.core.on_socket_error(first, rig.now);
    for n in 0..EVENTS {
        for channel in 0..CHANNELS {
            rig.event(&format!("grid.g{channel}.order"), &n.to_string());
        }
    }
    let mut client = Unlucky {
        cursor,
        ..Unlucky::default()
    };
    let mut cuts = 0;
    let is_done = |client: &Unlucky| client.got.values().map(Vec::len).sum::<usize>() == CHANNELS * EVENTS;
    while !is_done(&client) {
        let id = rig.connect();
        let cursor = client.cursor.clone();
        resume(&mut rig, id, &["grid.*"], &cursor);
        let mut bytes = Vec::new();
        // A second.
        for _ in 0..40 {
            rig.now = rig.now.after_ms(25);
            rig.core.begin_turn(rig.now);
            rig.core.deliver(usize::MAX);
            let end = bytes.len() + LINK_BYTES_PER_TURN;
            while bytes.len() < end && rig.write_some(id, end - bytes.len(), &mut bytes) == Some(Sent::More) {}
            if bytes.len() == end {
                rig.core.blocked(id, rig.now);
                rig.core.writable(id);
            }
        }
        client.take(&received(whole(&bytes)));
        rig.core.on_socket_error(id, rig.now);
        cuts += 1;
        assert!(
            cuts < 60,
            "no progress: {} channels, {} doubles",
            client.got.len(),
            client.doubles
        );
    }
    assert!(cuts > 10, "the link was cut {cuts} times");
    assert!(
        client
            .got
            .values()
            .all(|numbers| numbers.iter().copied().eq(0..EVENTS as u64))
    );
    // What comes again is at most what fits between two cursors.
    assert!(client.doubles < 5_000, "{} doubles", client.doubles);
    assert_eq!(rig.metrics.endings(Disconnect::SlowConsumer), 0);
}
