//! Socket.IO sessions that ended, for the gateway to which their client comes back: a key for each, which expires.
//!
//! Invariant: a session is given out once. Whoever deletes its key has it.

use std::sync::Arc;

use tokio::time::timeout;

use super::scripts::run;
use super::{Redis, Shared};
use crate::broker::Origin;
use crate::broker::replica::{PATIENCE, session_token};
use crate::suspended::{Claim, Record};

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
        self.runtime
            .spawn(async move { shared.give_back(from, shared.take_session(&claim)).await });
    }
}

impl Shared {
    /// The key of a session.
    fn session_key(&self, pid: &str) -> String {
        format!("{}:session:{}", self.keys.tag, session_token(pid))
    }

    async fn take_session(&self, claim: &Claim) -> Option<Record> {
        let (mut connection, scripts) = self.line()?;
        let key = self.session_key(&claim.pid);
        let text: Option<Vec<u8>> = redis::cmd("GET").arg(&key).query_async(&mut connection).await.ok()?;
        let text = text?;
        let record = self.claimed(&text, claim)?;
        let mut command = self.keys.call(&scripts.take, &[&key]);
        command.arg(text);
        let taken: u8 = run(&mut connection, &command).await.ok()?;
        (taken == 1).then_some(record)
    }
}
