//! Verifies tokens off the shard threads, with a cache of verified ones.
//!
//! Invariant: every [`Verifier::request`] is answered once: with the identity, with why the token is refused, or,
//! when there are more requests than can wait, at once with `INTERNAL`. Requests of one connection are answered in
//! their order (but for those refused at once).
//!
//! The door verifies handshake tokens on its own threads ([`Verifier::verify`]); a shard must not spend the 20 to
//! 50 µs that a public-key signature takes, and asks. Both share the cache, so that a client that reconnects, or
//! opens ten tabs, costs one verification.

mod cache;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::auth::{self, Identity, KeySet, TOKEN_BYTES_MAX, TokenError};
use crate::metrics::Counter;
use crate::shard::mailbox::{ConnectionId, ShardHandle, ShardMessage};
use crate::time::unix_ms;
use tickgate_protocol::message::ErrorCode;

use cache::Cache;

/// What a [`Verifier`] is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The keys.
    pub keys: KeySet,
    /// How tokens are read.
    pub auth: auth::Settings,
    /// Threads that verify for shards, at least 1.
    pub threads: usize,
    /// Requests that may wait, over all threads.
    pub queue_requests: usize,
    /// Bytes of tokens that may wait.
    pub queue_bytes: usize,
    /// Verified tokens remembered; about 300 bytes each.
    pub cache_tokens: usize,
}

impl Settings {
    /// These keys and rules, and defaults for the rest: two threads, room for a gateway's whole crowd to come back
    /// at once.
    #[must_use]
    pub const fn new(keys: KeySet, auth: auth::Settings) -> Self {
        Self {
            keys,
            auth,
            threads: 2,
            queue_requests: 64 * 1024,
            queue_bytes: 64 * 1024 * 1024,
            cache_tokens: 100_000,
        }
    }
}

/// What a verifier counts.
#[derive(Debug, Default)]
pub struct VerifierMetrics {
    /// Tokens found in the cache.
    pub cache_hits: Counter,
    /// Tokens whose signature was verified and which were good.
    pub verified: Counter,
    /// Tokens refused with `TOKEN_EXPIRED`.
    pub expired: Counter,
    /// Tokens refused with `TOKEN_INVALID`.
    pub invalid: Counter,
    /// Requests refused because too many waited.
    pub overloaded: Counter,
}

/// Verifies tokens. One per gateway; dropping it ends its threads when they have answered what waits.
pub struct Verifier {
    shared: Arc<Shared>,
    // One queue for each thread; a connection always uses the same one, so that its answers keep their order.
    queues: Vec<Sender<Request>>,
}

struct Shared {
    keys: KeySet,
    settings: auth::Settings,
    cache: Cache,
    stats: VerifierMetrics,
    shards: Box<[ShardHandle]>,
    queued_bytes: AtomicUsize,
    queue_bytes_max: usize,
}

impl Verifier {
    /// Starts the threads. `shards` are answered by their place, [`ConnectionId::shard`].
    ///
    /// # Errors
    ///
    /// When a thread cannot be started.
    pub fn start(settings: Settings, shards: Vec<ShardHandle>) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            keys: settings.keys,
            settings: settings.auth,
            cache: Cache::new(settings.cache_tokens),
            stats: VerifierMetrics::default(),
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

    /// Verifies a token on the caller's thread.
    ///
    /// # Errors
    ///
    /// As [`auth::verify`].
    pub fn verify(&self, token: &str, now_unix_ms: u64) -> Result<Arc<Identity>, TokenError> {
        self.shared.verify(token, now_unix_ms)
    }

    /// Has a token verified for a shard; never waits. Answered by [`ShardMessage::Verified`], always, once: the
    /// `verify` half of [`crate::shard::mailbox::Services`].
    pub fn request(&self, from: ConnectionId, request: u32, token: Box<str>) {
        let shared = Arc::clone(&self.shared);
        let waiting = shared.queued_bytes.fetch_add(token.len(), Relaxed);
        let too_long = (token.len() > TOKEN_BYTES_MAX).then(|| {
            shared.stats.invalid.add(1);
            Err(TokenError::too_long())
        });
        let request = Request {
            shared,
            from,
            request,
            token,
            outcome: too_long,
        };
        // A request that is dropped answers for itself: here, when a queue is full, or when its thread is gone.
        if request.outcome.is_none() && waiting < self.shared.queue_bytes_max {
            let queue = &self.queues[from.slot as usize % self.queues.len()];
            let _ = queue.try_send(request);
        }
    }

    /// What it counted so far.
    #[must_use]
    pub fn stats(&self) -> &VerifierMetrics {
        &self.shared.stats
    }
}

/// A thread's work: until the verifier is dropped.
fn serve(requests: &Receiver<Request>) {
    for mut request in requests {
        request.outcome = Some(request.shared.verify(&request.token, unix_ms()));
    }
}

impl Shared {
    fn verify(&self, token: &str, now_unix_ms: u64) -> Result<Arc<Identity>, TokenError> {
        let key = cache::key(token);
        if let Some(identity) = self.cache.get(&key, now_unix_ms) {
            self.stats.cache_hits.add(1);
            return Ok(identity);
        }
        match auth::verify(token, &self.keys, &self.settings, now_unix_ms) {
            Ok(identity) => {
                self.stats.verified.add(1);
                Ok(self.cache.put(key, Arc::new(identity)))
            }
            Err(error) => {
                let expired = error.code == ErrorCode::TokenExpired;
                let counter = if expired {
                    &self.stats.expired
                } else {
                    &self.stats.invalid
                };
                counter.add(1);
                Err(error)
            }
        }
    }
}

/// A request on its way. Dropping it answers it.
struct Request {
    shared: Arc<Shared>,
    from: ConnectionId,
    request: u32,
    token: Box<str>,
    outcome: Option<Result<Arc<Identity>, TokenError>>,
}

impl Drop for Request {
    fn drop(&mut self) {
        let shared = &self.shared;
        shared.queued_bytes.fetch_sub(self.token.len(), Relaxed);
        let outcome = self.outcome.take().unwrap_or_else(|| {
            shared.stats.overloaded.add(1);
            Err(TokenError {
                code: ErrorCode::Internal,
                message: "the token cannot be verified now, try again".into(),
            })
        });
        if let Some(shard) = shared.shards.get(usize::from(self.from.shard)) {
            let (to, request) = (self.from, self.request);
            // A shard that is gone has no connection left that waits.
            let _ = shard.send(ShardMessage::Verified { to, request, outcome });
        }
    }
}
