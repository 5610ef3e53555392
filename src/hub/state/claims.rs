//! The owners of channels: the publishers that began them.

use std::sync::Arc;

use super::Channels;
use super::channel::{ChannelState, Garbage};
use crate::hub::publishers::{Claim, Publisher};

/// The owner of a channel.
#[derive(Debug)]
pub(super) struct Owner {
    publishers: Owners,
    // The same as in the claims.
    id: u64,
}

/// For whose quotas a channel counts.
#[derive(Clone, Debug, Default)]
pub(in crate::hub) struct Owners {
    /// The publisher that began it.
    pub(in crate::hub) publisher: Option<Arc<Publisher>>,
    /// All publishers of its tenant.
    pub(in crate::hub) tenant: Option<Arc<Publisher>>,
}

impl Owners {
    pub(in crate::hub) fn iter(&self) -> impl Iterator<Item = &Arc<Publisher>> {
        self.publisher.iter().chain(&self.tenant)
    }
}

/// What became of the channel of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hub) enum Claimed {
    /// It was evicted.
    Evicted,
    /// It is kept, and was used last at this time, in monotonic milliseconds.
    Kept(u64),
    /// It was gone before.
    Gone,
}

impl Channels {
    /// Gives a channel that was created for the event of this version to its owners, if it has some.
    pub(super) fn claim(&mut self, slot: u32, id: u64, publishers: Owners, now_ms: u64) {
        if publishers.iter().next().is_none() {
            return;
        }
        let stripe = self.stripe;
        let state = &mut self.slots[slot as usize];
        let claim = Claim {
            stripe,
            slot,
            id,
            seen_ms: now_ms,
        };
        for publisher in publishers.iter() {
            publisher.add(claim, state.bytes());
        }
        state.owner = Some(Owner { publishers, id });
    }

    /// Looks at the channel of a claim. Evicts it if `evicts` and if it was not used since the claim was last looked at, or
    /// anyway with `even_if_used`.
    pub(in crate::hub) fn settle_claim(
        &mut self,
        claim: Claim,
        evicts: bool,
        even_if_used: bool,
        garbage: &mut Garbage,
    ) -> Claimed {
        let state = self.slots.get(claim.slot as usize);
        let Some(state) = state.filter(|state| state.owner.as_ref().is_some_and(|owner| owner.id == claim.id)) else {
            return Claimed::Gone;
        };
        let used_ms = state.used_ms;
        if !evicts || (used_ms > claim.seen_ms && !even_if_used) {
            return Claimed::Kept(used_ms);
        }
        self.evict_slot(claim.slot, garbage);
        self.counts.evicted_by_quota += 1;
        Claimed::Evicted
    }
}

impl ChannelState {
    /// Counts for the owner that the size of the channel changed from `before`, and returns the size.
    pub(super) fn count_for_owner(&self, before: usize) -> usize {
        let after = self.bytes();
        for publisher in self.owner.iter().flat_map(|owner| owner.publishers.iter()) {
            publisher.resize(before, after);
        }
        after
    }

    /// Counts for the owner that the channel is gone.
    pub(super) fn leave_owner(&mut self) {
        for publisher in self.owner.take().iter().flat_map(|owner| owner.publishers.iter()) {
            publisher.remove(self.bytes());
        }
    }
}
