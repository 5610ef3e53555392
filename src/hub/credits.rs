//! Credits: the bound on what lies in inboxes.
//!
//! Invariant: `free + lent = total` in every pool, and the capacity of every inbox is the sum of all totals. So a
//! publisher that holds a credit finds room in every inbox, and nobody waits under a lock.
//!
//! There is one pool for asynchronous publishers, who wait in order of arrival, and one for each shard. What a shard
//! borrowed comes back as soon as all shards have popped it, whatever other publishers do, so nobody starves
//! anybody.

use std::sync::Arc;

use super::doorbell::Doorbell;
use crate::sync::{AtomicU32, Ordering::SeqCst, Semaphore, SemaphorePermit};

/// The payer's number of the asynchronous publishers; a shard pays under its own number.
const PUBLISHERS: u16 = u16::MAX;

pub(super) struct Credits {
    publishers: Semaphore,
    publishers_total: u32,
    shards: Vec<ShardPool>,
    shard_total: u32,
}

// On a cache line of its own: shards must not slow each other down.
#[repr(align(128))]
pub(super) struct ShardPool {
    free: AtomicU32,
    // What the shard was refused, 0 for nothing; it is rung when so much is free.
    wanted: AtomicU32,
    doorbell: Arc<Doorbell>,
}

/// Room for one event in every inbox. Given back when the last interested shard has popped the event, or when it is
/// dropped unused.
#[must_use]
pub struct Credit<'a> {
    credits: &'a Credits,
    payer: u16,
    cost: u32,
}

/// An event of `bytes` costs this much of a pool of `total`. One that is dearer than all of the pool takes all of it:
/// it goes alone, but it goes.
fn cost(bytes: usize, total: u32) -> u32 {
    u32::try_from(1 + bytes / 1024).unwrap_or(u32::MAX).min(total)
}

impl Credits {
    /// Half of `total` for publishers, the other half in equal parts for the shards; every pool has one at least.
    pub(super) fn new(total: u32, doorbells: &[Arc<Doorbell>]) -> Self {
        let publishers_total = (total / 2).max(1);
        let shards = u32::try_from(doorbells.len()).unwrap_or(u32::MAX).max(1);
        let shard_total = (total / 2 / shards).max(1);
        let pool = |doorbell: &Arc<Doorbell>| ShardPool {
            free: AtomicU32::new(shard_total),
            wanted: AtomicU32::new(0),
            doorbell: doorbell.clone(),
        };
        Self {
            publishers: Semaphore::new(publishers_total as usize),
            publishers_total,
            shards: doorbells.iter().map(pool).collect(),
            shard_total,
        }
    }

    /// All there are: the capacity every inbox must have.
    pub(super) fn total(&self) -> usize {
        self.publishers_total as usize + self.shard_total as usize * self.shards.len()
    }

    /// How many are not lent.
    pub(super) fn free(&self) -> usize {
        let shards = self.shards.iter().map(|pool| pool.free.load(SeqCst) as usize);
        self.publishers.available_permits() + shards.sum::<usize>()
    }

    /// A credit for an asynchronous publisher, without waiting. Overtakes nobody: while one waits, none are free.
    pub(super) fn publisher_now(&self, bytes: usize) -> Option<Credit<'_>> {
        let cost = cost(bytes, self.publishers_total);
        let permit = self.publishers.try_acquire_many(cost).ok()?;
        Some(self.of_publisher(permit, cost))
    }

    /// A credit for an asynchronous publisher, in order of arrival.
    pub(super) async fn publisher(&self, bytes: usize) -> Credit<'_> {
        let cost = cost(bytes, self.publishers_total);
        let permit = self.publishers.acquire_many(cost).await.expect("nobody closes it");
        self.of_publisher(permit, cost)
    }

    fn of_publisher(&self, permit: SemaphorePermit<'_>, cost: u32) -> Credit<'_> {
        permit.forget(); // from here on the credit owns it
        Credit {
            credits: self,
            payer: PUBLISHERS,
            cost,
        }
    }

    /// A credit for a shard, or `None`: then its doorbell rings when this much is free.
    pub(super) fn shard(&self, shard: u16, bytes: usize) -> Option<Credit<'_>> {
        self.shard_by(shard, bytes, |pool, cost| {
            // The wish is written before the second look, and `give` looks for wishes after it gave: one of the two
            // sees the other. All of it is sequentially consistent for that reason.
            pool.wish(cost);
            pool.take(cost)
        })
    }

    /// A credit for a shard; `refused` decides what a shard does that was refused, and whether it has it after all: so
    /// that tests can plant a fault into this very code.
    pub(super) fn shard_by(
        &self,
        shard: u16,
        bytes: usize,
        refused: impl FnOnce(&ShardPool, u32) -> bool,
    ) -> Option<Credit<'_>> {
        let pool = self.shards.get(usize::from(shard))?;
        let cost = cost(bytes, self.shard_total);
        let taken = pool.take(cost) || refused(pool, cost);
        // `then`, not `then_some`: a credit that is made is given back when it is dropped.
        taken.then(|| Credit {
            credits: self,
            payer: shard,
            cost,
        })
    }

    /// Gives back what a payer borrowed.
    pub(super) fn give(&self, payer: u16, cost: u32) {
        let Some(pool) = self.shards.get(usize::from(payer)) else {
            self.publishers.add_permits(cost as usize);
            return;
        };
        let free = pool.free.fetch_add(cost, SeqCst) + cost;
        let wanted = pool.wanted.load(SeqCst);
        if wanted != 0 && free >= wanted && pool.wanted.swap(0, SeqCst) != 0 {
            pool.doorbell.ring();
        }
    }
}

impl ShardPool {
    pub(super) fn take(&self, cost: u32) -> bool {
        self.free
            .fetch_update(SeqCst, SeqCst, |free| free.checked_sub(cost))
            .is_ok()
    }

    /// Has the shard rung when so much is free.
    pub(super) fn wish(&self, cost: u32) {
        self.wanted.store(cost, SeqCst);
    }
}

impl Credit<'_> {
    /// What is owed: payer and cost.
    pub(super) const fn debt(&self) -> (u16, u32) {
        (self.payer, self.cost)
    }

    /// The debt moves into an event: payer and cost.
    pub(super) fn into_debt(self) -> (u16, u32) {
        let debt = (self.payer, self.cost);
        std::mem::forget(self);
        debt
    }
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        self.credits.give(self.payer, self.cost);
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};

    fn two_shards(total: u32) -> Credits {
        Credits::new(total, &[Arc::default(), Arc::default()])
    }

    #[test]
    fn pools_add_up_and_a_dropped_credit_comes_back() {
        let credits = two_shards(40);
        assert_eq!((credits.total(), credits.free()), (40, 40));
        let one = credits.publisher_now(3 * 1024).expect("free");
        let two = credits.shard(1, 0).expect("free");
        assert_eq!(credits.free(), 40 - 4 - 1);
        drop((one, two));
        assert_eq!(credits.free(), 40);
    }

    #[test]
    fn an_event_dearer_than_its_pool_takes_all_of_it() {
        let credits = two_shards(4);
        let whole = credits.publisher_now(256 * 1024).expect("goes alone");
        assert!(credits.publisher_now(0).is_none());
        let whole_of_shard = credits.shard(0, 256 * 1024).expect("goes alone");
        assert!(credits.shard(0, 0).is_none());
        assert!(credits.shard(1, 0).is_some(), "one shard's debts are not another's");
        drop((whole, whole_of_shard));
        assert_eq!(credits.free(), 4);
    }

    #[test]
    fn publishers_are_served_in_order_of_arrival_whatever_they_cost() {
        let credits = two_shards(16); // eight for publishers
        let mut cx = Context::from_waker(Waker::noop());
        let held = credits.publisher_now(7 * 1024).expect("free");
        let mut large = std::pin::pin!(credits.publisher(4 * 1024));
        assert!(large.as_mut().poll(&mut cx).is_pending());
        let mut small = std::pin::pin!(credits.publisher(0));
        assert!(small.as_mut().poll(&mut cx).is_pending());
        assert!(credits.publisher_now(0).is_none(), "must not overtake those who wait");
        drop(held);
        let Poll::Ready(large) = large.as_mut().poll(&mut cx) else {
            panic!("the first in the line is served first");
        };
        let Poll::Ready(small) = small.as_mut().poll(&mut cx) else {
            panic!("then the second");
        };
        drop((large, small));
        assert_eq!(credits.free(), 16);
    }

    #[test]
    fn publishers_who_take_everything_leave_a_shard_its_own() {
        let credits = two_shards(8);
        let all: Vec<_> = std::iter::from_fn(|| credits.publisher_now(0)).collect();
        assert_eq!(all.len(), 4);
        assert!(credits.shard(0, 0).is_some());
    }

    #[test]
    fn a_refused_shard_is_rung_once_when_as_much_as_it_wanted_is_free() {
        let credits = two_shards(16); // four for each shard
        let bell = &credits.shards[0].doorbell;
        let first = credits.shard(0, 0).expect("free");
        let rest = credits.shard(0, 2 * 1024).expect("free");
        assert!(credits.shard(0, 3 * 1024).is_none());
        bell.answer();
        drop(first);
        assert!(bell.fall_asleep(), "one is free, four are wanted");
        bell.answer();
        drop(rest);
        assert!(!bell.fall_asleep(), "all four are free");
        bell.answer();
        drop(credits.shard(0, 0));
        assert!(bell.fall_asleep(), "nothing was refused since");
    }
}
