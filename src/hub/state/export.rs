//! What is kept, handed over to be written down, and taken back.
//!
//! Invariant: what was exported since the last complete export, applied in order, is the state at the last export; each
//! stripe at one instant. An event is copied by reference, so that the lock is held for a short time.

use std::sync::Arc;

use super::kept::{Garbage, Kept, event_bytes};
use super::records::{NewRecord, Records};
use super::{Channels, Tombstone, mono};
use crate::event::{Event, EventId};
use crate::hub::generations::Generations;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class};

/// How far a stripe's numbers have come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StripeCounters {
    /// The newest version given out.
    pub newest: u64,
    /// The highest version of an evicted channel.
    pub evicted: u64,
    /// Up to which number evictions have no names any more.
    pub forgotten: u64,
}

impl StripeCounters {
    /// All of them there.
    #[must_use]
    pub const fn at(number: u64) -> Self {
        Self {
            newest: number,
            evicted: number,
            forgotten: number,
        }
    }
}

/// What changed in a stripe since the last export.
#[derive(Debug, Default)]
pub struct StripeExport {
    /// How far its numbers have come.
    pub counters: StripeCounters,
    /// Channels with a history that were evicted since, with the numbers of that.
    pub tombstones: Vec<(u64, Tombstone)>,
    /// Channels that changed.
    pub channels: Vec<ChannelExport>,
    /// Channels that were evicted; one of them may be among those that changed, when it was made anew.
    pub gone: Vec<Channel>,
    /// Ids that were noted.
    pub ids: Vec<(EventId, u64)>,
    /// More happened than was noted: only an export of everything says what changed.
    pub is_partial: bool,
}

/// Evicted channels that are noted for an export at least; beyond, no more than there are channels.
const GONE_MIN: usize = 1024;

/// What is kept of a channel; of events and records, only those that were not exported before.
#[derive(Clone, Debug)]
pub struct ChannelExport {
    /// Which.
    pub channel: Channel,
    /// Events at or below it may be missing.
    pub floor: u64,
    /// Version of its newest event.
    pub latest: u64,
    /// The newest event, where it is kept apart from the history.
    pub last: Option<Arc<Event>>,
    /// For how many milliseconds newcomers still get it; `None`: for ever.
    pub fresh_ms: Option<i64>,
    /// Events of the history, oldest first, with their ages in milliseconds.
    pub events: Vec<(Arc<Event>, i64)>,
    /// Records, in the order of the merge.
    pub records: Vec<RecordExport>,
    /// The field that tells them apart.
    pub record_key: Option<Box<str>>,
    /// Records exported before are void.
    pub restarted: bool,
}

/// A merged record.
#[derive(Clone, Debug)]
pub struct RecordExport {
    /// Its key.
    pub name: Arc<str>,
    /// Its text.
    pub raw: Arc<str>,
    /// Version of the event it came with.
    pub version: u64,
    /// Its place in the merge.
    pub place: u64,
}

impl Channels {
    /// Notes from now on what an export has to tell.
    pub(in crate::hub) fn track(&mut self) {
        self.tracks = true;
    }

    /// Notes that a channel is gone. When nobody exports, since the disk is full, the notes must not grow for ever: an
    /// export of everything says the same in less.
    pub(super) fn note_gone(&mut self, channel: Channel) {
        if self.gone.len() >= self.slots.len().max(GONE_MIN) {
            self.lose_track();
        }
        if self.tracks && !self.lost_track {
            self.gone.push(channel);
        }
    }

    /// Notes that an id was added; like [`Channels::note_gone`], at most as many as there are.
    pub(super) fn note_unsaved_id(&mut self, id: EventId, version: u64) {
        if self.unsaved_ids.len() >= self.ids.len() {
            self.lose_track();
        }
        if self.tracks && !self.lost_track {
            self.unsaved_ids.push((id, version));
        }
    }

    fn lose_track(&mut self) {
        self.lost_track = true;
        (self.gone, self.unsaved_ids) = (Vec::new(), Vec::new());
    }

    /// What changed since the last export, or with `all` everything.
    pub(in crate::hub) fn export(&mut self, all: bool, now: Now) -> StripeExport {
        let mut channels = Vec::new();
        for (_, kept) in &mut self.slots {
            if kept.unsaved || all {
                channels.push(kept.export(all, mono(now)));
            }
        }
        let lost_track = std::mem::take(&mut self.lost_track);
        let ids = if all {
            self.unsaved_ids.clear();
            self.ids.iter().collect()
        } else {
            std::mem::take(&mut self.unsaved_ids)
        };
        let above = if all { 0 } else { self.saved_eviction };
        let tombstones = self.tombstones.after(above);
        let tombstones: Vec<_> = tombstones.map(|(number, known)| (number, known.clone())).collect();
        if let Some((number, _)) = tombstones.last() {
            self.saved_eviction = *number;
        }
        StripeExport {
            counters: StripeCounters {
                newest: self.versions.newest(),
                evicted: self.evicted,
                forgotten: self.tombstones.forgotten(),
            },
            tombstones,
            channels,
            gone: std::mem::take(&mut self.gone),
            ids,
            is_partial: lost_track && !all,
        }
    }

    /// Sets the counters to what they were.
    pub(in crate::hub) fn restore_counters(&mut self, counters: StripeCounters) {
        self.versions.restore(counters.newest);
        self.evicted = self.evicted.max(counters.evicted);
        self.tombstones.forget_up_to(counters.forgotten);
    }

    pub(in crate::hub) fn restore_tombstone(&mut self, number: u64, tombstone: Tombstone) {
        self.tombstones.note(number, tombstone);
        self.saved_eviction = self.saved_eviction.max(number);
    }

    pub(in crate::hub) fn restore_id(&mut self, id: EventId, version: u64, generations: &Generations) {
        self.ids.insert(id, version, generations.count());
    }

    /// Takes a channel back, as far as its class of today keeps it.
    pub(in crate::hub) fn restore(&mut self, export: ChannelExport, class: &Arc<Class>, now: Now) {
        if !class.keeps_state() {
            self.evicted = self.evicted.max(export.latest);
            self.tombstones.forget_up_to(export.latest);
            // Were its class to keep state again one day, what is written down would be out of date.
            self.note_gone(export.channel);
            return;
        }
        let slot = self.slot(&export.channel, class);
        let kept = &mut self.slots[slot as usize];
        let before = kept.bytes();
        kept.restore(export, mono(now));
        self.bytes = self.bytes - before + kept.bytes();
    }
}

impl Kept {
    fn export(&mut self, all: bool, now_ms: i64) -> ChannelExport {
        let above = if all { 0 } else { self.saved };
        let restarted = all || self.restarted;
        let new = self.ring().filter(|entry| entry.event.version > above);
        let events = new
            .map(|entry| (Arc::clone(&entry.event), now_ms - entry.at_ms))
            .collect();
        let records = (0..).zip(self.records.iter().flat_map(Records::iter));
        let records = records.filter(|(_, (.., version))| restarted || *version > above);
        let export = ChannelExport {
            channel: self.channel.clone(),
            // Without history nothing is covered, whatever was written down when the class had one.
            floor: if self.class.history.is_some() {
                self.floor
            } else {
                self.latest
            },
            latest: self.latest,
            last: self.last.clone(),
            fresh_ms: self.fresh_until_ms.map(|until_ms| until_ms - now_ms),
            events,
            records: records
                .map(|(place, (name, raw, version))| RecordExport {
                    name: Arc::clone(name),
                    raw: Arc::clone(raw),
                    version,
                    place,
                })
                .collect(),
            record_key: self.class.record_key.clone(),
            restarted,
        };
        (self.unsaved, self.restarted, self.saved) = (false, false, self.latest);
        export
    }

    fn restore(&mut self, export: ChannelExport, now_ms: i64) {
        self.latest = export.latest;
        self.floor = export.floor;
        // Merged by another field, or not at all, a part would stand for the whole.
        let is_merged_alike = self.class.record_key == export.record_key;
        // Written down as it is; but what is not taken back must go, lest it be merged with what comes.
        (self.unsaved, self.restarted) = (!is_merged_alike, !is_merged_alike);
        self.saved = export.latest;
        if is_merged_alike && !export.records.is_empty() {
            let merge = self.records.get_or_insert_default();
            for record in export.records {
                let name = (*record.name).into();
                let raw = record.raw;
                merge.merge(vec![NewRecord { name, raw }], record.version);
            }
        }
        let has_history = self.class.history.is_some();
        for (event, age_ms) in export.events {
            if has_history {
                let bytes = event_bytes(&event, 0);
                self.push(event, now_ms - age_ms, bytes);
            }
        }
        if is_merged_alike && (self.class.cache_last || self.class.only_changed) {
            self.fresh_until_ms = export.fresh_ms.map(|fresh_ms| now_ms + fresh_ms);
            self.set_last(export.last);
        }
        if !has_history {
            return;
        }
        // What is not there is missing: a class may have had no history before.
        if self.ring().len() == 0 {
            self.floor = self.latest;
        }
        self.shed(now_ms, &mut Garbage::default());
    }
}
