//! What is kept of one channel.
//!
//! Invariant: `floor <= latest`, the ring's events have versions above `floor` and are all that were accepted since,
//! in order; `last` is the newest event of all, whatever became of the ring.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::Arc;

use bytes::Bytes;

use super::page::{Page, PageLimit, Since};
use super::records::{NewRecord, Records};
use crate::event::{Event, EventMeta, Transit};
use tickgate_protocol::channel::{Channel, Class};

/// What a channel takes beside its name, events and records: its place in the slab and the two indices.
const CHANNEL_OVERHEAD: usize = size_of::<Kept>() + 160;

/// What an event takes beside its texts: itself with its counters, and its place in the ring.
const EVENT_OVERHEAD: usize = size_of::<Event>() + 2 * size_of::<usize>() + size_of::<Entry>();

/// What a frame takes beside `data`, channel and name (each byte escaped at worst): the keys, times and numbers.
pub(super) const FRAME_OVERHEAD: usize = 160;

/// An event in the ring.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: Arc<Event>,
    /// When it came, in monotonic milliseconds; before 0 when that was before a restart.
    pub(super) at_ms: i64,
    // What it was counted as.
    bytes: usize,
}

impl Entry {
    /// Counts it anew, since it may be encoded for whoever reads it; gives by how much it grew.
    fn recount(&mut self, forms: usize) -> usize {
        let before = self.bytes;
        self.bytes = before.max(event_bytes(&self.event, forms));
        self.bytes - before
    }
}

/// One channel's state.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) channel: Channel,
    pub(super) class: Arc<Class>,
    /// Events at or below it may be missing.
    pub(super) floor: u64,
    /// Version of the newest event.
    pub(super) latest: u64,
    pub(super) last: Option<Arc<Event>>,
    /// Until when newcomers get it, in monotonic milliseconds; `None`: for ever.
    pub(super) fresh_until_ms: Option<i64>,
    pub(super) records: Option<Records>,
    // The value that stood for the whole before `records` began, for those who hold what was merged before it.
    reset: Option<Arc<Event>>,
    reset_bytes: usize,
    // The merge as an event, with the version above which it begins, until the next change: newcomers come in crowds,
    // and conflating clients wait for the same.
    merged: Vec<(u64, Arc<Event>)>,
    ring: VecDeque<Entry>,
    ring_bytes: usize,
    last_bytes: usize,
    merged_bytes: usize,
    /// When it was last published to or read.
    pub(super) used_ms: u64,
    /// Whether it changed since it was last written down, and up to which version it is.
    pub(super) unsaved: bool,
    pub(super) saved: u64,
    /// Records were forgotten since: all of them must be written anew.
    pub(super) restarted: bool,
    /// Neighbours in the order of use.
    pub(super) older: Option<u32>,
    pub(super) newer: Option<u32>,
}

/// Merges kept as events at a time.
const MERGED_MAX: usize = 4;

/// What an event takes while `forms` forms of it may be encoded.
pub(super) fn event_bytes(event: &Event, forms: usize) -> usize {
    let frame = event.data.len() + 2 * (event.channel.as_str().len() + event.name.len()) + FRAME_OVERHEAD;
    EVENT_OVERHEAD + event.data.len() + event.name.len() + forms * frame
}

impl Kept {
    pub(super) fn new(channel: Channel, class: Arc<Class>, floor: u64) -> Self {
        Self {
            channel,
            class,
            floor,
            latest: floor,
            last: None,
            fresh_until_ms: None,
            records: None,
            reset: None,
            reset_bytes: 0,
            merged: Vec::new(),
            ring: VecDeque::new(),
            ring_bytes: 0,
            last_bytes: 0,
            merged_bytes: 0,
            used_ms: 0,
            unsaved: true,
            saved: 0,
            restarted: false,
            older: None,
            newer: None,
        }
    }

    /// What all of it takes.
    pub(super) fn bytes(&self) -> usize {
        let records = self.records.as_ref().map_or(0, Records::bytes);
        let values = self.last_bytes + self.merged_bytes + self.reset_bytes;
        CHANNEL_OVERHEAD + self.channel.as_str().len() + self.ring_bytes + values + records
    }

    pub(super) fn ring(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.ring.iter()
    }

    /// Takes a numbered event in; gives how many events it trimmed.
    pub(super) fn store(
        &mut self,
        event: &Arc<Event>,
        records: Option<Vec<NewRecord>>,
        now_ms: i64,
        forms: usize,
        garbage: &mut Garbage,
    ) -> u64 {
        self.latest = event.version;
        self.unsaved = true;
        if self.class.record_key.is_some() {
            self.forget_merged(garbage);
            match records {
                Some(new) => {
                    if self.records.is_none() {
                        self.reset.clone_from(&self.last);
                        self.reset_bytes = self.reset.as_ref().map_or(0, |reset| event_bytes(reset, forms));
                    }
                    let merge = self.records.get_or_insert_default();
                    let (replaced, forgotten) = merge.merge(new, event.version);
                    garbage.texts.extend(replaced);
                    self.restarted |= forgotten.is_some();
                    // Who fell behind before that has to hear it. (A history has its own floor, and nobody who gets it
                    // conflates.)
                    if let Some(version) = forgotten.filter(|_| self.class.history.is_none()) {
                        self.floor = self.floor.max(version);
                    }
                }
                // It stands for the whole value.
                None => {
                    self.restarted = true;
                    garbage.records.extend(self.records.take());
                    garbage.events.extend(self.reset.take());
                    self.reset_bytes = 0;
                }
            }
        }
        if self.class.cache_last || self.class.only_changed {
            garbage.events.extend(self.last.replace(Arc::clone(event)));
        }
        let bytes = event_bytes(event, forms);
        if self.class.history.is_none() {
            self.last_bytes = if self.last.is_some() { bytes } else { 0 };
            return 0;
        }
        // One and the same event is counted where it is in the ring.
        self.last_bytes = 0;
        self.push(Arc::clone(event), now_ms, bytes);
        self.shed(now_ms, garbage)
    }

    /// Adds the newest event to the ring.
    pub(super) fn push(&mut self, event: Arc<Event>, at_ms: i64, bytes: usize) {
        self.ring_bytes += bytes;
        self.ring.push_back(Entry { event, at_ms, bytes });
    }

    /// Puts the last event back; one that is in the ring is the same there.
    pub(super) fn set_last(&mut self, last: Option<Arc<Event>>) {
        let newest = self.ring.back().map(|entry| &entry.event);
        let version = |event: &Arc<Event>| event.version;
        if newest.is_some() && newest.map(version) == last.as_ref().map(version) {
            self.last = newest.cloned();
            self.last_bytes = 0;
        } else {
            self.last_bytes = last.as_ref().map_or(0, |last| event_bytes(last, 0));
            self.last = last;
        }
    }

    /// Drops what is too much and what is too old; gives how many.
    pub(super) fn shed(&mut self, now_ms: i64, garbage: &mut Garbage) -> u64 {
        let mut trimmed = self.expire(now_ms, garbage);
        let size = self.class.history.map_or(0, |history| history.size as usize);
        while self.ring.len() > size {
            self.trim_one(garbage);
            trimmed += 1;
        }
        trimmed
    }

    /// Drops the events that are too old; gives how many.
    pub(super) fn expire(&mut self, now_ms: i64, garbage: &mut Garbage) -> u64 {
        let Some(history) = self.class.history else { return 0 };
        let mut expired = 0;
        while let Some(oldest) = self.ring.front()
            && oldest.at_ms.saturating_add_unsigned(history.ttl_ms) <= now_ms
        {
            self.trim_one(garbage);
            expired += 1;
        }
        expired
    }

    /// Drops the oldest event of the ring; `false`: there is none.
    pub(super) fn trim_one(&mut self, garbage: &mut Garbage) -> bool {
        let Some(entry) = self.ring.pop_front() else {
            return false;
        };
        self.ring_bytes -= entry.bytes;
        self.floor = entry.event.version;
        self.unsaved = true;
        if self.ring.is_empty() && self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &entry.event)) {
            self.last_bytes = entry.bytes;
        }
        garbage.events.push(entry.event);
        true
    }

    fn forget_merged(&mut self, garbage: &mut Garbage) {
        garbage.events.extend(self.merged.drain(..).map(|(_, event)| event));
        self.merged_bytes = 0;
    }

    /// Whether a newcomer gets a last value.
    pub(super) fn has_last(&self, now_ms: i64) -> bool {
        let is_fresh = self.fresh_until_ms.is_none_or(|until| now_ms < until);
        self.class.cache_last && self.last.is_some() && is_fresh
    }

    /// What `since` asks for; `at` is filled in by the caller.
    pub(super) fn read(&mut self, since: Since, limit: PageLimit, now_ms: i64, forms: usize) -> Page {
        match since {
            Since::Newest { above } => self.newest(above, now_ms, forms),
            Since::After(since) => self.after(since, limit, forms),
        }
    }

    fn newest(&mut self, above: u64, now_ms: i64, forms: usize) -> Page {
        let nothing = Page {
            last: above.max(self.latest),
            ..Page::default()
        };
        let is_newcomer = above == 0;
        if is_newcomer && !self.has_last(now_ms) || above >= self.latest {
            return nothing;
        }
        // What was lost is lost for merged records only: of others the newest is all that counts.
        if !is_newcomer && self.records.is_some() && above < self.floor {
            return Page {
                overtaken: true,
                ..nothing
            };
        }
        // Who holds records of before a reset has to hear it: what came since does not replace them. A newcomer holds
        // none.
        let reset = self
            .reset
            .as_ref()
            .filter(|reset| !is_newcomer && above < reset.version);
        let (reset, above) = match reset {
            Some(reset) => {
                self.reset_bytes = self.reset_bytes.max(event_bytes(reset, forms));
                (Some(Arc::clone(reset)), reset.version)
            }
            None => (None, above),
        };
        let value = self.value(above, forms);
        Page {
            events: reset.into_iter().chain(value).collect(),
            ..nothing
        }
    }

    /// The value as one event: the last one or, of merged records, one with those changed after `above`.
    pub(super) fn value(&mut self, above: u64, forms: usize) -> Option<Arc<Event>> {
        let last = Arc::clone(self.last.as_ref()?);
        let Some(records) = &self.records else {
            self.recount_last(&last, forms);
            return Some(last);
        };
        if let Some((_, event)) = self.merged.iter().find(|(begins, _)| *begins == above) {
            let event = Arc::clone(event);
            // More forms may be encoded by now than when it was made.
            let bytes = self.merged.iter().map(|(_, event)| event_bytes(event, forms)).sum();
            self.merged_bytes = self.merged_bytes.max(bytes);
            return Some(event);
        }
        let event = Arc::new(merged(&last, records.changed_after(above).into()));
        if self.merged.len() < MERGED_MAX {
            self.merged_bytes += event_bytes(&event, forms);
            self.merged.push((above, Arc::clone(&event)));
        }
        Some(event)
    }

    // It may be encoded for whoever reads it, in forms that nobody had when it was stored.
    fn recount_last(&mut self, last: &Arc<Event>, forms: usize) {
        match self.ring.back_mut() {
            Some(entry) if Arc::ptr_eq(&entry.event, last) => self.ring_bytes += entry.recount(forms),
            _ => self.last_bytes = self.last_bytes.max(event_bytes(last, forms)),
        }
    }

    fn after(&mut self, since: u64, limit: PageLimit, forms: usize) -> Page {
        let mut page = Page {
            last: since,
            // Without history nothing is kept between.
            overtaken: since < self.class.history.map_or(self.latest, |_| self.floor),
            ..Page::default()
        };
        if page.overtaken {
            return page;
        }
        let begin = self.ring.partition_point(|entry| entry.event.version <= since);
        let mut bytes = 0;
        for entry in self.ring.range_mut(begin..) {
            if page.events.len() >= limit.events.max(1) || !page.events.is_empty() && bytes >= limit.bytes {
                page.more = true;
                break;
            }
            self.ring_bytes += entry.recount(forms);
            bytes += entry.event.data.len();
            page.last = entry.event.version;
            page.events.push(Arc::clone(&entry.event));
        }
        if !page.more {
            page.last = page.last.max(self.latest);
        }
        page
    }
}

/// The event that says `data` in the place of the channel's last one.
fn merged(last: &Event, data: Bytes) -> Event {
    let new = crate::event::NewEvent {
        channel: last.channel.clone(),
        name: last.name.clone(),
        data,
        timestamp_ms: last.timestamp_ms,
        options: crate::event::PublishOptions::default(),
    };
    let numbered = EventMeta {
        offset: last.offset,
        version: last.version,
        class: Arc::clone(&last.class),
    };
    Event::in_transit(new, numbered, Transit::default())
}

/// What was let go under a lock, to be dropped after it: giving memory back takes its time.
#[derive(Debug, Default)]
pub(in crate::hub) struct Garbage {
    events: Vec<Arc<Event>>,
    texts: Vec<Arc<str>>,
    records: Vec<Records>,
    pub(super) channels: Vec<Kept>,
}
