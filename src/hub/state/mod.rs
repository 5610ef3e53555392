//! The state of the channels of one stripe: last values, histories, merged records and ids.
//!
//! Invariant: a version is drawn once, and versions only grow, even if events are dropped. The floor of a channel is at or above
//! the version of everything that was dropped of it. Therefore a client whose position is at or above the floor can be
//! given exactly what came since. Any other client can be told that this is not possible.
//!
//! All stripes draw from one sequence ([`Versions`]). An evicted channel with a history leaves a tombstone. Of all other
//! evicted channels, the stripe remembers only the highest version, `evicted`. A channel that is created again gets its
//! floor from there.
//!
//! | module | contents |
//! |---|---|
//! | `channel` | the state of one channel |
//! | `book` | order books |
//! | `adopt` | replacing the classes of channels |
//! | `claims` | the publishers that own channels |
//! | `prepared` | events before they are stored, and `only_changed` |
//! | `passing` | deletion, and what ends by itself as time passes |
//! | `records` | merging records |
//! | `merged` | handing merged values to hubs that read a log back |
//! | `ids` | finding duplicates |
//! | `order` | the order in which channels were used, and forgetting all of them |
//! | `scan` | viewing channels, for joins |
//! | `tombstones` | the names of evicted channels |
//! | `page` | what joins and reads get |
//! | `export` | handing the state to the snapshot and restoring it |

mod adopt;
mod book;
mod channel;
mod claims;
mod export;
mod ids;
mod merged;
mod order;
mod page;
mod passing;
mod prepared;
mod records;
mod scan;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
mod tombstones;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use slab::Slab;

use super::generations::Generations;
use super::versions::Versions;
use crate::event::{Event, EventId, EventMeta, Transit};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class, Tenant};

pub use export::{ChannelExport, RecordExport, StripeCounters, StripeExport};
pub use merged::{Merged, Newest};
pub use page::{ChannelView, Page, PageLimit, Since};
pub use tickgate_protocol::event::Epoch;
pub use tombstones::Tombstone;

use channel::ChannelState;
pub(super) use channel::Garbage;
pub(super) use claims::{Claimed, Owners};
use ids::Ids;
pub use passing::Passed;
pub(super) use prepared::Prepared;
pub(super) use scan::Prefixes;
use scan::place;
use tombstones::Tombstones;

/// The state of one stripe.
#[derive(Default)]
pub(super) struct Channels {
    // The number of the stripe.
    stripe: u8,
    versions: Arc<Versions>,
    // The version that an event of this stripe drew last.
    last_version: u64,
    // The highest version of an evicted channel.
    evicted: u64,
    pub(super) tombstones: Tombstones,
    // Each in an allocation of its own: a slab keeps its room after a flood of channels.
    slots: Slab<Box<ChannelState>>,
    by_name: HashMap<Channel, u32, RandomState>,
    // For patterns: the channels of a tenant with a given literal prefix are one range.
    in_order: BTreeMap<(Tenant, Arc<str>), u32>,
    // The ends of the list in the order of use.
    oldest: Option<u32>,
    newest: Option<u32>,
    bytes: usize,
    // When something of a channel ends, in monotonic milliseconds, and its slot. A channel has at most one entry, which may
    // be too early.
    deadlines: BTreeSet<(u64, u32)>,
    // The slots of channels that became stale. Some are not stale any more, or have another channel by now.
    stale: HashSet<u32>,
    // The channels that are not stale any more, until their subscribers are told.
    revived: Vec<Channel>,
    ids: Ids,
    // Whether changes are noted for exports.
    tracks: bool,
    // Whether there were too many changes to note since the last export.
    lost_track: bool,
    // The channels that were evicted since the last export.
    gone: Vec<Channel>,
    // The version of the newest eviction that was exported.
    saved_eviction: u64,
    // The ids that were accepted since the last export.
    unsaved_ids: Vec<(EventId, u64)>,
    pub(super) counts: Counts,
}

/// The counters of a stripe; see [`HubMetrics`](super::HubMetrics).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) evicted: u64,
    pub(super) evicted_by_quota: u64,
    pub(super) trimmed: u64,
    pub(super) expired: u64,
    pub(super) duplicates: u64,
    pub(super) unchanged: u64,
    pub(super) overtaken: u64,
    pub(super) book_gaps: u64,
    pub(super) book_levels_dropped: u64,
    pub(super) stale: u64,
}

/// What a log that numbers events gave one of them; see [`Stamp`](super::Stamp).
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) version: u64,
    pub(super) age_ms: u64,
    pub(super) is_replayed: bool,
}

/// The outcome of storing an event.
pub(super) enum Stored {
    /// An event with the same id was accepted before, with this version.
    Duplicate(u64),
    /// The value equals the channel's last value.
    Unchanged,
    /// The event has a version and is stored.
    Event(Arc<Event>),
}

impl Channels {
    /// Makes stripe `stripe`, empty. It draws from `versions` and keeps at most `tombstones_max` tombstones.
    pub(super) fn new(versions: Arc<Versions>, tombstones_max: usize, stripe: u8) -> Self {
        Self {
            stripe,
            versions,
            tombstones: Tombstones::new(tombstones_max),
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The version that an event of this stripe drew last; 0: none did since the start.
    pub(super) const fn last_version(&self) -> u64 {
        self.last_version
    }

    /// When the least recently used channel was used, in monotonic milliseconds.
    pub(super) fn oldest_use_ms(&self) -> Option<u64> {
        self.oldest.map(|slot| self.slots[slot as usize].used_ms)
    }

    /// The version of the event that was accepted with this id. Counts a duplicate if there is one.
    pub(super) fn duplicate(&mut self, id: Option<&EventId>, generations: &Generations) -> Option<u64> {
        let version = self.ids.find(id?, generations.current())?;
        self.counts.duplicates += 1;
        Some(version)
    }

    /// Notes that an event with this id was accepted.
    pub(super) fn note_id(&mut self, id: EventId, version: u64, generations: &Generations) {
        self.ids.insert(id, version, generations.count_id());
        self.note_unsaved_id(id, version);
    }

    pub(super) fn ids(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn forget_ids(&mut self, generations: &Generations) {
        self.ids.begin(generations.current());
    }

    /// Stores an event of a class with state under a new version, unless it is a duplicate or unchanged. An event that a
    /// log has given its version is no duplicate.
    pub(super) fn store(
        &mut self,
        mut prepared: Prepared,
        transit: Transit,
        (now, given, generations): (Now, Option<Given>, &Generations),
        formats: usize,
        garbage: &mut Garbage,
    ) -> Stored {
        let id = prepared.event.options.id;
        if let Some(given) = given {
            // Also if the event changes nothing: the versions say how much of the log is applied.
            self.versions.advance(given.version);
        } else if let Some(version) = self.duplicate(id.as_ref(), generations) {
            return Stored::Duplicate(version);
        }
        if let Some(given) = given.filter(|given| given.is_replayed)
            && let Some(slot) = self.by_name.get(&prepared.event.channel).copied()
            && given.version <= self.slots[slot as usize].latest
        {
            let when = (now, given, generations);
            return self.store_known(slot, prepared, transit, when, formats, garbage);
        }
        let deletes = prepared.event.options.deletes;
        if deletes.is_some_and(|deletion| !self.may_delete(&prepared.event.channel, deletion, now)) {
            if let Some(given) = given.filter(|given| given.is_replayed && prepared.class.history.is_some()) {
                self.doubt_earlier(&prepared.event.channel, &prepared.class, given.version, now);
            }
            return Stored::Unchanged;
        }
        if prepared.wants_comparison() && !self.keep_changes(&mut prepared) {
            self.counts.unchanged += 1;
            self.renew(&prepared.event.channel, None, now);
            if let Some(id) = id {
                let latest = self.find(&prepared.event.channel).map_or(0, |state| state.latest);
                self.note_id(id, latest, generations);
            }
            return Stored::Unchanged;
        }
        let version = given.map_or_else(|| self.versions.next(), |given| given.version);
        self.last_version = version;
        let channels_before = self.slots.len();
        let slot = self.slot(&prepared.event.channel, &prepared.class);
        let is_new = self.slots.len() > channels_before;
        if is_new {
            self.claim(slot, version, prepared.owners, now.mono_ms);
        }
        let state = &mut self.slots[slot as usize];
        if is_new && given.is_some_and(|given| given.is_replayed) && state.class.only_changed {
            // Earlier events may have left the log although fewer than the history's size are read back, because some of
            // those changed nothing.
            state.floor = state.floor.max(version - 1);
        }
        let before = state.bytes();
        if let Some(update) = prepared.book.take() {
            let applied = state.update_book(update, version, garbage);
            self.counts.book_gaps += u64::from(applied.has_gap);
            self.counts.book_levels_dropped += applied.dropped;
            if applied.is_hidden {
                self.counts.unchanged += 1;
                self.bytes = self.bytes - before + state.count_for_owner(before);
                self.renew(&prepared.event.channel, None, now);
                self.touch(slot, now.mono_ms);
                if let Some(id) = id {
                    self.note_id(id, version, generations);
                }
                return Stored::Unchanged;
            }
            if let Some(data) = applied.data {
                prepared.event.data = data;
            }
        }
        // All events of a channel share one allocation of its name.
        prepared.event.channel = state.channel.clone();
        let fresh_ms = prepared.event.options.fresh_ms;
        let meta = EventMeta {
            offset: prepared.class.history.map(|_| version),
            version,
            class: Arc::clone(&state.class),
        };
        let event = Arc::new(Event::in_transit(prepared.event, meta, transit));
        let at_ms = given.map_or_else(|| mono(now), |given| mono(now).saturating_sub_unsigned(given.age_ms));
        state.fresh_until_ms = fresh_ms.map(|fresh_ms| at_ms + i64::from(fresh_ms));
        self.counts.trimmed += state.store(&event, prepared.records, (at_ms, mono(now)), formats, garbage);
        match deletes {
            None => {
                state.begin_last(at_ms);
                // An event that comes late was heard when the log took it.
                self.revived.extend(state.hear(at_ms));
            }
            Some(deletion) => state.delete(deletion, mono(now), garbage),
        }
        self.bytes = self.bytes - before + state.count_for_owner(before);
        self.touch(slot, now.mono_ms);
        self.plan(slot);
        if let Some(id) = id {
            self.note_id(id, event.version, generations);
        }
        Stored::Event(event)
    }

    /// Reads a page of a channel. The caller fills in [`Page::at`].
    pub(super) fn read(&mut self, channel: &Channel, since: Since, limit: PageLimit, now: Now, formats: usize) -> Page {
        let (Since::Newest { above: position } | Since::After(position) | Since::Between { after: position, .. }) =
            since;
        let page = if position > self.versions.newest() {
            Page {
                last: position,
                overtaken: true,
                ..Page::default()
            }
        } else if let Some(slot) = self.by_name.get(channel).copied() {
            let state = &mut self.slots[slot as usize];
            expire(state, &mut self.bytes, &mut self.counts, now);
            let before = state.bytes();
            let page = state.read(since, limit, mono(now), formats);
            self.bytes = self.bytes - before + state.count_for_owner(before);
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

    // The floor of a channel without state.
    fn floor_of_absent(&self, channel: &Channel, since: Since) -> u64 {
        match since {
            Since::Newest { .. } => self.evicted,
            Since::After(_) | Since::Between { .. } => self.tombstones.floor(channel),
        }
    }

    /// Drops the events that are too old from the histories of all channels.
    pub(super) fn expire_all(&mut self, now: Now) {
        for (_, state) in &mut self.slots {
            expire(state, &mut self.bytes, &mut self.counts, now);
        }
    }

    /// Evicts the least recently used channel. With `only_trim`, only drops the oldest event of its history, as long as it
    /// has more than one. Returns `false` if there is no channel.
    pub(super) fn evict(&mut self, only_trim: bool, garbage: &mut Garbage) -> bool {
        let Some(slot) = self.oldest else { return false };
        let state = &mut self.slots[slot as usize];
        if only_trim && state.ring().len() > 1 {
            let before = state.bytes();
            state.trim_one(garbage);
            self.counts.trimmed += 1;
            self.bytes = self.bytes - before + state.count_for_owner(before);
            return true;
        }
        self.evict_slot(slot, garbage);
        true
    }

    fn evict_slot(&mut self, slot: u32, garbage: &mut Garbage) {
        self.counts.evicted += 1;
        self.remove(slot, garbage);
    }

    /// Removes a channel, as if it were evicted.
    fn remove(&mut self, slot: u32, garbage: &mut Garbage) {
        let state = self.take_out(slot);
        // A restored value may be ahead of what is read back from the log.
        let newest = self.versions.newest();
        let (latest, floor) = (state.latest.min(newest), state.floor.min(newest));
        self.evicted = self.evicted.max(latest);
        if state.class.history.is_some() {
            let tombstone = Tombstone {
                channel: state.channel.clone(),
                latest,
                floor,
            };
            match self.versions.next_of_eviction() {
                Some(version) => self.tombstones.note(version, tombstone),
                // There is no number for this eviction before the next event.
                None => self.tombstones.forget_up_to(self.versions.newest()),
            }
        }
        self.note_gone(state.channel.clone());
        garbage.channels.push(state);
    }

    /// Takes a channel out of all indices. What was dropped of it is to be noted.
    fn take_out(&mut self, slot: u32) -> Box<ChannelState> {
        self.unlink(slot);
        let mut state = self.slots.remove(slot as usize);
        state.leave_owner();
        self.by_name.remove(&state.channel);
        self.in_order.remove(&place(&state.channel));
        self.bytes -= state.bytes();
        if let Some(deadline_ms) = state.deadline_ms {
            self.deadlines.remove(&(deadline_ms, slot));
        }
        state
    }

    fn find(&self, channel: &Channel) -> Option<&ChannelState> {
        Some(&self.slots[*self.by_name.get(channel)? as usize])
    }

    /// The channel's slot. Creates the channel if it has no state.
    fn slot(&mut self, channel: &Channel, class: &Arc<Class>) -> u32 {
        if let Some(slot) = self.by_name.get(channel) {
            return *slot;
        }
        let floor = match class.history {
            Some(_) => self.tombstones.floor(channel),
            None => self.evicted,
        };
        let state = ChannelState::new(channel.clone(), Arc::clone(class), floor);
        self.bytes += state.bytes();
        let slot = u32::try_from(self.slots.insert(Box::new(state))).expect("fewer than 2^32 channels");
        self.by_name.insert(channel.clone(), slot);
        self.in_order.insert(place(channel), slot);
        self.link(slot);
        slot
    }
}

fn mono(now: Now) -> i64 {
    i64::try_from(now.mono_ms).unwrap_or(i64::MAX)
}

fn expire(state: &mut ChannelState, bytes: &mut usize, counts: &mut Counts, now: Now) {
    if !state.has_expired(mono(now)) {
        return;
    }
    let before = state.bytes();
    counts.expired += state.expire(mono(now), &mut Garbage::default());
    *bytes = *bytes - before + state.count_for_owner(before);
}
