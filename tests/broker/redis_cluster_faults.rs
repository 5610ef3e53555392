//! What the Redis broker promises over a Redis Cluster: the suite, and what happens when the slot of its keys gets another
//! owner.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use tickgate::broker::{Broker, Link};
use tickgate::event::Refusal;
use tokio::runtime::Runtime;

use crate::node::{Node, check_order, event, until, with_id};
use crate::redis_cluster::{Cluster, query};
use crate::redis_server::{Redis, servers};
use crate::world::World;
use crate::{claims, sessions, suite};

/// The hash tag of the keys of a test.
const TAG: &str = "{suite.one}";

#[test]
fn the_suite_holds_over_a_redis_cluster() {
    for program in servers() {
        let checks = suite::CHECKS.iter().copied().chain([
            sessions::a_session_is_taken_back_once_at_any_gateway_and_by_its_user_in_time as fn(),
            claims::a_name_is_claimed_once_and_changed_by_whoever_knows_its_version,
        ]);
        World::each_over(Cluster::start(&program, TAG), checks);
    }
}

/// A backend that publishes numbers on `kept.a`, one after the other, each again with its id until it is published.
struct Backend {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u64>>,
}

impl Backend {
    fn start(node: &Node, name: &'static str) -> Self {
        let (ends, broker) = (Arc::new(AtomicBool::new(false)), Arc::clone(&node.broker));
        let is_over = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            let runtime = Runtime::new().expect("a runtime");
            let mut offsets = Vec::new();
            while !is_over.load(Relaxed) {
                let number = offsets.len();
                offsets.push(publish(&runtime, &*broker, name, number));
                // The history holds all of them.
                std::thread::sleep(Duration::from_millis(10));
            }
            offsets
        });
        Self { ends, thread }
    }

    /// Ends it. Returns the offsets of its events.
    fn end(self) -> Vec<u64> {
        self.ends.store(true, Relaxed);
        self.thread.join().expect("it published all")
    }
}

/// Publishes a number until it is published. Returns its offset.
fn publish(runtime: &Runtime, broker: &dyn Broker, name: &str, number: usize) -> u64 {
    let event = with_id("kept.a", format!("[0,{number}]"), &format!("{name} {number}"));
    loop {
        match runtime.block_on(broker.publish(vec![event.clone()]))[0] {
            Ok(receipt) => return receipt.offset.expect("a history"),
            Err(Refusal::Unavailable | Refusal::Unknown) => std::thread::sleep(Duration::from_millis(10)),
            Err(Refusal::Rejected) => panic!("the server refuses an event"),
        }
    }
}

fn until_changed(world: &mut World, changes: u64) {
    for node in &mut world.nodes {
        let broker = node.redis.clone().expect("Redis");
        until("another owner", || broker.sample().servers_changed >= changes);
        assert_eq!(broker.sample().servers_changed, changes);
        node.wait_for(Link::Up);
    }
}

/// Runs what replaces the owner while a backend publishes, and checks that every gateway got every event.
fn lossless(world: &mut World, name: &'static str, changes: u64, replace: impl FnOnce(&mut World)) {
    let backend = Backend::start(&world.nodes[0], name);
    replace(world);
    until_changed(world, changes);
    let offsets = backend.end();
    assert!(offsets.is_sorted(), "{name}: offsets grow");
    for node in &mut world.nodes {
        let mut got = Vec::new();
        node.take_until(&mut got, offsets.len());
        check_order(&got).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert_eq!((got.len(), node.resyncs), (offsets.len(), 0), "{name}");
    }
}

/// Moves the slot to another node. No event is taken while the keys lie at two nodes.
fn move_slot(world: &mut World, cluster: &Cluster, (from, to): (usize, usize)) {
    cluster.open_slot(from, to);
    cluster.move_keys(from, to, |key| key.ends_with(":kept"));
    world.nodes.iter_mut().for_each(|node| node.wait_for(Link::Down));
    let refused = world.nodes[1].publish(vec![event("plain.a", 1)]);
    assert_eq!(refused, [Err(Refusal::Unavailable)]);
    cluster.move_keys(from, to, |_| true);
    cluster.close_slot(from, to);
}

/// The owner fails, and its replica may lack the end of the log. No position may stand for an event that is lost.
fn lose_owner(
    world: &mut World,
    cluster: &Cluster,
    changes: u64,
    (master, replica): (usize, usize),
    fail: impl FnOnce(&Redis),
) {
    let epoch = world.nodes[0].hub.epoch();
    cluster.replicate(master, replica);
    let backend = Backend::start(&world.nodes[0], "lost");
    let before = world.nodes[1].hub.newest_version();
    until("some events", || world.nodes[1].hub.newest_version() > before);
    fail(&cluster.nodes[master]);
    until_changed(world, changes);
    let offsets = backend.end();
    world.nodes[2].publish_one(event("kept.end", 0));
    world.add();
    let number_of = |data: &String| -> usize {
        let (_, number): (u64, usize) = serde_json::from_str(data).expect("a number");
        number
    };
    // What is in the log from the first of these events on, by a gateway that knows nothing but the log.
    let new = world.nodes.last_mut().expect("one");
    until("the last event", || new.last("kept.end").is_some());
    let after = offsets
        .iter()
        .find_map(|offset| Some((*offset, new.recover("kept.a", epoch, *offset)?)));
    let (first, log) = after.expect("the history has not forgotten all");
    let log: Vec<usize> = log.iter().map(number_of).collect();
    for node in &mut world.nodes {
        until("the last event", || node.last("kept.end").is_some());
        node.take_messages();
        for (number, offset) in offsets.iter().enumerate().filter(|(_, offset)| **offset > first) {
            let Some(missed) = node.recover("kept.a", epoch, *offset) else {
                continue;
            };
            let missed: Vec<usize> = missed.iter().map(number_of).collect();
            let at = log.iter().position(|logged| *logged == number);
            let at = at.unwrap_or_else(|| panic!("{number} is lost, and its position is taken for true"));
            assert_eq!(missed, log[at + 1..], "after {number}");
        }
        assert_eq!(node.hub.epoch(), epoch);
    }
    let is_lost = (0..offsets.len()).any(|number| offsets[number] > first && !log.contains(&number));
    let is_told = world.nodes[..3].iter().any(|node| node.resyncs > 0);
    assert!(
        is_told || !is_lost,
        "an event was published and lost, and nobody was told"
    );
}

#[test]
fn a_slot_with_another_owner_takes_the_gateways_with_it() {
    for program in servers() {
        let cluster = Rc::new(Cluster::start(&program, TAG));
        let (owner, replica) = (cluster.owner, cluster.replica);
        let other = (owner + 1) % 3;
        let mut world = World::cluster(Rc::clone(&cluster));
        world.nodes.iter_mut().for_each(|node| node.join("kept.a"));
        lossless(&mut world, "moved", 1, |world| {
            move_slot(world, &cluster, (owner, other))
        });
        lossless(&mut world, "moved back", 2, |world| {
            move_slot(world, &cluster, (other, owner));
        });
        lossless(&mut world, "handed over", 3, |_| {
            query::<()>(&cluster.nodes[replica], redis::cmd("CLUSTER").arg("FAILOVER"));
        });
        lose_owner(&mut world, &cluster, 4, (replica, owner), Redis::end);
    }
}

#[test]
fn a_frozen_owner_of_a_slot_is_left_and_comes_back_as_a_replica() {
    let cluster = Rc::new(Cluster::start(servers().last().expect("one"), TAG));
    let (owner, replica) = (cluster.owner, cluster.replica);
    let mut world = World::cluster(Rc::clone(&cluster));
    lose_owner(&mut world, &cluster, 1, (owner, replica), Redis::freeze);
    // What gateways have sent it meanwhile is carried out now, and given up when it hears of the new owner.
    cluster.nodes[owner].thaw();
    until("a replica", || cluster.nodes[owner].info_text("role") == "slave");
    cluster.replicate(replica, owner);
    let state = |node: &Node| {
        let changes = node.redis.as_ref().expect("Redis").sample().servers_changed;
        (node.broker.link(), changes, node.resyncs)
    };
    let before: Vec<_> = world.nodes.iter().map(state).collect();
    world.nodes[1].publish_one(event("kept.end", 1));
    for (node, before) in world.nodes.iter_mut().zip(before) {
        until("the event", || node.last("kept.end").as_deref() == Some("1"));
        node.take_messages();
        assert_eq!(state(node), before, "nobody goes back to it");
    }
}
