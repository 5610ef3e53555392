//! Socket.IO sessions that ended, for the gateway to which their client comes back: a stream with one message for each.
//!
//! Invariant: a session is given out once. Whoever deletes its message has it, and the broker confirms one deletion only.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_128;

use super::streams::Lane;
use super::{Nats, Outgoing, Shared};
use crate::broker::Origin;
use crate::shard::mailbox::ShardMessage;
use crate::suspended::{Claim, Record};

/// How long looking for a session may take. Its client waits.
const PATIENCE: Duration = Duration::from_secs(3);

/// The broker's answer to a request for a message.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    message: Option<Stored>,
}

#[derive(Deserialize)]
struct Stored {
    seq: u64,
    #[serde(default)]
    data: String,
}

/// The broker's answer to a deletion.
#[derive(Deserialize)]
struct Deleted {
    #[serde(default)]
    success: bool,
}

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
        let stream = Lane::Sessions.stream(&self.settings.prefix);
        let wanted = serde_json::json!({"last_by_subj": self.session_subject(&claim.pid)});
        let found: Found = self.ask(format!("$JS.API.STREAM.MSG.GET.{stream}"), &wanted).await?;
        let stored = found.message?;
        let text = STANDARD.decode(stored.data).ok()?;
        let record = Record::decode(&text, &self.tenants)?;
        if !record.is_for(claim, self.clock.now().unix_ms) {
            return None;
        }
        let which = serde_json::json!({"seq": stored.seq, "no_erase": true});
        let deleted: Deleted = self.ask(format!("$JS.API.STREAM.MSG.DELETE.{stream}"), &which).await?;
        deleted.success.then_some(record)
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, subject: String, question: &serde_json::Value) -> Option<T> {
        let mut waiting = self
            .send_request(subject, &[], question.to_string().into())
            .await
            .ok()?;
        let answer = waiting.replies.recv().await?;
        serde_json::from_slice(&answer.payload).ok()
    }
}
