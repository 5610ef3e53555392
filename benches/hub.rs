//! The costs of publishing, joining, looking up and reading state: `cargo bench --bench hub`.

use std::cell::Cell;
use std::collections::HashSet;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use tickgate::event::{EventId, NewEvent, PublishOptions};
use tickgate::hub::{ChannelView, Hub, Inbox, PageLimit, Receipt, Scan, Settings, Since, Wakes, stripe_of};
use tickgate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};

/// A channel without state.
const PLAIN: &str = "grid.abc.note";
/// A channel with a history.
const HISTORY: &str = "grid.abc.order";
/// A channel with a last value.
const LAST_VALUE: &str = "grid.abc.status";
/// A channel whose events are updates of records.
const RECORDS: &str = "stock.abc.price";

/// The size of the built-in histories.
const HISTORY_SIZE: u64 = 5_000;

fn event(channel: &Channel) -> NewEvent {
    event_with(channel, Bytes::from_static(br#"{"price":94000,"amount":0.001}"#))
}

fn event_with(channel: &Channel, data: Bytes) -> NewEvent {
    NewEvent {
        channel: channel.clone(),
        name: "filled".into(),
        data,
        timestamp_ms: 0,
        options: PublishOptions::default(),
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

fn publish_one(hub: &Hub, event: NewEvent) -> Receipt {
    let credit = hub
        .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, event.data.len())
        .expect("free");
    hub.publish(event, Now::default(), credit, &mut Wakes::default())
}

/// Publishes events and wakes the shards; returns the time that it took.
fn publish_batch(hub: &Hub, events: Vec<NewEvent>) -> Duration {
    let start = Instant::now();
    let mut wakes = Wakes::default();
    for event in events {
        let credit = hub
            .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, event.data.len())
            .expect("more than all batches at once");
        hub.publish(event, Now::default(), credit, &mut wakes);
    }
    hub.wake(wakes);
    start.elapsed()
}

/// Measures publishing in batches. The inboxes are emptied between the batches, outside of the measured time.
fn publish_timed(hub: &Hub, inboxes: &mut [Inbox], event: impl Fn(u64) -> NewEvent, times: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let batch = left.min(1000);
        let events = (0..batch).map(|n| event(left - n)).collect();
        spent += publish_batch(hub, events);
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
        let to = channel(PLAIN);
        group.bench_function(BenchmarkId::from_parameter(shards), |b| {
            b.iter_custom(|times| publish_timed(&hub, &mut inboxes, |_| event(&to), times));
        });
    }
    group.finish();
}

/// Measures publishing from several threads at once, each to a channel of its own: the time that the slowest one takes for
/// `times` events.
fn publish_together_timed(hub: &Hub, inboxes: &mut [Inbox], channels: &[Channel], times: u64) -> Duration {
    let mut spent = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let batch = left.min(1000 / channels.len() as u64);
        let ready = Barrier::new(channels.len());
        let publish = |channel: &Channel| {
            let events = (0..batch).map(|_| event(channel)).collect();
            ready.wait();
            publish_batch(hub, events)
        };
        spent += thread::scope(|scope| {
            let publish = &publish;
            let publishers = channels.iter().map(|channel| scope.spawn(move || publish(channel)));
            let publishers: Vec<_> = publishers.collect();
            let took = publishers
                .into_iter()
                .map(|publisher| publisher.join().expect("published"));
            took.max().expect("a publisher")
        });
        for inbox in &mut *inboxes {
            while inbox.pop().is_some() {}
        }
        left -= batch;
    }
    spent
}

/// One to four publishers, each on its own stripe. On fewer cores than publishers, they take turns.
fn publish_together(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish to inboxes, publishers at once");
    for shards in [1, 4, 16] {
        for publishers in [1, 2, 4] {
            let (hub, mut inboxes) = hub(shards);
            for inbox in &mut inboxes {
                inbox.join(&pattern("grid.*"));
            }
            let mut stripes = HashSet::new();
            let channels = (0..).map(|n| channel(&format!("grid.p{n}.note")));
            let channels = channels.filter(|channel| stripes.insert(stripe_of(channel)));
            let channels: Vec<_> = channels.take(publishers).collect();
            let name = format!("inboxes {shards}, publishers");
            group.bench_function(BenchmarkId::new(name, publishers), |b| {
                b.iter_custom(|times| publish_together_timed(&hub, &mut inboxes, &channels, times));
            });
        }
    }
    group.finish();
}

/// Publishes to one inbox, on a channel of each class with as much state as it can have: a full history, a last value,
/// or 1000 records of which each event changes ten.
fn keep(c: &mut Criterion) {
    let mut group = c.benchmark_group("publish and keep");
    for (name, text) in [
        ("nothing", PLAIN),
        ("last value", LAST_VALUE),
        ("history", HISTORY),
        ("records", RECORDS),
    ] {
        let (hub, mut inboxes) = hub(1);
        inboxes[0].join(&pattern(text));
        let to = channel(text);
        let updates: Vec<Bytes> = (0..100).map(|update| ten_records(update * 10)).collect();
        let next = |n: u64| match text {
            RECORDS => event_with(&to, updates[n as usize % updates.len()].clone()),
            _ => event(&to),
        };
        publish_timed(&hub, &mut inboxes, next, HISTORY_SIZE);
        group.bench_function(name, |b| {
            b.iter_custom(|times| publish_timed(&hub, &mut inboxes, next, times));
        });
    }
    group.finish();
}

/// Publishes with a new id each time. Old ids are dropped as in operation, half a million at a time.
fn identify(c: &mut Criterion) {
    let (hub, mut inboxes) = hub(1);
    inboxes[0].join(&pattern(PLAIN));
    let to = channel(PLAIN);
    let ids = Cell::new(0u64);
    let next = |_| {
        ids.set(ids.get() + 1);
        let mut event = event(&to);
        event.options.id = Some(EventId::new(None, &to, &ids.get().to_be_bytes()));
        event
    };
    c.bench_function("publish with an id", |b| {
        b.iter_custom(|times| publish_timed(&hub, &mut inboxes, next, times));
    });
}

fn ten_records(first: usize) -> Bytes {
    let records: Vec<String> = (first..first + 10)
        .map(|code| format!(r#"{{"code":"{code:06}","price":94.25,"volume":120}}"#))
        .collect();
    format!("[{}]", records.join(",")).into()
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
        let to = channel(PLAIN);
        group.bench_function(BenchmarkId::new("patterns held", patterns), |b| {
            b.iter_custom(|times| publish_timed(&hub, &mut inboxes, |_| event(&to), times));
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

/// Joins that view the state of one channel, and scans over 10,000 channels with a last value. One scan has a pattern
/// that matches all channels. The other has fifty patterns that match none and takes 13 steps per channel.
fn join_and_view(c: &mut Criterion) {
    let channels = 10_000;
    let (hub, mut inboxes) = hub(1);
    for n in 0..channels {
        publish_one(&hub, event(&channel(&format!("grid.g{n}.status"))));
    }
    let mut group = c.benchmark_group("join, view and leave");
    let name = channel("grid.g7.status");
    group.bench_function(BenchmarkId::new("channels", 1), |b| {
        b.iter(|| {
            let each = &mut |view: ChannelView<'_>| assert!(view.has_last);
            black_box(inboxes[0].join_and_view(&name, Now::default(), each));
            inboxes[0].leave(&name.clone().into());
        });
    });
    let none = (0..50).map(|n| pattern(&format!("*.none{n}.*"))).collect();
    for (seen, patterns) in [(channels, vec![pattern("grid.*")]), (0, none)] {
        let name = format!("channels, {} patterns", patterns.len());
        let (mut views, mut joins) = (0u64, 0);
        group.bench_function(BenchmarkId::new(name, channels), |b| {
            b.iter(|| {
                joins += 1;
                let mut scan = Scan::new(patterns.clone(), Vec::new());
                while !scan.is_complete() {
                    inboxes[0].scan(&mut scan, usize::MAX, Now::default(), &mut |view| {
                        views += u64::from(black_box(view).has_last);
                    });
                }
                black_box(scan.position());
                for pattern in &patterns {
                    inboxes[0].leave(pattern);
                }
            });
        });
        assert_eq!(views, joins * seen, "every channel is viewed once");
    }
    group.finish();
}

/// Reads a page from the middle of a full history.
fn page(c: &mut Criterion) {
    let (hub, mut inboxes) = hub(1);
    let of = channel(HISTORY);
    let mut last = None;
    for _ in 0..HISTORY_SIZE {
        last = publish_one(&hub, event(&of)).offset;
    }
    let since = Since::After(last.expect("a history") - HISTORY_SIZE / 2);
    let limit = PageLimit {
        events: 100,
        bytes: usize::MAX,
    };
    c.bench_function("read a page of 100", |b| {
        b.iter(|| {
            let page = inboxes[0].read(&of, since, limit, Now::default());
            assert_eq!(page.events.len(), 100);
            page
        });
    });
}

fn pop(c: &mut Criterion) {
    let (hub, mut inboxes) = hub(1);
    inboxes[0].join(&pattern("*"));
    let to = channel(PLAIN);
    c.bench_function("pop", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times.div_ceil(1000) {
                for _ in 0..1000 {
                    publish_one(&hub, event(&to));
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

criterion_group!(
    benches,
    publish,
    publish_together,
    keep,
    identify,
    lookup,
    join,
    join_and_view,
    page,
    pop
);
criterion_main!(benches);
