//! Socket.IO sessions that ended, at a broker that keeps them.

use std::time::Duration;

use tokio::time::timeout;
use xxhash_rust::xxh3::xxh3_128;

use super::Replica;
use crate::broker::Origin;
use crate::shard::mailbox::ShardMessage;
use crate::suspended::{Claim, Record};

/// How long keeping a session or looking for one may take. A client waits for it.
pub(in crate::broker) const PATIENCE: Duration = Duration::from_secs(3);

/// The name of a session at the broker. A client may say anything in the place of `pid`, so it is hashed.
pub(in crate::broker) fn session_token(pid: &str) -> String {
    format!("{:032x}", xxh3_128(pid.as_bytes()))
}

impl Replica {
    /// The session in a text that the broker keeps, if it is for this client.
    pub(in crate::broker) fn claimed(&self, text: &[u8], claim: &Claim) -> Option<Record> {
        let record = Record::decode(text, &self.tenants)?;
        record.is_for(claim, self.clock.now().unix_ms).then_some(record)
    }

    /// Tells a connection which session was found for it: none if that takes too long.
    pub(in crate::broker) async fn give_back(&self, from: Origin, search: impl Future<Output = Option<Record>>) {
        let found = timeout(PATIENCE, search).await;
        let message = ShardMessage::TakenBack {
            to: from.connection,
            request: from.request,
            found: found.ok().flatten().map(Box::new),
        };
        self.pending.send(from.connection.shard, message);
    }
}
