//! What the hub's state takes, measured: the figures that the documentation gives.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use tickgate::channel::Channel;
use tickgate::event::{NewEvent, Terms};
use tickgate::hub::{Hub, Settings, StateSettings, Wakes};
use tickgate::time::Now;

/// The system's allocator, and what it was asked for and has not got back.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller keeps to the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A hub that keeps one channel and so many names of others: what it holds, in bytes, and how many names.
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
        let event = NewEvent {
            channel: Channel::parse(&format!("grid.g{n:08}.order")).expect("valid"),
            name: "n".into(),
            data: Bytes::from_static(b"1"),
            timestamp_ms: 0,
            terms: Terms::default(),
        };
        let now = Now { mono_ms: n, unix_ms: n };
        let credit = hub.credit_now(1).expect("nobody wants it");
        hub.publish(event, now, credit, &mut Wakes::default());
    }
    (HELD.load(Relaxed) - before, hub.stats().tombstones)
}

/// `docs/configuration.md` gives this figure beside `state.evicted_names`.
#[test]
fn a_remembered_name_takes_what_the_documentation_says() {
    let (few_bytes, few) = held(16);
    let (many_bytes, many) = held(8 * 1024);
    assert!(few <= 16 && many > 7_500, "{few} and {many} names");
    let each = (many_bytes - few_bytes) / (many - few);
    println!("{many} names of 20 bytes: {each} bytes each");
    assert!((140..=165).contains(&each), "{each} bytes");
}
