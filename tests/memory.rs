//! Measures the memory that state takes, and compares it with the numbers in the documentation.

#[path = "../benches/support/rig.rs"]
#[allow(dead_code, reason = "benchmarks use the rest")]
mod rig;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use rig::{NOW, Rig, event};
use tickgate::event::{Deletion, NewEvent};
use tickgate::hub::{Hub, Settings, StateSettings, Wakes};
use tickgate::time::Now;

/// The system's allocator. Counts the bytes that are allocated and not freed.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes of a hub that keeps one channel and up to `tombstones` names of evicted ones, and the number of names.
fn held(tombstones: usize) -> (usize, usize) {
    const NAMES: u64 = 9_000;
    let before = HELD.load(Relaxed);
    let state = StateSettings {
        channels: 1,
        tombstones,
        ..StateSettings::default()
    };
    let settings = Settings {
        state,
        ..Settings::default()
    };
    let (hub, _inboxes) = Hub::new(settings, 1, |_, _| Bytes::new());
    for n in 0..NAMES {
        let event = event(&format!("grid.g{n:08}.order"));
        let now = Now { mono_ms: n, unix_ms: n };
        let credit = hub
            .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 1)
            .expect("the event is unwanted, so its credit is free again");
        hub.publish(event, now, credit, &mut Wakes::default());
    }
    (HELD.load(Relaxed) - before, hub.metrics().tombstones)
}

/// `docs/configuration.md` gives this size for `state.evicted_names`.
fn a_remembered_name() {
    let (few_bytes, few) = held(16);
    let (many_bytes, many) = held(8 * 1024);
    assert!(few <= 16 && many > 7_500, "{few} and {many} names");
    let each = (many_bytes - few_bytes) / (many - few);
    println!("{many} names of 20 bytes: {each} bytes each");
    assert!((181..=209).contains(&each), "{each} bytes");
}

/// Connects a client that holds `pattern` and reads nothing; returns its bytes, when it owes as many channels.
fn joined(rig: &mut Rig, pattern: &str, channels: usize) -> usize {
    let before = HELD.load(Relaxed);
    let owed = rig.stats.catch_ups.get() + channels as u64;
    rig.connect(&[pattern.to_owned()]);
    while rig.stats.catch_ups.get() < owed || rig.core.has_turn_to_begin() {
        rig.core.begin_turn(NOW);
    }
    HELD.load(Relaxed) - before
}

/// `docs/guarantees.md` gives the sizes of a channel that a client catches up with.
fn a_channel_to_catch_up_with() {
    // A hash table that has just grown, and one that is full: the largest and the smallest size per channel.
    for channels in [14_400, 28_600] {
        let mut rig = Rig::new();
        for n in 0..channels {
            rig.publish(event(&format!("market.s{n}.price")));
            rig.publish(event(&format!("grid.g{n}.lifecycle")));
            rig.core.deliver(2);
        }
        let name = joined(&mut rig, "market.*", channels) / channels;
        let second = joined(&mut rig, "market.*", channels);
        let history = joined(&mut rig, "grid.*", channels) / channels;
        println!("{channels} channels: {history} bytes for each with history, {name} for each name of the others;");
        println!("{second} bytes for all values of one more client");
        assert!((70..=160).contains(&history), "{history} bytes");
        assert!((60..=130).contains(&name), "{name} bytes");
        assert!(second < 4096, "{second} bytes");
    }
}

/// What a flood of channels took is free again when they are gone, though one channel stays.
fn a_flood_of_channels() {
    const CHANNELS: u64 = 20_000;
    let (hub, _inboxes) = Hub::new(Settings::default(), 1, |_, _| Bytes::new());
    let publish = |event: NewEvent, mono_ms| {
        let now = Now {
            mono_ms,
            unix_ms: mono_ms,
        };
        let credit = hub
            .credit_now(event.channel.tenant(), 1)
            .expect("the event is unwanted");
        hub.publish(event, now, credit, &mut Wakes::default());
    };
    publish(event("market.stays.price"), 1);
    let before = HELD.load(Relaxed);
    let names = || (0..CHANNELS).map(|n| event(&format!("market.s{n:08}.price")));
    names().for_each(|event| publish(event, 1));
    let flooded = HELD.load(Relaxed) - before;
    names().for_each(|event| publish(NewEvent::deletion(event.channel, Deletion::Everything, 2), 2));
    let later = Now {
        mono_ms: 120_000,
        unix_ms: 120_000,
    };
    let _ = hub.pass_time(later);
    assert_eq!(hub.metrics().channels, 1);
    let left = HELD.load(Relaxed).saturating_sub(before);
    println!("{CHANNELS} channels took {flooded} bytes and left {left}");
    assert!(left * 5 < flooded, "{left} of {flooded} bytes");
}

/// The memory of 2000 clients with 20 of 500 channels each, for each subscription: in their first period if they have a rate,
/// and after it.
fn subscriptions(max_rate: &str) -> [usize; 2] {
    const CLIENTS: usize = 2_000;
    const EACH: usize = 20;
    let mut rig = Rig::new();
    let connect = |rig: &mut Rig, subscribe: &dyn Fn(usize) -> String| {
        let before = HELD.load(Relaxed);
        for client in 0..CLIENTS {
            rig.connect_and_send(&subscribe(client));
        }
        rig.drain();
        rig.core.deliver(1);
        move || HELD.load(Relaxed) - before
    };
    let bare = connect(&mut rig, &|_| r#"{"type":"ping"}"#.to_owned())();
    let held = connect(&mut rig, &|client| {
        let channel = |n: usize| format!(r#""market.s{}.price""#, (client * 7 + n * 25) % 500);
        let channels: Vec<String> = (0..EACH).map(channel).collect();
        format!(
            r#"{{"type":"subscribe","channels":[{}]{max_rate}}}"#,
            channels.join(",")
        )
    });
    let each = |bytes: usize| (bytes - bare) / (CLIENTS * EACH);
    let first = each(held());
    for period in 1..=4 {
        rig.core.begin_turn(Now {
            mono_ms: NOW.mono_ms + period * 10_000,
            ..NOW
        });
        rig.core.deliver(1);
    }
    [first, each(held())]
}

fn a_subscription() {
    let [plain_first, plain] = subscriptions("");
    let [rated_first, rated] = subscriptions(r#","max_rate":2"#);
    println!("{plain_first} and {plain} bytes for a subscription, {rated_first} and {rated} bytes with a rate");
    assert!(rated * 10 <= plain * 13, "{rated} bytes with a rate, {plain} without");
}

// One test for all, because each measures the memory of the whole process.
#[test]
fn state_takes_the_memory_that_the_documentation_says() {
    a_remembered_name();
    a_channel_to_catch_up_with();
    a_flood_of_channels();
    a_subscription();
}
