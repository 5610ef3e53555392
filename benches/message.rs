//! The cost of one message: parsing it, answering it, and encoding an event.
//!
//! `cargo bench --bench message`

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tickgate::auth::{Identity, Mode, Permissions};
use tickgate::event::{Event, NewEvent, PublishOptions};
use tickgate::session::limits::Limits;
use tickgate::session::{Context, Input, Output, Outputs, Session, Settings};
use tickgate::time::Now;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::dialect::{Dialect, encode_event};
use tickgate_protocol::event::Encoding;
use tickgate_protocol::json::{ESCAPED_KEYS_MAX, Scratch};
use tickgate_protocol::message::{Beyond, SubscribeOutcome};
use tickgate_protocol::wire::Message;

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
        b.iter(|| Dialect::Native.request_head(black_box(&flood), &mut scratch));
    });
    group.finish();
}

/// Keys with escapes: none, the maximum, and a message of 64 KiB full of them, which the scan refuses early.
fn hostile_keys(c: &mut Criterion) {
    let mut group = c.benchmark_group("escaped keys");
    let mut scratch = Scratch::default();
    for count in [0, ESCAPED_KEYS_MAX, 4_000] {
        let members: Vec<_> = (0..count).map(|n| format!(r#""\u0061{n}":0"#)).collect();
        let text = format!(
            r#"{{"type":"ping"{}}}"#,
            members.iter().map(|member| format!(",{member}")).collect::<String>()
        );
        group.bench_function(format!("{count}"), |b| {
            b.iter(|| scratch.object(black_box(&text)).is_ok());
        });
    }
    group.finish();
}

fn typed() -> Dialect {
    Dialect::Typed(Arc::default())
}

fn parse_typed(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse typed");
    let mut scratch = Scratch::default();
    let dialect = typed();
    for (name, text) in [
        ("ping", r#"{"type":"ping"}"#),
        (
            "subscribe a type",
            r#"{"type":"subscribe","subscription_type":"strategy","target":"volume_wave"}"#,
        ),
        (
            "subscribe symbols",
            r#"{"type":"subscribe","symbols":["BTC/USDT","ETH/USDT","KOGE/USDT"],"id":"s1"}"#,
        ),
    ] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| dialect.parse(black_box(text), &mut scratch).is_ok())
        });
    }
    group.finish();
}

fn event(channel: &str, name: &str, data: Bytes) -> Event {
    let new = NewEvent {
        channel: Channel::parse(channel).expect("a channel"),
        name: name.into(),
        data,
        timestamp_ms: NOW.unix_ms,
        options: PublishOptions::default(),
    };
    Event::new(new, None)
}

fn encode(c: &mut Criterion) {
    let order = event(
        "grid.grid_abc123.order",
        "filled",
        Bytes::from_static(
            br#"{"grid_id":"grid_abc123","level":2,"side":"buy","price":94000,"amount":0.001,"position_after":0.003}"#,
        ),
    );
    let stock = r#"{"code":"600519","name":"Kweichow Moutai","price":1850.5,"change_percent":2.5,"volume":12345678}"#;
    let prices = format!("[{}]", vec![stock; 100].join(","));
    let prices = event("strategy.volume_wave.prices", "price_update", prices.into());
    let mut group = c.benchmark_group("encode");
    for (name, event) in [("an event", &order), ("100 prices", &prices)] {
        group.throughput(Throughput::Bytes(event.data.len() as u64));
        for encoding in [
            Encoding::Native,
            Encoding::Typed,
            Encoding::TypedNaive,
            Encoding::SocketIo,
        ] {
            group.bench_function(format!("{name}, {encoding:?}"), |b| {
                b.iter(|| encode_event(encoding, &black_box(event).view()));
            });
        }
    }
    group.finish();
}

fn settings() -> Settings {
    Settings {
        dialect: Dialect::Native,
        // Time does not advance, so the rate limit must never be reached.
        limits: Limits {
            messages_per_second: u32::MAX / 1000,
            ..Limits::default()
        },
        auth_mode: Mode::Required,
        anonymous: Arc::new(Identity::anonymous(Arc::default())),
        auto_subscribe: Box::default(),
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        tenant_name: None,
        auth_timeout_ms: 5_000,
        expiry_warning_ms: 30_000,
        heartbeat_interval_ms: 30_000,
        refused_values: std::sync::Arc::default(),
        classes: std::sync::Arc::default(),
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
        resumed_ms: 0,
        now: NOW,
        settings: &settings,
        delivered: 0,
        dropped: 0,
        cursor: None,
        beyond: Beyond::default(),
    };
    let new = || Session::new(7, Ok(Some(admin.clone())), NOW, &settings);
    let mut scratch = Scratch::default();
    let mut out = Outputs::default();

    c.bench_function("session: ping", |b| {
        // A new session each time, because the rate limiter does not refill while time does not advance.
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
                let Some(Output::Subscribe { request, patterns, .. }) = out.list.pop() else {
                    panic!("a subscription is requested");
                };
                let joined = Input::Subscribed {
                    request,
                    patterns,
                    outcome: SubscribeOutcome::default(),
                };
                session.handle(joined, &context, &mut scratch, &mut out);
                assert_eq!(out.list.len(), 1);
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, parse, hostile_keys, parse_typed, encode, session);
criterion_main!(benches);
