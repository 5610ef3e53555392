//! How much of the state each publisher has, so that one of them cannot evict the state of all others.
//!
//! A channel with state counts for the publisher that began it. While the bounds on the whole state are exceeded, a
//! publisher above its quota loses channels of its own before anybody else does. While there is room, a quota changes
//! nothing.
//!
//! Which of its channels a publisher loses is decided as by a clock: claims stand in a queue in the order of their
//! channels' beginning, and a channel that was used since its claim was looked at goes to the end of the queue. So
//! publishing to a channel that has state costs no more than counting its size.
//!
//! All publishers of a tenant together may have a quota as well. It holds also while there is room.
//!
//! Invariant: a publisher's counts are those of the channels that it owns. They change under the lock of the channel's
//! stripe. No stripe is locked while a publisher's claims are.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::sync::{AtomicU8, AtomicUsize, Mutex, Ordering::Relaxed};
use tickgate_protocol::channel::Tenant;

/// The publishers are looked through for unused ones when there are this many more than after the last time.
const SWEEP_EVERY: usize = 1024;

/// A publisher may have this many claims of channels that are gone, and as many again as it has channels.
const STALE_MAX: usize = 64;

/// The part of the state that one publisher may have while the bounds on the whole state are exceeded. 0: no quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Channels.
    pub channels: usize,
    /// Bytes, estimated.
    pub bytes: usize,
}

/// The publishers that own state.
pub(super) struct Publishers {
    quota: Quota,
    known: Mutex<Known>,
    over: Arc<OverQuota>,
    // What each tenant has, as if it were one publisher, by its number. `None`: it may have as much as there is.
    tenants: Vec<Option<Arc<Publisher>>>,
    tenants_over: Arc<OverQuota>,
}

#[derive(Default)]
struct Known {
    by_name: HashMap<(Tenant, Arc<str>), Arc<Publisher>, RandomState>,
    sweep_at: usize,
}

/// The publishers above their quota, and some that are not any more.
#[derive(Default)]
struct OverQuota(Mutex<Vec<Arc<Publisher>>>);

impl OverQuota {
    /// One that is above its quota. Forgets those that are not any more.
    fn find(&self) -> Option<Arc<Publisher>> {
        let mut over = self.0.lock();
        while let Some(publisher) = over.last() {
            if publisher.exceeds_quota() {
                return Some(Arc::clone(publisher));
            }
            publisher.listed.store(0, Relaxed);
            over.pop();
        }
        None
    }
}

/// One publisher.
pub(super) struct Publisher {
    name: Arc<str>,
    quota: Quota,
    channels: AtomicUsize,
    bytes: AtomicUsize,
    claims: Mutex<VecDeque<Claim>>,
    // The number of claims, to be read without their lock.
    claimed: AtomicUsize,
    // 1: listed in `over`.
    listed: AtomicU8,
    over: Weak<OverQuota>,
}

/// A channel that a publisher began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) stripe: u8,
    pub(super) slot: u32,
    /// The version of the channel's first event. It tells the channel from a later one in the same slot.
    pub(super) id: u64,
    /// When the channel had been used last when the claim was looked at, in monotonic milliseconds.
    pub(super) seen_ms: u64,
}

/// A publisher and how much of the state it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The name of the publisher; empty for all anonymous connections together.
    pub publisher: Arc<str>,
    /// Channels.
    pub channels: usize,
    /// Bytes, estimated.
    pub bytes: usize,
}

impl fmt::Display for Holding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.publisher.is_empty() {
            "anonymous clients"
        } else {
            &self.publisher
        };
        write!(f, "{name} ({} channels, {} bytes)", self.channels, self.bytes)
    }
}

impl Publishers {
    /// `tenants`: the quotas of all tenants but the default one, which has none.
    pub(super) fn new(quota: Quota, tenants: &[Quota]) -> Self {
        let tenants_over = Arc::<OverQuota>::default();
        let of_tenant = |quota: &Quota| {
            let name = Arc::from("all publishers of a tenant");
            (*quota != Quota::default()).then(|| Publisher::new(name, *quota, &tenants_over))
        };
        Self {
            quota,
            known: Mutex::new(Known::default()),
            over: Arc::default(),
            tenants: std::iter::once(None).chain(tenants.iter().map(of_tenant)).collect(),
            tenants_over,
        }
    }

    /// All publishers of a tenant together; `None` when the tenant has no quota.
    pub(super) fn of_tenant(&self, tenant: Tenant) -> Option<&Arc<Publisher>> {
        self.tenants.get(tenant.index())?.as_ref()
    }

    /// A tenant above its quota.
    pub(super) fn tenant_over_quota(&self) -> Option<Arc<Publisher>> {
        if self.tenants.len() == 1 {
            return None;
        }
        self.tenants_over.find()
    }

    /// The publisher of this name in a tenant; `None` when there are no quotas.
    pub(super) fn get(&self, tenant: Tenant, name: &Arc<str>) -> Option<Arc<Publisher>> {
        if self.quota == Quota::default() {
            return None;
        }
        let mut known = self.known.lock();
        let key = (tenant, Arc::clone(name));
        if let Some(publisher) = known.by_name.get(&key) {
            return Some(Arc::clone(publisher));
        }
        if known.by_name.len() >= known.sweep_at {
            // Those that own nothing and are not in use by another thread.
            known
                .by_name
                .retain(|_, publisher| publisher.channels.load(Relaxed) > 0 || Arc::strong_count(publisher) > 1);
            known.sweep_at = known.by_name.len() + SWEEP_EVERY;
        }
        let publisher = Publisher::new(Arc::clone(name), self.quota, &self.over);
        known.by_name.insert(key, Arc::clone(&publisher));
        Some(publisher)
    }

    /// A publisher above its quota.
    pub(super) fn over_quota(&self) -> Option<Arc<Publisher>> {
        self.over.find()
    }

    #[cfg(test)]
    #[cfg(not(shuttle))]
    pub(super) fn len(&self) -> usize {
        self.known.lock().by_name.len()
    }

    /// All publishers above their quota.
    pub(super) fn holdings_over_quota(&self) -> Vec<Holding> {
        let over = self.over.0.lock();
        let over = over.iter().filter(|publisher| publisher.exceeds_quota());
        over.map(|publisher| publisher.holding()).collect()
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Publisher({})", self.holding())
    }
}

impl Publisher {
    fn new(name: Arc<str>, quota: Quota, over: &Arc<OverQuota>) -> Arc<Self> {
        Arc::new(Self {
            name,
            quota,
            channels: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            claims: Mutex::new(VecDeque::new()),
            claimed: AtomicUsize::new(0),
            listed: AtomicU8::new(0),
            over: Arc::downgrade(over),
        })
    }

    /// How much of the state the publisher has.
    pub(super) fn holding(&self) -> Holding {
        Holding {
            publisher: Arc::clone(&self.name),
            channels: self.channels.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
        }
    }

    fn exceeds_quota(&self) -> bool {
        let exceeds = |count: &AtomicUsize, quota: usize| quota > 0 && count.load(Relaxed) > quota;
        exceeds(&self.channels, self.quota.channels) || exceeds(&self.bytes, self.quota.bytes)
    }

    /// Counts a channel that the publisher began.
    pub(super) fn add(self: &Arc<Self>, claim: Claim, bytes: usize) {
        self.channels.fetch_add(1, Relaxed);
        self.push(claim);
        self.resize(0, bytes);
    }

    /// Counts that a channel's size changed.
    pub(super) fn resize(self: &Arc<Self>, before: usize, after: usize) {
        if before == after {
            return;
        }
        // The addition wraps, so this also subtracts.
        self.bytes.fetch_add(after.wrapping_sub(before), Relaxed);
        if after > before
            && self.exceeds_quota()
            && self.listed.swap(1, Relaxed) == 0
            && let Some(over) = self.over.upgrade()
        {
            over.0.lock().push(Arc::clone(self));
        }
    }

    /// Counts that a channel of this size is gone.
    pub(super) fn remove(self: &Arc<Self>, bytes: usize) {
        self.channels.fetch_sub(1, Relaxed);
        self.resize(bytes, 0);
    }

    /// Puts a claim at the end of the queue.
    pub(super) fn push(&self, claim: Claim) {
        let mut claims = self.claims.lock();
        claims.push_back(claim);
        self.claimed.store(claims.len(), Relaxed);
    }

    /// Takes the claim at the front of the queue. Its channel may be gone.
    pub(super) fn pop(&self) -> Option<Claim> {
        let mut claims = self.claims.lock();
        let claim = claims.pop_front();
        self.claimed.store(claims.len(), Relaxed);
        claim
    }

    /// Whether so many claims are of channels that are gone that some should be dropped.
    pub(super) fn has_stale_claims(&self) -> bool {
        self.claimed.load(Relaxed) > 2 * self.channels.load(Relaxed) + STALE_MAX
    }
}
