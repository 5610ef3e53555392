//! The hash with the merged values: one field for each channel, with the time at which it was stored and the value.
//!
//! Invariant: when a hub begins anew, it has restored the values before it reads the log back, and reads the log back at
//! least up to the newest of them.

use redis::aio::MultiplexedConnection;

use super::Shared;
use super::inspect::ask;
use crate::broker::link::End;
use crate::broker::replica::Extent;
use crate::broker::terms::Table;
use tickgate_protocol::channel::Channel;

/// The most bytes of a merged value.
const BYTES_MAX: usize = 64 << 20;

impl Shared {
    /// Restores all values into a hub that begins anew. Returns up to where the log is to be read back.
    pub(super) async fn restore_values(
        &self,
        connection: &mut MultiplexedConnection,
        table: &Table,
    ) -> Result<Extent, End> {
        let (mut cursor, mut read) = (0u64, Vec::new());
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&self.keys.merged).arg(cursor).arg("COUNT").arg(100);
            let page: (u64, Vec<(String, Vec<u8>)>) =
                ask(connection, &command, "the merged values do not come").await?;
            read.extend(page.1.iter().filter_map(|(name, stored)| {
                let end = memchr::memchr(b'\n', stored)?;
                let stored_ms = std::str::from_utf8(&stored[..end]).ok()?.parse().ok()?;
                Some((self.read_merged((name, &stored[end + 1..]), table)?, stored_ms))
            }));
            cursor = page.0;
            if cursor == 0 {
                break;
            }
        }
        // Every event that is in one of the values is in the log by now.
        let extent = self.read_state(connection).await?.extent;
        let restored = { read.into_iter() }
            .filter(|(merged, stored_ms)| self.restore_merged(merged.clone(), *stored_ms))
            .count();
        if restored > 0 {
            tracing::info!(restored, "merged values are restored");
        }
        Ok(extent)
    }

    /// Hands the value of a channel over.
    pub(super) fn store_value_of(&self, channel: &Channel) {
        if let Some(value) = self.value(channel, BYTES_MAX) {
            self.store_value(value);
        }
    }

    /// Hands over the values that are due.
    pub(super) fn store_due_values(&self) {
        self.hand_over(BYTES_MAX, |value| self.store_value(value));
    }
}
