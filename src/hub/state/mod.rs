//! What is kept of the channels of one stripe: newest values, histories, merged records, ids.
//!
//! Invariant: versions are given out once and only grow, whatever is dropped; a channel's floor is at or above the
//! version of everything that was dropped of it. So whoever holds a version at or above the floor can be told exactly
//! what came since, and whoever does not is told that it cannot.
//!
//! There is one sequence of numbers for the whole hub ([`Versions`]). A channel with a history that was evicted leaves
//! its name behind (`tombstones`) and of any other the stripe remembers the highest version, `evicted`: a channel that is
//! made anew begins with a floor accordingly.
//!
//! Per file: `kept` (one channel), `records` (merging), `ids` (duplicates), `look` (what a join sees),
//! `tombstones` (what was evicted), `page` (what is told).

mod export;
mod ids;
mod kept;
mod page;
mod records;
mod scan;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
mod tombstones;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use slab::Slab;

use super::generations::Generations;
use super::versions::Versions;
use crate::event::{Event, EventId, EventMeta, NewEvent, Transit};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class};
use tickgate_protocol::json::same;

pub use export::{ChannelExport, RecordExport, StripeCounters, StripeExport};
pub use page::{ChannelView, Page, PageLimit, Since};
pub use tickgate_protocol::event::Epoch;
pub use tombstones::Tombstone;

use ids::Ids;
pub(super) use kept::Garbage;
use kept::Kept;
use records::NewRecord;
pub(super) use scan::Beginnings;
use tombstones::Tombstones;

/// The state of one stripe.
#[derive(Default)]
pub(super) struct Channels {
    versions: Arc<Versions>,
    // The highest version of an evicted channel.
    evicted: u64,
    pub(super) tombstones: Tombstones,
    slots: Slab<Kept>,
    by_name: HashMap<Channel, u32, RandomState>,
    // For patterns: what a literal beginning leaves over is one range of it.
    in_order: BTreeMap<Channel, u32>,
    oldest: Option<u32>,
    newest: Option<u32>,
    bytes: usize,
    ids: Ids,
    // For exports: whether anybody asks for them, channels that were evicted and ids that were noted since the last one.
    tracks: bool,
    // They were too many to be noted.
    lost_track: bool,
    gone: Vec<Channel>,
    // The newest eviction that was exported.
    saved_eviction: u64,
    unsaved_ids: Vec<(EventId, u64)>,
    pub(super) counts: Counts,
}

/// What happened to the state of a stripe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) evicted: u64,
    pub(super) trimmed: u64,
    pub(super) expired: u64,
    pub(super) duplicates: u64,
    pub(super) unchanged: u64,
    pub(super) overtaken: u64,
}

/// An event on its way into the state: what can be found out without the lock is in here.
pub(super) struct Prepared {
    pub(super) event: NewEvent,
    pub(super) class: Arc<Class>,
    records: Option<Vec<NewRecord>>,
    // For `only_changed`: what was compared with which version, record by record, or the whole.
    verdicts: Vec<Verdict>,
}

/// Whether a value says the same as the one of this version.
#[derive(Clone, Copy)]
struct Verdict {
    against: u64,
    is_same: bool,
}

/// What a comparison needs, taken out under the lock.
pub(super) enum Known {
    Nothing,
    Whole { last: Arc<Event> },
    Records(Vec<Option<(Arc<str>, u64)>>),
}

/// What became of an event.
pub(super) enum Stored {
    /// Its id was there, with this version.
    Duplicate(u64),
    /// It says what the last one said.
    Unchanged,
    /// It is numbered and kept.
    Event(Arc<Event>),
}

impl Prepared {
    pub(super) fn new(event: NewEvent, class: Arc<Class>) -> Self {
        let key = class.record_key.as_deref();
        let records = key.and_then(|key| records::read(&event.data, key));
        Self {
            event,
            class,
            records,
            verdicts: Vec::new(),
        }
    }

    /// Whether it has to be compared before it is stored.
    pub(super) fn wants_comparison(&self) -> bool {
        self.class.only_changed && !self.event.options.even_if_unchanged
    }

    /// Compares it with what is known, by value. Without any lock: it may mean parsing both.
    pub(super) fn compare(&mut self, known: &Known) {
        self.verdicts = match (known, &self.records) {
            (Known::Whole { last }, None) => vec![Verdict {
                against: last.version,
                is_same: last.name == self.event.name && same_bytes(&last.data, &self.event.data),
            }],
            (Known::Records(known), Some(new)) => {
                let verdict = |(known, new): (&Option<(Arc<str>, u64)>, &NewRecord)| match known {
                    Some((raw, version)) => Verdict {
                        against: *version,
                        is_same: same(raw, &new.raw),
                    },
                    None => Verdict {
                        against: 0,
                        is_same: false,
                    },
                };
                known.iter().zip(new).map(verdict).collect()
            }
            _ => Vec::new(),
        };
    }
}

fn same_bytes(a: &Bytes, b: &Bytes) -> bool {
    match (std::str::from_utf8(a), std::str::from_utf8(b)) {
        (Ok(a), Ok(b)) => same(a.trim_ascii(), b.trim_ascii()),
        _ => a == b,
    }
}

impl Channels {
    /// EventMeta by `versions`, and with so many tombstones at most.
    pub(super) fn new(versions: Arc<Versions>, tombstones_most: usize) -> Self {
        Self {
            versions,
            tombstones: Tombstones::new(tombstones_most),
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the channel was last used that was not used for the longest time.
    pub(super) fn oldest_use_ms(&self) -> Option<u64> {
        self.oldest.map(|slot| self.slots[slot as usize].used_ms)
    }

    /// What an event is to be compared with.
    pub(super) fn known(&self, prepared: &Prepared) -> Known {
        let Some(kept) = self.kept(&prepared.event.channel) else {
            return Known::Nothing;
        };
        match (&kept.records, &prepared.records, &kept.last) {
            (Some(merge), Some(new), _) => {
                let known = |new: &NewRecord| merge.get(&new.name).map(|(raw, version)| (Arc::clone(raw), version));
                Known::Records(new.iter().map(known).collect())
            }
            (None, None, Some(last)) => Known::Whole { last: Arc::clone(last) },
            _ => Known::Nothing,
        }
    }

    /// The version under which an event of this id was accepted.
    pub(super) fn duplicate(&mut self, id: Option<&EventId>, generations: &Generations) -> Option<u64> {
        let version = self.ids.find(id?, generations.current())?;
        self.counts.duplicates += 1;
        Some(version)
    }

    /// Notes that an event of this id was accepted.
    pub(super) fn note_id(&mut self, id: EventId, version: u64, generations: &Generations) {
        self.ids.insert(id, version, generations.count());
        self.note_unsaved_id(id, version);
    }

    pub(super) fn ids(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn forget_ids(&mut self, generations: &Generations) {
        self.ids.begin(generations.current());
    }

    /// Numbers and keeps an event of a class with state, unless it is a duplicate or says nothing new.
    pub(super) fn store(
        &mut self,
        mut prepared: Prepared,
        transit: Transit,
        (now, generations): (Now, &Generations),
        forms: usize,
        garbage: &mut Garbage,
    ) -> Stored {
        let id = prepared.event.options.id;
        if let Some(version) = self.duplicate(id.as_ref(), generations) {
            return Stored::Duplicate(version);
        }
        if prepared.wants_comparison() && !self.keep_changes(&mut prepared) {
            self.counts.unchanged += 1;
            if let Some(id) = id {
                let latest = self.kept(&prepared.event.channel).map_or(0, |kept| kept.latest);
                self.note_id(id, latest, generations);
            }
            return Stored::Unchanged;
        }
        let version = self.versions.next();
        let slot = self.slot(&prepared.event.channel, &prepared.class);
        let kept = &mut self.slots[slot as usize];
        // One name for all its events.
        prepared.event.channel = kept.channel.clone();
        let fresh_ms = prepared.event.options.fresh_ms;
        let numbered = EventMeta {
            offset: prepared.class.history.map(|_| version),
            version,
            class: Arc::clone(&kept.class),
        };
        let event = Arc::new(Event::in_transit(prepared.event, numbered, transit));
        kept.fresh_until_ms = fresh_ms.map(|fresh_ms| mono(now) + i64::from(fresh_ms));
        let before = kept.bytes();
        self.counts.trimmed += kept.store(&event, prepared.records, mono(now), forms, garbage);
        self.bytes = self.bytes - before + kept.bytes();
        self.touch(slot, now.mono_ms);
        if let Some(id) = id {
            self.note_id(id, event.version, generations);
        }
        Stored::Event(event)
    }

    /// Takes what is unchanged out of the event; `false`: nothing is left of it.
    fn keep_changes(&self, prepared: &mut Prepared) -> bool {
        let Some(kept) = self.kept(&prepared.event.channel) else {
            return true;
        };
        let Some(last) = kept.last.as_ref().filter(|last| last.name == prepared.event.name) else {
            return true;
        };
        // What was compared without the lock counts if nothing came between; if something did, bytes are compared.
        let is_same = |place: usize, version: u64, bytes: &dyn Fn() -> bool| match prepared.verdicts.get(place) {
            Some(verdict) if verdict.against == version => verdict.is_same,
            _ => bytes(),
        };
        let (Some(merge), Some(new)) = (&kept.records, &prepared.records) else {
            let whole = kept.records.is_none() && prepared.records.is_none();
            return !(whole && is_same(0, last.version, &|| last.data == prepared.event.data));
        };
        let is_new = |place: usize, new: &NewRecord| match merge.get(&new.name) {
            Some((raw, version)) => !is_same(place, version, &|| *raw == new.raw),
            None => true,
        };
        let changed: Vec<NewRecord> = new
            .iter()
            .enumerate()
            .filter(|(place, new)| is_new(*place, new))
            .map(|(_, new)| new.clone())
            .collect();
        if changed.is_empty() {
            return false;
        }
        if changed.len() < new.len() {
            let mut data = Vec::with_capacity(prepared.event.data.len());
            for record in &changed {
                data.push(if data.is_empty() { b'[' } else { b',' });
                data.extend_from_slice(record.raw.as_bytes());
            }
            data.push(b']');
            prepared.event.data = data.into();
            prepared.records = Some(changed);
        }
        true
    }

    /// What `since` asks for; `at` is the caller's.
    pub(super) fn read(&mut self, channel: &Channel, since: Since, limit: PageLimit, now: Now, forms: usize) -> Page {
        let (Since::Newest { above: position } | Since::After(position)) = since;
        let page = if position > self.versions.newest() {
            Page {
                last: position,
                overtaken: true,
                ..Page::default()
            }
        } else if let Some(slot) = self.by_name.get(channel).copied() {
            let kept = &mut self.slots[slot as usize];
            expire(kept, &mut self.bytes, &mut self.counts, now);
            let before = kept.bytes();
            let page = kept.read(since, limit, mono(now), forms);
            self.bytes = self.bytes - before + kept.bytes();
            self.touch(slot, now.mono_ms);
            page
        } else {
            let is_newcomer = since == Since::Newest { above: 0 };
            Page {
                last: position,
                overtaken: position < self.floor_of_absent(channel, since) && !is_newcomer,
                ..Page::default()
            }
        };
        self.counts.overtaken += u64::from(page.overtaken);
        page
    }

    // Of a channel of which nothing is kept.
    fn floor_of_absent(&self, channel: &Channel, since: Since) -> u64 {
        match since {
            Since::Newest { .. } => self.evicted,
            Since::After(_) => self.tombstones.floor(channel),
        }
    }

    /// Newcomers get the last value for so long from now, if its publisher said for how long they do at all.
    pub(super) fn confirm_last(&mut self, channel: &Channel, fresh_ms: u32, now: Now) {
        if let Some(slot) = self.by_name.get(channel)
            && let Some(until_ms) = &mut self.slots[*slot as usize].fresh_until_ms
        {
            *until_ms = mono(now) + i64::from(fresh_ms);
        }
    }

    /// Drops the events that are too old, of all channels.
    pub(super) fn expire_all(&mut self, now: Now) {
        for (_, kept) in &mut self.slots {
            expire(kept, &mut self.bytes, &mut self.counts, now);
        }
    }

    /// Evicts the channel that was not used for the longest time, or, with `only_trim`, the oldest event of it.
    /// `false`: there is nothing to be had.
    pub(super) fn evict(&mut self, only_trim: bool, garbage: &mut Garbage) -> bool {
        let Some(slot) = self.oldest else { return false };
        let kept = &mut self.slots[slot as usize];
        if only_trim && kept.ring().len() > 1 {
            let before = kept.bytes();
            kept.trim_one(garbage);
            self.counts.trimmed += 1;
            self.bytes = self.bytes - before + kept.bytes();
            return true;
        }
        self.unlink(slot);
        let kept = self.slots.remove(slot as usize);
        self.by_name.remove(&kept.channel);
        self.in_order.remove(&kept.channel);
        self.evicted = self.evicted.max(kept.latest);
        self.bytes -= kept.bytes();
        self.counts.evicted += 1;
        if kept.class.history.is_some() {
            let tombstone = Tombstone {
                channel: kept.channel.clone(),
                latest: kept.latest,
            };
            self.tombstones.note(self.versions.next_of_eviction(), tombstone);
        }
        self.note_gone(kept.channel.clone());
        garbage.channels.push(kept);
        true
    }

    fn kept(&self, channel: &Channel) -> Option<&Kept> {
        Some(&self.slots[*self.by_name.get(channel)? as usize])
    }

    /// The channel's place, a new one when there is none.
    fn slot(&mut self, channel: &Channel, class: &Arc<Class>) -> u32 {
        if let Some(slot) = self.by_name.get(channel) {
            return *slot;
        }
        let floor = match class.history {
            Some(_) => self.tombstones.floor(channel),
            None => self.evicted,
        };
        let kept = Kept::new(channel.clone(), Arc::clone(class), floor);
        self.bytes += kept.bytes();
        let slot = u32::try_from(self.slots.insert(kept)).expect("fewer than 2^32 channels");
        self.by_name.insert(channel.clone(), slot);
        self.in_order.insert(channel.clone(), slot);
        self.link(slot);
        slot
    }

    /// The channel is used now.
    fn touch(&mut self, slot: u32, now_ms: u64) {
        self.slots[slot as usize].used_ms = now_ms;
        if self.newest != Some(slot) {
            self.unlink(slot);
            self.link(slot);
        }
    }

    fn link(&mut self, slot: u32) {
        let older = self.newest.replace(slot);
        let kept = &mut self.slots[slot as usize];
        (kept.older, kept.newer) = (older, None);
        match older {
            Some(older) => self.slots[older as usize].newer = Some(slot),
            None => self.oldest = Some(slot),
        }
    }

    fn unlink(&mut self, slot: u32) {
        let kept = &mut self.slots[slot as usize];
        let (older, newer) = (kept.older.take(), kept.newer.take());
        match older {
            Some(older) => self.slots[older as usize].newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.slots[newer as usize].older = older,
            None => self.newest = older,
        }
    }
}

fn mono(now: Now) -> i64 {
    i64::try_from(now.mono_ms).unwrap_or(i64::MAX)
}

fn expire(kept: &mut Kept, bytes: &mut usize, counts: &mut Counts, now: Now) {
    let before = kept.bytes();
    counts.expired += kept.expire(mono(now), &mut Garbage::default());
    *bytes = *bytes - before + kept.bytes();
}
