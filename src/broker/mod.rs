//! Brokers: they carry events from publishers to the hub.
//!
//! The gateway publishes only through the [`Broker`] trait. [`Embedded`] is the only implementation: it publishes
//! directly into the hub of its own process.

pub mod embedded;
mod rates;

use std::pin::Pin;

use crate::event::NewEvent;
use crate::hub::Receipt;
use crate::time::Now;

pub use embedded::Embedded;

/// Publishes events. Shared by the admin API, the feeds, the command router and the shards.
pub trait Broker: Send + Sync {
    /// Publishes the events in order, and resolves when each of them is stored and in the inbox of every interested
    /// shard. The receipts are in the order of the events. If the future is dropped earlier, only a first part of the
    /// events is published.
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Vec<Receipt>> + Send + '_>>;

    /// Publishes one event from the thread of a shard, without waiting.
    ///
    /// # Errors
    ///
    /// Returns the event if the shard has no credit for it. The shard's doorbell rings when it can try again.
    #[expect(clippy::result_large_err, reason = "a refused event is handed back as it came")]
    fn try_publish(&self, shard: u16, event: NewEvent, now: Now) -> Result<Receipt, NewEvent>;

    /// Whether the broker can be reached. `/readyz` reports it.
    fn is_ready(&self) -> bool;
}
