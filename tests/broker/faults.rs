//! What the NATS broker promises when the server, a link or a gateway fails; see docs/scaling.md.

use std::time::{Duration, Instant};

use tickgate::broker::{Link, Readiness, SharedSettings};
use tickgate::event::Refusal;

use crate::gateway;
use crate::nats_server::{Nats, Proxy};
use crate::node::{Node, check_order, event, until, with_id};
use crate::notices::Notices;
use crate::world::World;

/// A publish is answered within this time, whatever happens.
const ANSWER: Duration = Duration::from_secs(6);

#[test]
fn a_frozen_server_is_noticed_and_nothing_is_lost_or_doubled() {
    let mut world = World::nats(Nats::start());
    world.nodes.iter_mut().for_each(|node| node.join("*"));
    world.nodes[0].publish_one(event("kept.a", "[0,0]"));
    world.nodes[0].publish_one(event("plain.a", "[0,0]"));
    let epoch = world.nodes[1].hub.epoch();
    let server = world.server.as_ref().expect("a server");
    server.freeze();
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
    server.thaw();
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
                got.iter()
                    .rfind(|(channel, ..)| channel == name)
                    .map(|(.., data)| data.clone())
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
fn a_killed_server_comes_back_with_a_new_term_in_the_same_epoch() {
    let mut world = World::nats(Nats::start());
    let before = world.nodes[0].publish_one(event("kept.a", 0));
    world.nodes[0].publish_one(event("last.a", "\"kept\""));
    let (epoch, offset) = (before.epoch.expect("a history"), before.offset.expect("a history"));
    for _ in 0..2 {
        let server = world.server.as_mut().expect("a server");
        server.kill();
        world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Down));
        let refused = world.nodes[1].publish(vec![event("kept.a", 1)]);
        assert_eq!(refused, [Err(Refusal::Unavailable)]);
        world.server.as_mut().expect("a server").restart();
        world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Up));
    }
    let after = world.nodes[1].publish_one(event("kept.a", 2));
    assert_eq!(after.epoch, Some(epoch));
    assert!(after.offset.expect("a history") > offset + 10_000, "another term");
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
fn a_server_that_has_lost_everything_begins_a_new_epoch_and_all_connections_end() {
    let mut world = World::nats(Nats::start());
    let before = world.nodes[0].publish_one(event("kept.a", 0));
    let (epoch, offset) = (before.epoch.expect("a history"), before.offset.expect("a history"));
    let server = world.server.as_mut().expect("a server");
    server.kill();
    server.wipe();
    server.restart();
    world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Down));
    world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Up));
    let after = world.nodes[1].publish_one(event("kept.a", 1));
    assert_ne!(after.epoch, Some(epoch));
    for node in &mut world.nodes {
        node.take_messages();
        assert!(node.resyncs > 0);
        assert_eq!(node.recover("kept.a", epoch, offset), None);
        until("the event", || node.last("kept.a").as_deref() == Some("1"));
        assert_eq!(node.hub.epoch(), after.epoch.expect("a history"));
    }
}

#[test]
fn a_server_that_has_lost_the_end_of_its_log_keeps_the_epoch_and_lies_about_nothing() {
    let mut world = World::nats(Nats::start());
    let publish = |world: &World, numbers: [u64; 3], last: &str| {
        world.nodes[0].publish_one(event("last.a", last));
        numbers.map(|number| {
            let receipt = world.nodes[0].publish_one(event("kept.a", number));
            receipt.offset.expect("a history")
        })
    };
    let early = publish(&world, [1, 2, 3], "1");
    let epoch = world.nodes[0].hub.epoch();
    let restart = |world: &mut World, copy: Option<tempfile::TempDir>| {
        let server = world.server.as_mut().expect("a server");
        server.kill();
        world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Down));
        let before = server.copy();
        if let Some(copy) = copy {
            server.put_back(copy);
        }
        server.restart();
        world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Up));
        before
    };
    let copy = restart(&mut world, None);
    let late = publish(&world, [4, 5, 6], "2");
    for node in &mut world.nodes {
        until("the last event", || node.last("kept.a").as_deref() == Some("6"));
        node.take_messages();
        assert_eq!(node.resyncs, 0);
    }
    restart(&mut world, Some(copy));
    for node in &mut world.nodes {
        until("the end of its connections", || {
            node.take_messages();
            node.resyncs > 0
        });
        assert_eq!(node.hub.epoch(), epoch);
        assert_eq!(node.recover("kept.a", epoch, early[1]), Some(vec!["3".to_owned()]));
        assert_eq!(
            node.recover("kept.a", epoch, late[1]),
            None,
            "nobody knows what came then"
        );
        assert_eq!(node.last("last.a").as_deref(), Some("1"));
    }
    let after = publish(&world, [7, 8, 9], "3");
    assert!(after[0] > late[2], "no offset is given twice");
    for node in &mut world.nodes {
        until("the last event", || node.last("kept.a").as_deref() == Some("9"));
        assert_eq!(
            node.recover("kept.a", epoch, early[1]).map(|missed| missed.len()),
            Some(4)
        );
    }
}

#[test]
fn a_server_that_reloads_its_configuration_keeps_its_links() {
    let mut world = World::nats(Nats::start());
    world.nodes.iter_mut().for_each(|node| node.join("*"));
    let connects = |world: &World| -> Vec<u64> {
        let sample = |node: &Node| node.nats.as_ref().expect("NATS").sample();
        world.nodes.iter().map(|node| sample(node).connects).collect()
    };
    let before = connects(&world);
    world.nodes[0].publish_one(event("kept.a", "[0,0]"));
    let server = world.server.as_mut().expect("a server");
    server.reload_with("max_payload: 2MB");
    server.reload_with("write_deadline: \"5s\"");
    world.nodes[0].publish_one(event("kept.a", "[0,1]"));
    world.nodes[1].publish_one(event("plain.a", "[1,0]"));
    for node in &mut world.nodes {
        let mut got = Vec::new();
        node.take_until(&mut got, 3);
        check_order(&got).expect("in order");
        assert_eq!((got.len(), node.resyncs), (3, 0));
    }
    assert_eq!(connects(&world), before, "no link was lost");
}

/// Cuts and holds the link of a node that listens to all channels, while another node publishes.
pub(crate) fn gets_what_it_missed(proxy: &Proxy, behind: &mut Node, other: &mut Node) {
    let mut number = 0;
    for fault in [Proxy::cut, Proxy::hold] {
        fault(proxy);
        behind.wait_for(Link::Down);
        assert_eq!(other.broker.link(), Link::Up);
        for _ in 0..20 {
            other.publish_one(event("kept.a", format!("[0,{number}]")));
            other.publish_one(event("plain.a", format!("[0,{number}]")));
            other.publish_one(event("last.a", format!("[0,{number}]")));
            number += 1;
        }
        proxy.mend();
        behind.wait_for(Link::Up);
        until("the newest value", || behind.last("last.a") == other.last("last.a"));
    }
    let mut got = Vec::new();
    behind.take_until(&mut got, 120);
    check_order(&got).expect("in order");
    assert_eq!((got.len(), behind.resyncs), (120, 0));
}

#[test]
fn a_gateway_whose_link_is_cut_or_held_gets_what_it_missed() {
    let server = Nats::start();
    let proxy = Proxy::start(server.port);
    let mut behind = Node::nats(Node::settings(proxy.url(), "behind"));
    let mut other = Node::nats(Node::settings(server.url(), "other"));
    for node in [&mut behind, &mut other] {
        node.wait_for(Link::Up);
        node.join("*");
    }
    gets_what_it_missed(&proxy, &mut behind, &mut other);
}

#[test]
fn a_gateway_that_was_away_longer_than_the_streams_remember_ends_its_connections() {
    let server = Nats::start();
    let proxy = Proxy::start(server.port);
    let small = |url: String, name: &str| tickgate::broker::nats::Settings {
        log_bytes: 1 << 20,
        plain_bytes: 1 << 20,
        ..Node::settings(url, name)
    };
    let mut behind = Node::nats(small(proxy.url(), "behind"));
    let mut other = Node::nats(small(server.url(), "other"));
    behind.wait_for(Link::Up);
    other.wait_for(Link::Up);
    let before = other.publish_one(event("kept.a", 0));
    let (epoch, offset) = (before.epoch.expect("a history"), before.offset.expect("a history"));
    proxy.cut();
    behind.wait_for(Link::Down);
    let (long, notices) = (format!("\"{}\"", "x".repeat(20_000)), Notices::of(&server));
    for number in 0..80 {
        if number % 20 == 0 {
            notices.wait();
        }
        other.publish_one(event(&format!("kept.{number}"), &long));
        other.publish_one(event("plain.a", &long));
        other.publish_one(event("gone.a", format!(r#"[{{"id":{},"n":{number}}}]"#, number % 7)));
        other.publish_one(event(
            "book.a",
            format!(r#"{{"bids":[[{},{number}]],"asks":[]}}"#, number % 7),
        ));
    }
    proxy.mend();
    behind.wait_for(Link::Up);
    until("the end of its connections", || {
        behind.take_messages();
        behind.resyncs > 0
    });
    until("the last event", || behind.last("kept.79").is_some());
    // It has the merged values as a whole, though the log has lost the events that brought them.
    for name in ["gone.a", "book.a"] {
        until("the value", || {
            behind.last(name).is_some() && behind.last(name) == other.last(name)
        });
    }
    assert_eq!(behind.recover("kept.a", epoch, offset), None, "it has begun anew");
    assert_eq!(behind.hub.epoch(), epoch);
}

#[test]
fn an_answer_that_is_lost_makes_an_outcome_unknown_and_the_same_id_is_safe() {
    let server = Nats::start();
    let proxy = Proxy::start(server.port);
    let mut node = Node::nats(Node::settings(proxy.url(), "behind"));
    node.wait_for(Link::Up);
    proxy.hold();
    let began = Instant::now();
    let outcomes = node.publish(vec![with_id("kept.a", 1, "x")]);
    assert_eq!(outcomes, [Err(Refusal::Unknown)]);
    assert!(began.elapsed() < ANSWER);
    proxy.mend();
    node.wait_for(Link::Down);
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
fn streams_and_classes_that_do_not_fit_are_told() {
    let server = Nats::start();
    let mut first = Node::nats(Node::settings(server.url(), "first"));
    first.wait_for(Link::Up);
    let three = tickgate::broker::nats::Settings {
        replicas: 3,
        ..Node::settings(server.url(), "three")
    };
    let refused = Node::try_nats(three).err().expect("refused");
    assert!(
        refused.contains("suite_one_LOG") && refused.contains("num_replicas is 1, the configuration needs 3"),
        "{refused}"
    );
    let other = tickgate::broker::nats::Settings {
        classes: tickgate::broker::ClassTable {
            hash: 1,
            ..Default::default()
        },
        ..Node::settings(server.url(), "other")
    };
    let mut other = Node::nats(other);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(other.broker.link(), Link::Down, "the first gateway is there");
    drop(first);
    other.wait_for(Link::Up);
}

#[test]
fn what_is_no_event_is_counted_and_skipped() {
    let server = Nats::start();
    let mut node = Node::nats(Node::settings(server.url(), "first"));
    node.wait_for(Link::Up);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = async_nats::connect(server.url()).await.expect("connected");
        for subject in [
            "suite.one.log.~.kept.a",
            "suite.one.plain.~.plain.a",
            "suite.one.log.nobody.a",
            "suite.one.plain.~.kept.a",
        ] {
            client.publish(subject, "no event".into()).await.expect("sent");
        }
        // Of a newer version: counted, and not guessed.
        let newer = "{\"v\":2,\"name\":\"e\",\"ts\":1,\"from\":1,\"n\":1}\n7";
        for subject in ["suite.one.log.~.kept.a", "suite.one.terms"] {
            client.publish(subject, newer.into()).await.expect("sent");
        }
        client.flush().await.expect("sent");
    });
    node.publish_one(event("kept.a", 1));
    node.publish_one(event("plain.a", 1));
    let nats = node.nats.as_ref().expect("NATS");
    until("the count", || nats.sample().skipped == 6);
    Notices::of(&server).wait();
    assert_eq!(node.last("kept.a").as_deref(), Some("1"));
}

#[test]
fn two_gateways_are_one_for_their_clients() {
    let server = Nats::start();
    let proxy = Proxy::start(server.port);
    let start = |url: String, node: &str| {
        gateway::start(|settings| {
            settings.node = node.into();
            settings.shared = Some(SharedSettings::Nats(Node::settings(url, node)));
        })
    };
    let (one, two) = (start(proxy.url(), "one"), start(server.url(), "two"));
    let ready = |running: &gateway::Running| {
        gateway::until("ready", || running.admin("GET", "/readyz", "").status == 200);
    };
    ready(&one);
    ready(&two);
    let subscribe = |running: &gateway::Running, more: &str| {
        let mut client = running.client(&running.trader("u1"));
        client.send(&format!(r#"{{"type":"subscribe","channels":["grid.a.order"]{more}}}"#));
        client
    };
    let mut client = subscribe(&one, "");
    let subscribed = client.text();
    assert!(subscribed.contains("\"subscribed\""), "{subscribed}");
    let publish = |running: &gateway::Running, number: u32| {
        running.publish(&format!(
            r#"{{"channel":"grid.a.order","event":"filled","data":{number}}}"#
        ))
    };
    let answer = publish(&two, 1);
    assert_eq!(answer.status, 200, "{answer:?}");
    let (epoch, offset) = (answer.json()["epoch"].clone(), answer.json()["offset"].clone());
    let event: serde_json::Value = serde_json::from_str(&client.text()).expect("JSON");
    assert_eq!((&event["data"], &event["offset"]), (&1.into(), &offset));
    // One gateway is cut off. Its client stays connected, and a newcomer there hears why it cannot join.
    proxy.cut();
    gateway::until("not ready", || one.admin("GET", "/readyz", "").status == 503);
    assert_eq!(publish(&one, 9).code(), "BROKER_UNAVAILABLE");
    let mut waiting = subscribe(&one, "");
    assert_eq!(publish(&two, 2).status, 200);
    let refused = waiting.text();
    assert!(refused.contains("BROKER_UNAVAILABLE"), "{refused}");
    // A client recovers on the other gateway what it has missed.
    let mut moved = subscribe(
        &two,
        &format!(r#","recover":{{"grid.a.order":{{"epoch":{epoch},"offset":{offset}}}}}"#),
    );
    let subscribed = moved.text();
    assert!(subscribed.contains("\"grid.a.order\":true"), "{subscribed}");
    let missed: serde_json::Value = serde_json::from_str(&moved.text()).expect("JSON");
    assert_eq!(missed["data"], 2);
    proxy.mend();
    let late: serde_json::Value = serde_json::from_str(&client.text()).expect("JSON");
    assert_eq!(late["data"], 2, "the connection has lived through the cut");
}
