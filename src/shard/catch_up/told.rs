//! How far a connection is that catches up: what its cursor may say, and when it is told.
//!
//! Invariant: no event up to [`CatchUp::has_up_to`] is still to be read of a channel with history, apart from last values.

use super::batch::Batch;
use super::leaving::LeftOver;
use super::{CatchUp, Due, before};
use tickgate_protocol::event::Epoch;
use tickgate_protocol::message::Offset;

/// A client that catches up by a cursor is told how far it is after so many bytes of missed events, and at the end. A link
/// that breaks off costs it no more than these bytes and a page, and a cursor is a two-hundredth of them.
const REPORT_BYTES: usize = 16 * 1024;

impl CatchUp {
    /// The version up to which the client has every event of the channels with history here, apart from last values
    /// ([`CatchUp::owes_values`]); `None`: nothing is missing.
    pub(in crate::shard) fn has_up_to(&self) -> Option<u64> {
        self.bounds().min()
    }

    /// Whether events of channels with history are still to be read, or a subscribe request is under way.
    pub(in crate::shard) fn misses_events(&self) -> bool {
        self.is_subscribing() || self.bounds().next().is_some()
    }

    fn bounds(&self) -> impl Iterator<Item = u64> {
        let swept = self.left_over.as_ref().map(LeftOver::batches);
        let batches = swept.into_iter().flatten().chain(&self.batches);
        let batches = batches.filter_map(Batch::has_up_to);
        let lasts = (!self.unscheduled.is_empty()).then_some(self.began_at);
        let kept = self.left_over.as_ref().and_then(LeftOver::has_up_to);
        let unscheduled = self.unscheduled_missed.next().map(before);
        batches.chain(lasts).chain(kept).chain(unscheduled)
    }

    /// Whether the client is still to get the last value of a channel with history.
    pub(in crate::shard) fn owes_values(&self) -> bool {
        !self.unscheduled.is_empty()
            || self.batches.iter().any(Batch::owes_values)
            || self.left_over.as_ref().is_some_and(LeftOver::owes_values)
    }

    /// The client returned with a cursor: from now on it is told from time to time how far it is, until it has caught up.
    pub(in crate::shard) fn report(&mut self, newest: &[(u8, u64)]) {
        self.untold_bytes.get_or_insert(0);
        if self.newest.is_empty() {
            self.newest = newest.to_vec();
        }
    }

    /// What a Socket.IO client had beyond its offset when it came back: stripes, and the versions of their newest events.
    pub(in crate::shard) fn had(&self) -> &[(u8, u64)] {
        &self.newest
    }

    /// Up to when a Socket.IO client has everything with an event of a replay, which was taken out with `due`. `None`: what
    /// the shard had delivered when the event got its position is unknown.
    pub(in crate::shard) fn offset(&self, epoch: Epoch, due: &Due, version: u64) -> Option<Offset> {
        if due.progress.head == 0 {
            return None;
        }
        // Nothing of other channels is missing before this version, and nothing older is queued behind the page.
        let others = self.has_up_to().unwrap_or(u64::MAX).min(due.progress.head);
        let version = version.min(others);
        let newest = self.newest.iter().filter(|(_, newest)| *newest > version);
        let mut offset = Offset::new(epoch, version, newest.copied().collect());
        offset.owes_values = self.owes_values();
        Some(offset)
    }

    /// A page of this many bytes was queued, with the inbox at `position`, or the inbox has come there. Returns whether the
    /// client is to be told now how far it is.
    pub(in crate::shard) fn reports(&mut self, bytes: usize, position: u64) -> bool {
        // What was read is delivered when the inbox has come to where it ended then.
        let is_behind = self.bounds().next().is_some() || self.read_at > position;
        let Some(untold_bytes) = &mut self.untold_bytes else {
            return false;
        };
        *untold_bytes += bytes;
        let is_long_ago = *untold_bytes >= REPORT_BYTES;
        if is_long_ago {
            *untold_bytes = 0;
        }
        if !is_behind {
            self.untold_bytes = None;
        }
        is_long_ago || !is_behind
    }
}
