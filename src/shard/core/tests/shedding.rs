//! What a shard gives up when all clients together hold too much memory.

use std::sync::atomic::AtomicU64;

use serde_json::json;

use super::support::{narrow, told};
use super::*;
use crate::memory::{Budget, RETRY_AFTER_MS};

const LIMIT: u64 = 10 << 20;

/// A shard with a budget of 10 MiB, and what others hold of it.
fn rig() -> (Rig, Arc<AtomicU64>) {
    let (budget, others) = (Budget::new(LIMIT, 1), Arc::new(AtomicU64::new(0)));
    let held = Arc::clone(&others);
    budget.count_others(move || held.load(Ordering::Relaxed));
    let asked = Asked {
        budget: Some(Arc::new(budget)),
        ..Asked::default()
    };
    let rig = Rig::asking(asked, shard_settings(), hub::Settings::default());
    (rig, others)
}

impl Rig {
    /// Publishes an event of about `bytes` bytes and delivers it.
    fn long_event(&mut self, channel: &str, bytes: usize) {
        self.event(channel, &format!("\"{}\"", "x".repeat(bytes)));
    }

    fn turn_after(&mut self, ms: u64) {
        self.pass(ms);
        self.core.begin_turn(self.now);
    }

    fn outbox_memory(&self) -> i64 {
        self.metrics.read().outbox_memory
    }
}

#[test]
fn new_subscriptions_are_refused_first_and_held_ones_go_on() {
    let (mut rig, others) = rig();
    let id = rig.connect();
    rig.subscribe(id, "system.a");
    assert_eq!(told(&rig.read(id)), [json!("subscribed")]);
    others.store(LIMIT / 100 * 95, Ordering::Relaxed);
    rig.core.begin_turn(rig.now);
    rig.say(id, r#"{"type":"subscribe","channels":["system.b"],"id":7}"#);
    rig.say(id, r#"{"type":"unsubscribe","channels":["system.c"],"id":8}"#);
    rig.event("system.a", "1");
    rig.event("system.b", "2");
    let got = rig.read(id);
    let refused = got[0].text();
    assert_eq!((&refused["type"], &refused["id"]), (&json!("error"), &json!(7)));
    assert_eq!(refused["error"]["code"], "OVERLOADED");
    assert_eq!(refused["data"], json!({"retry_after_ms": RETRY_AFTER_MS}));
    assert_eq!(told(&got[1..]), [json!("unsubscribed"), json!(1)]);
    assert_eq!(rig.metrics.overloaded_subscribes.get(), 1);
    // A connection that was accepted before gets its automatic subscriptions.
    let settings = session::Settings {
        auto_subscribe: [Pattern::parse("system.*").expect("valid")].into(),
        ..(*session_settings(Mode::Off, Limits::default())).clone()
    };
    let automatic = rig.connect_with(Arc::new(settings), Ok(None), true);
    rig.event("system.c", "3");
    assert_eq!(told(&rig.read(automatic)), [json!(3)]);
    others.store(0, Ordering::Relaxed);
    rig.core.begin_turn(rig.now);
    rig.subscribe(id, "system.b");
    assert_eq!(told(&rig.read(id)), [json!("subscribed")]);
}

#[test]
fn the_most_expensive_of_the_stalled_connections_are_closed_and_no_healthy_one() {
    let (mut rig, others) = rig();
    let [small, large, slow, healthy] = [(); 4].map(|()| rig.connect());
    for (id, channel) in [
        (small, "system.s"),
        (large, "system.l"),
        (slow, "system.w"),
        (healthy, "system.h"),
    ] {
        rig.subscribe(id, channel);
        rig.read(id);
    }
    for id in [small, large, slow] {
        rig.stall(id);
    }
    for (channel, count) in [("system.s", 2), ("system.l", 4), ("system.w", 6)] {
        for _ in 0..count {
            rig.long_event(channel, 100_000);
        }
    }
    rig.turn_after(0);
    others.store(LIMIT, Ordering::Relaxed);
    rig.turn_after(0);
    let closing = |rig: &Rig| [small, large, slow, healthy].map(|id| rig.core.is_closing(id));
    assert_eq!(
        closing(&rig),
        [false; 4],
        "a socket that takes nothing for a moment is not stalled"
    );
    // This one holds most, but its client reads.
    rig.core.writable(slow);
    assert_eq!(rig.read_page(slow).len(), 6);
    for _ in 0..6 {
        rig.long_event("system.w", 100_000);
    }
    rig.core.blocked(slow, rig.now);
    others.store(LIMIT / 100 * 95, Ordering::Relaxed);
    rig.turn_after(999);
    assert_eq!(closing(&rig), [false; 4]);
    rig.turn_after(1);
    assert_eq!(closing(&rig), [false, true, false, false]);
    assert_eq!(rig.metrics.shed.get(), 1);
    rig.core.writable(large);
    assert_eq!(
        quiet(rig.read(large)),
        [Received::Close(1013)],
        "its queue was freed at once"
    );
    rig.long_event("system.h", 10);
    assert_eq!(kinds(&quiet(rig.read(healthy))), ["event"]);
    // The pressure is over.
    others.store(0, Ordering::Relaxed);
    rig.turn_after(1_000);
    rig.turn_after(1_000);
    assert_eq!(rig.metrics.shed.get(), 1);
}

#[test]
fn a_frame_that_many_clients_share_counts_once() {
    let (mut rig, _) = rig();
    let before = {
        rig.turn_after(0);
        rig.outbox_memory()
    };
    let crowd: Vec<ConnectionId> = (0..50).map(|_| rig.connect()).collect();
    for &id in &crowd {
        rig.subscribe(id, "system.a");
        rig.read(id);
        rig.stall(id);
    }
    rig.long_event("system.a", 100_000);
    rig.turn_after(0);
    let held = rig.outbox_memory() - before;
    assert!((100_000..110_000).contains(&held), "{held} bytes");
    for id in crowd {
        rig.core.on_socket_error(id, rig.now);
    }
    rig.turn_after(0);
    let left = rig.outbox_memory();
    assert!(left < 10_000, "{left} bytes");
}

#[test]
fn what_clients_have_yet_to_read_and_half_received_messages_count_until_they_are_gone() {
    let (mut rig, _) = rig();
    for n in 0..2_000 {
        rig.event(&format!("grid.g{n}.lifecycle"), "1");
        rig.event(&format!("market.s{n}.price"), "1");
    }
    let id = narrow(&mut rig, 10);
    rig.subscribe(id, "*");
    rig.core.begin_turn(rig.now);
    let catch_up = rig.metrics.read().catch_up_memory;
    assert!((2_000 * 100..2_000 * 250).contains(&catch_up), "{catch_up} bytes");
    rig.read(id);
    assert!(rig.has_no_extra(id));
    let half = frame(0x81, &[b'x'; 30_000]);
    rig.core.on_bytes(id, &mut half[..20_000].to_vec(), rig.now);
    rig.turn_after(0);
    let sample = rig.metrics.read();
    // Room for some names is kept.
    assert!(sample.catch_up_memory < 72 * 1024, "{} bytes", sample.catch_up_memory);
    assert!(
        (19_000..=21_000).contains(&sample.input_memory),
        "{}",
        sample.input_memory
    );
    rig.core.on_socket_error(id, rig.now);
    rig.turn_after(0);
    assert_eq!(rig.metrics.read().input_memory, 0);
}
