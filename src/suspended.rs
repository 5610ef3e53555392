//! What Socket.IO sessions had that ended, until their clients take it back.
//!
//! Invariants: what is suspended is given out once, within its window, and to a client of the same tenant and user. All of it
//! together takes at most `BYTES_MAX`; the oldest of the tenant that has the most goes first.
//!
//! It lies in the memory of the process, or with the broker if that keeps sessions
//! ([`Broker::keep_session`](crate::broker::Broker::keep_session)). A drain writes what lies in memory into the snapshot.

mod record;

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::sync::Mutex;
use crate::time::Now;
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::event::Epoch;
use tickgate_protocol::rate::Rate;

pub use record::{Claim, Record};

/// The most bytes of memory for what is suspended.
const BYTES_MAX: usize = 32 * 1024 * 1024;

/// The bytes that an entry takes beside its patterns, estimated.
const ENTRY_BYTES: usize = 320;

/// What is suspended; see the module's docs.
#[derive(Default)]
pub struct SuspendedSessions(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    by_pid: HashMap<Box<str>, Entry>,
    // By the number of the tenant: the names in the order of their suspension. Some may be gone, or suspended again.
    order: HashMap<usize, VecDeque<(u64, Box<str>)>>,
    bytes: usize,
    count: u64,
}

struct Entry {
    record: Record,
    number: u64,
    until_ms: u64,
}

impl SuspendedSessions {
    /// Parks what a session had.
    pub fn suspend(&self, record: Record, now: Now) {
        let mut inner = self.0.lock();
        inner.expire_of(record.tenant.index(), now);
        inner.count += 1;
        let number = inner.count;
        let left_ms = record.until_unix_ms.saturating_sub(now.unix_ms);
        let (pid, tenant) = (record.pid.clone(), record.tenant);
        let entry = Entry {
            // A clock that was set back does not lengthen the window.
            until_ms: now.mono_ms + left_ms.min(record.suspended.window_ms),
            record,
            number,
        };
        inner.bytes += entry.bytes();
        let order = inner.order.entry(tenant.index()).or_default();
        order.push_back((number, pid.clone()));
        if let Some(before) = inner.by_pid.insert(pid, entry) {
            inner.bytes -= before.bytes();
        }
        while inner.bytes > BYTES_MAX && inner.drop_oldest() {}
    }

    /// Takes out what is asked for, if it is for this client.
    pub fn take(&self, claim: &Claim, now: Now) -> Option<Record> {
        let mut inner = self.0.lock();
        let entry = inner.by_pid.get(&claim.pid)?;
        if entry.record.tenant != claim.tenant || entry.record.suspended.user != claim.user {
            return None;
        }
        let entry = inner.by_pid.remove(&claim.pid)?;
        inner.bytes -= entry.bytes();
        (entry.until_ms >= now.mono_ms).then_some(entry.record)
    }

    /// Everything that is suspended, in the order of its suspension. For the snapshot.
    #[must_use]
    pub fn export(&self, now: Now) -> Vec<Record> {
        let inner = self.0.lock();
        let mut entries: Vec<_> = inner
            .by_pid
            .values()
            .filter(|entry| entry.until_ms >= now.mono_ms)
            .collect();
        entries.sort_unstable_by_key(|entry| entry.number);
        entries.into_iter().map(|entry| entry.record.clone()).collect()
    }

    /// Parks what an earlier run of the gateway had exported, as far as its time is not over and its epoch goes on.
    pub fn restore(&self, records: Vec<Record>, epoch: Epoch, now: Now) {
        let goes_on = |record: &Record| record.epoch == epoch && record.until_unix_ms >= now.unix_ms;
        records
            .into_iter()
            .filter(goes_on)
            .for_each(|record| self.suspend(record, now));
    }

    /// How many sessions are suspended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().by_pid.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of memory that they take, estimated.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.lock().bytes
    }

    /// Forgets those whose time is over. To be called from time to time.
    pub fn expire(&self, now: Now) {
        let mut inner = self.0.lock();
        let tenants: Vec<usize> = inner.order.keys().copied().collect();
        for tenant in tenants {
            inner.expire_of(tenant, now);
        }
    }
}

impl Inner {
    // Windows of one tenant may differ, so some stay a little longer, behind one with a longer window.
    fn expire_of(&mut self, tenant: usize, now: Now) {
        while let Some((number, pid)) = self.order.get(&tenant).and_then(VecDeque::front) {
            let entry = self.by_pid.get(pid).filter(|entry| entry.number == *number);
            if entry.is_some_and(|entry| entry.until_ms >= now.mono_ms) {
                return;
            }
            self.drop_first(tenant);
        }
        self.order.remove(&tenant);
    }

    // Drops the oldest of the tenant that has the most; returns whether there was one.
    fn drop_oldest(&mut self) -> bool {
        let most = self.order.iter().max_by_key(|(_, order)| order.len());
        most.map(|(tenant, _)| *tenant)
            .is_some_and(|tenant| self.drop_first(tenant))
    }

    fn drop_first(&mut self, tenant: usize) -> bool {
        let Some((number, pid)) = self.order.get_mut(&tenant).and_then(VecDeque::pop_front) else {
            return false;
        };
        if self.by_pid.get(&pid).is_some_and(|entry| entry.number == number)
            && let Some(entry) = self.by_pid.remove(&pid)
        {
            self.bytes -= entry.bytes();
        }
        true
    }
}

impl Entry {
    // The names of patterns are shared with others as long as somebody holds them; nobody may.
    fn bytes(&self) -> usize {
        let patterns = &self.record.suspended.patterns;
        let names: usize = patterns.iter().map(|(pattern, _)| 64 + pattern.as_str().len()).sum();
        ENTRY_BYTES + names + patterns.capacity() * size_of::<(Pattern, Option<Rate>)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session;
    use tickgate_protocol::channel::Tenant;

    const UNIX_MS: u64 = 1_700_000_000_000;

    fn other() -> Tenant {
        Tenant::new(1).expect("a tenant")
    }

    fn record(pid: &str, tenant: Tenant, user: &str, patterns: usize, ended_ms: u64) -> Record {
        let pattern = |n| Pattern::parse(&format!("grid.{user}{n}.*")).expect("valid");
        Record {
            pid: pid.into(),
            tenant,
            epoch: Epoch(7),
            until_unix_ms: UNIX_MS + ended_ms + 120_000,
            suspended: session::Suspended {
                user: Some(user.into()),
                patterns: (0..patterns).map(|n| (pattern(n), None)).collect(),
                window_ms: 120_000,
                subscribed_at: 0,
            },
        }
    }

    fn at(mono_ms: u64) -> Now {
        let unix_ms = UNIX_MS + mono_ms;
        Now { mono_ms, unix_ms }
    }

    fn claim(pid: &str, tenant: Tenant, user: Option<&str>) -> Claim {
        Claim {
            pid: pid.into(),
            tenant,
            user: user.map(Into::into),
        }
    }

    #[test]
    fn what_is_suspended_is_given_once_to_the_same_user_in_time() {
        let suspended = SuspendedSessions::default();
        let own = |ms| record("p", Tenant::DEFAULT, "u1", 2, ms);
        let suspend = |ms| suspended.suspend(own(ms), at(ms));
        let take = |pid: &str, tenant, user, ms| suspended.take(&claim(pid, tenant, user), at(ms));
        suspend(1_000);
        assert_eq!(take("q", Tenant::DEFAULT, Some("u1"), 1_000), None);
        assert_eq!(take("p", other(), Some("u1"), 1_000), None);
        for user in [Some("u2"), None] {
            assert_eq!(take("p", Tenant::DEFAULT, user, 1_000), None, "it stays for its user");
        }
        assert_eq!(take("p", Tenant::DEFAULT, Some("u1"), 121_000), Some(own(1_000)));
        assert_eq!(take("p", Tenant::DEFAULT, Some("u1"), 1_000), None);
        suspend(1_000);
        assert_eq!(take("p", Tenant::DEFAULT, Some("u1"), 121_001), None);
        suspend(1_000);
        suspend(2_000);
        suspended.expire(at(121_500));
        assert_eq!(suspended.len(), 1, "it was suspended again");
        suspended.expire(at(122_001));
        assert_eq!((suspended.len(), suspended.bytes()), (0, 0));
    }

    #[test]
    fn who_suspends_the_most_loses_first() {
        let suspended = SuspendedSessions::default();
        suspended.suspend(record("kept", other(), "u", 1, 0), at(0));
        for n in 0..5_000u64 {
            suspended.suspend(record(&format!("p{n}"), Tenant::DEFAULT, "u", 100, n), at(n));
            assert!(suspended.bytes() <= BYTES_MAX);
        }
        assert!(
            suspended.len() > 1_000 && suspended.len() < 5_000,
            "{}",
            suspended.len()
        );
        let take = |pid: &str, tenant| suspended.take(&claim(pid, tenant, Some("u")), at(0));
        assert!(take("p0", Tenant::DEFAULT).is_none());
        assert!(take("p4999", Tenant::DEFAULT).is_some());
        assert!(take("kept", other()).is_some());
    }

    #[test]
    fn another_run_goes_on_with_the_windows_and_in_its_epoch_only() {
        let first = SuspendedSessions::default();
        for (pid, ended_ms) in [("a", 0), ("b", 60_000), ("c", 90_000)] {
            first.suspend(record(pid, Tenant::DEFAULT, "u", 1, ended_ms), at(ended_ms));
        }
        let records = first.export(at(120_001));
        assert_eq!(
            records.iter().map(|record| &*record.pid).collect::<Vec<_>>(),
            ["b", "c"]
        );
        // The clock of the next run begins at zero.
        let later = |ms| Now {
            mono_ms: ms,
            unix_ms: UNIX_MS + 185_000 + ms,
        };
        let second = SuspendedSessions::default();
        second.restore(records.clone(), Epoch(8), later(0));
        assert!(second.is_empty(), "the store began anew");
        second.restore(records, Epoch(7), later(0));
        let take = |pid: &str, ms| second.take(&claim(pid, Tenant::DEFAULT, Some("u")), later(ms));
        assert_eq!(take("b", 0), None, "its window is over");
        assert!(take("c", 25_000).is_some());
        assert_eq!(take("c", 25_000), None);
    }
}
