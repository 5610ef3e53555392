//! Events before they are stored, and what is compared for `only_changed`.
//!
//! Invariant: an event is parsed and compared without the stripe's lock. A verdict that was found so counts only if its
//! version is still the newest under the lock.

use std::sync::Arc;

use bytes::Bytes;

use super::book;
use super::records::{self, NewRecord};
use super::{Channels, Owners};
use crate::event::{Event, NewEvent};
use tickgate_protocol::channel::Class;
use tickgate_protocol::json::{BookError, BookUpdate, is_same_value};

/// An event that is about to be stored, with everything that can be computed without the lock.
pub(in crate::hub) struct Prepared {
    pub(in crate::hub) event: NewEvent,
    pub(in crate::hub) class: Arc<Class>,
    // Who owns the channel if the event begins it.
    pub(in crate::hub) owners: Owners,
    pub(super) records: Option<Vec<NewRecord>>,
    // Of a book: the update, until it is stored.
    pub(super) book: Option<BookUpdate>,
    // For `only_changed`: one verdict per record, or one for the whole value.
    verdicts: Vec<Verdict>,
}

/// Whether a value equals the one with the version `against`.
#[derive(Clone, Copy)]
struct Verdict {
    against: u64,
    is_same: bool,
}

/// The values to compare an event with, taken out under the lock.
pub(in crate::hub) enum Known {
    Nothing,
    Whole { last: Arc<Event> },
    Records(Vec<Option<(Arc<str>, u64)>>),
}

impl Prepared {
    /// Checks that an event is an update of a book, if its channel has one.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub(in crate::hub) fn check(event: &NewEvent, class: &Class) -> Result<(), BookError> {
        match (class.book, event.options.deletes) {
            (Some(_), None) => book::read(&event.data).map(drop),
            _ => Ok(()),
        }
    }

    /// Reads what is merged.
    ///
    /// # Errors
    ///
    /// If the channel has a book and the event is no update of one.
    pub(in crate::hub) fn new(event: NewEvent, class: Arc<Class>) -> Result<Self, BookError> {
        let records = match event.options.deletes {
            None => records::read(&event.data, &class),
            Some(_) => None,
        };
        let book = match (class.book, event.options.deletes) {
            (Some(_), None) => Some(book::read(&event.data)?),
            _ => None,
        };
        Ok(Self {
            event,
            class,
            owners: Owners::default(),
            records,
            book,
            verdicts: Vec::new(),
        })
    }

    /// Whether the event has to be compared before it is stored.
    pub(in crate::hub) fn wants_comparison(&self) -> bool {
        let options = &self.event.options;
        self.class.only_changed && !options.even_if_unchanged && options.deletes.is_none()
    }

    /// Compares the event with the known values, as JSON values. To be called without any lock, because it may parse both.
    pub(in crate::hub) fn compare(&mut self, known: &Known) {
        self.verdicts = match (known, &self.records) {
            (Known::Whole { last }, None) => vec![Verdict {
                against: last.version,
                is_same: last.name == self.event.name && same_bytes(&last.data, &self.event.data),
            }],
            (Known::Records(known), Some(new)) => {
                let verdict = |(known, new): (&Option<(Arc<str>, u64)>, &NewRecord)| match known {
                    Some((raw, version)) => Verdict {
                        against: *version,
                        is_same: is_same_value(raw, &new.raw),
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
        (Ok(a), Ok(b)) => is_same_value(a.trim_ascii(), b.trim_ascii()),
        _ => a == b,
    }
}

impl Channels {
    /// The values to compare an event with.
    pub(in crate::hub) fn known(&self, prepared: &Prepared) -> Known {
        let Some(state) = self.find(&prepared.event.channel) else {
            return Known::Nothing;
        };
        match (&state.records, &prepared.records, &state.last) {
            (Some(merge), Some(new), _) => {
                let known = |new: &NewRecord| merge.get(&new.name).map(|(raw, version)| (Arc::clone(raw), version));
                Known::Records(new.iter().map(known).collect())
            }
            (None, None, Some(last)) => Known::Whole { last: Arc::clone(last) },
            _ => Known::Nothing,
        }
    }

    /// Removes the unchanged records from the event. Returns `false` if nothing of the event is left.
    pub(super) fn keep_changes(&self, prepared: &mut Prepared) -> bool {
        let Some(state) = self.find(&prepared.event.channel) else {
            return true;
        };
        let Some(last) = state.last.as_ref().filter(|last| last.name == prepared.event.name) else {
            return true;
        };
        // A verdict that was found without the lock counts only if its version is still the newest. Otherwise the bytes are
        // compared.
        let is_same = |index: usize, version: u64, bytes: &dyn Fn() -> bool| match prepared.verdicts.get(index) {
            Some(verdict) if verdict.against == version => verdict.is_same,
            _ => bytes(),
        };
        let (Some(merge), Some(new)) = (&state.records, &prepared.records) else {
            let whole = state.records.is_none() && prepared.records.is_none();
            return !(whole && is_same(0, last.version, &|| last.data == prepared.event.data));
        };
        let is_new = |index: usize, new: &NewRecord| match merge.get(&new.name) {
            Some((raw, version)) => !is_same(index, version, &|| *raw == new.raw),
            // What does not exist cannot be deleted.
            None => !new.is_deleted,
        };
        let changed: Vec<NewRecord> = new
            .iter()
            .enumerate()
            .filter(|(index, new)| is_new(*index, new))
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
}
