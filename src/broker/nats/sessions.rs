//! Socket.IO sessions that ended, for the gateway to which their client comes back: a stream with one message for each.
//!
//! Invariant: a session is given out once. Whoever deletes its message has it, and the broker confirms one deletion only.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::streams::Lane;
use super::{Nats, Outgoing, Shared};
use crate::broker::Origin;
use crate::broker::replica::session_token;
use crate::suspended::{Claim, Record};

impl Nats {
    pub(super) fn keep(&self, session: Record) -> Result<(), Record> {
        let shared = &self.shared;
        let payload: Bytes = session.encode(&shared.tenants).into();
        if !shared.is_up() || payload.len() > shared.payload_max.load(Relaxed) {
            return Err(session);
        }
        let outgoing = Outgoing {
            number: 0,
            subject: shared.session_subject(&session.pid),
            payload,
            id: None,
        };
        shared.outgoing.send(outgoing).map_err(|_| session)
    }

    pub(super) fn take(&self, from: Origin, claim: Claim) {
        let shared = Arc::clone(&self.shared);
        self.runtime
            .spawn(async move { shared.give_back(from, shared.take_session(&claim)).await });
    }
}

impl Shared {
    /// The subject of a session.
    fn session_subject(&self, pid: &str) -> String {
        format!("{}.sessions.{}", self.settings.prefix, session_token(pid))
    }

    async fn take_session(&self, claim: &Claim) -> Option<Record> {
        let subject = self.session_subject(&claim.pid);
        let (sequence, text) = self.newest(Lane::Sessions, &subject).await.ok()??;
        let record = self.claimed(&text, claim)?;
        let is_own = self.delete(Lane::Sessions, sequence).await.ok()?;
        is_own.then_some(record)
    }
}
