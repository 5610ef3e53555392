//! Publishers and shards that want more than there is: nobody waits for ever, nothing leaks, no inbox overflows.

use std::sync::Arc;

use shuttle::future::block_on;
use shuttle::thread;

use super::super::credits::ShardPool;
use super::super::rig::*;
use super::{holds, is_found, publish};
use crate::hub::{Hub, Inbox, Wakes};
use crate::time::Now;

/// What a shard does that was refused a credit: the right thing, and the fault.
#[derive(Clone, Copy)]
enum Wish {
    BeforeTheSecondLook,
    /// Planted fault: what comes back between the second look and the wish rings nobody.
    AfterTheSecondLook,
}

impl Wish {
    fn refused(self, pool: &ShardPool, cost: u32) -> bool {
        match self {
            Self::BeforeTheSecondLook => {
                pool.wish(cost);
                pool.take(cost)
            }
            Self::AfterTheSecondLook => {
                let taken = pool.take(cost);
                pool.wish(cost);
                taken
            }
        }
    }
}

/// What becomes of credits that are owed: the right thing, and two faults.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Debt {
    PaidByTheLast,
    /// Planted fault: shard 0 gives the credit of what it pops back, whether another shard has it still or not.
    PaidAtOnce,
    /// Planted fault: a publisher takes a credit and loses it.
    Lost,
}

/// The loop of a shard that publishes so many events of its own and is there until it has popped so many.
fn shard(hub: &Hub, inbox: &mut Inbox, (mut own, mut wanted): (u64, u64), wish: Wish, debt: Debt) {
    let bell = Arc::clone(inbox.doorbell());
    let me = thread::current();
    bell.connect(move || me.unpark());
    loop {
        bell.answer();
        while own > 0 {
            let refused = |pool: &ShardPool, cost: u32| wish.refused(pool, cost);
            let Some(credit) = hub.credits.shard_by(inbox.shard(), 0, refused) else {
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

/// One shard publishes eight events with one credit of its own, for another one.
fn refused(wish: Wish) {
    let (hub, mut inboxes) = hub(4, 2, NO_FRAME);
    let (mut popping, mut publishing) = (inboxes.pop().expect("two"), inboxes.pop().expect("two"));
    popping.join(&pattern("a.b.c"));
    let publisher = thread::spawn({
        let hub = hub.clone();
        move || shard(&hub, &mut publishing, (8, 0), wish, Debt::PaidByTheLast)
    });
    shard(&hub, &mut popping, (0, 8), wish, Debt::PaidByTheLast);
    publisher.join().expect("no panic");
    assert_eq!(hub.metrics().credits_lent, 0, "a credit leaked");
}

/// Two publishers with two credits, one of whose events costs both, and two shards that want everything and publish, too,
/// with one credit each. That all of them come to an end means that neither kind of pool starves the other.
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
            shard(&hub, &mut inbox, (OWN, wanted), Wish::BeforeTheSecondLook, debt);
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
        std::mem::forget(block_on(hub.credit(0)));
    }
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert!(hub.credits.free() <= hub.credits.total(), "more credits than there are");
    assert_eq!(hub.metrics().credits_lent, 0, "a credit leaked");
}

#[test]
fn a_shard_that_was_refused_is_rung_when_the_credit_comes_back() {
    holds(|| refused(Wish::BeforeTheSecondLook));
}

#[test]
fn a_wish_that_is_written_after_the_second_look_is_found() {
    is_found("deadlock", || refused(Wish::AfterTheSecondLook));
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
