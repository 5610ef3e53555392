//! The requests of a polling Engine.IO session, as the ingress sends them to the session's shard.
//!
//! Invariant: a session hears of every request whose client goes away before its response is written ([`PollGuard`]).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::oneshot;

use super::refusal::EngineIoError;
use crate::shard::mailbox::polling::{Poll, PollError, PollRequest};
use crate::shard::mailbox::{ConnectionId, ShardHandle, ShardMessage};
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::dialect::engine_io::SECRET_BYTES;
use tickgate_protocol::disconnect::Disconnect;

/// A session, as the parameter `sid` of a request names it. The secret is not shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionName {
    pub(super) to: ConnectionId,
    pub(super) secret: [u8; SECRET_BYTES],
    /// The tenant of the endpoint that the request came to.
    pub(super) tenant: Tenant,
}

impl std::fmt::Debug for SessionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionName")
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// A number for a request, unique in the process.
pub(super) fn next_number() -> u64 {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    NUMBER.fetch_add(1, Relaxed)
}

/// One HTTP request of a session. All messages about it carry its number.
pub(super) struct SessionRequest {
    // `None` when the name is of a shard that does not exist.
    shard: Option<ShardHandle>,
    session: SessionName,
    number: u64,
}

impl SessionRequest {
    pub(super) fn new(shards: &[ShardHandle], session: SessionName) -> Self {
        Self {
            shard: shards.get(usize::from(session.to.shard)).cloned(),
            session,
            number: next_number(),
        }
    }

    /// Asks the session.
    ///
    /// # Errors
    ///
    /// `UnknownSession` when the session does not exist or has ended, and `BadRequest` when it refuses.
    pub(super) async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, PollError>>) -> PollRequest,
    ) -> Result<T, EngineIoError> {
        let (reply, outcome) = oneshot::channel();
        let sent = self.send(request(reply));
        match outcome.await {
            Ok(Ok(value)) if sent => Ok(value),
            Ok(Err(PollError::BadRequest(why))) => Err(EngineIoError::BadRequest(why)),
            Ok(_) | Err(_) => Err(EngineIoError::UnknownSession),
        }
    }

    fn send(&self, request: PollRequest) -> bool {
        let poll = Poll {
            to: self.session.to,
            tenant: self.session.tenant,
            secret: self.session.secret,
            number: self.number,
            request,
        };
        let sent = |shard: &ShardHandle| shard.send(ShardMessage::Poll(poll)).is_ok();
        self.shard.as_ref().is_some_and(sent)
    }
}

/// Guards a request that a session may have taken: dropping the guard tells the session that the client is gone.
pub(super) struct PollGuard {
    pub(super) request: SessionRequest,
    is_finished: bool,
}

impl PollGuard {
    pub(super) fn new(request: SessionRequest) -> Self {
        Self {
            request,
            is_finished: false,
        }
    }

    /// The client has its response, or the session did not take the request: the session need not hear of it.
    pub(super) fn finish(mut self) {
        self.is_finished = true;
    }

    /// Ends the session because the body of this POST was not read.
    pub(super) fn fail(self, ending: Disconnect) {
        self.request.send(PollRequest::PostFailed(ending));
        self.finish();
    }
}

impl Drop for PollGuard {
    fn drop(&mut self) {
        if !self.is_finished {
            self.request.send(PollRequest::Gone);
        }
    }
}
