//! The whole state, to be written down and taken back.

use std::sync::Arc;

use super::generations::IDS_MAX;
use super::interest::stripe_of;
use super::{ChannelExport, Hub, STRIPES, StripeCounters, StripeExport, Tombstone};
use crate::event::EventId;
use crate::time::Now;

/// So many ids and no more are as good as remembered without a restart: one generation.
pub const IDS_RESTORED_MAX: usize = IDS_MAX as usize / 2;

impl Hub {
    /// Has the hub note from now on what an export has to tell; before it is restored.
    pub fn track(&self) {
        for stripe in &self.stripes {
            stripe.lock().channels.track();
        }
    }

    /// What changed in a stripe since its last export, or with `all` everything. `stripe` is below [`STRIPES`].
    #[must_use]
    pub fn export(&self, stripe: u8, all: bool, now: Now) -> StripeExport {
        self.stripes[usize::from(stripe)].lock().channels.export(all, now)
    }

    /// Sets a stripe's counters to what they were, or leaves those that are further.
    pub fn restore_counters(&self, stripe: u8, counters: StripeCounters) {
        if usize::from(stripe) < STRIPES {
            self.with_state(stripe, |state| state.channels.restore_counters(counters));
        }
    }

    /// Takes back that a channel was evicted; in order, and before channels are taken back.
    pub fn restore_tombstone(&self, number: u64, tombstone: Tombstone) {
        self.with_state(stripe_of(tombstone.channel.as_str()), |state| {
            state.channels.restore_tombstone(number, tombstone);
        });
    }

    /// Takes back that an event of this id was accepted; in the order of acceptance, at most [`IDS_RESTORED_MAX`] of them.
    pub fn restore_id(&self, stripe: u8, id: EventId, version: u64) {
        if usize::from(stripe) < STRIPES {
            self.with_state(stripe, |state| {
                state.channels.restore_id(id, version, &self.generations)
            });
        }
    }

    /// Takes a channel back, as far as its class of today keeps it. Its events, records and versions must be below the
    /// restored counters of its stripe, which is given back.
    pub fn restore(&self, export: ChannelExport, now: Now) -> u8 {
        let stripe = stripe_of(export.channel.as_str());
        let class = Arc::clone(self.classes.of(&export.channel));
        self.with_state(stripe, |state| state.channels.restore(export, &class, now));
        self.enforce_bounds();
        stripe
    }
}
