//! How much memory catch-up state takes.
//!
//! Invariant: counting visits all batches, so it happens only after more changes than there are batches, or once for a
//! subscribe request. What was counted last is what the shard's sum contains.

use super::{Batch, CatchUp, Names};
use tickgate_protocol::channel::Channel;

/// After so many changes the bytes are counted again, or after more if there are more batches.
const CHANGES: usize = 64;

impl CatchUp {
    /// The bytes for which the state was counted last.
    pub(in crate::shard) const fn counted_bytes(&self) -> usize {
        self.counted_bytes
    }

    /// Counts the bytes again if there were enough changes; returns by how many bytes they have grown. `changes`: how many
    /// channels were taken in or out since the last call.
    pub(in crate::shard) fn count_after(&mut self, changes: usize) -> i64 {
        self.changes += changes;
        if self.changes < CHANGES + self.batches.len() + self.values.batches() {
            return 0;
        }
        self.count()
    }

    /// Counts the bytes again; returns by how many they have grown.
    pub(in crate::shard) fn count(&mut self) -> i64 {
        self.changes = 0;
        let bytes = self.bytes();
        let before = std::mem::replace(&mut self.counted_bytes, bytes);
        signed(bytes) - signed(before)
    }

    fn bytes(&self) -> usize {
        let batches = self.batches.iter().map(|batch| batch.names.bytes());
        let names = batches.sum::<usize>() + self.unscheduled.capacity() * size_of::<Channel>();
        let names = names + self.unscheduled_missed.bytes();
        size_of::<Self>() + self.values.bytes() + self.channels.allocation_size() + names
    }
}

impl Names {
    fn bytes(&self) -> usize {
        size_of::<Batch>()
            + match self {
                Self::Lasts(names) => size_of_val(names.as_slice()),
                Self::Missed(replay) => replay.bytes(),
            }
    }
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
