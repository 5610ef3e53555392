//! Merged records: the value of a channel whose events are arrays of records, each identified by a key field.
//!
//! Invariant: for each key, [`Records`] holds the record of the newest event that contained the key, with that event's
//! version. A client that merges [`Records::changed_after`] a version into the records that it had at that version has the
//! same records.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::hash_table::Entry;
use hashbrown::{HashMap, HashTable};

use tickgate_protocol::json::{Scratch, record_name, split_array};

/// Most records of one channel. Beyond that, the records that changed longest ago are forgotten.
pub(super) const RECORDS_MAX: usize = 100_000;

/// The bytes of a record beside its text and key: its entries in the list and the table, and three allocations.
const RECORD_OVERHEAD: usize = 96;

/// One record of an event. It is parsed before the lock is taken.
#[derive(Clone, Debug)]
pub(super) struct NewRecord {
    pub(super) name: Box<str>,
    pub(super) raw: Arc<str>,
}

/// Parses the records of an event's `data`. Of records with the same name, only the last counts, as for the clients.
/// Returns `None` if `data` is not an array of records: it replaces the whole value then.
pub(super) fn read(data: &[u8], key: &str) -> Option<Vec<NewRecord>> {
    let text = std::str::from_utf8(data).ok()?;
    if !text.trim_ascii_start().starts_with('[') {
        return None;
    }
    let items = split_array(text, RECORDS_MAX).ok()?;
    let mut scratch = Scratch::default();
    let record = |raw| {
        let name = record_name(&mut scratch, raw, key).ok()?;
        Some(NewRecord { name, raw: raw.into() })
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
}

/// The merged records, in the order in which their keys were first seen.
#[derive(Debug, Default)]
pub(super) struct Records {
    indices: HashMap<Arc<str>, usize, RandomState>,
    records: Vec<Record>,
    bytes: usize,
}

impl Records {
    /// The text and the version of a record.
    pub(super) fn get(&self, name: &str) -> Option<(&Arc<str>, u64)> {
        let record = &self.records[*self.indices.get(name)?];
        Some((&record.raw, record.version))
    }

    /// Merges the records of an event. Returns the texts that they replace, to be dropped without a lock. If old records
    /// were forgotten to stay below [`RECORDS_MAX`], also returns the newest version among them.
    pub(super) fn merge(&mut self, new: Vec<NewRecord>, version: u64) -> (Vec<Arc<str>>, Option<u64>) {
        let mut replaced = Vec::new();
        for NewRecord { name, raw } in new {
            self.bytes += raw.len();
            if let Some(index) = self.indices.get(&*name) {
                let record = &mut self.records[*index];
                self.bytes -= record.raw.len();
                record.version = version;
                replaced.push(std::mem::replace(&mut record.raw, raw));
            } else {
                let name: Arc<str> = name.into();
                self.bytes += RECORD_OVERHEAD + name.len();
                self.indices.insert(Arc::clone(&name), self.records.len());
                self.records.push(Record { name, raw, version });
            }
        }
        let sheds = self.records.len() > RECORDS_MAX;
        let forgotten = sheds.then(|| self.forget_oldest(RECORDS_MAX / 8));
        (replaced, forgotten)
    }

    /// All records in order: name, text, version.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, u64)> {
        self.records
            .iter()
            .map(|record| (&record.name, &record.raw, record.version))
    }

    // Forgets many at once, because finding the oldest means visiting all. Returns the newest version among them.
    fn forget_oldest(&mut self, count: usize) -> u64 {
        let mut versions: Vec<u64> = self.records.iter().map(|record| record.version).collect();
        let (_, last, _) = versions.select_nth_unstable(count - 1);
        let last = *last;
        let mut left = count;
        self.records.retain(|record| {
            let goes = left > 0 && record.version <= last;
            if goes {
                left -= 1;
                self.bytes -= RECORD_OVERHEAD + record.name.len() + record.raw.len();
            }
            !goes
        });
        self.indices.clear();
        let indices = self.records.iter().enumerate();
        self.indices
            .extend(indices.map(|(index, record)| (Arc::clone(&record.name), index)));
        last
    }

    /// A JSON array of the records with a higher version; 0 gives all records.
    pub(super) fn changed_after(&self, version: u64) -> Vec<u8> {
        let changed = || self.records.iter().filter(move |record| record.version > version);
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
