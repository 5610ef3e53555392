//! Subscriptions with a rate.

use super::*;
use crate::event::Deletion;
use tickgate_protocol::channel::{BookRules, Class, Classes, Overflow, Tenant};
use tickgate_protocol::json::RecordDelete;
use tickgate_protocol::rate::Rate;

impl Rig {
    fn at(&mut self, second: f64) {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let ms = (second * 1000.0) as u64;
        let base = START.mono_ms.next_multiple_of(10_000);
        self.now = START.after_ms(base - START.mono_ms + ms);
        self.core.begin_turn(self.now);
        self.core.deliver(usize::MAX);
    }

    fn subscribe_at(&mut self, id: ConnectionId, pattern: &str, rate: &str) -> serde_json::Value {
        let max_rate = if rate.is_empty() {
            String::new()
        } else {
            format!(r#","max_rate":{rate}"#)
        };
        self.say(
            id,
            &format!(r#"{{"type":"subscribe","channels":["{pattern}"]{max_rate}}}"#),
        );
        let told = quiet(self.read(id));
        let reply = told
            .iter()
            .find(|frame| frame.kind() == "subscribed")
            .expect("an answer");
        reply.text()["data"]["max_rate"].clone()
    }

    // The data of the events that a client got.
    fn values(&mut self, id: ConnectionId) -> Vec<String> {
        let frames = quiet(self.read(id));
        let events = frames.iter().filter(|frame| frame.kind() == "event");
        events.map(|event| event.text()["data"].to_string()).collect()
    }
}

const PRICE: &str = "market.BTC.price";

#[test]
fn a_client_gets_the_newest_value_of_each_period() {
    let mut rig = Rig::new();
    let [slow, all] = [rig.connect(), rig.connect()];
    rig.at(0.0);
    assert_eq!(rig.subscribe_at(slow, "market.*.price", "1.7"), 1);
    assert_eq!(rig.subscribe_at(all, "market.*.price", ""), serde_json::Value::Null);
    rig.at(1.0);
    // The first value comes at once.
    rig.event(PRICE, "1");
    assert_eq!(
        (rig.values(slow), rig.values(all)),
        (vec!["1".to_owned()], vec!["1".to_owned()])
    );
    for value in ["2", "3", "4"] {
        rig.event(PRICE, value);
        assert_eq!(rig.values(all), [value]);
    }
    rig.event("market.ETH.price", "7");
    assert_eq!(rig.values(slow), ["7"], "another channel");
    assert_eq!(rig.core.next_turn_ms(), Some(rig.now.mono_ms + 1_000));
    rig.at(1.999);
    assert_eq!(rig.values(slow), [""; 0]);
    rig.at(2.0);
    assert_eq!(rig.values(slow), ["4"]);
    assert_eq!(rig.metrics.rate_offered.get(), 5);
    assert_eq!(rig.metrics.rate_sent.get(), 3);
    assert_eq!(rig.metrics.rate_conflated.get(), 2);
    for second in [3.0, 4.0, 5.0] {
        rig.at(second);
    }
    assert_eq!(rig.values(slow), [""; 0]);
    assert_eq!(rig.core.next_turn_ms(), None, "nothing runs");
}

#[test]
fn all_changed_channels_of_a_period_go_in_one_write() {
    let mut rig = Rig::new();
    let [one, two] = [rig.connect(), rig.connect()];
    rig.at(0.0);
    // The fifth connection has the phase of the first.
    let others: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    for id in [one, others[2]] {
        rig.subscribe_at(id, "market.*.price", "1");
    }
    rig.subscribe_at(two, "market.*.price", "1");
    let channels: Vec<String> = (0..20).map(|n| format!("market.s{n}.price")).collect();
    rig.at(0.5);
    for channel in &channels {
        rig.event(channel, "1");
    }
    assert_eq!(rig.values(two).len(), 20, "its first period has ended");
    rig.at(1.0);
    assert_eq!((rig.values(one).len(), rig.values(others[2]).len()), (20, 20));
    for channel in &channels {
        rig.event(channel, "2");
    }
    rig.at(1.25);
    assert_eq!((rig.values(one).len(), rig.values(two).len()), (0, 20), "another phase");
    rig.at(2.0);
    // One frame for the run of all channels, which both connections share.
    assert_eq!(rig.core.queued_frames(), 2);
}

#[test]
fn the_faster_of_two_patterns_counts() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.at(0.0);
    rig.subscribe_at(id, "market.*.price", "1");
    rig.subscribe_at(id, "market.BTC.*", "10");
    rig.at(1.0);
    rig.event(PRICE, "1");
    rig.event("market.ETH.price", "1");
    assert_eq!(rig.values(id).len(), 2);
    for (second, value) in [(1.05, "2"), (1.15, "3"), (1.25, "4")] {
        rig.at(second);
        rig.event(PRICE, value);
        rig.event("market.ETH.price", value);
    }
    rig.at(1.3);
    assert_eq!(rig.values(id), ["2", "3", "4"]);
    rig.at(2.0);
    assert_eq!(rig.values(id), ["4"], "of the slow pattern's other channel");
    // What waits is sent before the faster pattern goes.
    rig.event(PRICE, "5");
    assert_eq!(rig.values(id), ["5"], "it was quiet");
    rig.event(PRICE, "6");
    rig.say(id, r#"{"type":"unsubscribe","channels":["market.BTC.*"]}"#);
    assert_eq!(rig.values(id), ["6"]);
    rig.event(PRICE, "7");
    for second in [2.1, 2.2] {
        rig.at(second);
        assert_eq!(rig.values(id), [""; 0]);
    }
    rig.at(3.0);
    assert_eq!(rig.values(id), ["7"]);
}

#[test]
fn a_rate_changes_at_once_without_a_gap_and_without_a_duplicate() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.at(0.0);
    rig.subscribe_at(id, "market.*.price", "1");
    rig.event(PRICE, "1");
    rig.event(PRICE, "2");
    // To no limit: what waits comes now, and everything from now on.
    rig.say(id, r#"{"type":"subscribe","channels":["market.*.price"]}"#);
    let frames = quiet(rig.read(id));
    assert_eq!(kinds(&frames), ["event", "subscribed"]);
    assert_eq!(frames[0].text()["data"], 2);
    assert_eq!(frames[1].text()["data"]["max_rate"], serde_json::Value::Null);
    rig.event(PRICE, "3");
    rig.event(PRICE, "4");
    assert_eq!(rig.values(id), ["3", "4"]);
    rig.at(1.0);
    assert_eq!(rig.values(id), [""; 0]);
    // To a limit: the period begins now.
    assert_eq!(rig.subscribe_at(id, "market.*.price", "0.5"), 0.5);
    rig.event(PRICE, "5");
    rig.event(PRICE, "6");
    assert_eq!(rig.values(id), [""; 0]);
    rig.at(2.0);
    assert_eq!(rig.values(id), ["6"]);
    rig.event(PRICE, "7");
    // To a faster rate, while a value waits.
    rig.say(
        id,
        r#"{"type":"subscribe","channels":["market.*.price"],"max_rate":20}"#,
    );
    assert_eq!(rig.values(id), ["7"]);
    rig.event(PRICE, "8");
    rig.at(2.05);
    assert_eq!(rig.values(id), ["8"]);
    rig.at(4.0);
    assert_eq!(rig.values(id), [""; 0]);
}

#[test]
fn a_newcomer_gets_no_value_twice_and_misses_none() {
    let mut rig = Rig::new();
    let [one, late] = [rig.connect(), rig.connect()];
    rig.at(0.0);
    rig.subscribe_at(one, "market.*.price", "1");
    rig.at(1.0);
    rig.event(PRICE, "1");
    rig.event(PRICE, "2");
    // The newcomer gets `2` as the last value, and has the second phase.
    let reply = r#"{"type":"subscribe","channels":["market.*.price"],"max_rate":1}"#;
    rig.say(late, reply);
    assert_eq!(rig.values(late), ["2"]);
    rig.at(1.25);
    assert_eq!(rig.values(late), [""; 0]);
    rig.at(2.0);
    assert_eq!(
        (rig.values(one), rig.values(late)),
        (vec!["1".to_owned(), "2".to_owned()], vec![])
    );
    // A newcomer within its first period is owed what others get at once.
    rig.at(5.0);
    let third: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    rig.say(third[2], reply);
    assert_eq!(rig.values(third[2]), ["2"]);
    rig.event(PRICE, "3");
    assert_eq!((rig.values(one), rig.values(third[2])), (vec!["3".to_owned()], vec![]));
    rig.at(6.0);
    assert_eq!((rig.values(one), rig.values(third[2])), (vec![], vec!["3".to_owned()]));
}

#[test]
fn a_slow_client_gets_what_waits_once() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.at(0.0);
    rig.subscribe_at(id, "market.*.price", "1");
    rig.at(1.0);
    rig.stall(id);
    rig.event(PRICE, "1");
    for round in 2..2_000 {
        rig.event(&format!("market.s{round}.price"), &round.to_string());
    }
    rig.event(PRICE, "2");
    // The channel is read from the hub while `2` waits for the end of the period.
    rig.core.writable(id);
    let values = rig.values(id);
    let twos = |values: &[String]| values.iter().filter(|value| *value == "2").count();
    let before = twos(&values);
    rig.at(2.0);
    let after = rig.values(id);
    assert_eq!(before + twos(&after), 2, "the price, and the channel s2");
    rig.event(PRICE, "3");
    rig.at(3.0);
    assert_eq!(rig.values(id), ["3"]);
}

#[test]
fn records_are_merged_over_the_period() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.at(0.0);
    rig.subscribe_at(id, "stock.*.price", "1");
    rig.at(1.0);
    let record = |code, price| format!(r#"[{{"code":"{code}","p":{price}}}]"#);
    rig.event("stock.x.price", &record("a", 1));
    assert_eq!(rig.values(id), [record("a", 1)]);
    for (code, price) in [("b", 1), ("c", 1), ("b", 2)] {
        rig.event("stock.x.price", &record(code, price));
    }
    rig.at(2.0);
    assert_eq!(rig.values(id), [r#"[{"code":"b","p":2},{"code":"c","p":1}]"#]);
    // Read before it was popped: it does not come again.
    rig.event("stock.x.price", &record("b", 3));
    rig.publish("stock.x.price", &record("c", 2));
    rig.at(3.0);
    assert_eq!(rig.values(id), [r#"[{"code":"b","p":3},{"code":"c","p":2}]"#]);
    rig.at(4.0);
    assert_eq!(rig.values(id), [""; 0]);
}

#[test]
fn other_classes_are_delivered_in_full_and_a_class_can_limit_all() {
    let conflating = |max_rate| Class {
        cache_last: true,
        overflow: Overflow::Conflate,
        max_rate,
        ..Class::default()
    };
    let pattern = |text| Pattern::parse(text).expect("valid");
    let classes = Arc::new(Classes::new(vec![
        (pattern("market.*.depth"), conflating(Rate::at_most(2.0))),
        (pattern("market.*.price"), conflating(None)),
    ]));
    let hub_settings = hub::Settings {
        classes: classes.clone(),
        ..hub::Settings::default()
    };
    let mut rig = Rig::of(shard_settings(), hub_settings);
    let settings = session::Settings {
        classes,
        ..(*session_settings(Mode::Off, Limits::default())).clone()
    };
    let settings = Arc::new(settings);
    let [all, slow] = [(); 2].map(|()| rig.connect_with(settings.clone(), Ok(None), true));
    rig.at(0.0);
    assert_eq!(rig.subscribe_at(all, "market.*", ""), serde_json::Value::Null);
    assert_eq!(rig.subscribe_at(all, "market.*.depth", ""), 2, "the class's");
    assert_eq!(rig.subscribe_at(slow, "market.*", "0.1"), 0.1);
    // Where a class has a limit, a subscription may be in several groups, and its first period ends with the second turn.
    rig.at(5.0);
    rig.at(10.0);
    for value in ["1", "2", "3"] {
        rig.event("market.x.depth", value);
        rig.event("market.x.price", value);
        rig.event("market.x.trade", value);
    }
    assert_eq!(rig.values(all), ["1", "1", "1", "2", "2", "3", "3"]);
    assert_eq!(rig.values(slow), ["1", "1", "1", "2", "3"]);
    rig.at(10.5);
    assert_eq!(rig.values(all), ["3"]);
    rig.at(20.0);
    rig.at(22.5);
    assert_eq!(rig.values(slow), ["3", "3"]);
    rig.say(
        slow,
        r#"{"type":"subscribe","channels":["market.*.trade"],"max_rate":1}"#,
    );
    let refusal = quiet(rig.read(slow));
    assert_eq!(refusal[0].text()["error"]["code"], "INVALID_MESSAGE", "a history");
}

/// A rig with these classes, and a client that gets at most one update a second of `market.*`, in its first period's end.
fn of_class(class: Class) -> (Rig, ConnectionId) {
    let entry = (Pattern::parse("market.*").expect("valid"), class);
    let classes = Arc::new(Classes::new(vec![entry]));
    let hub_settings = hub::Settings {
        credits: 16_384,
        classes: Arc::clone(&classes),
        ..hub::Settings::default()
    };
    let mut rig = Rig::of(shard_settings(), hub_settings);
    let settings = session::Settings {
        classes,
        ..(*session_settings(Mode::Off, Limits::default())).clone()
    };
    let id = rig.connect_with(Arc::new(settings), Ok(None), true);
    rig.at(0.0);
    rig.subscribe_at(id, "market.*", "1");
    rig.at(1.0);
    (rig, id)
}

fn last() -> Class {
    Class {
        cache_last: true,
        overflow: Overflow::Conflate,
        ..Class::default()
    }
}

#[test]
fn changes_of_a_book_are_merged_over_the_period() {
    let (mut rig, id) = of_class(Class {
        book: Some(BookRules::default()),
        ..last()
    });
    let update = |rig: &mut Rig, data: &str| rig.event("market.x.book", data);
    update(
        &mut rig,
        r#"{"snapshot":true,"bids":[[10,1],[9,2]],"asks":[[11,5]],"seq":1}"#,
    );
    let whole = rig.values(id);
    assert_eq!(whole.len(), 1, "the first one comes at once");
    for (number, data) in [
        r#""bids":[[10,0]],"asks":[]"#,
        r#""bids":[[10,7]],"asks":[[12,1]]"#,
        r#""bids":[[9,0]],"asks":[[12,0]]"#,
    ]
    .iter()
    .enumerate()
    {
        let (before, seq) = (number + 1, number + 2);
        update(&mut rig, &format!(r#"{{"prev_seq":{before},"seq":{seq},{data}}}"#));
    }
    assert_eq!(rig.values(id), [""; 0]);
    rig.at(2.0);
    let merged = rig.values(id);
    let merged: Vec<serde_json::Value> = merged
        .iter()
        .map(|text| serde_json::from_str(text).expect("JSON"))
        .collect();
    assert_eq!(merged.len(), 1);
    let sides = serde_json::json!({"bids": [[10, 7], [9, 0]], "asks": [[12, 0]]});
    assert_eq!(
        (&merged[0]["bids"], &merged[0]["asks"]),
        (&sides["bids"], &sides["asks"])
    );
    assert_eq!((&merged[0]["prev_seq"], &merged[0]["seq"]), (&1.into(), &4.into()));
}

#[test]
fn a_record_that_is_deleted_within_a_period_is_told_at_its_end() {
    let (mut rig, id) = of_class(Class {
        record_key: Some("code".into()),
        record_delete: Some(RecordDelete {
            field: "gone".into(),
            values: [].into(),
        }),
        ..last()
    });
    rig.event("market.x.orders", r#"[{"code":"a"},{"code":"b"}]"#);
    assert_eq!(rig.values(id).len(), 1);
    rig.event("market.x.orders", r#"[{"code":"a","gone":true}]"#);
    rig.event("market.x.orders", r#"[{"code":"c"}]"#);
    rig.at(2.0);
    assert_eq!(rig.values(id), [r#"[{"code":"a","gone":true},{"code":"c"}]"#]);
    // A record that comes again is there again.
    rig.event("market.x.orders", r#"[{"code":"c","gone":true}]"#);
    rig.event("market.x.orders", r#"[{"code":"a"}]"#);
    rig.event("market.x.orders", r#"[{"code":"c","n":2}]"#);
    rig.at(3.0);
    let values = rig.values(id);
    let [values] = &values[..] else { panic!("{values:?}") };
    let mut records: Vec<serde_json::Value> = serde_json::from_str(values).expect("JSON");
    records.sort_by_key(|record| record["code"].to_string());
    assert_eq!(
        records,
        [
            serde_json::json!({"code": "a"}),
            serde_json::json!({"code": "c", "n": 2})
        ]
    );
}

#[test]
fn the_deletion_of_a_channel_comes_at_the_end_of_the_period_and_only_once() {
    let (mut rig, id) = of_class(last());
    rig.event("market.x.price", "1");
    assert_eq!(rig.values(id), ["1"]);
    rig.event("market.x.price", "2");
    let channel = Channel::parse("market.x.price").expect("valid");
    let deletion = NewEvent::deletion(channel, Deletion::Everything, START.unix_ms);
    let credit = rig.hub.credit_now(Tenant::DEFAULT, 4).expect("room");
    rig.hub.publish(deletion, rig.now, credit, &mut Wakes::default());
    rig.core.deliver(usize::MAX);
    assert_eq!(rig.values(id), [""; 0]);
    rig.at(2.0);
    assert_eq!(rig.values(id), ["null"]);
    rig.at(3.0);
    assert_eq!(rig.values(id), [""; 0]);
    rig.event("market.x.price", "3");
    assert_eq!(rig.values(id), ["3"], "the channel was quiet for a period");
}
