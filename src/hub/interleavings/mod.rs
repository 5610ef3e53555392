//! The hub under a model checker. It interleaves the threads of each test at every use of a lock, atomic, queue or
//! semaphore.
//!
//! A seed stands for sixteen reproducible schedules of a test. Eight choose the next thread at random. The other eight run
//! one thread for as long as possible and switch at two random points (PCT). The checker also finds threads that wait for
//! ever. It treats every atomic operation as sequentially consistent, so it does not explore what weaker orderings allow.
//!
//! `TICKGATE_SEEDS` sets the number of seeds, and `TICKGATE_SEED` runs a single one. Beside each property there are planted
//! faults. The checker must find each of them, with the expected failure.

mod classes;
mod credits;
mod doorbell;
mod heads;
mod ids;
mod joins;
mod quotas;
mod reads;
mod watch;

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::future::block_on;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner};

use super::{Hub, Receipt, Wakes};
use crate::event::NewEvent;
use crate::time::Now;

/// The number of seeds of an ordinary run, within which every planted fault must be found.
const SEEDS: u64 = 40;

/// The number of schedules for each of the two strategies of a seed.
const SCHEDULES: usize = 8;

/// The depth of PCT: one more than the number of preemptions.
const DEPTH: usize = 3;

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    // The seed identifies a schedule, so there is nothing else to store.
    config.failure_persistence = FailurePersistence::None;
    config.silence_warnings = true;
    config
}

fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) -> Result<(), String> {
    let run = AssertUnwindSafe(|| Runner::new(scheduler, config()).run(test));
    match catch_unwind(run) {
        Ok(_) => Ok(()),
        Err(panic) => Err(message(&*panic)),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a message").to_owned()
}

/// The first seed with a failing schedule, and the message of its panic.
fn first_failure(seeds: Range<u64>, test: impl Fn() + Send + Sync + Copy + 'static) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let random = run(RandomScheduler::new_from_seed(seed, SCHEDULES), test);
        let preempting = || run(PctScheduler::new_from_seed(seed, DEPTH, SCHEDULES), test);
        random.and_then(|()| preempting()).err().map(|wrong| (seed, wrong))
    })
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Asserts that no schedule fails.
fn holds(test: impl Fn() + Send + Sync + Copy + 'static) {
    let seeds = match variable("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TICKGATE_SEEDS").unwrap_or(SEEDS),
    };
    if let Some((seed, wrong)) = first_failure(seeds, test) {
        panic!("TICKGATE_SEED={seed}: {wrong}");
    }
}

/// Asserts that a schedule fails with a message that contains `expected`.
#[track_caller]
fn is_found(expected: &str, test: impl Fn() + Send + Sync + Copy + 'static) {
    let found = first_failure(0..SEEDS, test);
    let (seed, wrong) = found.expect("the planted fault is found");
    assert!(wrong.contains(expected), "seed {seed} found something else: {wrong}");
}

/// Publishes as the admin API does: waits for a credit, publishes, and wakes the shards.
fn publish(hub: &Hub, event: NewEvent) -> Receipt {
    let credit = block_on(hub.credit(tickgate_protocol::channel::Tenant::DEFAULT, event.data.len()));
    let mut wakes = Wakes::default();
    let receipt = hub.publish(event, Now::default(), credit, &mut wakes);
    hub.wake(wakes);
    receipt
}
