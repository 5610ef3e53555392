//! The gateway's own share of a delivery, from the shard's inbox into outboxes and out again without a socket, and its
//! share of a client's message.
//!
//! `cargo bench --bench deliver`. The kernel's send path costs 0.3 to 2 µs per delivery, and these costs must stay far
//! below. `benches/instructions.rs` counts the instructions of the same paths.
#![allow(missing_docs)]

#[path = "support/rig.rs"]
mod rig;

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rig::{NOW, Rig, client_frame, event};
use tickgate_protocol::wire::Deflate;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn deliver(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan_out");
    for subscribers in [1_000, 15_000] {
        let mut rig = Rig::new();
        for _ in 0..subscribers {
            rig.connect(&["bench.a.*".to_owned()]);
        }
        rig.drain();
        let event = event("bench.a.price");
        rig.publish(event.clone());
        rig.core.deliver(1);
        rig.drain();
        assert_eq!(rig.stats.deliveries.get(), subscribers, "every client receives it");
        group.throughput(Throughput::Elements(subscribers));
        // Eight events per pass, as under load. The two phases are timed separately.
        for phase in ["deliver", "take_out"] {
            group.bench_function(BenchmarkId::new(phase, subscribers), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..rounds.div_ceil(8) {
                        for _ in 0..8 {
                            rig.publish(event.clone());
                        }
                        let began = Instant::now();
                        rig.core.deliver(8);
                        let delivered = Instant::now();
                        rig.drain();
                        spent += if phase == "deliver" {
                            delivered - began
                        } else {
                            delivered.elapsed()
                        };
                    }
                    spent.mul_f64(rounds as f64 / (rounds.div_ceil(8) * 8) as f64)
                });
            });
        }
    }
    group.finish();
}

/// Publishes and delivers to clients that compress, and to clients that do not. An event is compressed once, whatever
/// the number of receivers.
fn compressed(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish_and_fan_out");
    let subscribers = 1_000;
    for (name, deflate) in [("plain", None), ("compressed", Some(Deflate { window_bits: 15 }))] {
        let mut rig = Rig::new();
        rig.deflate = deflate;
        for _ in 0..subscribers {
            rig.connect(&["bench.a.*".to_owned()]);
        }
        rig.drain();
        let event = event("bench.a.price");
        group.throughput(Throughput::Elements(subscribers));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                rig.publish(event.clone());
                rig.core.deliver(1);
                rig.drain();
            });
        });
        let stats = rig.stats.read();
        let saved = stats.deflate_saved_bytes / stats.deliveries.max(1);
        println!("publish_and_fan_out/{name}: {saved} bytes saved per delivery");
    }
    group.finish();
}

/// A returning client reads 1000 events of a history, from its `subscribe` until the last event is written. The events
/// are encoded already, as when many clients return.
fn replay(criterion: &mut Criterion) {
    let events = 1_000;
    let mut rig = Rig::new();
    let receipts: Vec<_> = (0..events).map(|_| rig.publish(event("grid.abc.order"))).collect();
    let before = receipts[0].offset.expect("a history") - 1;
    let epoch = rig.hub.epoch();
    let message = format!(
        r#"{{"type":"subscribe","channels":["grid.abc.order"],"recover":{{"grid.abc.order":{{"epoch":"{epoch}","offset":{before}}}}}}}"#
    );
    let mut reconnect = || {
        let id = rig.connect_and_send(&message);
        let began = Instant::now();
        rig.drain();
        let spent = began.elapsed();
        rig.core.on_socket_error(id, NOW);
        spent
    };
    reconnect();
    let mut clients = 1;
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(events));
    group.bench_function(BenchmarkId::from_parameter(events), |bencher| {
        bencher.iter_custom(|rounds| {
            clients += rounds;
            (0..rounds).map(|_| reconnect()).sum()
        });
    });
    group.finish();
    assert_eq!(
        rig.stats.caught_up.get(),
        clients * events,
        "every client receives every event"
    );
}

/// Half a second of a market: 2000 clients, each with 20 of 500 channels, and 1000 events in ticks of eight, in real time and
/// with two updates a second.
fn market(criterion: &mut Criterion) {
    let (clients, channels, subscriptions, ticks) = (2_000, 500_usize, 20, 125);
    let names: Vec<String> = (0..channels).map(|n| format!("market.s{n}.price")).collect();
    let events: Vec<_> = names.iter().map(|name| event(name)).collect();
    let mut group = criterion.benchmark_group("market");
    group.throughput(Throughput::Elements(
        (8 * ticks * clients * subscriptions / channels) as u64,
    ));
    for (label, rate) in [("real_time", ""), ("max_rate_2", ",\"max_rate\":2")] {
        let mut rig = Rig::new();
        for client in 0..clients {
            // 61 and 500 have no common divisor, so these are different channels.
            let own = (0..subscriptions).map(|n| &names[(client * 7 + n * 61) % channels]);
            let own = serde_json::to_string(&own.collect::<Vec<_>>()).expect("texts");
            rig.connect_and_send(&format!(r#"{{"type":"subscribe","channels":{own}{rate}}}"#));
        }
        rig.drain();
        let (mut now, mut next) = (NOW, 0);
        let mut tick = |rig: &mut Rig| {
            for _ in 0..8 {
                rig.publish(events[next % channels].clone());
                next += 1;
            }
            now = now.after_ms(4);
            rig.core.begin_turn(now);
            rig.core.deliver(usize::MAX);
            rig.drain();
        };
        (0..2 * ticks).for_each(|_| tick(&mut rig));
        group.bench_function(label, |bencher| {
            bencher.iter(|| (0..ticks).for_each(|_| tick(&mut rig)))
        });
        let stats = rig.stats.read();
        println!(
            "market/{label}: {} deliveries, {} replaced",
            stats.deliveries, stats.rate_conflated
        );
    }
    group.finish();
}

/// Delivers last values to 1000 clients whose outboxes are full and whose sockets accept nothing. The first event
/// defers the channel; later ones stay in the hub.
fn conflate(criterion: &mut Criterion) {
    let subscribers = 1_000;
    let mut rig = Rig::new();
    let patterns = ["bench.a.*", "market.a.price"].map(str::to_owned);
    let clients: Vec<_> = (0..subscribers).map(|_| rig.connect(&patterns)).collect();
    rig.drain();
    clients.iter().for_each(|id| rig.core.blocked(*id, NOW));
    let (filler, price) = (event("bench.a.note"), event("market.a.price"));
    while rig.stats.dropped.get() == 0 {
        rig.publish(filler.clone());
        rig.core.deliver(1);
    }
    rig.publish(price.clone());
    rig.core.deliver(1);
    let mut group = criterion.benchmark_group("conflate");
    group.throughput(Throughput::Elements(subscribers));
    group.bench_function(BenchmarkId::from_parameter(subscribers), |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds.div_ceil(8) {
                for _ in 0..8 {
                    rig.publish(price.clone());
                }
                let began = Instant::now();
                rig.core.deliver(8);
                spent += began.elapsed();
            }
            spent.mul_f64(rounds as f64 / (rounds.div_ceil(8) * 8) as f64)
        });
    });
    group.finish();
    assert_eq!(
        rig.stats.catch_ups.get(),
        subscribers,
        "the channel is deferred once for every client"
    );
    assert_eq!(rig.core.waiting_events(), 0, "nothing waits in the inbox");
}

/// A client that has to catch up with 100,000 channels unsubscribes the pattern that covers them, keeping 49 others.
/// Then it subscribes to the pattern again and disconnects. Measures the longest pass of each step, in the thread's CPU
/// time.
fn crowded(criterion: &mut Criterion) {
    const CHANNELS: usize = 100_000;
    const KINDS: [&str; 3] = ["unsubscribe", "subscribe", "close"];
    let mut rig = Rig::new();
    for n in 0..CHANNELS {
        rig.publish(event(&format!("market.s{n}.price")));
        rig.core.deliver(1);
    }
    let mut patterns: Vec<String> = (0..49).map(|n| format!("*.s{n}.none")).collect();
    patterns.push("market.*".to_owned());
    let mut group = criterion.benchmark_group("crowded");
    group.sample_size(10);
    for (index, name) in KINDS.into_iter().enumerate() {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| crowd(&mut rig, &patterns, KINDS)[index]).sum());
        });
    }
    group.finish();
    assert!(
        rig.stats.catch_ups.get() >= 2 * CHANNELS as u64,
        "every channel has to be read"
    );
}

fn crowd<const N: usize>(rig: &mut Rig, patterns: &[String], kinds: [&str; N]) -> [Duration; N] {
    let longest_pass = |rig: &mut Rig| {
        let mut longest = Duration::ZERO;
        while rig.core.has_turn_to_begin() {
            let began = thread_time();
            rig.core.begin_turn(NOW);
            longest = longest.max(thread_time() - began);
        }
        longest
    };
    let id = rig.connect(patterns);
    longest_pass(rig);
    let longest = kinds.map(|kind| {
        let mut message = client_frame(format!(r#"{{"type":"{kind}","channels":["market.*"]}}"#).as_bytes());
        let began = thread_time();
        match kind {
            "close" => rig.core.on_socket_error(id, NOW),
            _ => rig.core.on_bytes(id, &mut message, NOW),
        }
        (thread_time() - began).max(longest_pass(rig))
    });
    rig.drain();
    while rig.core.next_action().is_some() {}
    longest
}

/// The CPU time of this thread, which does not depend on the machine's other load.
fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).expect("below a second"),
    )
}

/// Finds the subscriber of an event among 100,000 subscriptions to 1000 patterns. Each event has one subscriber.
fn resolve(criterion: &mut Criterion) {
    let mut rig = Rig::new();
    let pattern = |number: usize| match number % 4 {
        0 => format!("grid.g{number}.*"),
        1 => format!("*.g{number}.status"),
        2 => format!("grid.g{number}.order"),
        _ => format!("grid.*.kind{number}"),
    };
    for connection in 0..2_000 {
        let patterns: Vec<_> = (0..50).map(|n| pattern((connection * 50 + n) % 999)).collect();
        rig.connect(&patterns);
    }
    rig.connect(&["user.u1.*".to_owned()]);
    rig.drain();
    rig.publish(event("user.u1.c0"));
    rig.core.deliver(1);
    rig.drain();
    assert_eq!(rig.stats.deliveries.get(), 1, "the subscriber is found");
    let mut group = criterion.benchmark_group("resolve");
    for (name, channels) in [("cached", 1_000), ("uncached", 70_000)] {
        let events: Vec<_> = (0..channels).map(|n| event(&format!("user.u1.c{n}"))).collect();
        let mut next = 0;
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| {
                let mut spent = Duration::ZERO;
                for _ in 0..rounds {
                    rig.publish(events[next % channels].clone());
                    next += 1;
                    let began = Instant::now();
                    rig.core.deliver(1);
                    spent += began.elapsed();
                    rig.drain();
                }
                spent
            });
        });
    }
    group.finish();
}

/// Handles messages of 1000 clients in rotation and takes the answers out of the outboxes. No limit is reached.
fn inbound(criterion: &mut Criterion) {
    let mut rig = Rig::new();
    let clients: Vec<_> = (0..1_000)
        .map(|client| rig.connect(&[format!("grid.g{client}.*")]))
        .collect();
    rig.drain();
    let mut group = criterion.benchmark_group("inbound");
    for (name, texts) in rig::MESSAGES {
        let frames = texts.map(|text| client_frame(text.as_bytes()));
        let (mut number, mut now) = (0, NOW);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                // 10 messages per second from each client, spread evenly.
                if number % 100 == 0 {
                    now.mono_ms += 10;
                }
                let mut input = [0; 256];
                let frame = &frames[number / clients.len() % frames.len()];
                let input = &mut input[..frame.len()];
                input.copy_from_slice(frame);
                rig.core.on_bytes(clients[number % clients.len()], input, now);
                rig.drain();
                number += 1;
            });
        });
    }
    group.finish();
    assert_eq!(rig.stats.rate_limited.get(), 0, "within the limits");
}

criterion_group!(
    benches, deliver, compressed, replay, conflate, market, crowded, resolve, inbound
);
criterion_main!(benches);
