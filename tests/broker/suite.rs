//! What every broker promises.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use tickgate::event::{Deletion, NewEvent};
use tickgate::hub::LOG_STEP;

use tickgate::broker::{Link, nats, redis};

use crate::nats_server::Nats;
use crate::node::{Got, Node, channel, check_order, event, until, until_with, with_id};
use crate::notices::Notices;
use crate::redis_server::Redis;
use crate::world::World;

const SEED: u64 = 18;

/// The checks that need nothing but a broker.
pub(crate) const CHECKS: &[fn()] = &[
    every_reader_on_every_gateway_gets_every_event_once_and_in_order,
    an_event_with_a_receipt_is_in_the_hub_that_gives_it,
    a_client_recovers_on_another_gateway_exactly_what_it_missed,
    a_position_ahead_of_a_gateway_is_waited_for_and_one_below_the_history_is_told,
    an_id_that_is_repeated_through_another_gateway_is_one_event_with_one_offset,
    a_gateway_that_starts_later_has_the_same_state,
    merged_values_are_the_same_on_every_gateway_and_on_one_that_starts_later,
    an_unchanged_value_is_not_sent_whoever_publishes_it,
    a_deletion_holds_on_every_gateway_and_on_one_that_starts_later,
    versions_are_integers_that_every_client_can_read,
];

fn random() -> StdRng {
    let seed = std::env::var("TICKGATE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(SEED);
    println!("TICKGATE_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

#[test]
pub(crate) fn every_reader_on_every_gateway_gets_every_event_once_and_in_order() {
    const CHANNELS: [&str; 6] = ["kept.a", "kept.b", "last.a", "plain.a", "plain.b", "kept.c"];
    const EACH: u64 = 300;
    World::each(|broker, mut world| {
        for node in &mut world.nodes {
            node.join("*");
            node.join("kept.*");
        }
        let mut random = random();
        let mut got: Vec<Vec<Got>> = world.nodes.iter().map(|_| Vec::new()).collect();
        let mut number = 0;
        while number < EACH {
            let batch = random.random_range(1..20).min(EACH - number);
            for (publisher, node) in world.nodes.iter().enumerate() {
                let of = |number| CHANNELS.map(|name| event(name, format!("[{publisher},{number}]")));
                let outcomes = node.publish((number..number + batch).flat_map(of).collect());
                assert!(outcomes.iter().all(Result::is_ok), "{broker}");
            }
            number += batch;
            for (node, got) in world.nodes.iter_mut().zip(&mut got) {
                node.take(got);
            }
        }
        let all = usize::try_from(EACH).expect("small") * CHANNELS.len() * world.nodes.len();
        for (node, got) in world.nodes.iter_mut().zip(&mut got) {
            node.take_until(got, all);
            assert_eq!(got.len(), all, "{broker}: nothing comes twice");
            check_order(got).unwrap_or_else(|wrong| panic!("{broker}: {wrong}"));
        }
        // The kept events have the same order and the same versions everywhere.
        let kept = |got: &[Got]| {
            got.iter()
                .filter(|(.., version, _)| *version > 0)
                .cloned()
                .collect::<Vec<_>>()
        };
        for other in &got[1..] {
            assert_eq!(kept(other), kept(&got[0]), "{broker}");
        }
    });
}

#[test]
pub(crate) fn an_event_with_a_receipt_is_in_the_hub_that_gives_it() {
    World::each(|broker, world| {
        for number in 0..100 {
            let node = &world.nodes[number % world.nodes.len()];
            for name in ["kept.a", "last.a"] {
                node.publish_one(event(name, number));
                assert_eq!(node.last(name), Some(number.to_string()), "{broker}: {name}");
            }
        }
    });
}

#[test]
pub(crate) fn a_client_recovers_on_another_gateway_exactly_what_it_missed() {
    World::each(|broker, mut world| {
        let mut random = random();
        // What was published, with its offset.
        let mut published: Vec<(u64, String)> = Vec::new();
        let mut answered = 0;
        for step in 0..400 {
            let node = random.random_range(0..world.nodes.len());
            if random.random_bool(0.6) || published.is_empty() {
                let receipt = world.nodes[node].publish_one(event("kept.r", step));
                published.push((receipt.offset.expect("a history"), step.to_string()));
                continue;
            }
            let at = random.random_range(0..published.len());
            let epoch = world.nodes[node].hub.epoch();
            let position = published[at].0;
            let expected: Vec<String> = published[at + 1..].iter().map(|(_, data)| data.clone()).collect();
            match world.nodes[node].recover("kept.r", epoch, position) {
                Some(missed) => {
                    // What was published through another gateway may still be on its way.
                    assert_eq!(missed[..], expected[..missed.len()], "{broker}, step {step}");
                    answered += 1;
                }
                None => assert!(published.len() - at > 200, "{broker}, step {step}: it is kept"),
            }
        }
        assert!(answered > 100, "{broker}: {answered}");
    });
}

#[test]
fn a_position_ahead_of_a_gateway_is_waited_for_and_one_below_the_history_is_told() {
    World::each(|broker, mut world| {
        let first = world.nodes[0]
            .publish_one(event("kept.a", 0))
            .offset
            .expect("a history");
        let mut newest = 0;
        for number in 1..=250 {
            newest = world.nodes[0]
                .publish_one(event("kept.a", number))
                .offset
                .expect("a history");
        }
        for node in &mut world.nodes {
            let epoch = node.hub.epoch();
            assert_eq!(node.recover("kept.a", epoch, newest), Some(Vec::new()), "{broker}");
            assert_eq!(node.recover("kept.a", epoch, first), None, "{broker}: it is trimmed");
        }
    });
}

#[test]
pub(crate) fn an_id_that_is_repeated_through_another_gateway_is_one_event_with_one_offset() {
    World::each(|broker, mut world| {
        let first = world.nodes[0].publish_one(with_id("kept.a", 1, "x"));
        assert!(!first.duplicate);
        for name in ["last.a", "plain.a"] {
            assert!(!world.nodes[0].publish_one(with_id(name, 1, "x")).duplicate);
        }
        world.add();
        for node in &world.nodes {
            let again = node.publish_one(with_id("kept.a", 2, "x"));
            assert_eq!((again.duplicate, again.offset), (true, first.offset), "{broker}");
            for name in ["last.a", "plain.a"] {
                assert!(node.publish_one(with_id(name, 2, "x")).duplicate, "{broker}: {name}");
            }
        }
        for name in ["kept.a", "last.a"] {
            assert_eq!(world.nodes[0].last(name).as_deref(), Some("1"), "{broker}: {name}");
        }
    });
}

/// The merged records, in the order of their keys.
fn rows(node: &Node) -> Vec<(u64, u64)> {
    let last = node.last("rows.a").expect("records");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&last).expect("JSON");
    let number = |row: &serde_json::Value, key: &str| row[key].as_u64().expect("a number");
    let mut rows: Vec<_> = rows.iter().map(|row| (number(row, "id"), number(row, "n"))).collect();
    rows.sort_unstable();
    rows
}

#[test]
fn a_gateway_that_starts_later_has_the_same_state() {
    World::each(|broker, mut world| {
        let mut positions = Vec::new();
        for number in 0..300u64 {
            let node = &world.nodes[usize::try_from(number).expect("small") % world.nodes.len()];
            positions.push(node.publish_one(event("kept.a", number)).offset.expect("a history"));
            node.publish_one(event("last.a", number));
            node.publish_one(event("rows.a", format!(r#"[{{"id":{},"n":{number}}}]"#, number % 7)));
        }
        if !world.add() {
            return;
        }
        let (before, new) = world.nodes.split_at_mut(3);
        let (before, new) = (&mut before[0], &mut new[0]);
        until_with("the last event", || match before.last("last.a") {
            Some(last) if last == "299" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        for name in ["kept.a", "last.a"] {
            assert_eq!(new.last(name), before.last(name), "{broker}: {name}");
        }
        assert_eq!(rows(new), rows(before), "{broker}");
        let epoch = before.hub.epoch();
        assert_eq!(new.hub.epoch(), epoch);
        for position in positions.iter().step_by(10) {
            let (old, new) = (
                before.recover("kept.a", epoch, *position),
                new.recover("kept.a", epoch, *position),
            );
            assert_eq!(new, old, "{broker}");
        }
        assert!(
            before
                .recover("kept.a", epoch, positions[200])
                .is_some_and(|missed| missed.len() == 99)
        );
    });
}

/// Records and levels that come and go, published through all gateways by turns, beside a model. The log has lost most of
/// the updates when the last gateway starts.
#[test]
fn merged_values_are_the_same_on_every_gateway_and_on_one_that_starts_later() {
    World::each(|broker, mut world| {
        let mut random = random();
        let (mut records, mut levels) = (BTreeMap::new(), BTreeMap::new());
        let (mut sequence, mut positions) = (0u64, Vec::new());
        while sequence < 800 {
            let node = &world.nodes[random.random_range(0..world.nodes.len())];
            let mut batch = Vec::new();
            for _ in 0..random.random_range(1..30) {
                sequence += 1;
                let (key, goes) = (random.random_range(0..6u64), random.random_bool(0.4));
                let record = format!(r#"[{{"id":{key},"n":{sequence},"gone":{goes}}}]"#);
                let size = if goes { 0 } else { sequence };
                let level = format!(
                    r#"{{"prev_seq":{},"seq":{sequence},"bids":[[{key},{size}]],"asks":[]}}"#,
                    sequence - 1
                );
                for map in [&mut records, &mut levels] {
                    match goes {
                        true => map.remove(&key),
                        false => map.insert(key, sequence),
                    };
                }
                batch.push(event("gone.a", &record));
                batch.push(event("mixed.a", &record));
                batch.push(event("book.a", &level));
                batch.push(event("deep.a", &level));
            }
            batch.push(event("kept.end", sequence));
            let outcomes = node.publish(batch);
            let receipts = outcomes.into_iter().map(|outcome| outcome.expect("published"));
            let offsets: Vec<u64> = receipts.filter_map(|receipt| receipt.offset).collect();
            // Without that of the last event, which is on another channel.
            positions.extend(&offsets[..offsets.len() - 1]);
        }
        world.add();
        let epoch = world.nodes[0].hub.epoch();
        let everywhere = |node: &Node| ["gone.a", "mixed.a", "book.a", "deep.a"].map(|name| node.last(name));
        let mut recovered = Vec::new();
        for node in &mut world.nodes {
            until("the last event", || node.last("kept.end") == Some(sequence.to_string()));
            let position = positions[positions.len() - 50];
            recovered.push(node.recover("mixed.a", epoch, position));
        }
        let first = everywhere(&world.nodes[0]);
        for (node, missed) in world.nodes.iter().zip(&recovered) {
            assert_eq!(everywhere(node), first, "{broker}");
            assert_eq!(missed, &recovered[0], "{broker}");
        }
        assert_eq!(recovered[0].as_ref().map(Vec::len), Some(49), "{broker}");
        for name in ["gone.a", "mixed.a"] {
            let rows: Vec<Value> = json(&world.nodes[0].last(name).expect("records"));
            let got: BTreeMap<u64, u64> = rows.iter().map(|row| (number(&row["id"]), number(&row["n"]))).collect();
            assert_eq!(got, records, "{broker}: {name}");
        }
        let best: Vec<(u64, u64)> = levels.iter().rev().map(|(price, size)| (*price, *size)).collect();
        for (name, depth) in [("book.a", best.len()), ("deep.a", 3)] {
            let book: Value = json(&world.nodes[0].last(name).expect("a book"));
            let bids = book["bids"].as_array().expect("levels").iter();
            let got: Vec<(u64, u64)> = bids.map(|level| (number(&level[0]), number(&level[1]))).collect();
            assert_eq!(got, best[..depth.min(best.len())], "{broker}: {name}");
        }
    });
}

/// What is not merged for long outlives the log, which keeps other channels' events.
#[test]
fn merged_values_outlive_the_events_that_brought_them() {
    let server = Nats::start();
    let small = |name: &str| {
        Node::nats(nats::Settings {
            log_bytes: 1 << 20,
            ..Node::settings(server.url(), name)
        })
    };
    check_merged_values(small, || Notices::of(&server).wait());
}

#[test]
fn merged_values_outlive_the_events_that_brought_them_to_redis() {
    let server = Redis::start();
    let small = |name: &str| {
        Node::redis(redis::Settings {
            log_bytes: 1 << 20,
            ..Node::redis_settings(&server.address(), name)
        })
    };
    check_merged_values(small, || {});
}

/// `start` starts a gateway that keeps one MiB. `pause` is called before the log loses the last notice.
fn check_merged_values(start: impl Fn(&str) -> Node, pause: impl Fn()) {
    let mut node = start("n0");
    node.wait_for(Link::Up);
    node.publish_one(event("gone.a", r#"[{"id":1,"n":1},{"id":2,"n":2}]"#));
    node.publish_one(event("book.a", r#"{"seq":1,"bids":[[1,1]],"asks":[[2,1]]}"#));
    let of_nats = || Some(node.nats.as_ref()?.sample());
    let of_redis = || Some(node.redis.as_ref()?.sample());
    until("the values", || {
        of_nats().or_else(of_redis).expect("a shared broker").merged >= 2
    });
    let long = format!("\"{}\"", "x".repeat(20_000));
    for number in 0..80 {
        if number % 20 == 0 {
            pause();
        }
        node.publish_one(event(&format!("kept.{number}"), &long));
    }
    let mut new = start("n1");
    new.wait_for(Link::Up);
    assert!(new.last("kept.0").is_none(), "the log has lost it");
    for name in ["gone.a", "book.a"] {
        assert!(new.last(name).is_some() && new.last(name) == node.last(name), "{name}");
    }
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("JSON")
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

#[test]
fn an_unchanged_value_is_not_sent_whoever_publishes_it() {
    World::each(|broker, mut world| {
        for node in &mut world.nodes {
            node.join("same.*");
        }
        let (first, last) = (&world.nodes[0], world.nodes.last().expect("one"));
        assert!(!first.publish_one(event("same.a", 1)).unchanged);
        assert!(last.publish_one(event("same.a", " 1.0 ")).unchanged, "{broker}");
        assert!(!last.publish_one(event("same.a", 2)).unchanged);
        assert!(!first.publish_one(event("same.a", 1)).unchanged);
        for node in &mut world.nodes {
            let mut got = Vec::new();
            node.take_until(&mut got, 3);
            let data: Vec<&str> = got.iter().map(|(.., data)| &**data).collect();
            assert_eq!(data, ["1", "2", "1"], "{broker}");
        }
    });
}

#[test]
fn a_deletion_holds_on_every_gateway_and_on_one_that_starts_later() {
    World::each(|broker, mut world| {
        for node in &mut world.nodes {
            node.join("last.*");
        }
        world.nodes[0].publish_one(event("last.a", 1));
        world.nodes[0].publish_one(event("last.b", 2));
        let deletion = NewEvent::deletion(channel("last.a"), Deletion::Everything, 1);
        let last = world.nodes.last().expect("one");
        assert!(!last.publish_one(deletion.clone()).unchanged, "{broker}");
        assert!(
            world.nodes[0].publish_one(deletion).unchanged,
            "{broker}: nothing is left"
        );
        world.add();
        for node in &world.nodes {
            until("the deletion", || node.last("last.a").is_none());
            assert_eq!(node.last("last.b").as_deref(), Some("2"), "{broker}");
        }
        for node in world.nodes.iter_mut().take(1) {
            let mut got = Vec::new();
            node.take_until(&mut got, 3);
            assert_eq!(got[2].2, "null", "{broker}: subscribers are told");
        }
    });
}

#[test]
fn versions_are_integers_that_every_client_can_read() {
    World::each(|_, world| {
        let offset = world.nodes[0]
            .publish_one(event("kept.a", 1))
            .offset
            .expect("a history");
        assert!(offset < 1 << 53);
        if world.is_shared() {
            assert_eq!(offset % LOG_STEP, 0);
        }
    });
}

#[test]
fn the_check_of_the_order_finds_gaps_doubles_and_swaps() {
    let got = |numbers: &[(u64, u64)]| -> Vec<Got> {
        let event = |(version, number): &(u64, u64)| ("a".to_owned(), *version, format!("[0,{number}]"));
        numbers.iter().map(event).collect()
    };
    assert!(check_order(&got(&[(1, 5), (2, 6), (3, 7)])).is_ok());
    for wrong in [
        &[(1, 5), (2, 7)][..],
        &[(1, 5), (2, 5)],
        &[(1, 6), (2, 5)],
        &[(2, 5), (1, 6)],
    ] {
        assert!(check_order(&got(wrong)).is_err(), "{wrong:?}");
    }
}
