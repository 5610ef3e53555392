//! Merged values that one hub hands to another one which reads the log back. The log does not keep all events that brought
//! them.
//!
//! Invariant: a value is handed over as of one version, and the log has every event of its channel behind it. So a hub that
//! restores the value and then applies what the log has of the channel holds the same as all other hubs: events up to the
//! version are in the value already, and only the history still needs them.

use std::sync::Arc;

use bytes::Bytes;

use super::channel::Garbage;
use super::export::{RecordExport, merge_text};
use super::records::Records;
use super::{Channels, Given, Owners, Prepared, Stored, mono};
use crate::event::{Event, EventMeta, NewEvent, PublishOptions, Transit};
use crate::hub::LOG_STEP;
use crate::hub::generations::Generations;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class};

/// The merged value of a channel: its records, or its order book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merged {
    /// The channel.
    pub channel: Channel,
    /// The value contains all events of the channel up to this version, and none behind it.
    pub version: u64,
    /// By which rule it is merged. A value that was merged by another rule is not restored.
    pub rule: Box<str>,
    /// What the newest event says; `None`: it deleted the channel.
    pub newest: Option<Newest>,
    /// The records or the parts of the book, each with its name, its JSON text and its version. There is none if the newest
    /// event replaced the whole value.
    pub parts: Vec<(Arc<str>, Arc<str>, u64)>,
}

/// The newest event of a channel with a merged value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Its version.
    pub version: u64,
    /// Its name.
    pub name: Box<str>,
    /// When it happened, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// Its data, if there are no parts; otherwise `null`.
    pub data: Bytes,
}

impl Channels {
    /// The merged value of a channel as it is now; `None`: nothing is kept of the channel, or its class merges nothing.
    pub(in crate::hub) fn merged(&self, channel: &Channel) -> Option<Merged> {
        let state = self.find(channel)?;
        let records = state.records.iter().flat_map(Records::iter);
        let records = records.map(|(name, raw, version)| (Arc::clone(name), Arc::clone(raw), version));
        let book = state.book.iter().flat_map(|book| book.parts(state.latest));
        let parts: Vec<_> = book.chain(records).collect();
        let last = state.last.as_ref().filter(|_| state.deleted_at_ms.is_none());
        let newest = last.map(|last| Newest {
            version: last.version,
            name: last.name.clone(),
            timestamp_ms: last.timestamp_ms,
            data: if parts.is_empty() {
                last.data.clone()
            } else {
                Bytes::from_static(b"null")
            },
        });
        Some(Merged {
            channel: state.channel.clone(),
            // Also updates that clients were not told of.
            version: self.versions.newest() / LOG_STEP * LOG_STEP,
            rule: merge_text(&state.class)?,
            newest,
            parts,
        })
    }

    /// Restores the merged value of a channel of which nothing is kept yet, and which was handed over `age_ms` ago. The events
    /// that the log has of it must follow. Returns whether the value fits to the channel's class.
    pub(in crate::hub) fn restore_merged(
        &mut self,
        merged: Merged,
        class: &Arc<Class>,
        owners: Owners,
        (now, age_ms): (Now, u64),
    ) -> bool {
        if merge_text(class).as_ref() != Some(&merged.rule) || self.find(&merged.channel).is_some() {
            return false;
        }
        let Some(newest) = merged.newest else { return true };
        let slot = self.slot(&merged.channel, class);
        self.claim(slot, merged.version, owners, now.mono_ms);
        let state = &mut self.slots[slot as usize];
        let before = state.bytes();
        state.latest = merged.version.max(state.floor);
        if class.history.is_none() || class.only_changed {
            // Which of the events before have changed something is not known any more.
            state.floor = state.latest;
        }
        if !merged.parts.is_empty() {
            let part = |(name, raw, version)| RecordExport {
                name,
                raw,
                version,
                index: 0,
            };
            // With what is deleted, the records have the same order as in other hubs.
            state.restore_records(merged.parts.into_iter().map(part).collect(), true);
        }
        let event = NewEvent {
            channel: state.channel.clone(),
            name: newest.name,
            data: newest.data,
            timestamp_ms: newest.timestamp_ms,
            options: PublishOptions::default(),
        };
        let meta = EventMeta {
            offset: class.history.map(|_| newest.version),
            version: newest.version,
            class: Arc::clone(&state.class),
        };
        state.set_last(Some(Arc::new(Event::in_transit(event, meta, Transit::default()))));
        let at_ms = mono(now).saturating_sub_unsigned(age_ms);
        state.begin_last(at_ms);
        state.hear(at_ms);
        self.bytes = self.bytes - before + state.count_for_owner(before);
        self.plan(slot);
        true
    }

    /// An event of this version that is read back from the log has changed nothing. So earlier events may have left the log
    /// although fewer than the history's size are read back.
    pub(super) fn doubt_earlier(&mut self, channel: &Channel, class: &Arc<Class>, version: u64, now: Now) {
        let is_new = self.find(channel).is_none();
        let slot = self.slot(channel, class);
        let state = &mut self.slots[slot as usize];
        let first = state.ring().next().map_or(version, |entry| entry.event.version - 1);
        state.floor = state.floor.max(first);
        state.latest = state.latest.max(state.floor);
        if is_new {
            // What was deleted is remembered for a while, as ever.
            state.deleted_at_ms = Some(mono(now));
            self.plan(slot);
        }
    }

    /// Stores an event of the log that the restored value of its channel contains. It counts as a duplicate.
    pub(super) fn store_known(
        &mut self,
        slot: u32,
        mut prepared: Prepared,
        transit: Transit,
        (now, given, generations): (Now, Given, &Generations),
        formats: usize,
        garbage: &mut Garbage,
    ) -> Stored {
        let state = &mut self.slots[slot as usize];
        let before = state.bytes();
        prepared.event.channel = state.channel.clone();
        let (id, fresh_ms) = (prepared.event.options.id, prepared.event.options.fresh_ms);
        let deletes = prepared.event.options.deletes;
        let meta = EventMeta {
            offset: prepared.class.history.map(|_| given.version),
            version: given.version,
            class: Arc::clone(&state.class),
        };
        let event = Arc::new(Event::in_transit(prepared.event, meta, transit));
        let at_ms = mono(now).saturating_sub_unsigned(given.age_ms);
        if deletes.is_some() {
            // Whether it deleted something is not known any more: the history begins behind it.
            self.counts.trimmed += state.begin_behind(given.version, garbage);
        } else {
            if state.last.as_ref().is_some_and(|last| last.version == given.version) {
                state.fresh_until_ms = fresh_ms.map(|fresh_ms| at_ms + i64::from(fresh_ms));
                state.begin_last(at_ms);
            }
            self.counts.trimmed += state.store_known(&event, (at_ms, mono(now)), formats, garbage);
            self.revived.extend(state.hear(at_ms));
        }
        self.bytes = self.bytes - before + state.count_for_owner(before);
        self.touch(slot, now.mono_ms);
        self.plan(slot);
        if let Some(id) = id {
            self.note_id(id, given.version, generations);
        }
        Stored::Duplicate(given.version)
    }
}
