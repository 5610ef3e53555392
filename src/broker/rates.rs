//! How fast each publisher may publish.

use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::session::limits::TokenBucket;
use crate::time::Now;
use tickgate_protocol::channel::Tenant;

/// The buckets are looked through for full ones when there are this many more than after the last time.
const SWEEP_EVERY: usize = 1024;

/// A bucket that was not used for this long is full again, since the burst equals the rate.
const REFILL_MS: u64 = 1000;

/// The token buckets of publishers, by name.
#[derive(Debug, Default)]
pub(super) struct PublishRates {
    // Events per second, and the burst, of each publisher of a tenant, by its number. 0: no limit.
    per_second: Vec<u32>,
    buckets: Mutex<Buckets>,
}

#[derive(Debug, Default)]
struct Buckets {
    // Each with the time of its last use, in monotonic milliseconds.
    by_name: HashMap<(Tenant, Arc<str>), (TokenBucket, u64), RandomState>,
    sweep_at: usize,
}

impl PublishRates {
    /// At most so many events per second of each publisher of a tenant, by its number; 0: no limit.
    pub(super) fn new(per_second: Vec<u32>) -> Self {
        Self {
            per_second,
            buckets: Mutex::default(),
        }
    }

    /// Counts an event of a publisher of a tenant. Returns whether the publisher may publish it; one without a name always
    /// may.
    pub(super) fn allow(&self, tenant: Tenant, publisher: Option<&Arc<str>>, now: Now) -> bool {
        let per_second = self.per_second.get(tenant.index()).copied().unwrap_or(0);
        let Some(publisher) = publisher.filter(|_| per_second > 0) else {
            return true;
        };
        let mut buckets = self.buckets.lock();
        let publisher = (tenant, Arc::clone(publisher));
        if let Some((bucket, used_ms)) = buckets.by_name.get_mut(&publisher) {
            *used_ms = now.mono_ms;
            return bucket.take(per_second, now.mono_ms).is_ok();
        }
        if buckets.by_name.len() >= buckets.sweep_at {
            (buckets.by_name).retain(|_, (_, used_ms)| now.mono_ms < *used_ms + REFILL_MS);
            buckets.sweep_at = buckets.by_name.len() + SWEEP_EVERY;
        }
        let mut bucket = TokenBucket::full(per_second, now.mono_ms);
        let is_allowed = bucket.take(per_second, now.mono_ms).is_ok();
        buckets.by_name.insert(publisher, (bucket, now.mono_ms));
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 0 }
    }

    #[test]
    fn each_publisher_has_its_own_rate_and_an_operator_none() {
        let rates = PublishRates::new(vec![2, 3]);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let (own, other) = (Tenant::DEFAULT, Tenant::new(1).expect("a tenant"));
        let allowed = |publisher: Option<&Arc<str>>, ms| (0..5).filter(|_| rates.allow(own, publisher, at(ms))).count();
        let of_namesake = (0..5).filter(|_| rates.allow(other, Some(&a), at(0))).count();
        assert_eq!(of_namesake, 3, "another tenant's publisher of the same name");
        assert_eq!(
            (allowed(Some(&a), 0), allowed(Some(&b), 0), allowed(None, 0)),
            (2, 2, 5)
        );
        assert_eq!((allowed(Some(&a), 500), allowed(Some(&a), 2000)), (1, 2));
        let unlimited = PublishRates::default();
        assert!((0..5).all(|_| unlimited.allow(own, Some(&a), at(0))));
    }

    #[test]
    fn publishers_that_have_gone_are_forgotten() {
        let rates = PublishRates::new(vec![1]);
        for number in 0..10 * SWEEP_EVERY as u64 {
            let name: Arc<str> = number.to_string().into();
            assert!(rates.allow(Tenant::DEFAULT, Some(&name), at(number)));
        }
        assert!(rates.buckets.lock().by_name.len() <= 2 * SWEEP_EVERY + REFILL_MS as usize);
    }
}
