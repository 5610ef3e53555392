//! Tokens that were verified, by their digest.
//!
//! Invariant: an identity comes out only for exactly the token it was put in for, and only until that token ends. The
//! token itself is not kept: who reads the gateway's memory finds digests. Bounded by count.

use std::mem;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::auth::Identity;

/// So many locks, so that door and verifier threads seldom meet.
const STRIPES: usize = 16;

/// Stands for a token.
pub(super) type Digest = [u8; 32];

#[derive(Debug)]
pub(super) struct Cache {
    stripes: [Mutex<Generations>; STRIPES],
    // Of one generation of one stripe.
    tokens_max: usize,
}

/// What was used lately, and what before. When the first is full it takes the place of the second, which is
/// forgotten: what is in use survives, without a list to keep in order.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest, Arc<Identity>>,
    old: HashMap<Digest, Arc<Identity>>,
}

impl Cache {
    /// Room for about `tokens`; 0 remembers nothing.
    pub(super) fn new(tokens: usize) -> Self {
        Self {
            stripes: Default::default(),
            tokens_max: tokens.div_ceil(2 * STRIPES),
        }
    }

    /// Who this token was verified to be, if that is remembered and the token has not ended.
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

    /// Remembers a verified token's identity; when another thread was faster, its instance is the one shared.
    pub(super) fn put(&self, key: Digest, identity: Arc<Identity>) -> Arc<Identity> {
        if self.tokens_max == 0 {
            return identity;
        }
        let mut stripe = self.stripe(&key).lock();
        if let Some(earlier) = stripe.young.get(&key) {
            return Arc::clone(earlier);
        }
        self.insert(&mut stripe, key, Arc::clone(&identity));
        identity
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

/// The digest of a token.
pub(super) fn key(token: &str) -> Digest {
    let digest = digest(&SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
