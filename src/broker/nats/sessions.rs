//! Socket.IO sessions that ended, for the gateway to which their client comes back: a stream with one message for each.
//!
//! Invariant: a session is given out once. Whoever deletes its message has it, and the broker confirms one deletion only.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_128;

use super::streams::Lane;
use super::{Nats, Outgoing, Shared};
use crate::broker::Origin;
use crate::shard::mailbox::ShardMessage;
use crate::suspended::{Claim, Record};

/// How long looking for a session may take. Its client waits.
const PATIENCE: Duration = Duration::from_secs(3);

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
        self.runtime.spawn(async move {
            let found = timeout(PATIENCE, shared.take_session(&claim)).await;
            let message = ShardMessage::TakenBack {
                to: from.connection,
                request: from.request,
                found: found.ok().flatten().map(Box::new),
            };
            shared.pending.send(from.connection.shard, message);
        });
    }
}

impl Shared {
    /// The subject of a session. A client may say anything in the place of the name, so its hash is a token.
    fn session_subject(&self, pid: &str) -> String {
        format!("{}.sessions.{:032x}", self.settings.prefix, xxh3_128(pid.as_bytes()))
    }

    async fn take_session(&self, claim: &Claim) -> Option<Record> {
        let subject = self.session_subject(&claim.pid);
        let (sequence, text) = self.newest(Lane::Sessions, &subject).await.ok()??;
        let record = Record::decode(&text, &self.tenants)?;
        if !record.is_for(claim, self.clock.now().unix_ms) {
            return None;
        }
        let is_own = self.delete(Lane::Sessions, sequence).await.ok()?;
        is_own.then_some(record)
    }
}
