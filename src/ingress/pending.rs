//! The connections that speak HTTP and are not with a shard yet.
//!
//! Invariant: every such connection holds a [`PendingSlot`] or waits for an Engine.IO session, and the gauge `pending` is
//! the number of slots.

use std::net::IpAddr;
use std::sync::Arc;

use super::http::{Loss, Place, Places};
use crate::metrics::IngressMetrics;

/// The slots of pending connections.
pub(super) struct PendingConnections {
    places: Arc<Places>,
    metrics: Arc<IngressMetrics>,
}

impl PendingConnections {
    /// At most `total_max` slots, and `per_address_max` silent connections of one address (0: no bound).
    pub(super) fn new(total_max: u32, per_address_max: u32, metrics: Arc<IngressMetrics>) -> Self {
        Self {
            places: Places::new(total_max, per_address_max),
            metrics,
        }
    }

    /// The places that the accept loop takes, one per connection.
    pub(super) fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Counts a connection that the accept loop took a place for.
    pub(super) fn count(&self, place: Place) -> PendingSlot {
        self.metrics.pending.add(1);
        PendingSlot {
            metrics: Arc::clone(&self.metrics),
            place,
        }
    }

    /// A slot for a connection that gave its own back; `None` when all are taken by connections that are being served.
    pub(super) fn try_take(&self, address: Option<IpAddr>, loss: &Arc<Loss>) -> Option<PendingSlot> {
        let place = self.places.try_take(address, loss)?;
        Some(self.count(place))
    }
}

/// Counts a connection as pending until it is dropped.
pub(super) struct PendingSlot {
    metrics: Arc<IngressMetrics>,
    pub(super) place: Place,
}

impl Drop for PendingSlot {
    fn drop(&mut self) {
        self.metrics.pending.add(-1);
    }
}
