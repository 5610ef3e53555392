//! What one message costs: reading it, answering it, and encoding an event.
//!
//! `cargo bench --bench message`

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tickgate::auth::{Identity, Mode, Permissions};
use tickgate::channel::Channel;
use tickgate::dialect::{Dialect, encode_event};
use tickgate::event::{Encoding, Event, NewEvent};
use tickgate::json::Scratch;
use tickgate::limits::Limits;
use tickgate::session::{Context, Input, Output, Outputs, Session, Settings};
use tickgate::time::Now;
use tickgate::wire::Message;

const MESSAGES: [(&str, &str); 7] = [
    ("ping", r#"{"type":"ping","timestamp":1703836800000}"#),
    (
        "auth",
        r#"{"type":"auth","token":"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1NDIiLCJleHAiOjE3MDM4NDA0MDB9.c2lnbmF0dXJlc2lnbmF0dXJlc2lnbmF0dXJl"}"#,
    ),
    (
        "subscribe",
        r#"{"type":"subscribe","channels":["grid.grid_abc123.*","system.health"],"id":"s1"}"#,
    ),
    ("unsubscribe", r#"{"type":"unsubscribe","channels":["system.log"]}"#),
    (
        "command",
        r#"{"type":"command","id":"cmd_001","timestamp":1703836800000,"action":"grid.start","params":{"pair":"BTC-USDC","upper_price":100000,"lower_price":90000,"grid_count":10}}"#,
    ),
    (
        "publish",
        r#"{"type":"publish","channel":"grid.grid_abc123.order","event":"filled","data":{"grid_id":"grid_abc123","level":2,"side":"buy","price":94000,"amount":0.001,"position_after":0.003},"id":"p1"}"#,
    ),
    ("get_status", r#"{"type":"get_status"}"#),
];

const NOW: Now = Now {
    mono_ms: 1_000_000,
    unix_ms: 1_703_836_800_000,
};

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    let mut scratch = Scratch::default();
    for (name, text) in MESSAGES {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| Dialect::Native.parse(black_box(text), &mut scratch).is_ok());
        });
    }
    let flood = format!(r#"{{"type":"command","id":"c","params":"{}"}}"#, "x".repeat(65_000));
    group.throughput(Throughput::Bytes(flood.len() as u64));
    group.bench_function("refused command of 64 KiB", |b| {
        b.iter(|| Dialect::Native.command_id(black_box(&flood), &mut scratch));
    });
    group.finish();
}

fn encode(c: &mut Criterion) {
    let event = Event::new(
        NewEvent {
            channel: Channel::parse("grid.grid_abc123.order").expect("a channel"),
            name: "filled".into(),
            data: Bytes::from_static(
                br#"{"grid_id":"grid_abc123","level":2,"side":"buy","price":94000,"amount":0.001,"position_after":0.003}"#,
            ),
            timestamp_ms: NOW.unix_ms,
        },
        None,
    );
    c.bench_function("encode an event", |b| {
        b.iter(|| encode_event(Encoding::Native, black_box(&event)));
    });
}

fn settings() -> Settings {
    Settings {
        dialect: Dialect::Native,
        // Nothing is refused for coming too fast while time stands still.
        limits: Limits {
            messages_per_second: u32::MAX / 1000,
            ..Limits::default()
        },
        auth_mode: Mode::Required,
        anonymous: Arc::new(Identity::anonymous(Arc::default())),
        auto_subscribe: Box::default(),
        auth_timeout_ms: 5_000,
        expiry_warning_ms: 30_000,
        heartbeat_interval_ms: 30_000,
        heartbeat_timeout_ms: 60_000,
    }
}

fn session(c: &mut Criterion) {
    let settings = settings();
    let admin = Arc::new(Identity::anonymous(Arc::new(Permissions {
        admin: true,
        ..Permissions::default()
    })));
    let context = Context {
        now: NOW,
        settings: &settings,
        delivered: 0,
        dropped: 0,
    };
    let new = || Session::new(7, Ok(Some(admin.clone())), NOW, &settings);
    let mut scratch = Scratch::default();
    let mut out = Outputs::default();

    c.bench_function("session: ping", |b| {
        // A fresh one each time: otherwise the bucket would run dry at a time that stands still.
        b.iter_batched_ref(
            new,
            |session| {
                out.clear();
                session.handle(
                    Input::Frame(Message::Text(MESSAGES[0].1)),
                    &context,
                    &mut scratch,
                    &mut out,
                );
                assert_eq!(out.list.len(), 1);
            },
            BatchSize::SmallInput,
        );
    });
    c.bench_function("session: subscribe and its join", |b| {
        b.iter_batched_ref(
            new,
            |session| {
                out.clear();
                session.handle(
                    Input::Frame(Message::Text(MESSAGES[2].1)),
                    &context,
                    &mut scratch,
                    &mut out,
                );
                let Some(Output::Join { request, patterns }) = out.list.pop() else {
                    panic!("a join is asked for");
                };
                let joined = Input::Joined { request, patterns };
                session.handle(joined, &context, &mut scratch, &mut out);
                assert_eq!(out.list.len(), 1);
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, parse, encode, session);
criterion_main!(benches);
