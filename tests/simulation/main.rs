//! Simulates a whole shard with its clients in one thread, on virtual time, from a seed.
//!
//! There are several simulations. The one in this folder has clients with arbitrary behaviour, on channels without kept
//! state. The one in `keeping/` has channels of every class, and clients that stall, leave and come back.
//!
//! Decoders, sessions, the subscription table, outboxes, timers and the hub are the real ones. Sockets, backends and
//! clocks are simulated. Clients connect, authenticate, subscribe and unsubscribe with overlapping patterns, publish,
//! send commands, stall, read partially, flood, send malformed frames, fall silent and disconnect. Their bytes are
//! split anywhere. Each client has a model that knows only what was sent and received, and when.
//!
//! Checks of every frame that a client receives:
//! * an event matches a pattern that the client holds: none before `subscribed`, none after `unsubscribed`;
//! * an event was not published before the client asked for it;
//! * per channel, events arrive in the order of publishing, and none arrives twice;
//! * every request is answered once, and nothing follows the Close frame.
//!
//! After every step, no limit is exceeded. When a connection ends, it has received every event it was owed, or a report
//! of the loss, and it has ended once, with a close code that its behaviour explains. At the end, no resource is still
//! in use.
//!
//! `TICKGATE_SEEDS=10000 cargo test --release --test simulation` runs more seeds, `TICKGATE_SEED=17` a single one.

mod checks;
mod client;
mod keeping;
mod model;
mod rates;
mod surroundings;
mod tenants;
mod wire;
mod world;

use std::fmt::Debug;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use surroundings::{Fault, Summary};
use world::World;

/// Runs one seed and returns the first violation as an error.
fn run(seed: u64, fault: Fault) -> Result<Summary, String> {
    caught(|| World::new(seed, fault).run())
}

/// Runs a closure and turns a panic into an error.
fn caught<S>(run: impl FnOnce() -> Result<S, String>) -> Result<S, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("panicked: {}", text.unwrap_or("no text")))
        }
    }
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Runs the requested seeds on all cores. Each must pass. Returns whether there were enough seeds to expect that everything
/// happened at least once.
fn sweep<S: Debug + Default + Send>(
    sum: &mut S,
    run: impl Fn(u64) -> Result<S, String> + Sync,
    add: impl Fn(&mut S, &S) + Sync,
) -> bool {
    let seeds = match variable("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TICKGATE_SEEDS").unwrap_or(200),
    };
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut part = S::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return Ok(part);
            }
            let summary = run(seed).map_err(|wrong| format!("TICKGATE_SEED={seed}: {wrong}"))?;
            add(&mut part, &summary);
        }
    };
    let parts: Vec<Result<S, String>> = std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let workers: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker"))
            .collect()
    });
    for part in parts {
        add(sum, &part.unwrap_or_else(|wrong| panic!("{wrong}")));
    }
    println!("{} seeds: {sum:?}", seeds.end - seeds.start);
    seeds.end - seeds.start >= 200
}

/// Asserts that one of these seeds finds the fault, with one of its symptoms.
fn assert_found_by<S>(seeds: Range<u64>, fault: impl Debug, run: impl Fn(u64) -> Result<S, String>, symptoms: &[&str]) {
    let mut other = None;
    for wrong in seeds.filter_map(|seed| run(seed).err()) {
        if symptoms.iter().any(|symptom| wrong.contains(symptom)) {
            return;
        }
        other.get_or_insert(wrong);
    }
    panic!("{fault:?} was not found; the first other error: {other:?}");
}

#[test]
fn every_promise_is_kept_with_many_seeds() {
    let mut sum = Summary::default();
    if sweep(&mut sum, |seed| run(seed, Fault::None), Summary::add) {
        sum.assert_everything_happened();
    }
}

fn assert_found(fault: Fault, symptoms: &[&str]) {
    assert_found_by(0..40, fault, |seed| run(seed, fault), symptoms);
}

#[test]
fn a_subscription_kept_after_unsubscribe_is_found() {
    assert_found(Fault::KeepsSubscription, &["matches no held pattern"]);
}

#[test]
fn an_event_from_before_the_subscription_is_found() {
    assert_found(Fault::EventFromBefore, &["published before the subscription"]);
}

#[test]
fn a_lost_event_is_found() {
    assert_found(Fault::LosesEvent, &["are missing"]);
}

#[test]
fn a_duplicate_event_is_found() {
    assert_found(Fault::DoublesEvent, &[" after Some"]);
}

#[test]
fn two_events_out_of_order_are_found() {
    assert_found(Fault::SwapsEvents, &[" after Some", "are missing"]);
}

#[test]
fn an_unreported_drop_is_found() {
    assert_found(Fault::HidesDrops, &["are missing"]);
}

#[test]
fn a_doorbell_that_does_not_ring_is_found() {
    assert_found(Fault::SilentDoorbell, &["never answered"]);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7, Fault::None), run(7, Fault::None));
}
