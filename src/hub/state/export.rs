//! Exporting the state of a stripe for the snapshot, and restoring it.
//!
//! Invariant: a complete export and all exports after it, applied in order, give the state at the last of them. Each
//! export shows its stripe at one instant. Events are exported by reference, so that the lock is held for a short time.

use std::sync::Arc;

use super::book::Book;
use super::channel::{ChannelState, Garbage, event_bytes};
use super::records::{NewRecord, Records};
use super::{Channels, Owners, Tombstone, mono};
use crate::event::{Event, EventId};
use crate::hub::generations::Generations;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class};
use tickgate_protocol::json::{Scratch, read_record};

/// The counters of a stripe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StripeCounters {
    /// The newest version of the hub.
    pub newest: u64,
    /// The highest version of any evicted channel.
    pub evicted: u64,
    /// The version up to which the names of evicted channels are forgotten.
    pub forgotten: u64,
}

impl StripeCounters {
    /// All counters at one version.
    #[must_use]
    pub const fn at(version: u64) -> Self {
        Self {
            newest: version,
            evicted: version,
            forgotten: version,
        }
    }
}

/// What changed in a stripe since the last export.
#[derive(Debug, Default)]
pub struct StripeExport {
    /// The stripe's counters.
    pub counters: StripeCounters,
    /// The new tombstones, each with the version of its eviction, in that order.
    pub tombstones: Vec<(u64, Tombstone)>,
    /// The channels that changed.
    pub channels: Vec<ChannelExport>,
    /// The channels that were evicted. A channel that was created again is also in `channels`.
    pub gone: Vec<Channel>,
    /// The ids that were accepted, with the versions of their events (0 if the channel keeps no state).
    pub ids: Vec<(EventId, u64)>,
    /// Whether the changes since the last export are incomplete, because there were too many to note. Only a complete
    /// export helps then.
    pub is_partial: bool,
}

/// How many evicted channels are noted for an export at least. Beyond that, no more are noted than the stripe has channels.
const GONE_MIN: usize = 1024;

/// The state of a channel. Of its events and records, only those that were not exported before.
#[derive(Clone, Debug)]
pub struct ChannelExport {
    /// The channel.
    pub channel: Channel,
    /// Events with versions at or below the floor may be missing.
    pub floor: u64,
    /// The version of the newest event.
    pub latest: u64,
    /// The newest event, if the class keeps a last value.
    pub last: Option<Arc<Event>>,
    /// For how many more milliseconds newcomers get the last value, negative if they do not any more; `None`: without
    /// limit.
    pub fresh_ms: Option<i64>,
    /// The age of the last value in milliseconds, if it ends by itself; `None`: unknown.
    pub last_age_ms: Option<i64>,
    /// The events of the history, oldest first, with their ages in milliseconds.
    pub events: Vec<(Arc<Event>, i64)>,
    /// The records, in the order in which they are merged.
    pub records: Vec<RecordExport>,
    /// The fields that identify a record, as [`RecordKey`](tickgate_protocol::json::RecordKey) writes them.
    pub record_key: Option<Box<str>>,
    /// Whether the records of earlier exports are void.
    pub restarted: bool,
}

/// A merged record.
#[derive(Clone, Debug)]
pub struct RecordExport {
    /// The value of its key field.
    pub name: Arc<str>,
    /// Its JSON text.
    pub raw: Arc<str>,
    /// The version of the event that contained it.
    pub version: u64,
    /// Its index in the order of the merged records.
    pub index: u64,
}

impl Channels {
    /// Notes changes for exports from now on.
    pub(in crate::hub) fn track(&mut self) {
        self.tracks = true;
    }

    /// Notes that a channel was evicted. The notes are bounded, because exports may fail for a long time, for example when
    /// the disk is full. A complete export makes up for the lost notes.
    pub(super) fn note_gone(&mut self, channel: Channel) {
        if self.gone.len() >= self.slots.len().max(GONE_MIN) {
            self.lose_track();
        }
        if self.tracks && !self.lost_track {
            self.gone.push(channel);
        }
    }

    /// Notes that an id was accepted. As in [`Channels::note_gone`], the notes are bounded: by the number of ids.
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

    /// Exports what changed since the last export, or everything if `all` is set.
    pub(in crate::hub) fn export(&mut self, all: bool, now: Now) -> StripeExport {
        let mut channels = Vec::new();
        for (_, state) in &mut self.slots {
            if state.unsaved || all {
                channels.push(state.export(all, mono(now)));
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
        let tombstones: Vec<_> = tombstones
            .map(|(version, tombstone)| (version, tombstone.clone()))
            .collect();
        if let Some((version, _)) = tombstones.last() {
            self.saved_eviction = *version;
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

    /// Raises the counters to the given values.
    pub(in crate::hub) fn restore_counters(&mut self, counters: StripeCounters) {
        self.versions.restore(counters.newest);
        self.evicted = self.evicted.max(counters.evicted);
        self.tombstones.forget_up_to(counters.forgotten);
    }

    pub(in crate::hub) fn restore_tombstone(&mut self, version: u64, tombstone: Tombstone) {
        self.tombstones.note(version, tombstone);
        self.saved_eviction = self.saved_eviction.max(version);
    }

    pub(in crate::hub) fn restore_id(&mut self, id: EventId, version: u64, generations: &Generations) {
        self.ids.insert(id, version, generations.count_id());
    }

    /// Restores a channel, as far as its current class keeps state.
    pub(in crate::hub) fn restore(&mut self, export: ChannelExport, class: &Arc<Class>, owners: Owners, now: Now) {
        if !class.keeps_state() {
            self.evicted = self.evicted.max(export.latest);
            self.tombstones.forget_up_to(export.latest);
            // The channel leaves the snapshot. If its class keeps state again one day, the old rows would be out of date.
            self.note_gone(export.channel);
            return;
        }
        let slot = self.slot(&export.channel, class);
        self.claim(slot, export.latest, owners, now.mono_ms);
        let state = &mut self.slots[slot as usize];
        let before = state.bytes();
        state.restore(export, mono(now));
        self.bytes = self.bytes - before + state.count_for_owner(before);
        self.plan(slot);
    }
}

impl ChannelState {
    fn export(&mut self, all: bool, now_ms: i64) -> ChannelExport {
        let above = if all { 0 } else { self.saved };
        let restarted = all || self.restarted;
        let new = self.ring().filter(|entry| entry.event.version > above);
        let events = new
            .map(|entry| (Arc::clone(&entry.event), now_ms - entry.at_ms))
            .collect();
        let records = (0..).zip(self.records.iter().flat_map(Records::iter));
        let records = records.filter(|(_, (.., version))| restarted || *version > above);
        let parts = self.book.iter().flat_map(|book| book.parts(self.latest));
        let book = (0..)
            .zip(parts)
            .filter(|(_, (.., version))| restarted || *version > above);
        let book = book.map(|(index, (name, raw, version))| RecordExport {
            name,
            raw,
            version,
            index,
        });
        let export = ChannelExport {
            channel: self.channel.clone(),
            // Without a history, no earlier position is covered. Rows from a time when the class had one do not change that.
            floor: if self.class.history.is_some() {
                self.floor
            } else {
                self.latest
            },
            latest: self.latest,
            // The event that tells of a deletion is no value.
            last: self.last.clone().filter(|_| self.deleted_at_ms.is_none()),
            fresh_ms: self.fresh_until_ms.map(|until_ms| until_ms - now_ms),
            last_age_ms: self.last_age_ms(now_ms),
            events,
            records: book
                .chain(records.map(|(index, (name, raw, version))| RecordExport {
                    name: Arc::clone(name),
                    raw: Arc::clone(raw),
                    version,
                    index,
                }))
                .collect(),
            record_key: merge_text(&self.class),
            restarted,
        };
        (self.unsaved, self.restarted, self.saved) = (false, false, self.latest);
        export
    }

    fn restore(&mut self, export: ChannelExport, now_ms: i64) {
        self.latest = export.latest;
        self.floor = export.floor;
        // Records that were merged by another field must not be restored: a part would be taken for the whole value.
        let has_same_key = merge_text(&self.class) == export.record_key;
        // The snapshot contains the channel as it is. But if records are not restored, they must be removed from it, or they
        // would be merged with later ones.
        (self.unsaved, self.restarted) = (!has_same_key, !has_same_key);
        self.saved = export.latest;
        // The silence of an earlier run does not count.
        self.heard_at_ms = now_ms;
        if has_same_key && !export.records.is_empty() {
            self.restore_records(export.records, false);
        }
        let has_history = self.class.history.is_some();
        for (event, age_ms) in export.events {
            if has_history {
                let bytes = event_bytes(&event, 0);
                self.push(event, now_ms - age_ms, bytes);
            }
        }
        if has_same_key && (self.class.cache_last || self.class.only_changed) {
            self.fresh_until_ms = export.fresh_ms.map(|fresh_ms| now_ms + fresh_ms);
            self.set_last(export.last);
            self.restore_last(export.last_age_ms, now_ms);
        }
        if !has_history {
            return;
        }
        // Events that were not exported are missing, for example because the class had no history before.
        if self.ring().len() == 0 {
            self.floor = self.latest;
        }
        self.shed(now_ms, &mut Garbage::default());
    }

    // What was deleted when the records were exported is restored only with `keeps_deleted`; otherwise it leaves the snapshot
    // with the next save. Which records are deleted is a matter of the class as it is now.
    pub(super) fn restore_records(&mut self, records: Vec<RecordExport>, keeps_deleted: bool) {
        let class = Arc::clone(&self.class);
        if let Some(rules) = class.book {
            let parts = records.iter().map(|record| (&*record.name, &record.raw));
            let (book, is_void) = Book::restore(rules, parts, self.latest);
            self.book = Some(Box::new(book));
            self.unsaved |= is_void;
            self.restarted |= is_void;
            return;
        }
        let Some(key) = &class.record_key else { return };
        let mut scratch = Scratch::default();
        let merge = self.records.get_or_insert_default();
        for RecordExport { name, raw, version, .. } in records {
            let read = read_record(&mut scratch, &raw, key, class.record_delete.as_ref());
            let is_deleted = read.is_ok_and(|record| record.is_deleted);
            if is_deleted && !keeps_deleted {
                (self.unsaved, self.restarted) = (true, true);
                continue;
            }
            let record = NewRecord {
                name: (*name).into(),
                raw,
                is_deleted,
            };
            merge.merge(vec![record], version);
        }
    }
}

// Tells by which rule values are merged, so that a snapshot is not read by another one.
pub(super) fn merge_text(class: &Class) -> Option<Box<str>> {
    // The text of a key does not begin so.
    let book = class.book.map(|_| "{book}".into());
    book.or_else(|| class.record_key.as_ref().map(|key| key.to_string().into()))
}
