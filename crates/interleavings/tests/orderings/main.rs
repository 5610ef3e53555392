//! The doorbell's own source under a checker of memory orderings.
//!
//! The package's other tests take every atomic operation for a sequentially consistent one. Here each may see as little as
//! its ordering allows, in every interleaving of two threads: what was put down before a ring is seen by the shard before
//! it sleeps, and a ringer that finds it asleep has its waker. Orderings that are weaker than they stand must be found.

// It is public in its own crate.
#[expect(unreachable_pub)]
#[path = "../../../../src/hub/doorbell.rs"]
mod doorbell;
mod sync;

use std::panic;
use std::sync::Arc;

use doorbell::Doorbell;
use loom::model::Builder;
use loom::sync::Notify;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;
use sync::Fault;

/// In every interleaving of a shard and a ringer; of more threads, as there are very many, in those that stop a thread
/// in its middle so many times and no more.
const STOPS_OF_THREE: usize = 4;

/// A shard that drains and sleeps until it has seen as much as `ringers` have put down, each with one ring. Panics when
/// it sleeps for ever.
fn rings_are_seen(ringers: usize, fault: Option<Fault>) {
    let mut model = Builder::new();
    model.preemption_bound = (ringers > 1).then_some(STOPS_OF_THREE);
    model.check(move || {
        sync::plant(fault);
        let bell = Arc::new(Doorbell::default());
        // No more than a place for what a ring is about: it orders nothing by itself.
        let letters: Arc<Vec<AtomicBool>> = Arc::new((0..ringers).map(|_| AtomicBool::new(false)).collect());
        let threads: Vec<_> = (0..ringers)
            .map(|ringer| {
                let (bell, letters) = (Arc::clone(&bell), Arc::clone(&letters));
                thread::spawn(move || {
                    letters[ringer].store(true, Ordering::Relaxed);
                    bell.ring();
                })
            })
            .collect();
        let woken = Arc::new(Notify::new());
        let waker = Arc::clone(&woken);
        bell.connect(move || waker.notify());
        loop {
            bell.answer();
            if letters.iter().all(|letter| letter.load(Ordering::Relaxed)) {
                break;
            }
            if bell.fall_asleep() {
                woken.wait();
            }
        }
        for thread in threads {
            thread.join().expect("a ringer ends");
        }
    });
}

fn is_found(fault: Fault) -> bool {
    (1..=2).any(|ringers| panic::catch_unwind(|| rings_are_seen(ringers, Some(fault))).is_err())
}

#[test]
fn what_was_put_down_before_a_ring_is_seen_before_the_shard_sleeps() {
    rings_are_seen(1, None);
    rings_are_seen(2, None);
}

#[test]
fn a_ring_that_does_not_release_is_found() {
    assert!(is_found(Fault::RingDoesNotRelease));
}

#[test]
fn a_ring_that_does_not_acquire_is_found() {
    assert!(is_found(Fault::RingDoesNotAcquire));
}

#[test]
fn an_answer_that_does_not_acquire_is_found() {
    assert!(is_found(Fault::AnswerDoesNotAcquire));
}

#[test]
fn a_shard_that_releases_nothing_is_found() {
    assert!(is_found(Fault::ShardDoesNotRelease));
}

#[test]
fn a_ring_that_looks_before_it_writes_is_found() {
    assert!(is_found(Fault::RingLooksFirst));
}
