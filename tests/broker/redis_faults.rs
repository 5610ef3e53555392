//! What the Redis broker promises when the server, a link or a gateway fails; see docs/scaling.md.

use std::path::Path;
use std::time::{Duration, Instant};

use tickgate::broker::{Link, Readiness, redis};
use tickgate::event::Refusal;
use tickgate::redis::RedisServer;

use crate::faults::gets_what_it_missed;
use crate::nats_server::Proxy;
use crate::node::{Node, check_order, event, until, with_id};
use crate::redis_server::{Keeps, Redis, servers};
use crate::world::World;

/// A publish is answered within this time, whatever happens.
const ANSWER: Duration = Duration::from_secs(6);

/// The newest server.
fn start(keeps: Keeps, more: &[&str]) -> Redis {
    Redis::start_with(servers().last().expect("one"), keeps, more)
}

fn through(proxy: &Proxy, name: &str) -> Node {
    Node::redis(Node::redis_settings(&format!("redis://127.0.0.1:{}", proxy.port), name))
}

fn node(server: &Redis, name: &str) -> Node {
    let mut node = Node::redis(Node::redis_settings(&server.address(), name));
    node.wait_for(Link::Up);
    node
}

fn down_and_up(world: &mut World, between: impl FnOnce(&mut Redis)) {
    between(world.redis.as_mut().expect("a server"));
    world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Up));
}

#[test]
fn a_frozen_redis_is_noticed_and_nothing_is_lost_or_doubled() {
    let mut world = World::redis(start(Keeps::Nothing, &[]));
    world.nodes.iter_mut().for_each(|node| node.join("*"));
    world.nodes[0].publish_one(event("kept.a", "[0,0]"));
    world.nodes[0].publish_one(event("plain.a", "[0,0]"));
    let epoch = world.nodes[1].hub.epoch();
    world.redis.as_ref().expect("a server").freeze();
    let began = Instant::now();
    let unknown = world.nodes[0].publish(vec![event("kept.a", "[0,1]")]);
    assert!(
        matches!(unknown[0], Err(Refusal::Unknown | Refusal::Unavailable)),
        "{unknown:?}"
    );
    assert!(began.elapsed() < ANSWER);
    world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Down));
    let refused = world.nodes[1].publish(vec![event("kept.a", "[1,0]")]);
    assert_eq!(refused, [Err(Refusal::Unavailable)]);
    assert_eq!(world.nodes[1].broker.prepare(0), Readiness::Unavailable);
    world.redis.as_ref().expect("a server").thaw();
    world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Up));
    let unsure = world.nodes[2].hub.newest_version();
    let receipt = world.nodes[2].publish_one(event("kept.a", "[2,0]"));
    world.nodes[2].publish_one(event("plain.a", "[2,0]"));
    assert!(receipt.offset.expect("a history") > unsure);
    for node in &mut world.nodes {
        assert_eq!((node.hub.epoch(), node.resyncs), (epoch, 0));
        let mut got = Vec::new();
        // The event whose outcome is unknown may have been published.
        until("the last events", || {
            node.take(&mut got);
            let last = |name: &str| {
                let found = got.iter().rfind(|(channel, ..)| channel == name);
                found.map(|(.., data)| data.clone())
            };
            [last("kept.a"), last("plain.a")]
                .iter()
                .all(|data| data.as_deref() == Some("[2,0]"))
        });
        check_order(&got).expect("in order");
        assert!((4..=5).contains(&got.len()), "{got:?}");
    }
}

#[test]
fn a_killed_redis_with_an_append_only_file_loses_nothing_and_begins_a_new_term() {
    let mut world = World::redis(start(Keeps::All, &[]));
    let before = world.nodes[0].publish_one(event("kept.a", 0));
    world.nodes[0].publish_one(event("last.a", "\"kept\""));
    let (epoch, offset) = (before.epoch.expect("a history"), before.offset.expect("a history"));
    for _ in 0..2 {
        world.redis.as_mut().expect("a server").kill();
        world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Down));
        let refused = world.nodes[1].publish(vec![event("kept.a", 1)]);
        assert_eq!(refused, [Err(Refusal::Unavailable)]);
        down_and_up(&mut world, Redis::restart);
    }
    let after = world.nodes[1].publish_one(event("kept.a", 2));
    assert_eq!(after.epoch, Some(epoch));
    assert!(after.offset.expect("a history") > offset + 10_000, "another term");
    world.add();
    for node in &mut world.nodes {
        assert_eq!(node.resyncs, 0);
        until("the event", || node.last("kept.a").as_deref() == Some("2"));
        assert_eq!(node.recover("kept.a", epoch, offset), Some(vec!["2".to_owned()]));
        assert_eq!(
            node.recover("kept.a", epoch, offset + 160),
            None,
            "no event had this offset"
        );
        assert_eq!(node.last("last.a").as_deref(), Some("\"kept\""));
    }
}

#[test]
fn a_killed_redis_that_keeps_nothing_begins_a_new_epoch_and_all_connections_end() {
    let mut world = World::redis(start(Keeps::Nothing, &[]));
    let before = world.nodes[0].publish_one(event("kept.a", 0));
    world.nodes[0].publish_one(event("last.a", 0));
    let (epoch, offset) = (before.epoch.expect("a history"), before.offset.expect("a history"));
    world.redis.as_mut().expect("a server").kill();
    world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Down));
    down_and_up(&mut world, Redis::restart);
    let after = world.nodes[1].publish_one(event("kept.a", 1));
    assert_ne!(after.epoch, Some(epoch));
    for node in &mut world.nodes {
        until("the event", || node.last("kept.a").as_deref() == Some("1"));
        node.take_messages();
        assert!(node.resyncs > 0);
        assert_eq!(node.recover("kept.a", epoch, offset), None);
        assert_eq!(node.last("last.a"), None, "until the next event");
        assert_eq!(node.hub.epoch(), after.epoch.expect("a history"));
    }
}

/// After the server has lost its tail, numbers are given again. No position may take a new event for an old one.
fn check_a_lost_tail(world: &mut World, lose: impl FnOnce(&mut Redis)) {
    let publish = |world: &World, numbers: std::ops::Range<u32>| -> Vec<u64> {
        let one = |number| world.nodes[0].publish_one(event("kept.a", number)).offset;
        numbers.map(|number| one(number).expect("a history")).collect()
    };
    world.nodes[0].publish_one(event("last.a", "\"kept\""));
    let kept = publish(world, 0..10);
    world.redis.as_ref().expect("a server").run(&["SAVE"]);
    world.nodes[0].publish_one(event("last.a", "\"lost\""));
    let lost = publish(world, 10..20);
    let epoch = world.nodes[0].hub.epoch();
    let hub = &world.nodes[1].hub;
    until("the tail", || hub.newest_version() >= lost[9]);
    lose(world.redis.as_mut().expect("a server"));
    world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Up));
    let new = publish(world, 30..40);
    assert!(new[0] > lost[9], "no number is given twice");
    world.add();
    for node in &mut world.nodes {
        until("the new events", || node.last("kept.a").as_deref() == Some("39"));
        node.take_messages();
        let missed: Vec<String> = (5..10).chain(30..40).map(|number| number.to_string()).collect();
        assert_eq!(node.recover("kept.a", epoch, kept[4]), Some(missed));
        assert_eq!(node.last("last.a").as_deref(), Some("\"kept\""), "that of the log");
        for position in &lost {
            assert_eq!(node.recover("kept.a", epoch, *position), None, "it was lost");
        }
        assert_eq!(node.hub.epoch(), epoch);
    }
    assert!(world.nodes[1].resyncs > 0, "it had events that are no more");
}

#[test]
fn a_killed_redis_with_a_snapshot_only_has_lost_what_came_after_it() {
    let mut world = World::redis(start(Keeps::Saved, &[]));
    check_a_lost_tail(&mut world, |server| {
        server.kill();
        server.restart();
    });
}

#[test]
fn a_gateway_whose_link_to_redis_is_cut_or_held_gets_what_it_missed() {
    let server = start(Keeps::Nothing, &[]);
    let proxy = Proxy::start(server.port);
    let (mut behind, mut other) = (through(&proxy, "behind"), node(&server, "other"));
    behind.wait_for(Link::Up);
    behind.join("*");
    gets_what_it_missed(&proxy, &mut behind, &mut other);
    other.take_messages();
    assert_eq!(other.resyncs, 0);
}

#[test]
fn a_gateway_that_was_away_longer_than_redis_remembers_ends_its_connections() {
    let server = start(Keeps::Nothing, &[]);
    let proxy = Proxy::start(server.port);
    let small = |url: &str, name: &str| redis::Settings {
        plain_bytes: 1 << 20,
        ..Node::redis_settings(url, name)
    };
    let mut behind = Node::redis(small(&format!("redis://127.0.0.1:{}", proxy.port), "behind"));
    let mut other = Node::redis(small(&server.address(), "other"));
    behind.wait_for(Link::Up);
    other.wait_for(Link::Up);
    let before = other.publish_one(event("kept.a", 0));
    let (epoch, offset) = (before.epoch.expect("a history"), before.offset.expect("a history"));
    proxy.cut();
    behind.wait_for(Link::Down);
    let long = format!("\"{}\"", "x".repeat(20_000));
    for number in 0..80 {
        other.publish_one(event(&format!("kept.{number}"), &long));
    }
    proxy.mend();
    behind.wait_for(Link::Up);
    until("the last event", || behind.last("kept.79").is_some());
    until("the end of its connections", || {
        behind.take_messages();
        behind.resyncs > 0
    });
    assert_eq!(behind.hub.epoch(), epoch);
    // Everything is kept for those that start, so nothing is missing when its clients come back.
    assert_eq!(behind.recover("kept.a", epoch, offset), Some(Vec::new()));
    assert_eq!(other.resyncs, 0);
}

#[test]
fn beyond_its_bytes_redis_forgets_the_oldest_events_of_all_channels() {
    let server = start(Keeps::Nothing, &[]);
    let small = |name: &str| redis::Settings {
        log_bytes: 1 << 20,
        ..Node::redis_settings(&server.address(), name)
    };
    let mut first = Node::redis(small("first"));
    first.wait_for(Link::Up);
    let before = first.publish_one(event("kept.old", 0));
    let (epoch, offset) = (before.epoch.expect("a history"), before.offset.expect("a history"));
    let long = format!("\"{}\"", "x".repeat(20_000));
    for number in 0..80 {
        first.publish_one(event(&format!("kept.{number}"), &long));
    }
    let mut second = Node::redis(small("second"));
    second.wait_for(Link::Up);
    until("the last event", || second.last("kept.79").is_some());
    assert_eq!((second.last("kept.old"), second.last("kept.0")), (None, None));
    assert!(
        (45..55)
            .filter(|number| second.last(&format!("kept.{number}")).is_some())
            .count()
            > 0
    );
    assert_eq!(
        second.recover("kept.old", epoch, offset),
        None,
        "something may be missing"
    );
    assert_eq!(
        first.recover("kept.old", epoch, offset),
        Some(Vec::new()),
        "it still has it"
    );
}

#[test]
fn an_answer_of_redis_that_is_lost_makes_an_outcome_unknown_and_the_same_id_is_safe() {
    let server = start(Keeps::Nothing, &[]);
    let proxy = Proxy::start(server.port);
    let mut node = through(&proxy, "behind");
    node.wait_for(Link::Up);
    proxy.hold();
    let began = Instant::now();
    let outcomes = node.publish(vec![with_id("kept.a", 1, "x")]);
    assert_eq!(outcomes, [Err(Refusal::Unknown)]);
    assert!(began.elapsed() < ANSWER);
    proxy.mend();
    node.wait_for(Link::Up);
    let receipt = node.publish_one(with_id("kept.a", 1, "x"));
    let again = node.publish_one(with_id("kept.a", 1, "x"));
    assert_eq!((again.duplicate, again.offset), (true, receipt.offset));
    assert_eq!(
        node.recover("kept.a", node.hub.epoch(), receipt.offset.expect("a history")),
        Some(Vec::new())
    );
}

#[test]
fn an_id_outlives_the_event_that_redis_keeps_no_more() {
    let server = start(Keeps::Nothing, &[]);
    let first = node(&server, "first");
    let receipt = first.publish_one(with_id("kept.a", 1, "x"));
    for number in 0..300 {
        first.publish_one(event("kept.a", number));
    }
    // The hub of this gateway has never seen the event.
    let second = node(&server, "second");
    let again = second.publish_one(with_id("kept.a", 2, "x"));
    assert_eq!(
        (again.duplicate, again.offset, again.epoch),
        (true, receipt.offset, receipt.epoch)
    );
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let server = start(Keeps::Nothing, &["--maxmemory-policy", "allkeys-lru"]);
    let refused = |server: &Redis| {
        let node = Node::try_redis(Node::redis_settings(&server.address(), "one"));
        node.err().expect("refused")
    };
    let told = refused(&server);
    assert!(told.contains("allkeys-lru") && told.contains("noeviction"), "{told}");
}

#[test]
fn deleted_keys_are_noticed_before_a_number_is_given_twice() {
    for key in ["{suite.one}:events", "{suite.one}:kept", "{suite.one}:state"] {
        let server = start(Keeps::Nothing, &[]);
        let mut running = node(&server, "one");
        running.publish_one(event("kept.a", 1));
        server.run(&["DEL", key]);
        if key != "{suite.one}:kept" {
            running.wait_for(Link::Down);
        }
        let told = Node::try_redis(Node::redis_settings(&server.address(), "two")).err();
        let told = told.unwrap_or_else(|| panic!("{key} is not missed"));
        assert!(
            told.contains("delete every key that begins with {suite.one}:"),
            "{told}"
        );
        // Without any key the log begins anew.
        server.run(&["FLUSHALL"]);
        if key != "{suite.one}:kept" {
            running.wait_for(Link::Up);
            running.publish_one(event("kept.a", 2));
        }
    }
}

#[test]
fn a_gateway_with_other_classes_waits_until_the_others_are_gone() {
    let server = start(Keeps::Nothing, &[]);
    let first = node(&server, "first");
    let other = redis::Settings {
        classes: tickgate::broker::ClassTable {
            hash: 1,
            ..tickgate::broker::ClassTable::default()
        },
        ..Node::redis_settings(&server.address(), "other")
    };
    let told = Node::try_redis(other.clone()).err();
    // It may take longer than the start waits.
    assert!(told.is_none_or(|told| told.contains("the classes of channels differ")));
    drop(first);
    let mut other = Node::redis(other);
    other.wait_for(Link::Up);
}

#[test]
fn a_full_redis_refuses_events_and_the_link_stays_up() {
    let server = start(Keeps::Nothing, &[]);
    let mut node = node(&server, "one");
    node.join("*");
    node.publish_one(event("kept.a", "[0,0]"));
    server.run(&["CONFIG", "SET", "maxmemory", "1"]);
    let refused = node.publish(vec![event("kept.a", "[0,9]"), event("plain.a", "[0,9]")]);
    assert_eq!(refused, [Err(Refusal::Rejected); 2]);
    // Notices still come.
    let length = || server.ask(&["XLEN", "{suite.one}:events"]);
    let before = length();
    until("a later notice", || length() != before);
    assert_eq!(node.broker.link(), Link::Up);
    server.run(&["CONFIG", "SET", "maxmemory", "0"]);
    node.publish_one(event("kept.a", "[0,1]"));
    let mut got = Vec::new();
    node.take_until(&mut got, 2);
    check_order(&got).expect("in order");
    assert_eq!(node.resyncs, 0);
}

#[test]
fn scripts_that_redis_forgets_are_loaded_again() {
    let server = start(Keeps::Nothing, &[]);
    let mut node = node(&server, "one");
    node.join("*");
    for number in 0..3 {
        node.publish_one(event("kept.a", format!("[0,{number}]")));
        server.run(&["SCRIPT", "FLUSH"]);
    }
    let mut got = Vec::new();
    node.take_until(&mut got, 3);
    check_order(&got).expect("in order");
    assert_eq!(node.resyncs, 0);
}

#[test]
fn an_event_under_an_older_term_is_not_stored() {
    let server = start(Keeps::Nothing, &[]);
    let mut node = node(&server, "one");
    let receipt = node.publish_one(event("kept.a", 1));
    // A notice of this gateway puts its own term back at any time.
    until("the refusal", || {
        server.run(&["HSET", "{suite.one}:state", "term", "7"]);
        node.publish(vec![event("plain.a", 2)]) == [Err(Refusal::Unavailable)]
    });
    until("the next session", || {
        node.publish(vec![event("plain.a", 2)])[0].is_ok()
    });
    let after = node.publish_one(event("kept.a", 3));
    assert_eq!(after.epoch, receipt.epoch);
    assert_eq!(
        node.recover("kept.a", node.hub.epoch(), receipt.offset.expect("a history")),
        Some(vec!["3".to_owned()])
    );
}

#[test]
fn what_is_no_event_in_redis_is_counted_and_skipped() {
    let server = start(Keeps::Nothing, &[]);
    let node = node(&server, "one");
    for name in ["k~.kept.a", "p~.plain.a", "knobody.a", "z", ""] {
        server.run(&[
            "XADD",
            "{suite.one}:events",
            "0-*",
            "n",
            name,
            "p",
            "no event",
            "t",
            "1",
            "b",
            "1",
        ]);
    }
    node.publish_one(event("kept.a", 1));
    node.publish_one(event("plain.a", 1));
    let redis = node.redis.as_ref().expect("Redis");
    until("the count", || redis.sample().skipped == 5);
    assert_eq!(node.last("kept.a").as_deref(), Some("1"));
}

#[test]
fn a_replica_that_is_promoted_with_a_lost_tail_begins_a_new_term() {
    let master = start(Keeps::Nothing, &[]);
    let link = Proxy::start(master.port);
    let replica = start(
        Keeps::Nothing,
        &[
            "--replicaof",
            &format!("127.0.0.1 {}", link.port),
            "--repl-diskless-sync-delay",
            "0",
        ],
    );
    until("the replica", || replica.info_text("master_link_status") == "up");
    let addresses = [&master, &replica].map(|server| server.address().parse().expect("an address"));
    let settings = |name: &str| redis::Settings {
        server: RedisServer {
            addresses: addresses.to_vec(),
            ..RedisServer::default()
        },
        ..Node::redis_settings(&master.address(), name)
    };
    let mut nodes: Vec<Node> = ["a", "b"].map(|name| Node::redis(settings(name))).into();
    nodes.iter_mut().for_each(|node| node.wait_for(Link::Up));
    let kept = nodes[0].publish_one(event("kept.a", 1)).offset.expect("a history");
    until("the replica", || replica.ask(&["EXISTS", "{suite.one}:kept"]) == ":1");
    let at = replica.info("slave_repl_offset");
    until("the replica", || replica.info("slave_repl_offset") > at);
    link.cut();
    let lost = nodes[0].publish_one(event("kept.a", 2)).offset.expect("a history");
    let epoch = nodes[0].hub.epoch();
    until("the lost event", || nodes[1].hub.newest_version() >= lost);
    drop(master);
    nodes.iter_mut().for_each(|node| node.wait_for(Link::Down));
    replica.run(&["REPLICAOF", "NO", "ONE"]);
    nodes.iter_mut().for_each(|node| node.wait_for(Link::Up));
    let new = nodes[1].publish_one(event("kept.a", 3)).offset.expect("a history");
    assert!(new > lost);
    for node in &mut nodes {
        until("the new event", || node.last("kept.a").as_deref() == Some("3"));
        node.take_messages();
        assert!(node.resyncs > 0);
        assert_eq!(node.recover("kept.a", epoch, lost), None, "it was lost");
        assert_eq!(node.recover("kept.a", epoch, kept), Some(vec!["3".to_owned()]));
    }
}

#[test]
fn a_master_that_is_demoted_and_promoted_again_is_another_one() {
    let server = start(Keeps::Nothing, &[]);
    let other = Redis::start_with(Path::new("redis-server"), Keeps::Nothing, &[]);
    let mut node = node(&server, "one");
    let before = node.publish_one(event("kept.a", 1)).offset.expect("a history");
    server.run(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    node.wait_for(Link::Down);
    server.run(&["REPLICAOF", "NO", "ONE"]);
    node.wait_for(Link::Up);
    let after = node.publish_one(event("kept.a", 2)).offset.expect("a history");
    assert!(after > before);
}
