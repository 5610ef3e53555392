//! The doorbell's source under a checker of memory orderings.
//!
//! The other tests of this package treat every atomic operation as sequentially consistent. Here each operation may see any
//! value that its ordering allows, in every interleaving of two threads. Two properties must hold: the shard sees everything
//! that was stored before a ring before it sleeps, and a thread that rings a sleeping shard finds its waker. Weaker orderings
//! are planted, and must be found.

// The items are public in the gateway's crate.
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

/// Most preemptions in a model with more than two threads, because the number of its interleavings is too large. Models
/// with two threads are explored completely.
const PREEMPTIONS_MAX: usize = 4;

/// Each of `ringers` threads stores a flag and rings once. A shard drains and sleeps until it has seen all flags. Panics if
/// the shard sleeps for ever.
fn rings_are_seen(ringers: usize, fault: Option<Fault>) {
    let mut model = Builder::new();
    model.preemption_bound = (ringers > 1).then_some(PREEMPTIONS_MAX);
    model.check(move || {
        sync::plant(fault);
        let bell = Arc::new(Doorbell::default());
        // The flags stand for what is put into an inbox. They are relaxed, so only the bell orders them.
        let flags: Arc<Vec<AtomicBool>> = Arc::new((0..ringers).map(|_| AtomicBool::new(false)).collect());
        let threads: Vec<_> = (0..ringers)
            .map(|ringer| {
                let (bell, flags) = (Arc::clone(&bell), Arc::clone(&flags));
                thread::spawn(move || {
                    flags[ringer].store(true, Ordering::Relaxed);
                    bell.ring();
                })
            })
            .collect();
        let woken = Arc::new(Notify::new());
        let waker = Arc::clone(&woken);
        bell.connect(move || waker.notify());
        loop {
            bell.answer();
            if flags.iter().all(|flag| flag.load(Ordering::Relaxed)) {
                break;
            }
            if bell.fall_asleep() {
                woken.wait();
            }
        }
        for thread in threads {
            thread.join().expect("no panic");
        }
    });
}

fn is_found(fault: Fault) -> bool {
    (1..=2).any(|ringers| panic::catch_unwind(|| rings_are_seen(ringers, Some(fault))).is_err())
}

#[test]
fn the_shard_sees_what_was_stored_before_a_ring_before_it_sleeps() {
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
fn a_shard_that_does_not_release_is_found() {
    assert!(is_found(Fault::ShardDoesNotRelease));
}

#[test]
fn a_ring_that_loads_before_it_stores_is_found() {
    assert!(is_found(Fault::RingLoadsFirst));
}
