//! Connections that are sent at most so many bytes in a second.

use serde_json::json;

use super::support::told;
use super::*;
use tickgate_protocol::channel::{Class, History, Overflow};

const PER_SECOND: u32 = 10_000;

fn limited(mode: Mode) -> Arc<session::Settings> {
    let limits = Limits {
        bytes_per_second: PER_SECOND,
        ..Limits::default()
    };
    session_settings(mode, limits)
}

impl Rig {
    fn connect_limited(&mut self) -> ConnectionId {
        self.connect_with(limited(Mode::Off), Ok(None), true)
    }

    /// What a client is sent in so many milliseconds, with the bytes.
    fn read_for(&mut self, id: ConnectionId, ms: u64) -> (Vec<Received>, usize) {
        let end_ms = self.now.mono_ms + ms;
        let mut bytes = Vec::new();
        loop {
            self.core.begin_turn(self.now);
            self.core.deliver(usize::MAX);
            let mut others = Vec::new();
            while let Some(dirty) = self.core.next_dirty() {
                if dirty != id {
                    others.push(dirty);
                }
                while dirty == id && self.write_some(id, usize::MAX, &mut bytes) == Some(Sent::More) {}
            }
            for other in others {
                self.core.postpone(other);
            }
            if self.now.mono_ms == end_ms {
                return (received(&bytes), bytes.len());
            }
            // Meanwhile the socket reports that it is writable, as it may at any time.
            assert!(!self.core.writable(id));
            self.now = self.now.after_ms(1);
        }
    }

    fn throttled(&self) -> i64 {
        self.metrics.read().throttled
    }
}

/// `data` of a thousand bytes.
fn long(number: u64) -> String {
    format!(r#"{{"n":{number},"pad":"{}"}}"#, "x".repeat(980))
}

fn numbers(frames: &[Received]) -> Vec<u64> {
    let numbers = told(frames);
    numbers.iter().filter_map(|data| data["n"].as_u64()).collect()
}

#[test]
fn a_second_brings_no_more_than_the_limit_and_conflated_values_are_the_newest() {
    let mut rig = Rig::new();
    let (id, other) = (rig.connect_limited(), rig.connect());
    for id in [id, other] {
        rig.subscribe(id, "market.*.price");
        assert_eq!(rig.read(id).last().map(Received::kind), Some("subscribed"));
    }
    let mut most = 0;
    for number in 1..=100 {
        rig.event("market.a.price", &long(number));
        let (got, bytes) = rig.read_for(id, 10);
        most = numbers(&got).last().copied().unwrap_or(most);
        assert_eq!(numbers(&rig.read(other)), [number], "others have no limit");
        assert!(bytes <= PER_SECOND as usize + 1_100, "{bytes} bytes");
    }
    // The burst of a second has been sent, and what a second grants.
    assert!((17..=100).contains(&most), "{most}");
    assert!(rig.metrics.read().conflated > 0 && rig.metrics.read().throttles > 1);
    let (got, bytes) = rig.read_for(id, 2_000);
    assert_eq!(numbers(&got).last(), Some(&100), "the newest value comes");
    assert!(numbers(&got).is_sorted_by(|a, b| a < b) && bytes <= 2 * PER_SECOND as usize + 1_100);
    assert_eq!(rig.throttled(), 0);
}

#[test]
fn events_that_may_be_dropped_are_dropped_and_told() {
    let mut rig = Rig::new();
    let id = rig.connect_limited();
    rig.subscribe(id, "system.log");
    rig.read(id);
    for number in 1..=100 {
        rig.event("system.log", &long(number));
    }
    assert_eq!(rig.throttled(), 0, "nothing was written yet");
    let (got, bytes) = rig.read_for(id, 1_500);
    assert!(bytes <= 5 * PER_SECOND as usize / 2 + 1_100, "{bytes} bytes");
    let lost = got.iter().find(|frame| frame.kind() == "dropped").expect("a report");
    let count = lost.text()["data"]["count"].as_u64();
    assert_eq!(count, Some(100 - numbers(&got).len() as u64));
    assert_eq!(numbers(&got).last(), Some(&100));
}

#[test]
fn a_history_is_read_on_as_fast_as_the_limit_allows() {
    let history = History {
        size: 200,
        ttl_ms: 3_600_000,
    };
    let class = Class {
        history: Some(history),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    let mut rig = Rig::with_classes(vec![("trade.*", class)]);
    let id = rig.connect_limited();
    rig.subscribe(id, "trade.*");
    rig.read(id);
    let mut all = Vec::new();
    for number in 1..=150 {
        rig.event(if number % 3 == 0 { "trade.a" } else { "trade.b" }, &long(number));
        let (got, _) = rig.read_for(id, 10);
        all.extend(got);
    }
    assert!(numbers(&all).len() < 40, "they came faster than the limit allows");
    let (rest, bytes) = rig.read_for(id, 10_000);
    assert!((90_000..=110_000).contains(&bytes), "{bytes} bytes");
    all.extend(rest);
    all.extend(rig.read_for(id, 10_000).0);
    let of = |channel: &str| -> Vec<u64> {
        let events = all.iter().filter(|frame| frame.text()["channel"] == channel);
        events.filter_map(|event| event.text()["data"]["n"].as_u64()).collect()
    };
    assert_eq!(of("trade.a"), (1..=50).map(|n| 3 * n).collect::<Vec<_>>());
    assert_eq!(of("trade.b"), (1..=150).filter(|n| n % 3 != 0).collect::<Vec<_>>());
    assert!(!rig.core.is_closing(id) && rig.metrics.read().dropped == 0);
    // Live again.
    rig.event("trade.a", &long(151));
    assert_eq!(numbers(&rig.read_for(id, 0).0), [151]);
    assert!(rig.has_no_extra(id));
}

#[test]
fn what_a_history_keeps_no_more_is_told_and_the_client_stays() {
    let history = |size| History {
        size,
        ttl_ms: 3_600_000,
    };
    let class = |size| Class {
        history: Some(history(size)),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    let mut rig = Rig::with_classes(vec![("trade.*", class(20)), ("order.*", class(500))]);
    let id = rig.connect_limited();
    for pattern in ["trade.*", "order.*"] {
        rig.subscribe(id, pattern);
    }
    rig.read(id);
    let mut all = Vec::new();
    for number in 1..=150 {
        rig.event(if number % 5 == 0 { "order.a" } else { "trade.a" }, &long(number));
        all.extend(rig.read_for(id, 10).0);
    }
    all.extend(rig.read_for(id, 20_000).0);
    let of = |channel: &str| -> Vec<u64> {
        let events = all.iter().filter(|frame| frame.text()["channel"] == channel);
        events.filter_map(|event| event.text()["data"]["n"].as_u64()).collect()
    };
    // A history that keeps enough is whole.
    assert_eq!(of("order.a"), (1..=30).map(|n| 5 * n).collect::<Vec<_>>());
    let trades = of("trade.a");
    assert!(
        trades.is_sorted_by(|a, b| a < b) && trades.last() == Some(&149),
        "{trades:?}"
    );
    assert!(trades.len() < 100, "some are gone: {}", trades.len());
    // A loss is told before what comes behind it.
    let mut told = 0;
    let mut last = 0;
    for frame in &all {
        if frame.kind() == "dropped" {
            assert_eq!(frame.text()["data"]["channels"], json!(["trade.a"]));
            told += 1;
            last = 0;
        } else if frame.text()["channel"] == "trade.a" {
            let number = frame.text()["data"]["n"].as_u64().expect("a number");
            let next = if last % 5 == 4 { last + 2 } else { last + 1 };
            assert!(
                last == 0 || number == next,
                "{number} after {last}, and nothing is told"
            );
            last = number;
        }
    }
    assert!(told > 0 && !rig.core.is_closing(id));
    // Live again.
    rig.event("trade.a", &long(151));
    assert_eq!(numbers(&rig.read_for(id, 0).0), [151]);
}

/// A client may be owed the last value of a channel whose history is gone by its turn. The last value is kept longer.
#[test]
fn a_last_value_comes_though_the_history_behind_it_is_gone() {
    let class = Class {
        cache_last: true,
        history: Some(History { size: 5, ttl_ms: 100 }),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    let mut rig = Rig::with_classes(vec![("life.*", class)]);
    let id = rig.connect_limited();
    rig.subscribe(id, "system.log");
    rig.read(id);
    rig.event("life.a", &long(1));
    for _ in 0..2 {
        for number in 1_001..=1_020 {
            rig.event("system.log", &long(number));
        }
        rig.read_for(id, 0);
    }
    assert_eq!(rig.throttled(), 1);
    rig.subscribe(id, "life.*");
    for number in 2..=12 {
        rig.event("life.a", &long(number));
    }
    let (got, _) = rig.read_for(id, 10_000);
    let of_life: Vec<_> = numbers(&got).into_iter().filter(|number| *number < 1_000).collect();
    assert_eq!(of_life, [12]);
    let lost = got.iter().filter(|frame| frame.kind() == "dropped");
    let lost: Vec<_> = lost.map(|frame| frame.text()["data"]["channels"].clone()).collect();
    assert!(lost.contains(&json!(["life.a"])), "{lost:?}");
    assert!(!rig.core.is_closing(id));
}

#[test]
fn the_identity_says_the_limit_and_the_status_shows_it() {
    let mut rig = Rig::new();
    let permissions = |bytes_per_second| Permissions {
        channels: vec![Pattern::parse("market.*").expect("valid")],
        bytes_per_second,
        ..Permissions::default()
    };
    let id = rig.connect_with(limited(Mode::Optional), Ok(None), true);
    let status = |rig: &mut Rig| {
        rig.say(id, r#"{"type":"get_status"}"#);
        let got = rig.read_for(id, 0).0;
        got.last().expect("a status").text()["bytes_per_second"].clone()
    };
    assert_eq!(status(&mut rig), PER_SECOND);
    for (own, told) in [
        (Some(2_000), json!(2_000)),
        (Some(0), json!(null)),
        (None, json!(PER_SECOND)),
    ] {
        rig.say(id, r#"{"type":"auth","token":"another"}"#);
        let (to, request, _) = rig.asked.verify.lock().expect("not poisoned").pop().expect("asked");
        let outcome = Ok(identity_with(Some("u"), permissions(own)));
        rig.message(ShardMessage::Verified { to, request, outcome });
        assert_eq!(status(&mut rig), told);
    }
}

#[test]
fn a_connection_that_waits_ends_at_once_and_leaves_nothing_behind() {
    let mut rig = Rig::new();
    let id = rig.connect_limited();
    rig.subscribe(id, "system.log");
    for _ in 0..2 {
        for number in 1..=20 {
            rig.event("system.log", &long(number));
        }
        rig.read_for(id, 0);
    }
    assert_eq!((rig.throttled(), rig.core.next_turn_ms().is_some()), (1, true));
    rig.message(ShardMessage::Disconnect {
        id,
        tenant: None,
        ending: Disconnect::ByOperator,
        reply: Box::new(|_| ()),
    });
    assert_eq!(rig.throttled(), 0);
    let got = rig.read(id);
    assert_eq!(got.last(), Some(&Received::Close(4003)));
    assert_eq!(rig.core.next_turn_ms(), None);
}

#[test]
fn a_client_that_asks_more_than_it_may_be_sent_waits_for_its_answers() {
    let mut rig = Rig::new();
    let limits = Limits {
        bytes_per_second: 2_000,
        messages_per_second: 10_000,
        reply_frames: 8,
        ..Limits::default()
    };
    let id = rig.connect_with(session_settings(Mode::Off, limits), Ok(None), true);
    for number in 0..200 {
        rig.say(id, &format!(r#"{{"type":"ping","id":{number}}}"#));
    }
    let mut answers = 0;
    for _ in 0..100 {
        answers += rig
            .read_for(id, 100)
            .0
            .iter()
            .filter(|frame| frame.kind() == "pong")
            .count();
    }
    assert_eq!(answers, 200);
    assert!(!rig.core.is_closing(id));
}
