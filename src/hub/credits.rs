//! Credits bound the events in inboxes.
//!
//! Invariant: in every pool, `free + lent = total`, and the capacity of every inbox is the sum of all totals. Therefore
//! every inbox has room for an event whose publisher holds a credit, and no publisher waits under a lock.
//!
//! The asynchronous publishers of a tenant share one pool and wait in order of arrival. Each shard has a pool of its own
//! for each tenant. A credit of a shard is given back when all interested shards have popped the event. No publisher can
//! delay that, so neither side can starve the other, and no tenant can use up the credits of another.

use std::sync::Arc;

use super::doorbell::Doorbell;
use crate::sync::{AtomicU32, Ordering::SeqCst, Semaphore, SemaphorePermit};
use tickgate_protocol::channel::Tenant;

/// The payer of credits from the pool of the default tenant's asynchronous publishers. Those of the other tenants pay under
/// the numbers below. A shard pays under the number of its pool.
const PUBLISHERS: u16 = u16::MAX;

/// The most credits of one pool in a gateway with several tenants. An inbox is one queue, so an event waits for what the
/// other tenants have in it, however fair their shares are. A shard empties a shorter queue just as fast, and rings for more.
const OF_TENANT_MAX: u32 = 256;

pub(super) struct Credits {
    // By the number of the tenant.
    publishers: Vec<Semaphore>,
    publishers_total: u32,
    // The pools of a shard for all tenants are neighbours.
    shards: Vec<ShardPool>,
    shard_total: u32,
}

// On a cache line of its own, so that shards do not slow each other down.
#[repr(align(128))]
struct ShardPool {
    free: AtomicU32,
    // The cost of the request that was refused last; 0 if there is none. The shard is rung when so much is free.
    wanted: AtomicU32,
    doorbell: Arc<Doorbell>,
}

/// Room for one event in every inbox. It is given back when the last interested shard has popped the event, or when it
/// is dropped unused.
#[must_use]
pub struct Credit<'a> {
    credits: &'a Credits,
    payer: u16,
    cost: u32,
}

/// The cost of an event with `bytes` of data. An event that would cost more than the whole pool costs exactly the pool:
/// it waits until it is alone, but it passes.
fn cost(bytes: usize, total: u32) -> u32 {
    u32::try_from(1 + bytes / 1024).unwrap_or(u32::MAX).min(total)
}

impl Credits {
    /// Gives half of `total` to the publishers and splits the other half evenly among the shards; each part is split evenly
    /// among `tenants`. Every pool has at least one credit, and with several tenants at most [`OF_TENANT_MAX`].
    pub(super) fn new(total: u32, doorbells: &[Arc<Doorbell>], tenants: usize) -> Self {
        let half = total / 2 / u32::try_from(tenants.max(1)).unwrap_or(u32::MAX);
        let half = if tenants > 1 { half.min(OF_TENANT_MAX) } else { half };
        let publishers_total = half.max(1);
        let shards = u32::try_from(doorbells.len()).unwrap_or(u32::MAX).max(1);
        let shard_total = (half / shards).max(1);
        let pool = |doorbell: &Arc<Doorbell>| ShardPool {
            free: AtomicU32::new(shard_total),
            wanted: AtomicU32::new(0),
            doorbell: doorbell.clone(),
        };
        Self {
            publishers: (0..tenants)
                .map(|_| Semaphore::new(publishers_total as usize))
                .collect(),
            publishers_total,
            shards: doorbells
                .iter()
                .flat_map(|doorbell| (0..tenants).map(move |_| pool(doorbell)))
                .collect(),
            shard_total,
        }
    }

    /// The sum of all pools, which is the capacity that every inbox must have.
    pub(super) fn total(&self) -> usize {
        self.publishers_total as usize * self.publishers.len() + self.shard_total as usize * self.shards.len()
    }

    /// How many tenants have pools of their own.
    pub(super) const fn tenants(&self) -> usize {
        self.publishers.len()
    }

    /// How many credits are not lent.
    pub(super) fn free(&self) -> usize {
        let shards = self.shards.iter().map(|pool| pool.free.load(SeqCst) as usize);
        let publishers = self.publishers.iter().map(Semaphore::available_permits);
        publishers.sum::<usize>() + shards.sum::<usize>()
    }

    /// A credit for an asynchronous publisher, without waiting. It never overtakes a publisher of its tenant that waits,
    /// because no credit is free while one waits.
    pub(super) fn publisher_now(&self, tenant: Tenant, bytes: usize) -> Option<Credit<'_>> {
        let cost = cost(bytes, self.publishers_total);
        let permit = self.pool(tenant).try_acquire_many(cost).ok()?;
        Some(self.of_publisher(tenant, permit, cost))
    }

    /// A credit for an asynchronous publisher, in order of arrival.
    pub(super) async fn publisher(&self, tenant: Tenant, bytes: usize) -> Credit<'_> {
        let cost = cost(bytes, self.publishers_total);
        let permit = self.pool(tenant).acquire_many(cost).await;
        self.of_publisher(tenant, permit.expect("the semaphore is never closed"), cost)
    }

    // A tenant that the hub was not told of has no pool. It shares that of the default tenant.
    fn pool(&self, tenant: Tenant) -> &Semaphore {
        self.publishers.get(tenant.index()).unwrap_or(&self.publishers[0])
    }

    fn of_publisher(&self, tenant: Tenant, permit: SemaphorePermit<'_>, cost: u32) -> Credit<'_> {
        permit.forget(); // the credit owns it from here on
        let index = if tenant.index() < self.publishers.len() {
            tenant.index()
        } else {
            0
        };
        Credit {
            credits: self,
            payer: PUBLISHERS - u16::try_from(index).unwrap_or(0),
            cost,
        }
    }

    /// A credit for a shard. After `None`, the shard's doorbell rings when as much as it asked for is free.
    pub(super) fn shard(&self, shard: u16, tenant: Tenant, bytes: usize) -> Option<Credit<'_>> {
        let (payer, pool) = self.pool_of_shard(shard, tenant)?;
        let cost = cost(bytes, self.shard_total);
        // The shard writes what it wants before its second attempt; `give` adds the credit before it reads what is
        // wanted. So one of the two sees the other. This needs sequential consistency on both sides.
        let is_taken = pool.take(cost) || {
            pool.want(cost);
            pool.take(cost)
        };
        is_taken.then(|| self.of_shard(payer, cost))
    }

    /// The pool of a shard for a tenant, with its number. A tenant that the hub was not told of shares that of the default
    /// tenant.
    fn pool_of_shard(&self, shard: u16, tenant: Tenant) -> Option<(u16, &ShardPool)> {
        let tenants = self.publishers.len();
        let index = if tenant.index() < tenants { tenant.index() } else { 0 };
        let payer = usize::from(shard) * tenants + index;
        Some((u16::try_from(payer).ok()?, self.shards.get(payer)?))
    }

    // To be called only after the cost was taken: dropping the credit gives it back.
    fn of_shard(&self, payer: u16, cost: u32) -> Credit<'_> {
        Credit {
            credits: self,
            payer,
            cost,
        }
    }

    /// Gives back what a payer borrowed.
    pub(super) fn give(&self, payer: u16, cost: u32) {
        let Some(pool) = self.shards.get(usize::from(payer)) else {
            let tenant = usize::from(PUBLISHERS - payer);
            self.publishers[tenant].add_permits(cost as usize);
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
    fn take(&self, cost: u32) -> bool {
        self.free
            .fetch_update(SeqCst, SeqCst, |free| free.checked_sub(cost))
            .is_ok()
    }

    /// Asks for a ring when so much is free.
    fn want(&self, cost: u32) {
        self.wanted.store(cost, SeqCst);
    }
}

/// The planted fault of this file, for the model checker.
#[cfg(test)]
#[cfg(shuttle)]
impl Credits {
    /// As [`Credits::shard`], but writes what it wants after its second attempt: a credit that is given back in between
    /// rings no doorbell.
    pub(super) fn shard_that_wants_late(&self, shard: u16, bytes: usize) -> Option<Credit<'_>> {
        let (shard, pool) = self.pool_of_shard(shard, Tenant::DEFAULT)?;
        let cost = cost(bytes, self.shard_total);
        let is_taken = pool.take(cost) || {
            let is_taken = pool.take(cost);
            pool.want(cost);
            is_taken
        };
        is_taken.then(|| self.of_shard(shard, cost))
    }
}

impl Credit<'_> {
    /// What is owed: payer and cost.
    pub(super) const fn debt(&self) -> (u16, u32) {
        (self.payer, self.cost)
    }

    /// Moves the debt into an event: payer and cost.
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
        Credits::new(total, &[Arc::default(), Arc::default()], 1)
    }

    #[test]
    fn pools_add_up_and_a_dropped_credit_is_given_back() {
        let credits = two_shards(40);
        assert_eq!((credits.total(), credits.free()), (40, 40));
        let one = credits.publisher_now(Tenant::DEFAULT, 3 * 1024).expect("free");
        let two = credits.shard(1, Tenant::DEFAULT, 0).expect("free");
        assert_eq!(credits.free(), 40 - 4 - 1);
        drop((one, two));
        assert_eq!(credits.free(), 40);
    }

    #[test]
    fn an_event_that_costs_more_than_its_pool_takes_the_whole_pool() {
        let credits = two_shards(4);
        let whole = credits
            .publisher_now(Tenant::DEFAULT, 256 * 1024)
            .expect("the whole pool");
        assert!(credits.publisher_now(Tenant::DEFAULT, 0).is_none());
        let whole_of_shard = credits.shard(0, Tenant::DEFAULT, 256 * 1024).expect("the whole pool");
        assert!(credits.shard(0, Tenant::DEFAULT, 0).is_none());
        assert!(
            credits.shard(1, Tenant::DEFAULT, 0).is_some(),
            "one shard's debts are not another's"
        );
        drop((whole, whole_of_shard));
        assert_eq!(credits.free(), 4);
    }

    #[test]
    fn publishers_are_served_in_order_of_arrival_whatever_their_events_cost() {
        let credits = two_shards(16); // eight for publishers
        let mut cx = Context::from_waker(Waker::noop());
        let held = credits.publisher_now(Tenant::DEFAULT, 7 * 1024).expect("free");
        let mut large = std::pin::pin!(credits.publisher(Tenant::DEFAULT, 4 * 1024));
        assert!(large.as_mut().poll(&mut cx).is_pending());
        let mut small = std::pin::pin!(credits.publisher(Tenant::DEFAULT, 0));
        assert!(small.as_mut().poll(&mut cx).is_pending());
        assert!(
            credits.publisher_now(Tenant::DEFAULT, 0).is_none(),
            "must not overtake a publisher that waits"
        );
        drop(held);
        let Poll::Ready(large) = large.as_mut().poll(&mut cx) else {
            panic!("the first publisher is served first");
        };
        let Poll::Ready(small) = small.as_mut().poll(&mut cx) else {
            panic!("the second publisher is served next");
        };
        drop((large, small));
        assert_eq!(credits.free(), 16);
    }

    #[test]
    fn publishers_that_take_all_credits_leave_a_shard_its_own() {
        let credits = two_shards(8);
        let all: Vec<_> = std::iter::from_fn(|| credits.publisher_now(Tenant::DEFAULT, 0)).collect();
        assert_eq!(all.len(), 4);
        assert!(credits.shard(0, Tenant::DEFAULT, 0).is_some());
    }

    #[test]
    fn a_refused_shard_is_rung_once_when_the_amount_it_wanted_is_free() {
        let credits = two_shards(16); // four for each shard
        let bell = &credits.shards[0].doorbell;
        let first = credits.shard(0, Tenant::DEFAULT, 0).expect("free");
        let rest = credits.shard(0, Tenant::DEFAULT, 2 * 1024).expect("free");
        assert!(credits.shard(0, Tenant::DEFAULT, 3 * 1024).is_none());
        bell.answer();
        drop(first);
        assert!(bell.fall_asleep(), "one is free, four are wanted");
        bell.answer();
        drop(rest);
        assert!(!bell.fall_asleep(), "all four are free");
        bell.answer();
        drop(credits.shard(0, Tenant::DEFAULT, 0));
        assert!(bell.fall_asleep(), "nothing was refused since");
    }

    #[test]
    fn a_tenant_that_takes_all_its_credits_leaves_the_others_theirs() {
        let credits = Credits::new(48, &[Arc::default(), Arc::default()], 3);
        let other = Tenant::new(2).expect("a tenant");
        let mut held: Vec<_> = std::iter::from_fn(|| credits.publisher_now(Tenant::DEFAULT, 0)).collect();
        assert_eq!(held.len(), 8);
        held.extend(std::iter::from_fn(|| credits.shard(1, Tenant::DEFAULT, 0)));
        assert_eq!(held.len(), 8 + 4);
        assert_eq!(
            std::iter::from_fn(|| credits.publisher_now(other, 0))
                .take(100)
                .collect::<Vec<_>>()
                .len(),
            8
        );
        assert!(credits.shard(1, other, 0).is_some() && credits.shard(0, Tenant::DEFAULT, 0).is_some());
        assert_eq!(
            credits.free(),
            48 - 8 - 4,
            "credits of others were given back to their own pools"
        );
        drop(held);
        assert_eq!(credits.free(), 48);
    }

    #[test]
    fn with_several_tenants_little_of_one_is_in_the_way_of_the_others() {
        for (tenants, publishers, shard) in [(1, 8192, 4096), (2, 256, 128), (31, 256, 128)] {
            let credits = Credits::new(16 * 1024, &[Arc::default(), Arc::default()], tenants);
            let lent: Vec<_> = std::iter::from_fn(|| credits.publisher_now(Tenant::DEFAULT, 1)).collect();
            let of_shard: Vec<_> = std::iter::from_fn(|| credits.shard(0, Tenant::DEFAULT, 1)).collect();
            assert_eq!((lent.len(), of_shard.len()), (publishers, shard), "{tenants}");
        }
    }
}
