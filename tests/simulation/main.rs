//! A whole shard and its clients in one thread, on virtual time, from a seed.
//!
//! Two halves: here clients do whatever clients do, on channels of which nothing is kept; in `keeping/` channels of
//! every class meet clients that stall, go and come back.
//!
//! Decoders, sessions, the subscription table, outboxes, timers and the hub are the real ones; sockets, backends and
//! clocks are not. Clients connect, authenticate, subscribe and unsubscribe with overlapping patterns, publish, send
//! commands, stall, half-read, flood, talk nonsense, fall silent and disconnect, all in bytes cut anywhere. Beside
//! each client runs a model that knows only what went over the wire and when.
//!
//! Checked with every frame a client gets:
//! * an event matches a pattern that the client was told it holds: none before `subscribed`, none after `unsubscribed`;
//! * an event was not published before the client asked for it;
//! * per channel the order is that of publishing, and nothing comes twice;
//! * every request is answered once, and nothing follows the Close frame.
//!
//! After every step: no cap is exceeded. At the end of a connection: it got everything it was owed or was told of the
//! loss, and it ended once, with a code that its behaviour explains. At the end of all: nothing is left anywhere.
//!
//! `TICKGATE_SEEDS=10000 cargo test --release --test simulation` runs more seeds, `TICKGATE_SEED=17` one alone.

mod checks;
mod client;
mod keeping;
mod model;
mod surroundings;
mod wire;
mod world;

use std::fmt::Debug;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use surroundings::{Fault, Summary};
use world::World;

/// What is wrong with one seed's run, if anything.
fn run(seed: u64, fault: Fault) -> Result<Summary, String> {
    caught(|| World::new(seed, fault).run())
}

/// A run whose panics are what is wrong with it.
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

/// Runs the seeds that were asked for, each of which must pass. Whether they are so many that everything must have
/// happened in them.
fn sweep<S: Debug>(sum: &mut S, run: impl Fn(u64) -> Result<S, String>, add: impl Fn(&mut S, &S)) -> bool {
    let seeds = match variable("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TICKGATE_SEEDS").unwrap_or(200),
    };
    for seed in seeds.clone() {
        match run(seed) {
            Ok(summary) => add(sum, &summary),
            Err(wrong) => panic!("TICKGATE_SEED={seed}: {wrong}"),
        }
    }
    println!("{} seeds: {sum:?}", seeds.end - seeds.start);
    seeds.end - seeds.start >= 200
}

/// A fault must be found by one of these seeds, for what it is.
fn assert_found_by<S>(seeds: Range<u64>, fault: impl Debug, run: impl Fn(u64) -> Result<S, String>, symptoms: &[&str]) {
    let wrongs: Vec<String> = seeds.filter_map(|seed| run(seed).err()).collect();
    let is_symptom = |wrong: &String| symptoms.iter().any(|symptom| wrong.contains(symptom));
    assert!(
        wrongs.iter().any(is_symptom),
        "{fault:?} went unnoticed; of other things: {:?}",
        wrongs.first()
    );
}

#[test]
fn many_seeds_keep_every_promise() {
    let mut sum = Summary::default();
    if sweep(&mut sum, |seed| run(seed, Fault::None), Summary::add) {
        sum.assert_everything_happened();
    }
}

fn assert_found(fault: Fault, symptoms: &[&str]) {
    assert_found_by(0..40, fault, |seed| run(seed, fault), symptoms);
}

#[test]
fn a_subscription_that_outlives_its_end_is_found() {
    assert_found(Fault::KeepsSubscription, &["matches nothing held"]);
}

#[test]
fn an_event_from_before_the_join_is_found() {
    assert_found(Fault::EventFromBefore, &["published before the subscription"]);
}

#[test]
fn a_lost_event_is_found() {
    assert_found(Fault::LosesEvent, &["are missing"]);
}

#[test]
fn a_doubled_event_is_found() {
    assert_found(Fault::DoublesEvent, &[" after Some"]);
}

#[test]
fn two_events_out_of_order_are_found() {
    assert_found(Fault::SwapsEvents, &[" after Some", "are missing"]);
}

#[test]
fn a_loss_that_is_not_told_is_found() {
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
