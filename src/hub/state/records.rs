//! Merged records: the value of a channel whose events are arrays of records, each identified by a key field.
//!
//! Invariant: for each key, [`Records`] holds the record of the newest event that contained the key, with that event's
//! version. A client that merges [`Records::changed_after`] a version into the records that it had at that version, and
//! drops those that are deleted, has the same records.
//!
//! A deleted record is kept as it was published, since a client that is behind must learn of it; a newcomer does not get
//! it. There are never more deleted records than others (and [`DELETED_MIN`]): the oldest are forgotten.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::hash_table::Entry;
use hashbrown::{HashMap, HashTable};

use tickgate_protocol::channel::Class;
use tickgate_protocol::json::{Record as Read, Scratch, read_record, split_array};

/// Most records of one channel. Beyond that, the records that changed longest ago are forgotten.
pub(super) const RECORDS_MAX: usize = 100_000;

/// How many deleted records of a channel are kept, even if there are fewer others.
pub(super) const DELETED_MIN: usize = 256;

/// The bytes of a record beside its text and key: its entries in the list and the table, and three allocations.
const RECORD_OVERHEAD: usize = 96;

/// One record of an event. It is parsed before the lock is taken.
#[derive(Clone, Debug)]
pub(super) struct NewRecord {
    pub(super) name: Box<str>,
    pub(super) raw: Arc<str>,
    pub(super) is_deleted: bool,
}

/// Parses the records of an event's `data`. Of records with the same name, only the last counts, as for the clients.
/// Returns `None` if `data` is not an array of records: it replaces the whole value then.
pub(super) fn read(data: &[u8], class: &Class) -> Option<Vec<NewRecord>> {
    let key = class.record_key.as_ref()?;
    let text = std::str::from_utf8(data).ok()?;
    if !text.trim_ascii_start().starts_with('[') {
        return None;
    }
    let items = split_array(text, RECORDS_MAX).ok()?;
    let mut scratch = Scratch::default();
    let record = |raw| {
        let Read { name, is_deleted } = read_record(&mut scratch, raw, key, class.record_delete.as_ref()).ok()?;
        let raw = raw.into();
        Some(NewRecord { name, raw, is_deleted })
    };
    let records: Option<Vec<_>> = items.into_iter().map(record).collect();
    records.map(last_of_each)
}

/// The last record of each name, at the index of the first.
fn last_of_each(records: Vec<NewRecord>) -> Vec<NewRecord> {
    let hasher = RandomState::default();
    let hash = |record: &NewRecord| hasher.hash_one(&record.name);
    let mut indices = HashTable::<usize>::with_capacity(records.len());
    let mut lasts: Vec<NewRecord> = Vec::with_capacity(records.len());
    for record in records {
        let is_same = |index: &usize| lasts[*index].name == record.name;
        match indices.entry(hash(&record), is_same, |index| hash(&lasts[*index])) {
            Entry::Occupied(index) => lasts[*index.get()] = record,
            Entry::Vacant(index) => {
                index.insert(lasts.len());
                lasts.push(record);
            }
        }
    }
    lasts
}

#[derive(Debug)]
struct Record {
    name: Arc<str>,
    raw: Arc<str>,
    version: u64,
    is_deleted: bool,
}

impl Record {
    fn bytes(&self) -> usize {
        RECORD_OVERHEAD + self.name.len() + self.raw.len()
    }
}

/// The merged records, in the order in which their keys were first seen.
#[derive(Debug, Default)]
pub(super) struct Records {
    indices: HashMap<Arc<str>, usize, RandomState>,
    records: Vec<Record>,
    // How many of them are deleted.
    deleted: usize,
    bytes: usize,
}

/// What merging the records of an event did.
#[derive(Debug, Default)]
pub(super) struct Merged {
    /// The texts that were replaced, to be dropped without a lock.
    pub(super) replaced: Vec<Arc<str>>,
    /// If records were forgotten to stay within the bounds: the newest version among them.
    pub(super) forgotten: Option<u64>,
}

impl Records {
    /// The text and the version of a record that is not deleted.
    pub(super) fn get(&self, name: &str) -> Option<(&Arc<str>, u64)> {
        let record = &self.records[*self.indices.get(name)?];
        (!record.is_deleted).then_some((&record.raw, record.version))
    }

    /// Merges the records of an event.
    pub(super) fn merge(&mut self, new: Vec<NewRecord>, version: u64) -> Merged {
        let mut merged = Merged::default();
        for NewRecord { name, raw, is_deleted } in new {
            self.bytes += raw.len();
            self.deleted += usize::from(is_deleted);
            if let Some(index) = self.indices.get(&*name) {
                let record = &mut self.records[*index];
                self.bytes -= record.raw.len();
                self.deleted -= usize::from(record.is_deleted);
                (record.version, record.is_deleted) = (version, is_deleted);
                merged.replaced.push(std::mem::replace(&mut record.raw, raw));
            } else {
                let name: Arc<str> = name.into();
                self.bytes += RECORD_OVERHEAD + name.len();
                self.indices.insert(Arc::clone(&name), self.records.len());
                self.records.push(Record {
                    name,
                    raw,
                    version,
                    is_deleted,
                });
            }
        }
        let deleted_max = DELETED_MIN.max(self.records.len() - self.deleted);
        if self.deleted > deleted_max {
            let count = self.deleted - deleted_max + deleted_max / 4;
            merged.forgotten = Some(self.forget_oldest(count, |record| record.is_deleted));
        }
        if self.records.len() > RECORDS_MAX {
            let forgotten = self.forget_oldest(RECORDS_MAX / 8, |_| true);
            merged.forgotten = merged.forgotten.max(Some(forgotten));
        }
        merged
    }

    /// All records in order, also those that are deleted: name, text, version.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, u64)> {
        self.records
            .iter()
            .map(|record| (&record.name, &record.raw, record.version))
    }

    // Forgets `count` of the records that are `meant`. There must be as many. It forgets many at once, because finding the
    // oldest means visiting all. Returns the newest version among them.
    fn forget_oldest(&mut self, count: usize, meant: impl Fn(&Record) -> bool) -> u64 {
        let of_them = self.records.iter().filter(|record| meant(record));
        let mut versions: Vec<u64> = of_them.map(|record| record.version).collect();
        let (_, last, _) = versions.select_nth_unstable(count - 1);
        let last = *last;
        let mut left = count;
        self.records.retain(|record| {
            let goes = left > 0 && record.version <= last && meant(record);
            if goes {
                left -= 1;
                self.bytes -= record.bytes();
                self.deleted -= usize::from(record.is_deleted);
            }
            !goes
        });
        self.indices.clear();
        let indices = self.records.iter().enumerate();
        self.indices
            .extend(indices.map(|(index, record)| (Arc::clone(&record.name), index)));
        last
    }

    /// A JSON array of the records with a higher version; 0 gives all records that are not deleted.
    pub(super) fn changed_after(&self, version: u64) -> Vec<u8> {
        let is_newcomer = version == 0;
        let changed = || {
            let records = self.records.iter();
            records.filter(move |record| record.version > version && !(is_newcomer && record.is_deleted))
        };
        let bytes: usize = changed().map(|record| record.raw.len() + 1).sum();
        let mut data = Vec::with_capacity(bytes + 2);
        data.push(b'[');
        for record in changed() {
            if data.len() > 1 {
                data.push(b',');
            }
            data.extend_from_slice(record.raw.as_bytes());
        }
        data.push(b']');
        data
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }
}
