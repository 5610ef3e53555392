//! Reading the log back into a hub that began empty, while the log forgets old events.
//!
//! The log keeps so many events of each channel, and so many bytes in all. So events leave it while it is read back, and the
//! reader skips some that it has not come to yet. Two things follow for a channel of which it has read older events:
//!
//! * Events that newer ones of the channel have replaced leave a gap in its history. The gap is gone when the hub has the
//!   newer ones. So the log is read back further, up to its end as it is then, until nothing was skipped.
//! * Events that made room for those of other channels leave a gap that stays. They were the oldest of the log. So the hub
//!   forgets everything before the oldest event that the log still has.
//!
//! Invariant: the hub is current only when both have been done. Then it holds what a hub holds that has read the log back at
//! one instant.

use super::{Extent, Replica};
use crate::broker::link::End;

/// How far the log has been read back.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadBack {
    // The oldest event of the log when the hub was emptied.
    first: u64,
    // The log when the merged values were restored.
    begun: Extent,
    // Whether events may have been skipped since the end of the log was looked for last.
    has_gap: bool,
}

impl ReadBack {
    pub(super) const fn of(first: u64, begun: Extent) -> Self {
        Self {
            first,
            begun,
            has_gap: true,
        }
    }
}

impl Replica {
    /// Whether the hub began empty, and the log is still read back into it. A session that ends does not end that.
    pub(in crate::broker) fn is_reading_back(&self) -> bool {
        self.position.lock().read_back.is_some()
    }

    /// Events that the log had when its end was looked for last may have left it before they were read.
    pub(in crate::broker) fn note_gap(&self) {
        if let Some(read_back) = &mut self.position.lock().read_back {
            read_back.has_gap = true;
        }
    }

    /// Everything up to the end of the log, as it was when that was looked for last, is applied. The log is now as `extent`
    /// says. Returns up to where it is to be read before the hub is current; `None`: the hub is current.
    ///
    /// # Errors
    ///
    /// When the log forgets events faster than this gateway reads them back.
    pub(in crate::broker) fn end_read_back(&self, extent: Extent) -> Result<Option<u64>, End> {
        let mut position = self.position.lock();
        let Some(read_back) = &mut position.read_back else {
            return Ok(None);
        };
        let (begun, emptied_at) = (read_back.begun, read_back.first);
        // The merged values contain what happened until shortly before they were restored.
        let half = begun.first + begun.last.saturating_sub(begun.first) / 2;
        if extent.first > half {
            return Err(End::Gap(
                "the log forgets events faster than this gateway reads them back".to_owned(),
            ));
        }
        if std::mem::take(&mut read_back.has_gap) {
            return Ok(Some(extent.last));
        }
        position.read_back = None;
        let first = position.table.as_ref().and_then(|table| table.version(extent.first));
        if extent.first > emptied_at
            && let Some(first) = first
        {
            self.hub.forget_up_to(first - 1);
        }
        Ok(None)
    }
}

/// The place of a reader in a log whose messages have successive numbers.
#[derive(Debug)]
pub(in crate::broker) struct Reader {
    last: u64,
    // The end of the log when that was looked for last.
    end: u64,
    is_current: bool,
    is_replaying: bool,
}

impl Reader {
    /// A reader that goes on behind the last message that was applied. The log ended at `end`.
    pub(in crate::broker) fn new(replica: &Replica, end: u64) -> Self {
        let position = replica.position.lock();
        Self {
            last: position.applied,
            end,
            is_current: false,
            is_replaying: position.read_back.is_some(),
        }
    }

    /// The number of the last message that was taken.
    pub(in crate::broker) const fn last(&self) -> u64 {
        self.last
    }

    /// Whether the hub may be current. [`Reader::at_end`] says so when it is told where the log lies now.
    pub(in crate::broker) const fn is_at_end(&self) -> bool {
        !self.is_current && self.last >= self.end
    }

    /// Returns whether the hub has become current.
    ///
    /// # Errors
    ///
    /// See [`Replica::end_read_back`].
    pub(in crate::broker) fn at_end(&mut self, replica: &Replica, extent: Extent) -> Result<bool, End> {
        match replica.end_read_back(extent)? {
            Some(end) => self.end = end,
            None => (self.is_current, self.is_replaying) = (true, false),
        }
        Ok(self.is_current)
    }

    /// Takes the next message that the log has. Returns whether it is read back.
    ///
    /// # Errors
    ///
    /// When the log has lost messages before it, and the hub did not begin empty.
    pub(in crate::broker) fn take(&mut self, replica: &Replica, sequence: u64) -> Result<bool, End> {
        if sequence != self.last + 1 {
            if !self.is_replaying {
                return Err(End::Gap(format!(
                    "the log has lost its messages {} to {} before this gateway could read them",
                    self.last + 1,
                    sequence.saturating_sub(1)
                )));
            }
            replica.note_gap();
        }
        self.last = sequence;
        Ok(self.is_replaying)
    }
}
