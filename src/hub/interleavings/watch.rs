//! A shard joins and leaves while a reader watches. A reader that takes the notes and then asks the hub must learn the final
//! state.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use super::super::StripeState;
use super::super::interest::stripe_of;
use super::super::rig::*;
use super::{holds, is_found};

/// When a change is noted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Noted {
    AfterTheChange,
    /// Planted fault: a reader that takes the note at once sees the state before the change.
    BeforeTheChange,
}

fn watches(noted: Noted) {
    let (hub, mut inboxes) = hub(4, 1, NO_FRAME);
    let watch = hub.watch(Box::new(|_| true)).expect("the first");
    let is_last = Arc::new(AtomicBool::new(false));
    let shard = thread::spawn({
        let (hub, is_last) = (hub.clone(), is_last.clone());
        let mut inbox = inboxes.pop().expect("one");
        move || {
            inbox.join(&pattern("a.b"));
            inbox.leave(&pattern("a.b"));
            is_last.store(true, Ordering::SeqCst);
            if noted == Noted::BeforeTheChange {
                hub.note(&pattern("a.b"), true);
                let add = |state: &mut StripeState| state.interest.add(&pattern("a.b"), 1);
                hub.with_state(stripe_of(&channel("a.b")), add);
            } else {
                inbox.join(&pattern("a.b"));
            }
            inbox
        }
    });
    // Waits for the final state, in which the pattern is joined. If a note is missed, this thread waits for ever.
    loop {
        block_on(watch.changed());
        if is_last.load(Ordering::SeqCst) && hub.holds(&pattern("a.b")) {
            break;
        }
    }
    drop(shard.join().expect("no panic"));
    assert!(!hub.is_wanted(&channel("a.b")), "a shard that ended still has interest");
}

#[test]
fn no_change_of_interest_is_missed() {
    holds(|| watches(Noted::AfterTheChange));
}

#[test]
fn a_change_that_is_noted_before_it_takes_effect_is_found() {
    is_found("deadlock", || watches(Noted::BeforeTheChange));
}
