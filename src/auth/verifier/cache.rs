//! A cache of verified tokens, by the digest of the token. Its size is bounded.
//!
//! Invariant: an identity is returned only for the token and the tenant that it was stored for, only until that token expires, and only
//! while the rules hold that it was verified by. The cache holds digests, so that a dump of the gateway's memory does not contain the tokens in it.

use std::mem;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::auth::Identity;
use tickgate_protocol::channel::Tenant;

/// The number of locks. Threads of the ingress and of the verifier seldom contend for one of them.
const STRIPES: usize = 16;

/// The SHA-256 digest of a token.
pub(super) type Digest = [u8; 32];

#[derive(Debug)]
pub(super) struct Cache {
    stripes: [Mutex<Generations>; STRIPES],
    // The capacity of one generation of one stripe.
    tokens_max: usize,
}

/// Two generations of one stripe: the recently used identities, and the others. When the young generation is full, it
/// replaces the old one. So identities in use stay, without a list in order of use.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest, Arc<Identity>>,
    old: HashMap<Digest, Arc<Identity>>,
    /// The generation of the rules that the identities were verified by.
    rules: u64,
}

impl Cache {
    /// A cache for about `tokens` tokens; 0 stores none.
    pub(super) fn new(tokens: usize) -> Self {
        Self {
            stripes: Default::default(),
            tokens_max: tokens.div_ceil(2 * STRIPES),
        }
    }

    /// The identity of a token that is stored and has not expired.
    pub(super) fn get(&self, key: &Digest, now_unix_ms: u64) -> Option<Arc<Identity>> {
        let mut stripe = self.stripe(key).lock();
        let is_young = stripe.young.contains_key(key);
        let identity = if is_young {
            stripe.young.get(key).cloned()
        } else {
            stripe.old.remove(key)
        }?;
        if identity.expires_at_ms.is_some_and(|end| now_unix_ms >= end) {
            stripe.young.remove(key);
            return None;
        }
        if !is_young {
            self.insert(&mut stripe, *key, Arc::clone(&identity));
        }
        Some(identity)
    }

    /// Stores the identity of a token that was verified by the rules of a generation, unless they were replaced since.
    /// Returns the shared instance: that of another thread if it was faster.
    pub(super) fn put(&self, key: Digest, identity: Arc<Identity>, rules: u64) -> Arc<Identity> {
        if self.tokens_max == 0 {
            return identity;
        }
        let mut stripe = self.stripe(&key).lock();
        if stripe.rules != rules {
            return identity;
        }
        if let Some(earlier) = stripe.young.get(&key) {
            return Arc::clone(earlier);
        }
        self.insert(&mut stripe, key, Arc::clone(&identity));
        identity
    }

    /// Forgets all identities. From now on those of this generation of rules are stored.
    pub(super) fn clear(&self, rules: u64) {
        for stripe in &self.stripes {
            *stripe.lock() = Generations {
                rules,
                ..Generations::default()
            };
        }
    }

    fn insert(&self, stripe: &mut Generations, key: Digest, identity: Arc<Identity>) {
        if stripe.young.len() >= self.tokens_max {
            stripe.old = mem::take(&mut stripe.young);
        }
        stripe.young.insert(key, identity);
    }

    fn stripe(&self, key: &Digest) -> &Mutex<Generations> {
        &self.stripes[usize::from(key[0]) % STRIPES]
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let count = |stripe: &Mutex<Generations>| {
            let stripe = stripe.lock();
            stripe.young.len() + stripe.old.len()
        };
        self.stripes.iter().map(count).sum()
    }
}

/// The digest of a token that is presented to a tenant.
pub(super) fn key(tenant: Tenant, token: &str) -> Digest {
    let mut hash = Context::new(&SHA256);
    hash.update(&tenant.index().to_le_bytes());
    hash.update(token.as_bytes());
    hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
}
