//! Merged records: the value of a channel whose events are partial updates keyed by one field.
//!
//! Invariant: for each key, [`Records`] holds the record of the newest event that had it, with that event's version.
//! Whoever merges [`Records::changed_after`] some version into what it held at that version holds the same.

use std::hash::BuildHasher;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::hash_table::Entry;
use hashbrown::{HashMap, HashTable};

use tickgate_protocol::json::{Scratch, record_name, split_array};

/// Most records of one channel; beyond that those that changed longest ago are forgotten.
pub(super) const RECORDS_MAX: usize = 100_000;

/// What a record takes beside its text and key: its place in the list and in the table, and three allocations.
const RECORD_OVERHEAD: usize = 96;

/// One record of an event, read before the lock is taken.
#[derive(Clone, Debug)]
pub(super) struct NewRecord {
    pub(super) name: Box<str>,
    pub(super) raw: Arc<str>,
}

/// The records of an event's `data`, of each name the last one: that is what its receivers end with. `None`: it is no
/// array of them, so that it stands for the whole value.
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

/// Of each name the last record, in the place of the first.
fn last_of_each(records: Vec<NewRecord>) -> Vec<NewRecord> {
    let hasher = RandomState::default();
    let hash = |record: &NewRecord| hasher.hash_one(&record.name);
    let mut places = HashTable::<usize>::with_capacity(records.len());
    let mut lasts: Vec<NewRecord> = Vec::with_capacity(records.len());
    for record in records {
        let is_same = |place: &usize| lasts[*place].name == record.name;
        match places.entry(hash(&record), is_same, |place| hash(&lasts[*place])) {
            Entry::Occupied(place) => lasts[*place.get()] = record,
            Entry::Vacant(place) => {
                place.insert(lasts.len());
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

/// The merge, in the order in which keys were first seen.
#[derive(Debug, Default)]
pub(super) struct Records {
    places: HashMap<Arc<str>, usize, RandomState>,
    records: Vec<Record>,
    bytes: usize,
}

impl Records {
    /// A record's text and version.
    pub(super) fn get(&self, name: &str) -> Option<(&Arc<str>, u64)> {
        let record = &self.records[*self.places.get(name)?];
        Some((&record.raw, record.version))
    }

    /// Takes an event's records in; gives what they replace, to be dropped when nothing is locked, and up to which
    /// version others were forgotten.
    pub(super) fn merge(&mut self, new: Vec<NewRecord>, version: u64) -> (Vec<Arc<str>>, Option<u64>) {
        let mut replaced = Vec::new();
        for NewRecord { name, raw } in new {
            self.bytes += raw.len();
            if let Some(place) = self.places.get(&*name) {
                let record = &mut self.records[*place];
                self.bytes -= record.raw.len();
                record.version = version;
                replaced.push(std::mem::replace(&mut record.raw, raw));
            } else {
                let name: Arc<str> = name.into();
                self.bytes += RECORD_OVERHEAD + name.len();
                self.places.insert(Arc::clone(&name), self.records.len());
                self.records.push(Record { name, raw, version });
            }
        }
        let sheds = self.records.len() > RECORDS_MAX;
        let forgotten = sheds.then(|| self.forget_oldest(RECORDS_MAX / 8));
        (replaced, forgotten)
    }

    /// All records, in order: name, text, version.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, u64)> {
        self.records
            .iter()
            .map(|record| (&record.name, &record.raw, record.version))
    }

    // Many at once, since finding them means looking at all. The newest version of them.
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
        self.places.clear();
        let places = self.records.iter().enumerate();
        self.places
            .extend(places.map(|(place, record)| (Arc::clone(&record.name), place)));
        last
    }

    /// The array of the records with a version above this one: all of them for 0.
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
