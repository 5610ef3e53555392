//! What the hub counts.

use super::{Hub, StripeState};
use crate::sync::Ordering;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Tenant};

/// Counters and sizes of the hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubMetrics {
    /// Events published, whether a shard wanted them or not. Duplicates and unchanged events are not counted.
    pub events: u64,
    /// Published events, by the number of their tenant. Those of the default tenant are not counted here.
    pub tenant_events: [u64; Tenant::COUNT],
    /// Published events that no shard wanted.
    pub unwanted: u64,
    /// Credits that are lent: their events are in inboxes or about to be.
    pub credits_lent: usize,
    /// Credits of all pools together.
    pub credits: usize,
    /// Channels that have state.
    pub channels: usize,
    /// The estimated size of their state, in bytes.
    pub state_bytes: usize,
    /// Ids of publishers that are remembered.
    pub ids: usize,
    /// Names of evicted channels with a history that are remembered.
    pub tombstones: usize,
    /// Channels that were evicted because the bounds were exceeded.
    pub evicted: u64,
    /// Those of them that were evicted because their publisher was above its quota.
    pub evicted_by_quota: u64,
    /// Events that were dropped from a history because it was full.
    pub trimmed: u64,
    /// Events that were dropped from a history because they were too old.
    pub expired: u64,
    /// Events that were refused because their publisher was too fast.
    pub limited: u64,
    /// Events that were not published because their ids had been accepted before.
    pub duplicates: u64,
    /// Events that were not sent because their values equalled the channel's last value.
    pub unchanged: u64,
    /// Reads that asked for events that are gone.
    pub overtaken: u64,
    /// Times that a channel became stale.
    pub stale: u64,
    /// Updates of books before which others of their publisher are missing.
    pub book_gaps: u64,
    /// Levels of books that are not kept because there are too many.
    pub book_levels_dropped: u64,
}

impl StripeState {
    /// Counts an event that is published with `bytes` of data. `is_replayed`: it was read back from the log, and says nothing
    /// of what is published now.
    pub(super) fn count_event(&mut self, channel: &Channel, bytes: usize, is_replayed: bool, now: Now) {
        self.events += 1;
        if !is_replayed {
            self.notes.count(channel, bytes, now);
        }
        let tenant = channel.tenant();
        if !tenant.is_default() {
            self.tenant_events[tenant.index()] += 1;
        }
    }
}

impl Hub {
    /// Reads the counters and sizes. Each stripe is read at its own instant.
    #[must_use]
    pub fn metrics(&self) -> HubMetrics {
        let mut metrics = HubMetrics {
            credits: self.credits.total(),
            limited: self.limited.load(Ordering::Relaxed),
            credits_lent: self.credits.total() - self.credits.free(),
            ..HubMetrics::default()
        };
        for stripe in &self.stripes {
            let state = stripe.lock();
            metrics.events += state.events;
            metrics.unwanted += state.unwanted;
            for (total, events) in metrics.tenant_events.iter_mut().zip(state.tenant_events) {
                *total += events;
            }
            metrics.tombstones += state.channels.tombstones.len();
            let counts = state.channels.counts;
            metrics.evicted += counts.evicted;
            metrics.evicted_by_quota += counts.evicted_by_quota;
            metrics.trimmed += counts.trimmed;
            metrics.expired += counts.expired;
            metrics.duplicates += counts.duplicates;
            metrics.unchanged += counts.unchanged;
            metrics.overtaken += counts.overtaken;
            metrics.book_gaps += counts.book_gaps;
            metrics.stale += counts.stale;
            metrics.book_levels_dropped += counts.book_levels_dropped;
        }
        (metrics.channels, metrics.state_bytes, metrics.ids) = self.totals.read();
        metrics
    }
}
