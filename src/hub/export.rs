//! Exporting the whole state and restoring it, for the snapshot.

use std::sync::Arc;

use super::generations::IDS_MAX;
use super::interest::stripe_of;
use super::state::Owners;
use super::{ChannelExport, Hub, STRIPES, StripeCounters, StripeExport, Tombstone};
use crate::event::EventId;
use crate::time::Now;

/// Most ids that can be restored: one generation. A hub that was not restarted guarantees no more than that either.
pub const IDS_RESTORED_MAX: usize = IDS_MAX as usize / 2;

impl Hub {
    /// Makes the hub note every change for the next export. To be called before the hub is restored.
    pub fn track(&self) {
        for stripe in &self.stripes {
            stripe.lock().channels.track();
        }
    }

    /// Exports what changed in a stripe since its last export, or everything if `all` is set.
    ///
    /// # Panics
    ///
    /// If `stripe` is not below [`STRIPES`].
    #[must_use]
    pub fn export(&self, stripe: u8, all: bool, now: Now) -> StripeExport {
        self.stripes[usize::from(stripe)].lock().channels.export(all, now)
    }

    /// Raises a stripe's counters to the given values. A counter that is higher stays as it is. A `stripe` that does not
    /// exist is ignored.
    pub fn restore_counters(&self, stripe: u8, counters: StripeCounters) {
        if usize::from(stripe) < STRIPES {
            self.with_state(stripe, |state| state.channels.restore_counters(counters));
        }
    }

    /// Restores the tombstone of a channel that was evicted with this version. To be called in the order of versions, and
    /// before channels are restored.
    pub fn restore_tombstone(&self, version: u64, tombstone: Tombstone) {
        self.with_state(stripe_of(&tombstone.channel), |state| {
            state.channels.restore_tombstone(version, tombstone);
        });
    }

    /// Restores the id of an accepted event. To be called in the order of acceptance, for at most [`IDS_RESTORED_MAX`]
    /// ids. A `stripe` that does not exist is ignored.
    pub fn restore_id(&self, stripe: u8, id: EventId, version: u64) {
        if usize::from(stripe) < STRIPES {
            self.with_state(stripe, |state| {
                state.channels.restore_id(id, version, &self.generations)
            });
        }
    }

    /// Restores a channel, as far as its current class keeps state, and returns its stripe. All versions in the export
    /// must be at or below the restored counters of that stripe.
    pub fn restore(&self, export: ChannelExport, now: Now) -> u8 {
        let stripe = stripe_of(&export.channel);
        let class = Arc::clone(self.class_of(&export.channel));
        // Who published it is not known any more.
        let owners = Owners {
            publisher: None,
            tenant: self.publishers.of_tenant(export.channel.tenant()).cloned(),
        };
        self.with_state(stripe, |state| state.channels.restore(export, &class, owners, now));
        self.enforce_bounds();
        stripe
    }
}
