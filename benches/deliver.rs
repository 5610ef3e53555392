//! What the gateway itself adds to a delivery: from the shard's inbox into outboxes and out again, without a socket.
//!
//! `cargo bench --bench deliver`. The kernel's send path costs 0.3 to 2 µs per delivery; what is measured here must
//! stay far below.

use std::hint::black_box;
use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tickgate::auth::{Identity, Mode, Permissions};
use tickgate::channel::Channel;
use tickgate::dialect::{self, Dialect};
use tickgate::event::{NewEvent, Terms};
use tickgate::hub::{self, Broker, Hub, Receipt, Wakes};
use tickgate::limits::Limits;
use tickgate::mailbox::{ConnectionId, ConnectionPermit, Services};
use tickgate::session::{self, Command};
use tickgate::shard;
use tickgate::shard::engine::{Arrival, Engine, Sent};
use tickgate::stats::ShardStats;
use tickgate::time::Now;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const NOW: Now = Now {
    mono_ms: 1_000_000,
    unix_ms: 1_703_836_800_000,
};

struct Nobody;

impl Services for Nobody {
    fn verify(&self, _: ConnectionId, _: u32, _: Box<str>) {}
    fn command(&self, _: ConnectionId, _: &str, _: Option<std::net::IpAddr>, _: u32, _: Command) {}
    fn forbidden(&self, _: &str, _: Option<std::net::IpAddr>, _: Command) {}
}

impl Broker for Nobody {
    fn publish(&self, _: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Vec<Receipt>> + Send + '_>> {
        Box::pin(async { Vec::new() })
    }
    fn try_publish(&self, _: u16, event: NewEvent, _: Now) -> Result<Receipt, NewEvent> {
        Err(event)
    }
    fn is_ready(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Permit;

impl ConnectionPermit for Permit {
    fn authenticated(&mut self, _: &str) -> bool {
        true
    }
}

struct Rig {
    hub: Arc<Hub>,
    engine: Engine,
    connections: u64,
    settings: Arc<session::Settings>,
    stats: Arc<ShardStats>,
}

impl Rig {
    fn new() -> Self {
        let (hub, mut inboxes) = Hub::new(
            hub::Settings {
                credits: 4096,
                ..hub::Settings::default()
            },
            1,
            dialect::encode_event,
        );
        let stats = Arc::new(ShardStats::default());
        let engine = Engine::new(
            shard::Settings::new(0),
            inboxes.remove(0),
            Arc::new(Nobody),
            Arc::new(Nobody),
            stats.clone(),
            NOW,
        );
        let anonymous = Identity {
            user: None,
            role: None,
            permissions: Arc::new(Permissions {
                admin: true,
                ..Permissions::default()
            }),
            expires_at_ms: None,
            exp_ms: None,
            token_id: None,
        };
        let settings = Arc::new(session::Settings {
            dialect: Dialect::Native,
            limits: Limits::default(),
            auth_mode: Mode::Off,
            anonymous: Arc::new(anonymous),
            auto_subscribe: Box::default(),
            auth_timeout_ms: 5_000,
            expiry_warning_ms: 30_000,
            heartbeat_interval_ms: 30_000,
            heartbeat_timeout_ms: 60_000,
        });
        Self {
            hub,
            engine,
            connections: 0,
            settings,
            stats,
        }
    }

    fn connect(&mut self, patterns: &[String]) {
        let arrival = Arrival {
            settings: self.settings.clone(),
            engine_io: None,
            identity: Ok(None),
            address: None,
            nonce: self.connections,
            permit: Box::new(Permit),
        };
        let id = self.engine.adopt(arrival, NOW);
        let message = format!(
            r#"{{"type":"subscribe","channels":{}}}"#,
            serde_json::to_string(patterns).expect("strings")
        );
        self.engine.on_bytes(id, &mut client_frame(message.as_bytes()), NOW);
        assert!(!self.engine.is_closing(id), "a subscription failed");
        self.connections += 1;
    }

    fn publish(&self, event: NewEvent) {
        let credit = self.hub.credit_now(event.data.len()).expect("room");
        self.hub.publish(event, NOW, credit, &mut Wakes::default());
    }

    /// Takes everything out of the outboxes, as if it were written.
    fn drain(&mut self) {
        while let Some(id) = self.engine.next_dirty() {
            loop {
                let mut slices = [IoSlice::new(&[]); 64];
                let filled = self.engine.pending(id, NOW, &mut slices);
                let bytes = slices[..filled].iter().map(|slice| slice.len()).sum();
                black_box(&slices);
                if self.engine.sent(id, bytes, NOW) == Sent::Drained {
                    break;
                }
            }
        }
    }
}

fn client_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match u8::try_from(payload.len()) {
        Ok(length @ ..126) => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(payload.len()).expect("below 64 KiB").to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fn event(channel: &str) -> NewEvent {
    let data = format!(
        r#"{{"symbol":"BTC/USDT","price":94123.25,"note":"{}"}}"#,
        "x".repeat(120)
    );
    NewEvent {
        channel: Channel::parse(channel).expect("valid"),
        name: "price_update".into(),
        data: Bytes::from(data),
        timestamp_ms: NOW.unix_ms,
        terms: Terms::default(),
    }
}

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
        rig.engine.deliver(1);
        rig.drain();
        assert_eq!(rig.stats.deliveries.get(), subscribers, "everybody gets it");
        group.throughput(Throughput::Elements(subscribers));
        // Eight events a tick, as under load; both phases are timed apart from each other.
        for phase in ["deliver", "take_out"] {
            group.bench_function(BenchmarkId::new(phase, subscribers), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut spent = Duration::ZERO;
                    for _ in 0..rounds.div_ceil(8) {
                        for _ in 0..8 {
                            rig.publish(event.clone());
                        }
                        let began = Instant::now();
                        rig.engine.deliver(8);
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

/// 100,000 subscriptions to 1000 patterns; an event with one subscriber each, so that finding it is what is measured.
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
                    rig.engine.deliver(1);
                    spent += began.elapsed();
                    rig.drain();
                }
                spent
            });
        });
    }
    group.finish();
    assert!(rig.stats.deliveries.get() > 0, "somebody gets it");
}

criterion_group!(benches, deliver, resolve);
criterion_main!(benches);
