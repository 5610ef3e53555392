//! Publishers and shards want more credits than there are. None may wait for ever, no credit may leak, and no inbox may
//! overflow.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;

use super::super::rig::*;
use super::{holds, is_found, publish};
use crate::hub::{Credit, Hub, Inbox, Wakes};
use crate::time::Now;

/// When a shard writes how many credits it wants: the correct way and a planted fault.
#[derive(Clone, Copy)]
enum Want {
    BeforeTheSecondAttempt,
    /// Planted fault: a credit that comes back between the second attempt and the write rings no doorbell.
    AfterTheSecondAttempt,
}

impl Want {
    fn credit(self, hub: &Hub, shard: u16) -> Option<Credit<'_>> {
        match self {
            Self::BeforeTheSecondAttempt => hub.try_credit(shard, tickgate_protocol::channel::Tenant::DEFAULT, 0),
            Self::AfterTheSecondAttempt => hub.credits.shard_that_wants_late(shard, 0),
        }
    }
}

/// When credits are given back: the correct way and two planted faults.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Debt {
    PaidByTheLast,
    /// Planted fault: shard 0 gives back the credit of every event that it pops, even if another shard still has the event.
    PaidAtOnce,
    /// Planted fault: a publisher takes a credit and loses it.
    Lost,
}

/// The loop of a shard that publishes `own` events and ends when it has popped `wanted` events.
fn shard(hub: &Hub, inbox: &mut Inbox, (mut own, mut wanted): (u64, u64), want: Want, debt: Debt) {
    let bell = Arc::clone(inbox.doorbell());
    let me = thread::current();
    bell.connect(move || me.unpark());
    loop {
        bell.answer();
        while own > 0 {
            let Some(credit) = want.credit(hub, inbox.shard()) else {
                break;
            };
            let mut wakes = Wakes::default();
            hub.publish(event("a.b.c", own), Now::default(), credit, &mut wakes);
            hub.wake(wakes);
            own -= 1;
        }
        while let Some(popped) = inbox.pop() {
            wanted -= 1;
            if debt == Debt::PaidAtOnce && inbox.shard() == 0 {
                let transit = popped.event.transit();
                hub.credits.give(transit.payer, transit.cost);
            }
        }
        if own == 0 && wanted == 0 {
            return;
        }
        if bell.fall_asleep() {
            thread::park();
        }
    }
}

/// A shard with a single credit publishes eight events for another shard.
fn refused(want: Want) {
    let (hub, mut inboxes) = hub(4, 2, NO_FRAME);
    let (mut popping, mut publishing) = (inboxes.pop().expect("two"), inboxes.pop().expect("two"));
    popping.join(&pattern("a.b.c"));
    let publisher = thread::spawn({
        let hub = hub.clone();
        move || shard(&hub, &mut publishing, (8, 0), want, Debt::PaidByTheLast)
    });
    shard(&hub, &mut popping, (0, 8), want, Debt::PaidByTheLast);
    publisher.join().expect("no panic");
    assert_eq!(hub.metrics().credits_lent, 0, "a credit leaked");
}

/// Two publishers with two credits, one of whose events costs both, and two shards with one credit each that publish and
/// want every event. If all of them end, neither kind of pool starves the other.
fn crowd(debt: Debt) {
    const SMALL: u64 = 4;
    const OWN: u64 = 2;
    let (hub, mut inboxes) = hub(4, 2, NO_FRAME);
    for inbox in &mut inboxes {
        inbox.join(&pattern("a.b.c"));
    }
    let mut threads = Vec::new();
    for mut inbox in inboxes {
        let hub = hub.clone();
        threads.push(thread::spawn(move || {
            let wanted = SMALL + 1 + 2 * OWN;
            shard(&hub, &mut inbox, (OWN, wanted), Want::BeforeTheSecondAttempt, debt);
        }));
    }
    threads.push(thread::spawn({
        let hub = hub.clone();
        move || {
            for number in 0..SMALL {
                publish(&hub, event("a.b.c", number));
            }
        }
    }));
    let mut large = event("a.b.c", 1);
    large.data = vec![b'1'; 4 * 1024].into();
    publish(&hub, large);
    if debt == Debt::Lost {
        std::mem::forget(block_on(hub.credit(tickgate_protocol::channel::Tenant::DEFAULT, 0)));
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert!(hub.credits.free() <= hub.credits.total(), "more credits than there are");
    assert_eq!(hub.metrics().credits_lent, 0, "a credit leaked");
}

#[test]
fn a_refused_shard_is_rung_when_the_credit_comes_back() {
    holds(|| refused(Want::BeforeTheSecondAttempt));
}

#[test]
fn a_shard_that_writes_what_it_wants_after_its_second_attempt_is_found() {
    is_found("deadlock", || refused(Want::AfterTheSecondAttempt));
}

#[test]
fn neither_pool_starves_the_other_and_no_credit_leaks() {
    holds(|| crowd(Debt::PaidByTheLast));
}

#[test]
fn a_credit_that_comes_back_before_the_last_shard_has_the_event_is_found() {
    is_found("more credits than there are", || crowd(Debt::PaidAtOnce));
}

#[test]
fn a_credit_that_is_lost_is_found() {
    is_found("a credit leaked", || crowd(Debt::Lost));
}
