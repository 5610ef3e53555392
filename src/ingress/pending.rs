//! The connections that speak HTTP and are not with a shard yet.
//!
//! Invariant: at most [`PENDING_MAX`] connections hold a [`PendingSlot`], and the gauge `pending` is their number.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::IngressMetrics;

/// Most connections that may speak HTTP at a time. Each has a deadline, so a slot is free again within seconds. Further
/// connections wait in the kernel's accept queue.
const PENDING_MAX: usize = 16_384;

/// The slots of pending connections.
pub(super) struct PendingConnections {
    slots: Arc<Semaphore>,
    metrics: Arc<IngressMetrics>,
}

impl PendingConnections {
    pub(super) fn new(metrics: Arc<IngressMetrics>) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(PENDING_MAX)),
            metrics,
        }
    }

    /// The permits that the accept loop takes, one per connection.
    pub(super) fn slots(&self) -> &Arc<Semaphore> {
        &self.slots
    }

    /// Counts a connection that the accept loop took a permit for.
    pub(super) fn count(&self, permit: OwnedSemaphorePermit) -> PendingSlot {
        self.metrics.pending.add(1);
        PendingSlot {
            metrics: Arc::clone(&self.metrics),
            _permit: permit,
        }
    }

    /// A slot for a connection that gave its own back; `None` when all are taken.
    pub(super) fn try_take(&self) -> Option<PendingSlot> {
        let permit = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        Some(self.count(permit))
    }
}

/// Counts a connection as pending until it is dropped.
pub(super) struct PendingSlot {
    metrics: Arc<IngressMetrics>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for PendingSlot {
    fn drop(&mut self) {
        self.metrics.pending.add(-1);
    }
}
