//! Verifies tokens on threads of its own, with a cache of verified tokens.
//!
//! Invariant: every [`Verifier::request`] gets exactly one reply: the identity, or the reason of the refusal. When too many
//! requests wait, the reply is `INTERNAL`, at once. Replies to one connection keep the order of its requests, except
//! those that are refused at once.
//!
//! A token that was revoked is refused, whether it is in the cache or not. A revocation also ends the connections that have
//! such a token: it is known here before a shard looks for them, and a shard asks again for each connection that it takes
//! over later.
//!
//! The ingress verifies the tokens of handshakes on its own threads ([`Verifier::verify`]). A shard must not spend the 20
//! to 50 µs that a public-key signature takes, so it sends a request. Both share the cache: a client that reconnects, or
//! opens ten tabs, costs one verification.

mod cache;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::RwLock;

use crate::auth::{self, Identity, KeySet, Revocation, Revocations, RevocationsFull, TOKEN_BYTES_MAX, TokenError};
use crate::metrics::{Counter, Histogram};
use crate::shard::mailbox::{ConnectionId, ShardHandle, ShardMessage};
use crate::time::{Stopwatch, unix_ms};
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::message::ErrorCode;

use cache::Cache;

/// The settings of a [`Verifier`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// The rules of each tenant, by its number; the first are those of the default tenant.
    pub tenants: Vec<TokenRules>,
    /// The number of threads that serve requests of shards, at least 1.
    pub threads: usize,
    /// Most requests that may wait, over all threads.
    pub queue_requests: usize,
    /// Most bytes of tokens that may wait.
    pub queue_bytes: usize,
    /// Most tokens in the cache. Each takes about 300 bytes.
    pub cache_tokens: usize,
    /// The tokens that were revoked.
    pub revocations: Arc<Revocations>,
}

impl Settings {
    /// Settings with these keys and rules for the default tenant, and defaults for the rest: two threads, and queues that hold the requests of
    /// all clients of a gateway at once.
    #[must_use]
    pub fn new(keys: KeySet, settings: auth::Settings) -> Self {
        Self {
            tenants: vec![TokenRules { keys, settings }],
            threads: 2,
            queue_requests: 64 * 1024,
            queue_bytes: 64 * 1024 * 1024,
            cache_tokens: 100_000,
            revocations: Arc::default(),
        }
    }
}

/// What decides about the tokens of a tenant.
#[derive(Clone, Debug)]
pub struct TokenRules {
    /// The keys.
    pub keys: KeySet,
    /// How claims are read.
    pub settings: auth::Settings,
}

/// The counters of a verifier.
#[derive(Debug, Default)]
pub struct VerifierMetrics {
    /// Tokens found in the cache.
    pub cache_hits: Counter,
    /// Tokens whose signature was verified and that were accepted.
    pub verified: Counter,
    /// Tokens refused with `TOKEN_EXPIRED`.
    pub expired: Counter,
    /// Tokens refused with `TOKEN_INVALID`.
    pub invalid: Counter,
    /// Tokens refused because they were revoked.
    pub revoked: Counter,
    /// Requests refused because too many waited.
    pub overloaded: Counter,
    /// Tokens refused for now, because their key may be among those that are being read.
    pub key_awaited: Counter,
    /// How long it took to verify tokens that were not in the cache.
    pub duration: Histogram,
}

/// Verifies tokens. A gateway has one. Dropping it ends its threads after they have replied to the waiting requests.
pub struct Verifier {
    shared: Arc<Shared>,
    // One queue per thread. A connection always uses the same one, so that its replies keep their order.
    queues: Vec<Sender<Request>>,
}

struct Shared {
    rules: RwLock<Arc<Rules>>,
    cache: Cache,
    revocations: Arc<Revocations>,
    metrics: VerifierMetrics,
    shards: Box<[ShardHandle]>,
    queued_bytes: AtomicUsize,
    queue_bytes_max: usize,
}

/// What decides about tokens.
struct Rules {
    /// By the number of the tenant.
    tenants: Vec<TokenRules>,
    /// How often the rules were replaced before.
    generation: u64,
}

impl Verifier {
    /// Starts the threads. A reply goes to the shard with the index [`ConnectionId::shard`].
    ///
    /// # Errors
    ///
    /// When a thread cannot be started.
    pub fn start(settings: Settings, shards: Vec<ShardHandle>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            rules: RwLock::new(Arc::new(Rules {
                tenants: settings.tenants,
                generation: 0,
            })),
            cache: Cache::new(settings.cache_tokens),
            revocations: settings.revocations,
            metrics: VerifierMetrics::default(),
            shards: shards.into(),
            queued_bytes: AtomicUsize::new(0),
            queue_bytes_max: settings.queue_bytes,
        });
        let threads = settings.threads.max(1);
        let start = |number| {
            let (queue, requests) = bounded(settings.queue_requests.div_ceil(threads).max(1));
            let work = move || serve(&requests);
            std::thread::Builder::new()
                .name(format!("verify-{number}"))
                .spawn(work)?;
            Ok(queue)
        };
        let queues = (0..threads).map(start).collect::<io::Result<_>>()?;
        Ok(Self { shared, queues })
    }

    /// Verifies a token of a tenant on the calling thread.
    ///
    /// # Errors
    ///
    /// As [`auth::verify`].
    pub fn verify(&self, tenant: Tenant, token: &str, now_unix_ms: u64) -> Result<Arc<Identity>, TokenError> {
        self.shared.verify(&[tenant], token, now_unix_ms)
    }

    /// Verifies a token of any tenant on the calling thread: the first tenant whose keys verify it is that of the identity.
    ///
    /// # Errors
    ///
    /// As [`auth::verify`]. A token that has expired is told from one that no tenant's key has signed.
    pub fn verify_any(&self, token: &str, now_unix_ms: u64) -> Result<Arc<Identity>, TokenError> {
        let count = self.shared.rules.read().tenants.len();
        let tenants: Vec<Tenant> = (0..count).filter_map(Tenant::new).collect();
        self.shared.verify(&tenants, token, now_unix_ms)
    }

    /// Verifies a token for a shard, without waiting. The reply is one [`ShardMessage::Verified`]. This implements
    /// [`Services::verify`](crate::shard::mailbox::Services::verify).
    pub fn request(&self, from: ConnectionId, request: u32, tenant: Tenant, token: Box<str>) {
        let shared = Arc::clone(&self.shared);
        let waiting = shared.queued_bytes.fetch_add(token.len(), Relaxed);
        let too_long = (token.len() > TOKEN_BYTES_MAX).then(|| {
            shared.metrics.invalid.add(1);
            Err(TokenError::too_long())
        });
        let request = Request {
            shared,
            from,
            request,
            tenant,
            token,
            outcome: too_long,
        };
        // Dropping a request sends its reply: here, when the queue is full, or when the thread has ended.
        if request.outcome.is_none() && waiting < self.shared.queue_bytes_max {
            let queue = &self.queues[from.slot as usize % self.queues.len()];
            let _ = queue.try_send(request);
        }
    }

    /// Replaces the keys and the rules. Tokens that are verified from now on are verified by the new ones; those in the cache
    /// are forgotten. Identities that were returned before stay as they are.
    pub fn replace(&self, tenants: Vec<TokenRules>) {
        let mut rules = self.shared.rules.write();
        let generation = rules.generation + 1;
        *rules = Arc::new(Rules { tenants, generation });
        drop(rules);
        self.shared.cache.clear(generation);
    }

    /// Forgets the tokens that were verified, because a source has other keys now.
    pub fn forget(&self) {
        let mut rules = self.shared.rules.write();
        let generation = rules.generation + 1;
        *rules = Arc::new(Rules {
            tenants: rules.tenants.clone(),
            generation,
        });
        drop(rules);
        self.shared.cache.clear(generation);
    }

    /// Revokes tokens: they are refused from now on, and the connections that have them end. `reply` makes for each shard
    /// what is called with the number of its connections.
    ///
    /// # Errors
    ///
    /// When too many revocations of the tenant are in force. Nothing is revoked then.
    pub fn revoke(
        &self,
        revocation: Revocation,
        now_unix_ms: u64,
        mut reply: impl FnMut() -> Box<dyn FnOnce(usize) + Send>,
    ) -> Result<(), RevocationsFull> {
        self.shared.revocations.add(revocation.clone(), now_unix_ms)?;
        let revocation = Arc::new(revocation);
        for shard in &self.shared.shards {
            let (revocation, reply) = (Arc::clone(&revocation), reply());
            // A shard that has ended has no connections.
            let _ = shard.send(ShardMessage::Revoke { revocation, reply });
        }
        Ok(())
    }

    /// The tokens that were revoked.
    #[must_use]
    pub fn revocations(&self) -> &Revocations {
        &self.shared.revocations
    }

    /// When a revocation of a tenant's tokens can be forgotten, of which the last expires at `ends_unix_ms`, in Unix
    /// milliseconds. `None`: that is not known.
    #[must_use]
    pub fn revocation_end_ms(&self, tenant: Tenant, ends_unix_ms: Option<u64>, now_unix_ms: u64) -> u64 {
        let rules = Arc::clone(&self.shared.rules.read());
        let settings = rules.tenants.get(tenant.index()).map(|rules| &rules.settings);
        let (ttl_ms, leeway_ms) = settings.map_or((0, 0), |settings| (settings.revocation_ttl_ms, settings.leeway_ms));
        let ends_unix_ms = ends_unix_ms.unwrap_or(now_unix_ms.saturating_add(ttl_ms));
        ends_unix_ms.saturating_add(leeway_ms)
    }

    /// The verifier's counters.
    #[must_use]
    pub fn metrics(&self) -> &VerifierMetrics {
        &self.shared.metrics
    }
}

/// The loop of one thread. It ends when the verifier is dropped.
fn serve(requests: &Receiver<Request>) {
    for mut request in requests {
        request.outcome = Some((request.shared).verify(&[request.tenant], &request.token, unix_ms()));
    }
}

impl Shared {
    /// Verifies a token of one of these tenants.
    fn verify(&self, tenants: &[Tenant], token: &str, now_unix_ms: u64) -> Result<Arc<Identity>, TokenError> {
        let (identity, counter) = self.verify_signed(tenants, token, now_unix_ms)?;
        if self.revocations.has(&identity) {
            self.metrics.revoked.add(1);
            return Err(TokenError::revoked());
        }
        counter.add(1);
        Ok(identity)
    }

    /// The identity, and what counts it unless the token is revoked.
    fn verify_signed(
        &self,
        tenants: &[Tenant],
        token: &str,
        now_unix_ms: u64,
    ) -> Result<(Arc<Identity>, &Counter), TokenError> {
        for tenant in tenants {
            if let Some(identity) = self.cache.get(&cache::key(*tenant, token), now_unix_ms) {
                return Ok((identity, &self.metrics.cache_hits));
            }
        }
        let rules = Arc::clone(&self.rules.read());
        let watch = Stopwatch::start();
        let verified = rules.verify(tenants, token, now_unix_ms);
        self.metrics.duration.add(watch.elapsed());
        match verified {
            Ok(identity) => {
                let key = cache::key(identity.tenant, token);
                let identity = self.cache.put(key, Arc::new(identity), rules.generation);
                Ok((identity, &self.metrics.verified))
            }
            Err(error) => {
                let counter = match error.code {
                    ErrorCode::TokenExpired => &self.metrics.expired,
                    ErrorCode::Internal => &self.metrics.key_awaited,
                    _ => &self.metrics.invalid,
                };
                counter.add(1);
                Err(error)
            }
        }
    }
}

impl Rules {
    /// The identity by the first of these tenants whose rules accept the token. Of several errors, that of an expired token,
    /// or of one whose key may come, says the most.
    fn verify(&self, tenants: &[Tenant], token: &str, now_unix_ms: u64) -> Result<Identity, TokenError> {
        let mut refused = None;
        let rules = tenants.iter().filter_map(|tenant| self.tenants.get(tenant.index()));
        for TokenRules { keys, settings } in rules {
            match auth::verify(token, keys, settings, now_unix_ms) {
                Ok(identity) => return Ok(identity),
                Err(error) if error.code != ErrorCode::TokenInvalid => refused = Some(error),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        Err(refused.unwrap_or_else(|| TokenError::invalid("the token's tenant does not exist any more")))
    }
}

/// A waiting request. Dropping it sends its reply.
struct Request {
    shared: Arc<Shared>,
    from: ConnectionId,
    request: u32,
    tenant: Tenant,
    token: Box<str>,
    outcome: Option<Result<Arc<Identity>, TokenError>>,
}

impl Drop for Request {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.queued_bytes.fetch_sub(self.token.len(), Relaxed);
        let outcome = self.outcome.take().unwrap_or_else(|| {
            shared.metrics.overloaded.add(1);
            Err(TokenError {
                code: ErrorCode::Internal,
                message: "the token cannot be verified at present; try again".into(),
            })
        });
        if let Some(shard) = shared.shards.get(usize::from(self.from.shard)) {
            let (to, request) = (self.from, self.request);
            // Sending fails only to a shard that has ended. Its connections have ended, too.
            let _ = shard.send(ShardMessage::Verified { to, request, outcome });
        }
    }
}
