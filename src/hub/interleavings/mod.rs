//! The hub under a model checker: the threads of each test are interleaved at every lock, atomic, queue and semaphore.
//!
//! A seed is sixteen schedules of a test, each the same whenever it is run: eight are random walks, eight run one thread
//! for as long as it can and change at two random points (PCT). A thread that waits for ever is found, too. The checker
//! takes every atomic operation for a sequentially consistent one; what weaker orderings allow is not explored.
//!
//! `TICKGATE_SEEDS` says how many seeds, `TICKGATE_SEED` takes one alone. Each property has faults planted beside it, which
//! the checker must find for what they are.

mod credits;
mod doorbell;
mod ids;
mod joins;
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

/// Seeds of an ordinary run, and those within which a planted fault must be found.
const SEEDS: u64 = 40;

/// Schedules of each of a seed's two ways of choosing.
const SCHEDULES: usize = 8;

/// PCT: one more than the changes of thread at points that are not asked for by the code.
const DEPTH: usize = 3;

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 256 * 1024;
    // A schedule is named by its seed.
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
    text.unwrap_or("a panic without a text").to_owned()
}

/// The first of the seeds in which a schedule fails, and how.
fn first_failure(seeds: Range<u64>, test: impl Fn() + Send + Sync + Copy + 'static) -> Option<(u64, String)> {
    seeds.into_iter().find_map(|seed| {
        let random = run(RandomScheduler::new_from_seed(seed, SCHEDULES), test);
        let changes = || run(PctScheduler::new_from_seed(seed, DEPTH, SCHEDULES), test);
        random.and_then(|()| changes()).err().map(|wrong| (seed, wrong))
    })
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// No schedule may fail.
fn holds(test: impl Fn() + Send + Sync + Copy + 'static) {
    let seeds = match variable("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TICKGATE_SEEDS").unwrap_or(SEEDS),
    };
    if let Some((seed, wrong)) = first_failure(seeds, test) {
        panic!("TICKGATE_SEED={seed}: {wrong}");
    }
}

/// Some schedule must fail, and say this.
#[track_caller]
fn is_found(expected: &str, test: impl Fn() + Send + Sync + Copy + 'static) {
    let found = first_failure(0..SEEDS, test);
    let (seed, wrong) = found.expect("the planted fault is found");
    assert!(wrong.contains(expected), "seed {seed} found something else: {wrong}");
}

/// Publishes as the admin API does: waits for a credit, wakes the shards afterwards.
fn publish(hub: &Hub, event: NewEvent) -> Receipt {
    let credit = block_on(hub.credit(event.data.len()));
    let mut wakes = Wakes::default();
    let receipt = hub.publish(event, Now::default(), credit, &mut wakes);
    hub.wake(wakes);
    receipt
}
