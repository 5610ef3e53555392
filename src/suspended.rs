//! What Socket.IO sessions had that ended, until their clients take it back.
//!
//! Invariants: what is suspended is given out once, within its window, and to a client of the same tenant and user. All of it
//! together takes at most `BYTES_MAX`; the oldest of the tenant that has the most goes first.
//!
//! It lies in the memory of the process. So a client that comes to another gateway, or after a restart, finds nothing and
//! begins anew.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::session;
use crate::sync::Mutex;
use crate::time::Now;
use tickgate_protocol::channel::{Pattern, Tenant};
use tickgate_protocol::event::Epoch;

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
    tenant: Tenant,
    epoch: Epoch,
    suspended: session::Suspended,
    number: u64,
    until_ms: u64,
}

impl SuspendedSessions {
    /// Parks what a session had.
    pub fn suspend(&self, pid: Box<str>, tenant: Tenant, epoch: Epoch, suspended: session::Suspended, now: Now) {
        let mut inner = self.0.lock();
        inner.expire(tenant, now);
        inner.count += 1;
        let number = inner.count;
        let entry = Entry {
            tenant,
            epoch,
            until_ms: now.mono_ms + suspended.window_ms,
            suspended,
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

    /// Takes out what was suspended under a name, if it is for this client.
    pub fn take(&self, pid: &str, tenant: Tenant, user: Option<&str>, now: Now) -> Option<(session::Suspended, Epoch)> {
        let mut inner = self.0.lock();
        let entry = inner.by_pid.get(pid)?;
        if entry.tenant != tenant || entry.suspended.user.as_deref() != user {
            return None;
        }
        let entry = inner.by_pid.remove(pid)?;
        inner.bytes -= entry.bytes();
        (entry.until_ms >= now.mono_ms).then_some((entry.suspended, entry.epoch))
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
    fn expire(&mut self, tenant: Tenant, now: Now) {
        self.expire_of(tenant.index(), now);
    }

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
        let patterns = self.suspended.patterns.iter();
        let names: usize = patterns.map(|(pattern, _)| 64 + pattern.as_str().len()).sum();
        ENTRY_BYTES + names + self.suspended.patterns.capacity() * size_of::<(Pattern, u64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other() -> Tenant {
        Tenant::new(1).expect("a tenant")
    }

    fn session(user: &str, patterns: usize) -> session::Suspended {
        let pattern = |n| Pattern::parse(&format!("grid.{user}{n}.*")).expect("valid");
        session::Suspended {
            user: Some(user.into()),
            patterns: (0..patterns).map(|n| (pattern(n), None)).collect(),
            window_ms: 120_000,
        }
    }

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 1 }
    }

    #[test]
    fn what_is_suspended_is_given_once_to_the_same_user_in_time() {
        let suspended = SuspendedSessions::default();
        let own = session("u1", 2);
        let suspend = |pid: &str, ms| suspended.suspend(pid.into(), Tenant::DEFAULT, Epoch(7), own.clone(), at(ms));
        suspend("p", 1_000);
        assert_eq!(suspended.take("q", Tenant::DEFAULT, Some("u1"), at(1_000)), None);
        assert_eq!(suspended.take("p", other(), Some("u1"), at(1_000)), None);
        for user in [Some("u2"), None] {
            assert_eq!(
                suspended.take("p", Tenant::DEFAULT, user, at(1_000)),
                None,
                "it stays for its user"
            );
        }
        let taken = suspended.take("p", Tenant::DEFAULT, Some("u1"), at(121_000));
        assert_eq!(taken, Some((own.clone(), Epoch(7))));
        assert_eq!(suspended.take("p", Tenant::DEFAULT, Some("u1"), at(1_000)), None);
        suspend("p", 1_000);
        assert_eq!(suspended.take("p", Tenant::DEFAULT, Some("u1"), at(121_001)), None);
        suspend("p", 1_000);
        suspend("p", 2_000);
        suspended.expire(at(121_500));
        assert_eq!(suspended.len(), 1, "it was suspended again");
        suspended.expire(at(122_001));
        assert_eq!((suspended.len(), suspended.bytes()), (0, 0));
    }

    #[test]
    fn who_suspends_the_most_loses_first() {
        let suspended = SuspendedSessions::default();
        suspended.suspend("kept".into(), other(), Epoch(7), session("u", 1), at(0));
        for n in 0..5_000u64 {
            let pid = format!("p{n}").into();
            suspended.suspend(pid, Tenant::DEFAULT, Epoch(7), session("u", 100), at(n));
            assert!(suspended.bytes() <= BYTES_MAX);
        }
        assert!(
            suspended.len() > 1_000 && suspended.len() < 5_000,
            "{}",
            suspended.len()
        );
        assert!(suspended.take("p0", Tenant::DEFAULT, Some("u"), at(0)).is_none());
        assert!(suspended.take("p4999", Tenant::DEFAULT, Some("u"), at(0)).is_some());
        assert!(suspended.take("kept", other(), Some("u"), at(0)).is_some());
    }
}
