//! How far a connection is that catches up: what its cursor may say, and when it is told.
//!
//! Invariant: no event up to [`CatchUp::has_up_to`] is still to be read of a channel with history, apart from last values.

use super::batch::Batch;
use super::leaving::LeftOver;
use super::{CatchUp, before};

/// A client that catches up by a cursor is told no more often how far it is, except at the end.
const REPORT_INTERVAL_MS: u64 = 250;

impl CatchUp {
    /// The version up to which the client has every event of the channels with history here, apart from last values
    /// ([`CatchUp::owes_values`]); `None`: nothing is missing.
    pub(in crate::shard) fn has_up_to(&self) -> Option<u64> {
        let swept = self.left_over.as_ref().map(LeftOver::batches);
        let batches = swept.into_iter().flatten().chain(&self.batches);
        let batches = batches.filter_map(Batch::has_up_to);
        let lasts = (!self.unscheduled.is_empty()).then_some(self.began_at);
        let kept = self.left_over.as_ref().and_then(LeftOver::has_up_to);
        let unscheduled = self.unscheduled_missed.next().map(before);
        batches.chain(lasts).chain(kept).chain(unscheduled).min()
    }

    /// Whether the client is still to get the last value of a channel with history.
    pub(in crate::shard) fn owes_values(&self) -> bool {
        !self.unscheduled.is_empty()
            || self.batches.iter().any(Batch::owes_values)
            || self.left_over.as_ref().is_some_and(LeftOver::owes_values)
    }

    /// The client returned with a cursor: from now on it is told from time to time how far it is.
    pub(in crate::shard) fn report(&mut self) {
        self.told_ms.get_or_insert(0);
    }

    /// Whether the client is to be told now how far it is. `was_behind`: it was before a page was read.
    pub(in crate::shard) fn reports(&mut self, was_behind: bool, now_ms: u64) -> bool {
        let Some(told_ms) = self.told_ms.filter(|_| was_behind) else {
            return false;
        };
        // The answer to its request has told it at the beginning.
        let told_ms = if told_ms == 0 { now_ms } else { told_ms };
        let is_due = !self.is_behind() || now_ms >= told_ms + REPORT_INTERVAL_MS;
        self.told_ms = Some(if is_due { now_ms } else { told_ms });
        is_due
    }

    /// Whether a history is still to be read.
    pub(in crate::shard) fn is_behind(&self) -> bool {
        self.has_up_to().is_some()
    }
}
