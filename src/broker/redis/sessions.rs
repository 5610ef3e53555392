//! Socket.IO sessions that ended, for the gateway to which their client comes back: a key for each, which expires.
//!
//! Invariant: a session is given out once. Whoever deletes its key has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_128;

use super::scripts::{call, run};
use super::{Redis, Shared};
use crate::broker::Origin;
use crate::shard::mailbox::ShardMessage;
use crate::suspended::{Claim, Record};

/// How long looking for a session may take. Its client waits.
const PATIENCE: Duration = Duration::from_secs(3);

impl Redis {
    pub(super) fn keep(&self, session: Record) -> Result<(), Record> {
        let shared = Arc::clone(&self.shared);
        let Some((mut connection, _)) = shared.line() else {
            return Err(session);
        };
        let left_ms = session.until_unix_ms.saturating_sub(shared.clock.now().unix_ms);
        let mut command = redis::cmd("SET");
        command
            .arg(shared.session_key(&session.pid))
            .arg(session.encode(&shared.tenants))
            .arg("PX")
            .arg(left_ms.max(1));
        self.runtime.spawn(async move {
            match timeout(PATIENCE, command.query_async::<()>(&mut connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the broker does not keep a session"),
                Err(_) => tracing::debug!("the broker does not keep a session in time"),
            }
        });
        Ok(())
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
    /// The key of a session. A client may say anything in the place of the name.
    fn session_key(&self, pid: &str) -> String {
        format!("{}:session:{:032x}", self.settings.prefix, xxh3_128(pid.as_bytes()))
    }

    async fn take_session(&self, claim: &Claim) -> Option<Record> {
        let (mut connection, scripts) = self.line()?;
        let key = self.session_key(&claim.pid);
        let text: Option<Vec<u8>> = redis::cmd("GET").arg(&key).query_async(&mut connection).await.ok()?;
        let text = text?;
        let record = Record::decode(&text, &self.tenants)?;
        if !record.is_for(claim, self.clock.now().unix_ms) {
            return None;
        }
        let mut command = call(&scripts.take, &[&key]);
        command.arg(text);
        let taken: u8 = run(&mut connection, &command).await.ok()?;
        (taken == 1).then_some(record)
    }
}
