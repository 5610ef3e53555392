//! The stream with the merged values: one message for each channel.
//!
//! Invariant: when a hub begins anew, it has restored the values before it reads the log back, and reads the log back at
//! least up to the newest of them.

use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::attach::{Ack, extent, unix_ms};
use super::follow::{Arrived, pull};
use super::{Outgoing, Shared};
use crate::broker::link::{ANSWER, End, failed};
use crate::broker::replica::{Extent, Value};
use crate::broker::terms::Table;
use tickgate_protocol::channel::Channel;

/// The bit of a number that says that it is one of a merged value.
pub(super) const OF_VALUE: u64 = 1 << 63;

impl Shared {
    /// Restores all values into a hub that begins anew. Returns up to where the log is to be read back.
    pub(super) async fn restore_values(&self, stream: &Stream, log: &Stream, table: &Table) -> Result<Extent, End> {
        let before = extent(log).await?;
        let newest = table.version(before.last).unwrap_or(0);
        let info = stream.get_info().await.map_err(failed("the stream cannot be read"))?;
        let (mut restored, mut later) = (0usize, Vec::new());
        if info.state.messages > 0 {
            let mut messages = pull(stream, 0).await?;
            loop {
                let message = timeout(ANSWER, messages.next()).await;
                let message = message.map_err(|_| End::Failed("the merged values do not come".to_owned()))?;
                let message = message.ok_or_else(|| End::Failed("the broker ended the stream".to_owned()))?;
                let message = message.map_err(failed("the stream cannot be read"))?;
                let arrived = Arrived::of(&message)?;
                let named = (self.subjects.name(&message.subject), &*message.payload);
                let stored_ms = unix_ms(arrived.nanos);
                match self.read_merged(named, table) {
                    Some(merged) if merged.version <= newest => {
                        restored += usize::from(self.restore_merged(merged, stored_ms));
                    }
                    // Its events were stored meanwhile.
                    Some(merged) => later.push((merged, stored_ms)),
                    None => {}
                }
                if arrived.behind == 0 {
                    break;
                }
            }
        }
        let after = extent(log).await?;
        let newest = table.version(after.last).unwrap_or(0);
        for (merged, stored_ms) in later {
            if merged.version <= newest {
                restored += usize::from(self.restore_merged(merged, stored_ms));
            }
        }
        if restored > 0 {
            tracing::info!(restored, "merged values are restored");
        }
        Ok(after)
    }

    /// Hands the value of a channel over.
    pub(super) fn store_value_of(&self, channel: &Channel) {
        if let Some(value) = self.value(channel, self.value_bytes_max()) {
            self.store_value(value);
        }
    }

    /// Hands over the values that are due.
    pub(super) fn store_due_values(&self) {
        self.hand_over(self.value_bytes_max(), |value| self.store_value(value));
    }

    fn store_value(&self, value: Value) {
        let outgoing = Outgoing {
            number: OF_VALUE | value.number,
            subject: self.decoder.name(self.subjects.before_merged(), &value.channel),
            payload: value.payload,
            id: None,
        };
        // If the gateway ends, another one has read the events.
        let _ = self.outgoing.send(outgoing);
    }

    /// Takes the broker's answer to a value.
    pub(super) fn take_answer_to_value(&self, number: u64, payload: &[u8]) {
        // Without a readable answer it is handed over again by the next session.
        let Ok(ack) = serde_json::from_slice::<Ack>(payload) else {
            return;
        };
        if let Some(error) = &ack.error {
            self.log_refused(&error.description);
        }
        self.value_answered(number, ack.error.is_none());
    }
}
