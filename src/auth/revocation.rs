//! Tokens that are refused before they expire: one by its `jti`, or all of a user that were issued before a time.
//!
//! Invariant: a revocation is forgotten only after its own time, which is later than the end of each token that it names.
//! There are at most [`REVOCATIONS_MAX`] of each tenant. One more is refused, and no earlier one is forgotten for it.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use hashbrown::HashMap;
use parking_lot::RwLock;

use super::Identity;
use tickgate_protocol::channel::Tenant;

/// The most revocations of one tenant. Each takes about 100 bytes.
pub const REVOCATIONS_MAX: usize = 10_000;

/// The longest `jti` that can be revoked, in bytes.
pub const TOKEN_ID_BYTES_MAX: usize = 255;

/// A revocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The tenant whose tokens it is about.
    pub tenant: Tenant,
    /// Which of them.
    pub tokens: RevokedTokens,
    /// When it is forgotten, in Unix milliseconds.
    pub until_unix_ms: u64,
}

/// The tokens that a revocation names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevokedTokens {
    /// The tokens with this `jti`.
    WithId(Box<str>),
    /// The tokens of a user that were issued before a time. A token without `iat` is one of them.
    OfUser {
        /// The user.
        user: Box<str>,
        /// The time, in Unix milliseconds.
        issued_before_ms: u64,
    },
}

impl Revocation {
    /// Whether it names the token of this identity.
    #[must_use]
    pub fn names(&self, identity: &Identity) -> bool {
        identity.tenant == self.tenant
            && match &self.tokens {
                RevokedTokens::WithId(id) => identity.token_id.as_deref() == Some(id),
                RevokedTokens::OfUser { user, issued_before_ms } => {
                    identity.user.as_deref() == Some(user) && was_issued_before(identity, *issued_before_ms)
                }
            }
    }
}

fn was_issued_before(identity: &Identity, time_ms: u64) -> bool {
    identity.issued_at_ms.is_none_or(|issued_ms| issued_ms < time_ms)
}

/// There are [`REVOCATIONS_MAX`] revocations of the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{REVOCATIONS_MAX} revocations are in force: wait until some are forgotten, or replace the key that signs tokens"
)]
pub struct RevocationsFull;

/// The revocations of all tenants.
#[derive(Debug, Default)]
pub struct Revocations {
    // Of all tenants. Without any, a token costs no lock.
    count: AtomicUsize,
    // Grows with each change.
    version: AtomicU64,
    tenants: RwLock<[OfTenant; Tenant::COUNT]>,
}

#[derive(Debug, Default)]
struct OfTenant {
    // The end of the revocation, by `jti`.
    ids: HashMap<Box<str>, u64>,
    // The time before which the tokens were issued, and the end, by user.
    users: HashMap<Box<str>, (u64, u64)>,
}

impl OfTenant {
    fn len(&self) -> usize {
        self.ids.len() + self.users.len()
    }

    fn forget(&mut self, now_unix_ms: u64) {
        self.ids.retain(|_, until_ms| *until_ms > now_unix_ms);
        self.users.retain(|_, (_, until_ms)| *until_ms > now_unix_ms);
    }

    /// Adds a revocation, or extends the one about the same `jti` or user.
    fn add(&mut self, tokens: RevokedTokens, until_ms: u64) {
        match tokens {
            RevokedTokens::WithId(id) => {
                let until = self.ids.entry(id).or_default();
                *until = (*until).max(until_ms);
            }
            RevokedTokens::OfUser { user, issued_before_ms } => {
                let (before, until) = self.users.entry(user).or_default();
                *before = (*before).max(issued_before_ms);
                *until = (*until).max(until_ms);
            }
        }
    }

    fn has(&self, tokens: &RevokedTokens) -> bool {
        match tokens {
            RevokedTokens::WithId(id) => self.ids.contains_key(id),
            RevokedTokens::OfUser { user, .. } => self.users.contains_key(user),
        }
    }
}

impl Revocations {
    /// Adds a revocation, or extends the one about the same `jti` or user.
    ///
    /// # Errors
    ///
    /// When the tenant has too many.
    pub fn add(&self, revocation: Revocation, now_unix_ms: u64) -> Result<(), RevocationsFull> {
        let mut tenants = self.tenants.write();
        let own = &mut tenants[revocation.tenant.index()];
        if own.len() >= REVOCATIONS_MAX && !own.has(&revocation.tokens) {
            own.forget(now_unix_ms);
            if own.len() >= REVOCATIONS_MAX {
                return Err(RevocationsFull);
            }
        }
        own.add(revocation.tokens, revocation.until_unix_ms);
        self.changed(&*tenants);
        Ok(())
    }

    fn changed(&self, tenants: &[OfTenant]) {
        self.count.store(tenants.iter().map(OfTenant::len).sum(), Relaxed);
        self.version.fetch_add(1, Relaxed);
    }

    /// Whether the token of this identity is revoked.
    #[must_use]
    pub fn has(&self, identity: &Identity) -> bool {
        // Whoever adds one tells the shards behind it, by a message that orders both.
        if self.count.load(Relaxed) == 0 {
            return false;
        }
        let tenants = self.tenants.read();
        let own = &tenants[identity.tenant.index()];
        let by_id = identity.token_id.as_ref().is_some_and(|id| own.ids.contains_key(id));
        let of_user = identity.user.as_deref().and_then(|user| own.users.get(user));
        by_id || of_user.is_some_and(|(before_ms, _)| was_issued_before(identity, *before_ms))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count.load(Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A number that grows with each change.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Relaxed)
    }

    /// All that are in force, of one tenant or of all. Others are forgotten.
    #[must_use]
    pub fn list(&self, of: Option<Tenant>, now_unix_ms: u64) -> Vec<Revocation> {
        let mut tenants = self.tenants.write();
        let before: usize = tenants.iter().map(OfTenant::len).sum();
        tenants.iter_mut().for_each(|own| own.forget(now_unix_ms));
        if tenants.iter().map(OfTenant::len).sum::<usize>() != before {
            self.changed(&*tenants);
        }
        let mut all = Vec::new();
        let numbers = (0..Tenant::COUNT).filter_map(Tenant::new);
        for (tenant, own) in numbers.zip(&*tenants) {
            if of.is_some_and(|of| of != tenant) {
                continue;
            }
            let revocation = |tokens, until_unix_ms| Revocation {
                tenant,
                tokens,
                until_unix_ms,
            };
            let ids = own.ids.iter();
            all.extend(ids.map(|(id, until)| revocation(RevokedTokens::WithId(id.clone()), *until)));
            all.extend(own.users.iter().map(|(user, (issued_before_ms, until))| {
                let (user, issued_before_ms) = (user.clone(), *issued_before_ms);
                revocation(RevokedTokens::OfUser { user, issued_before_ms }, *until)
            }));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn tenant(index: usize) -> Tenant {
        Tenant::new(index).expect("few")
    }

    fn identity(index: usize, user: &str, id: Option<&str>, issued_at_ms: Option<u64>) -> Identity {
        Identity {
            tenant: tenant(index),
            user: Some(user.into()),
            token_id: id.map(Into::into),
            issued_at_ms,
            ..Identity::anonymous(Arc::default())
        }
    }

    fn by_id(index: usize, id: &str, until_unix_ms: u64) -> Revocation {
        Revocation {
            tenant: tenant(index),
            tokens: RevokedTokens::WithId(id.into()),
            until_unix_ms,
        }
    }

    fn of_user(index: usize, user: &str, issued_before_ms: u64, until_unix_ms: u64) -> Revocation {
        Revocation {
            tenant: tenant(index),
            tokens: RevokedTokens::OfUser {
                user: user.into(),
                issued_before_ms,
            },
            until_unix_ms,
        }
    }

    #[test]
    fn a_token_is_revoked_by_its_id_or_by_its_user_and_time() {
        for (revocation, hit, missed) in [
            (
                by_id(1, "t-1", 9_000),
                vec![identity(1, "4", Some("t-1"), None)],
                vec![
                    identity(1, "4", Some("t-2"), None),
                    identity(1, "4", None, None),
                    identity(2, "4", Some("t-1"), None),
                ],
            ),
            (
                of_user(1, "4", 5_000, 9_000),
                vec![identity(1, "4", None, Some(4_999)), identity(1, "4", Some("x"), None)],
                vec![
                    identity(1, "4", None, Some(5_000)),
                    identity(1, "5", None, Some(1)),
                    identity(0, "4", None, Some(1)),
                ],
            ),
        ] {
            let revocations = Revocations::default();
            assert!(hit.iter().all(|identity| !revocations.has(identity)));
            revocations.add(revocation.clone(), 0).expect("room");
            for identity in &hit {
                assert!(revocations.has(identity) && revocation.names(identity), "{identity:?}");
            }
            for identity in &missed {
                assert!(
                    !revocations.has(identity) && !revocation.names(identity),
                    "{identity:?}"
                );
            }
            let anonymous = Identity::anonymous(Arc::default());
            assert!(!revocations.has(&anonymous) && !revocation.names(&anonymous));
        }
    }

    #[test]
    fn revocations_of_the_same_tokens_are_one_and_are_forgotten_at_their_end() {
        let revocations = Revocations::default();
        for revocation in [
            by_id(0, "t", 2_000),
            by_id(0, "t", 1_000),
            of_user(0, "4", 500, 1_500),
            of_user(0, "4", 400, 3_000),
        ] {
            revocations.add(revocation, 0).expect("room");
        }
        let expected = [by_id(0, "t", 2_000), of_user(0, "4", 500, 3_000)];
        assert_eq!(revocations.list(None, 1_999), expected);
        assert_eq!(revocations.list(Some(tenant(1)), 1_999), []);
        let version = revocations.version();
        assert_eq!(revocations.list(None, 2_000), expected[1..]);
        assert!(revocations.version() > version && revocations.len() == 1);
        assert!(revocations.list(None, 3_000).is_empty() && revocations.is_empty());
    }

    #[test]
    fn a_tenant_with_too_many_is_refused_and_the_others_have_their_room() {
        let revocations = Revocations::default();
        let add = |index, name: &str, until, now| revocations.add(by_id(index, name, until), now);
        for number in 0..REVOCATIONS_MAX {
            add(1, &number.to_string(), 1_000, 0).expect("room");
        }
        assert_eq!(add(1, "more", 2_000, 999), Err(RevocationsFull));
        add(1, "7", 2_000, 999).expect("the same tokens again");
        add(2, "more", 2_000, 999).expect("another tenant");
        add(1, "more", 2_000, 1_000).expect("most are over");
        assert_eq!(revocations.len(), 3);
    }
}
