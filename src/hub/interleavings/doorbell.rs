//! Publishers put events into an inbox and ring, and its shard drains and sleeps. The shard must not sleep while there is an
//! event in its inbox.

use std::sync::Arc;

use shuttle::thread;

use super::super::rig::*;
use super::{holds, is_found};
use crate::hub::{Hub, Inbox, Wakes};
use crate::time::Now;

/// How the bell is used: the correct way and three planted faults.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Correct,
    /// Planted fault: the shard answers the bell after it drains, and so loses a ring in between.
    AnsweredLate,
    /// Planted fault: the shard sleeps although the bell rang.
    SleptAnyway,
    /// Planted fault: the publisher rings before the event is in the inbox.
    RungEarly,
}

const PUBLISHERS: usize = 2;
const EVENTS_EACH: usize = 2;

fn ring(hub: &Hub, how: Use) {
    for number in 0..EVENTS_EACH {
        let credit = hub
            .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0)
            .expect("there are more credits than events");
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

/// The loop of a shard, until it has every event.
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
    // If a wake-up is lost, this thread sleeps for ever, which the checker reports as a deadlock.
    listen(&mut inbox, how);
    for publisher in publishers {
        publisher.join().expect("no panic");
    }
}

#[test]
fn no_wake_up_is_lost() {
    holds(|| wakes(Use::Correct));
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
