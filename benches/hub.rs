//! What publishing, joining and looking up cost. `cargo bench --bench hub`

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tickgate::channel::{Channel, Pattern};
use tickgate::event::{NewEvent, Terms};
use tickgate::hub::{Hub, Inbox, Settings, Wakes};
use tickgate::time::Now;

fn event(channel: &Channel) -> NewEvent {
    NewEvent {
        channel: channel.clone(),
        name: "filled".into(),
        data: Bytes::from_static(br#"{"price":94000,"amount":0.001}"#),
        timestamp_ms: 0,
        terms: Terms::default(),
    }
}

fn hub(shards: usize) -> (Arc<Hub>, Vec<Inbox>) {
    Hub::new(Settings::default(), shards, |_, _| Bytes::new())
}

fn channel(text: &str) -> Channel {
    Channel::parse(text).expect("valid")
}

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("valid")
}

/// Publishes in batches; what lies in the inboxes is taken out between them, off the clock.
fn publish_timed(hub: &Hub, inboxes: &mut [Inbox], channel: &Channel, times: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let batch = left.min(1000);
        let events: Vec<_> = (0..batch).map(|_| event(channel)).collect();
        let start = Instant::now();
        let mut wakes = Wakes::default();
        for event in events {
            let credit = hub.credit_now(event.data.len()).expect("more than a batch");
            hub.publish(event, Now::default(), credit, &mut wakes);
        }
        hub.wake(wakes);
        spent += start.elapsed();
        for inbox in &mut *inboxes {
            while inbox.pop().is_some() {}
        }
        left -= batch;
    }
    spent
}

fn publish(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish to inboxes");
    for shards in [1, 4, 16] {
        let (hub, mut inboxes) = hub(shards);
        for inbox in &mut inboxes {
            inbox.join(&pattern("grid.*"));
        }
        let to = channel("grid.abc.order");
        group.bench_function(BenchmarkId::from_parameter(shards), |b| {
            b.iter_custom(|times| publish_timed(&hub, &mut inboxes, &to, times));
        });
    }
    group.finish();
}

fn lookup(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish an unwanted event");
    for patterns in [0, 100, 100_000] {
        let (hub, mut inboxes) = hub(1);
        for n in 0..patterns {
            inboxes[0].join(&pattern(&match n % 4 {
                0 => format!("user.u{n}.*"),
                1 => format!("grid.g{n}.order"),
                2 => format!("market.*.t{n}"),
                _ => format!("c{n}.*"),
            }));
        }
        let to = channel("grid.abc.order");
        group.bench_function(BenchmarkId::new("patterns held", patterns), |b| {
            b.iter_custom(|times| publish_timed(&hub, &mut inboxes, &to, times));
        });
    }
    group.finish();
}

fn join(c: &mut Criterion) {
    let mut group = c.benchmark_group("join and leave");
    for text in ["grid.abc.order", "grid.*"] {
        let (_hub, mut inboxes) = hub(1);
        let joined = pattern(text);
        group.bench_function(text, |b| {
            b.iter(|| {
                black_box(inboxes[0].join(black_box(&joined)));
                inboxes[0].leave(&joined);
            });
        });
    }
    group.finish();
}

fn pop(c: &mut Criterion) {
    let (hub, mut inboxes) = hub(1);
    inboxes[0].join(&pattern("*"));
    let to = channel("grid.abc.order");
    c.bench_function("pop", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times.div_ceil(1000) {
                for _ in 0..1000 {
                    let credit = hub.credit_now(0).expect("free");
                    hub.publish(event(&to), Now::default(), credit, &mut Wakes::default());
                }
                let start = Instant::now();
                while let Some(popped) = inboxes[0].pop() {
                    black_box(popped.index);
                }
                spent += start.elapsed();
            }
            spent.mul_f64(times as f64 / (times.div_ceil(1000) * 1000) as f64)
        });
    });
}

criterion_group!(benches, publish, lookup, join, pop);
criterion_main!(benches);
