//! The state of one channel.
//!
//! Invariant: `floor <= latest`. The ring contains, in order, every event that was accepted with a version above `floor`.
//! `last` is the newest event of the channel, even if the ring has dropped it.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::Arc;

use bytes::Bytes;

use super::book::{Applied, Book};
use super::claims::Owner;
use super::page::{Page, PageLimit, Since};
use super::records::{Merged, NewRecord, Records};
use crate::event::{Event, EventMeta, NewEvent, PublishOptions, Transit};
use tickgate_protocol::channel::{Channel, Class};
use tickgate_protocol::json::BookUpdate;

/// The bytes of a channel beside its name, events and records: its slot and its entries in the two indices.
const CHANNEL_OVERHEAD: usize = size_of::<ChannelState>() + 160;

/// The bytes of an event beside its texts: the event with its reference counts, and its entry in the ring.
const EVENT_OVERHEAD: usize = size_of::<Event>() + 2 * size_of::<usize>() + size_of::<Entry>();

/// The bytes of a frame beside `data`, channel and name: keys, times and numbers.
pub(super) const FRAME_OVERHEAD: usize = 160;

/// An event in the ring.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) event: Arc<Event>,
    /// When the event was accepted, in monotonic milliseconds; negative if that was before a restart.
    pub(super) at_ms: i64,
    // The size that is counted for it.
    bytes: usize,
}

impl Entry {
    /// Updates the counted size for `formats` encoded frames, and returns by how much it grew.
    fn recount(&mut self, formats: usize) -> usize {
        let before = self.bytes;
        self.bytes = before.max(event_bytes(&self.event, formats));
        self.bytes - before
    }
}

/// One channel's state.
#[derive(Debug)]
pub(super) struct ChannelState {
    pub(super) channel: Channel,
    pub(super) class: Arc<Class>,
    /// The publisher whose quota the channel counts for.
    pub(super) owner: Option<Owner>,
    /// Events with versions at or below the floor may be missing.
    pub(super) floor: u64,
    /// The version of the newest event; equal to `floor` before the first one.
    pub(super) latest: u64,
    pub(super) last: Option<Arc<Event>>,
    /// Until when newcomers get `last`, in monotonic milliseconds; `None`: without limit.
    pub(super) fresh_until_ms: Option<i64>,
    /// When `last` ends (`last_ttl`), in monotonic milliseconds; `None`: never.
    pub(super) last_until_ms: Option<i64>,
    /// When the channel was last heard of, in monotonic milliseconds: an event, or a confirmation.
    pub(super) heard_at_ms: i64,
    /// Subscribers were told that nothing was published (`fresh_within`).
    pub(super) is_stale: bool,
    /// When the channel was deleted, in monotonic milliseconds, if it was and nothing was published since. `last` is the
    /// event that tells of it then.
    pub(super) deleted_at_ms: Option<i64>,
    /// The channel's entry among the deadlines of its stripe.
    pub(super) deadline_ms: Option<u64>,
    pub(super) records: Option<Records>,
    pub(super) book: Option<Box<Book>>,
    // The last event before `records` began, if it replaced the whole value. A client that still has records from before
    // that event must get it first.
    whole: Option<Arc<Event>>,
    whole_bytes: usize,
    // The merged records as finished events, each with the version after which its records changed, until the next
    // change. Many newcomers and conflated clients ask for the same one.
    merged: Vec<(u64, Arc<Event>)>,
    ring: VecDeque<Entry>,
    ring_bytes: usize,
    last_bytes: usize,
    merged_bytes: usize,
    /// When the channel was last published to or read, in monotonic milliseconds.
    pub(super) used_ms: u64,
    /// Whether the channel changed since its last export.
    pub(super) unsaved: bool,
    /// The version up to which it was exported.
    pub(super) saved: u64,
    /// Whether records were removed since the last export, so that all of them must be exported again.
    pub(super) restarted: bool,
    /// The neighbours in the order of use.
    pub(super) older: Option<u32>,
    pub(super) newer: Option<u32>,
}

/// Most merged events that are kept at a time.
const MERGED_MAX: usize = 4;

/// The size of an event with frames in `formats` wire formats. In a frame, each byte of the channel and the name may be
/// escaped.
pub(super) fn event_bytes(event: &Event, formats: usize) -> usize {
    let frame = event.data.len() + 2 * (event.channel.as_str().len() + event.name.len()) + FRAME_OVERHEAD;
    EVENT_OVERHEAD + event.data.len() + event.name.len() + formats * frame
}

impl ChannelState {
    pub(super) fn new(channel: Channel, class: Arc<Class>, floor: u64) -> Self {
        Self {
            channel,
            class,
            owner: None,
            floor,
            latest: floor,
            last: None,
            fresh_until_ms: None,
            last_until_ms: None,
            heard_at_ms: i64::MAX,
            is_stale: false,
            deleted_at_ms: None,
            deadline_ms: None,
            records: None,
            book: None,
            whole: None,
            whole_bytes: 0,
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

    /// The size of the state, estimated.
    pub(super) fn bytes(&self) -> usize {
        let records = self.records.as_ref().map_or(0, Records::bytes);
        let book = self.book.as_ref().map_or(0, |book| book.bytes());
        let values = self.last_bytes + self.merged_bytes + self.whole_bytes + book;
        CHANNEL_OVERHEAD + self.channel.as_str().len() + self.ring_bytes + values + records
    }

    pub(super) fn ring(&self) -> impl ExactSizeIterator<Item = &Entry> {
        self.ring.iter()
    }

    /// Applies an update of version `version` to the book, before its event is made.
    pub(super) fn update_book(&mut self, update: BookUpdate, version: u64, garbage: &mut Garbage) -> Applied {
        let rules = self.class.book.unwrap_or_default();
        let book = self.book.get_or_insert_with(|| Box::new(Book::new(rules, version)));
        let applied = book.apply(update, version);
        self.unsaved = true;
        self.restarted |= applied.forgot;
        self.forget_merged(garbage);
        applied
    }

    /// Events that are kept: those of the history, and the last value if it is not one of them.
    pub(super) fn events(&self) -> usize {
        self.ring.len() + usize::from(self.ring.is_empty() && self.last.is_some())
    }

    /// Stores an event that was accepted at `at_ms`, and returns how many older events were dropped for it.
    pub(super) fn store(
        &mut self,
        event: &Arc<Event>,
        records: Option<Vec<NewRecord>>,
        (at_ms, now_ms): (i64, i64),
        formats: usize,
        garbage: &mut Garbage,
    ) -> u64 {
        self.latest = event.version;
        self.unsaved = true;
        if self.class.record_key.is_some() {
            self.forget_merged(garbage);
            match records {
                Some(new) => {
                    if self.records.is_none() {
                        self.whole.clone_from(&self.last);
                        self.whole_bytes = self.whole.as_ref().map_or(0, |whole| event_bytes(whole, formats));
                    }
                    let merge = self.records.get_or_insert_default();
                    let Merged { replaced, forgotten } = merge.merge(new, event.version);
                    garbage.texts.extend(replaced);
                    self.restarted |= forgotten.is_some();
                    // Clients whose position is before the forgotten records must be told. A channel with a history has
                    // its own floor, and its clients are not conflated.
                    if let Some(version) = forgotten.filter(|_| self.class.history.is_none()) {
                        self.floor = self.floor.max(version);
                    }
                }
                // The event replaces the whole value.
                None => {
                    self.restarted = true;
                    garbage.records.extend(self.records.take());
                    garbage.events.extend(self.whole.take());
                    self.whole_bytes = 0;
                }
            }
        }
        if self.class.cache_last || self.class.only_changed {
            garbage.events.extend(self.last.replace(Arc::clone(event)));
        }
        let bytes = event_bytes(event, formats);
        if self.class.history.is_none() {
            self.last_bytes = if self.last.is_some() { bytes } else { 0 };
            return 0;
        }
        // The same event is also in the ring, and is counted there.
        self.last_bytes = 0;
        self.push(Arc::clone(event), at_ms, bytes);
        self.shed(now_ms, garbage)
    }

    /// Stores an event that the merged value contains already, and returns how many older events were dropped for it.
    pub(super) fn store_known(
        &mut self,
        event: &Arc<Event>,
        (at_ms, now_ms): (i64, i64),
        formats: usize,
        garbage: &mut Garbage,
    ) -> u64 {
        let bytes = event_bytes(event, formats);
        let is_kept = self.class.history.is_some() && event.version > self.floor;
        if self.last.as_ref().is_some_and(|last| last.version == event.version) {
            garbage.events.extend(self.last.replace(Arc::clone(event)));
            self.last_bytes = if is_kept { 0 } else { bytes };
        }
        if !is_kept {
            return 0;
        }
        self.push(Arc::clone(event), at_ms, bytes);
        self.shed(now_ms, garbage)
    }

    /// Drops the history up to a version, and returns how many events that were.
    pub(super) fn begin_behind(&mut self, version: u64, garbage: &mut Garbage) -> u64 {
        let dropped = self.ring.len() as u64;
        while self.trim_one(garbage) {}
        self.floor = self.floor.max(version);
        dropped
    }

    /// Adds the newest event to the ring.
    pub(super) fn push(&mut self, event: Arc<Event>, at_ms: i64, bytes: usize) {
        self.ring_bytes += bytes;
        self.ring.push_back(Entry { event, at_ms, bytes });
    }

    /// Restores the last event. If the ring contains it, both share one allocation.
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

    /// Drops the events that are too old or exceed the history's size, and returns how many.
    pub(super) fn shed(&mut self, now_ms: i64, garbage: &mut Garbage) -> u64 {
        let mut trimmed = self.expire(now_ms, garbage);
        let size = self.class.history.map_or(0, |history| history.size as usize);
        while self.ring.len() > size {
            self.trim_one(garbage);
            trimmed += 1;
        }
        trimmed
    }

    /// Whether the oldest event of the history is too old.
    pub(super) fn has_expired(&self, now_ms: i64) -> bool {
        let history = self.class.history;
        history
            .zip(self.ring.front())
            .is_some_and(|(history, oldest)| oldest.at_ms.saturating_add_unsigned(history.ttl_ms) <= now_ms)
    }

    /// Drops the events that are too old, and returns how many.
    pub(super) fn expire(&mut self, now_ms: i64, garbage: &mut Garbage) -> u64 {
        let mut expired = 0;
        while self.has_expired(now_ms) {
            self.trim_one(garbage);
            expired += 1;
        }
        expired
    }

    /// Drops the oldest event of the ring. Returns `false` if the ring is empty.
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
        let is_before = |until: Option<i64>| until.is_none_or(|until| now_ms < until);
        let is_given = self.deleted_at_ms.is_none() && is_before(self.fresh_until_ms) && is_before(self.last_until_ms);
        self.class.cache_last && self.last.is_some() && is_given
    }

    /// Reads what `since` asks for. The caller fills in [`Page::at`].
    pub(super) fn read(&mut self, since: Since, limit: PageLimit, now_ms: i64, formats: usize) -> Page {
        match since {
            Since::Newest { above } => self.newest(above, now_ms, formats),
            Since::After(since) => self.after(since, u64::MAX, limit, formats),
            Since::Between { after, below } => self.after(after, below, limit, formats),
        }
    }

    fn newest(&mut self, above: u64, now_ms: i64, formats: usize) -> Page {
        let nothing = Page {
            last: above.max(self.latest),
            ..Page::default()
        };
        let is_newcomer = above == 0;
        let nothing = Page {
            deleted: self.deleted_at_ms.is_some(),
            ..nothing
        };
        if is_newcomer && !self.has_last(now_ms) || above >= self.latest {
            return nothing;
        }
        // Only what is merged can be incomplete. For any other value, the newest event is all that counts.
        if !is_newcomer && (self.records.is_some() || self.book.is_some()) && above < self.floor {
            return Page {
                overtaken: true,
                ..nothing
            };
        }
        // A client with records from before the whole value needs that value first, because the later records do not
        // replace its own. A newcomer has no records.
        let whole = self
            .whole
            .as_ref()
            .filter(|whole| !is_newcomer && above < whole.version);
        let (whole, above) = match whole {
            Some(whole) => {
                self.whole_bytes = self.whole_bytes.max(event_bytes(whole, formats));
                (Some(Arc::clone(whole)), whole.version)
            }
            None => (None, above),
        };
        let above = self.book.as_ref().map_or(above, |book| book.known_from(above));
        let value = self.value(above, formats);
        Page {
            events: whole.into_iter().chain(value).collect(),
            ..nothing
        }
    }

    /// The value as one event: the last event or, if records are merged, an event with the records changed after `above`.
    pub(super) fn value(&mut self, above: u64, formats: usize) -> Option<Arc<Event>> {
        let last = Arc::clone(self.last.as_ref()?);
        if self.records.is_none() && self.book.is_none() {
            self.recount_last(&last, formats);
            return Some(last);
        }
        if let Some((_, event)) = self.merged.iter().find(|(begins, _)| *begins == above) {
            let event = Arc::clone(event);
            // More formats may be in use than when the event was made.
            let bytes = self.merged.iter().map(|(_, event)| event_bytes(event, formats)).sum();
            self.merged_bytes = self.merged_bytes.max(bytes);
            return Some(event);
        }
        let data = match (&self.book, &self.records) {
            (Some(book), _) => book.changes(above),
            (None, Some(records)) => records.changed_after(above).into(),
            (None, None) => last.data.clone(),
        };
        let event = Arc::new(merged(&last, data));
        if self.merged.len() < MERGED_MAX {
            self.merged_bytes += event_bytes(&event, formats);
            self.merged.push((above, Arc::clone(&event)));
        }
        Some(event)
    }

    // The reader may need formats that were not in use when the event was stored.
    fn recount_last(&mut self, last: &Arc<Event>, formats: usize) {
        match self.ring.back_mut() {
            Some(entry) if Arc::ptr_eq(&entry.event, last) => self.ring_bytes += entry.recount(formats),
            _ => self.last_bytes = self.last_bytes.max(event_bytes(last, formats)),
        }
    }

    /// The version of the first event of the history after `since`.
    pub(super) fn first_after(&self, since: u64) -> Option<u64> {
        let first = self.ring.partition_point(|entry| entry.event.version <= since);
        self.ring.get(first).map(|entry| entry.event.version)
    }

    fn after(&mut self, since: u64, below: u64, limit: PageLimit, formats: usize) -> Page {
        let mut page = Page {
            last: since,
            // Without a history, only the newest event is available.
            overtaken: since < self.class.history.map_or(self.latest, |_| self.floor),
            ..Page::default()
        };
        if page.overtaken {
            return page;
        }
        let begin = self.ring.partition_point(|entry| entry.event.version <= since);
        let mut bytes = 0;
        for entry in self.ring.range_mut(begin..) {
            let is_full = page.events.len() >= limit.events.max(1) || !page.events.is_empty() && bytes >= limit.bytes;
            if is_full || entry.event.version >= below {
                page.more = true;
                page.next = entry.event.version;
                break;
            }
            self.ring_bytes += entry.recount(formats);
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

/// An event like the channel's last one, with other data.
fn merged(last: &Event, data: Bytes) -> Event {
    let new = NewEvent {
        channel: last.channel.clone(),
        name: last.name.clone(),
        data,
        timestamp_ms: last.timestamp_ms,
        options: PublishOptions::default(),
    };
    let meta = EventMeta {
        offset: last.offset,
        version: last.version,
        class: Arc::clone(&last.class),
    };
    Event::in_transit(new, meta, Transit::default())
}

/// Values that were removed under a lock, to be dropped after it, because freeing memory takes time.
#[derive(Debug, Default)]
pub(in crate::hub) struct Garbage {
    events: Vec<Arc<Event>>,
    texts: Vec<Arc<str>>,
    records: Vec<Records>,
    pub(super) books: Vec<Book>,
    #[expect(clippy::vec_box, reason = "they come out of their boxes' places")]
    pub(super) channels: Vec<Box<ChannelState>>,
}
