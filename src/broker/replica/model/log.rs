//! The log of the model. It keeps so many entries of each channel and so many in all, and can lose its end.

use bytes::Bytes;

use crate::broker::replica::{Extent, Newest};

/// An event: its channel, by the index, and its number.
pub(super) type Event = (usize, u64);

/// What the log has under a number.
#[derive(Clone)]
pub(super) struct Entry {
    /// `None`: it is a notice.
    pub(super) event: Option<Event>,
    pub(super) payload: Bytes,
    pub(super) stored_ms: u64,
    /// Whether the log has not forgotten it.
    pub(super) is_kept: bool,
}

pub(super) struct Log {
    // Also those that are forgotten.
    entries: Vec<Entry>,
    // The most entries of one channel, and in all.
    per_channel: usize,
    room: usize,
}

impl Log {
    pub(super) const fn new(per_channel: usize, room: usize) -> Self {
        Self {
            entries: Vec::new(),
            per_channel,
            room,
        }
    }

    /// How many entries it has, with those that are forgotten.
    pub(super) fn length(&self) -> usize {
        self.entries.len()
    }

    /// What it has up to a number, with what is forgotten.
    pub(super) fn up_to(&self, sequence: u64) -> &[Entry] {
        &self.entries[..usize::try_from(sequence).expect("few")]
    }

    /// Appends an entry, and returns its number.
    pub(super) fn append(&mut self, entry: Entry) -> u64 {
        let channel = |entry: &Entry| entry.event.map(|(channel, _)| channel);
        let of = channel(&entry);
        self.entries.push(entry);
        self.forget_beyond(self.per_channel, |entry| channel(entry) == of);
        self.forget_beyond(self.room, |_| true);
        self.entries.len() as u64
    }

    /// Forgets the oldest of these entries if there are more than `most`.
    fn forget_beyond(&mut self, most: usize, is_one: impl Fn(&Entry) -> bool) {
        let is_kept = |entry: &&mut Entry| entry.is_kept && is_one(entry);
        if self.entries.iter_mut().filter(is_kept).count() > most
            && let Some(oldest) = self.entries.iter_mut().find(is_kept)
        {
            oldest.is_kept = false;
        }
    }

    /// Loses the end. What the entries there had replaced is not forgotten.
    pub(super) fn truncate(&mut self, length: usize) {
        for entry in std::mem::take(&mut self.entries).into_iter().take(length) {
            self.append(Entry { is_kept: true, ..entry });
        }
    }

    pub(super) fn extent(&self) -> Extent {
        let last = self.entries.len() as u64;
        let first = self.entries.iter().position(|entry| entry.is_kept);
        Extent {
            first: first.map_or(last, |index| index as u64) + 1,
            last,
        }
    }

    pub(super) fn newest_notice(&self) -> Option<Newest> {
        let is_notice = |entry: &Entry| entry.is_kept && entry.event.is_none();
        let index = self.entries.iter().rposition(is_notice)?;
        let entry = &self.entries[index];
        Newest::of(index as u64 + 1, entry.stored_ms, &entry.payload)
    }

    /// The next entry behind a number.
    pub(super) fn after(&self, sequence: u64) -> Option<(u64, &Entry)> {
        let skipped = usize::try_from(sequence).expect("few");
        let mut behind = (sequence + 1..).zip(self.entries.iter().skip(skipped));
        behind.find(|(_, entry)| entry.is_kept)
    }
}
