//! Publishers put events into an inbox and ring; its shard drains and sleeps: none is slept through.

use std::sync::Arc;

use shuttle::thread;

use super::super::rig::*;
use super::{holds, is_found};
use crate::hub::{Hub, Inbox, Wakes};
use crate::time::Now;

/// How the bell is used: the right way and three wrong ones.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Right,
    /// Planted fault: the bell is answered behind the draining, and with it a ring in between.
    AnsweredLate,
    /// Planted fault: the shard sleeps although the bell rang.
    SleptAnyway,
    /// Planted fault: the bell rings before the event is in the inbox.
    RungEarly,
}

const PUBLISHERS: usize = 2;
const EVENTS_EACH: usize = 2;

fn ring(hub: &Hub, how: Use) {
    for number in 0..EVENTS_EACH {
        let credit = hub.credit_now(0).expect("there are more than events");
        let mut wakes = Wakes::default();
        if how == Use::RungEarly {
            hub.wake(Wakes(1));
        }
        hub.publish(event("a.b.c", number as u64), Now::default(), credit, &mut wakes);
        if how != Use::RungEarly {
            hub.wake(wakes);
        }
    }
}

/// The loop of a shard, until it has everything.
fn listen(inbox: &mut Inbox, how: Use) {
    let bell = Arc::clone(inbox.doorbell());
    let me = thread::current();
    bell.connect(move || me.unpark());
    let mut seen = 0;
    loop {
        if how != Use::AnsweredLate {
            bell.answer();
        }
        seen += std::iter::from_fn(|| inbox.pop()).count();
        if seen == PUBLISHERS * EVENTS_EACH {
            return;
        }
        if how == Use::AnsweredLate {
            bell.answer();
        }
        if bell.fall_asleep() || how == Use::SleptAnyway {
            thread::park();
        }
    }
}

fn wakes(how: Use) {
    let (hub, mut inboxes) = hub(64, 1, NO_FRAME);
    let mut inbox = inboxes.pop().expect("one");
    inbox.join(&pattern("a.b.c"));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|_| {
            let hub = hub.clone();
            thread::spawn(move || ring(&hub, how))
        })
        .collect();
    // A wake-up that is lost leaves this thread asleep for ever: the checker calls it a deadlock.
    listen(&mut inbox, how);
    for publisher in publishers {
        publisher.join().expect("no panic");
    }
}

#[test]
fn no_wake_up_is_lost() {
    holds(|| wakes(Use::Right));
}

#[test]
fn a_bell_that_is_answered_late_is_found() {
    is_found("deadlock", || wakes(Use::AnsweredLate));
}

#[test]
fn a_shard_that_sleeps_although_the_bell_rang_is_found() {
    is_found("deadlock", || wakes(Use::SleptAnyway));
}

#[test]
fn a_bell_that_rings_before_the_event_is_there_is_found() {
    is_found("deadlock", || wakes(Use::RungEarly));
}
