//! The content of a file, read as a whole and checked, before anything is done with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use redb::ReadTransaction;

use super::commands::{self, CommandRecord};
use super::layout::{
    CHANNEL, ChannelRow, EVENT, EventRow, FORGOTTEN, ID, LAST, LAYOUT_PLAIN, Meta, PLAIN_CHANNEL, PlainChannelRow,
    RECORD, STRIPE, Sum, TOMBSTONE,
};
use super::names::StoredName;
use super::{Contents, Error, revocations, sessions};
use crate::hub::{STRIPES, StripeCounters};
use tickgate_protocol::json::check_value;

/// The values of a row.
type Row<'r, V> = <V as redb::Value>::SelfType<'r>;

/// Everything in a file.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// By stripe.
    pub(super) counters: [StripeCounters; STRIPES],
    /// Each with the version of its eviction and the stripe that it was in.
    pub(super) tombstones: Vec<(u64, u8, StoredTombstone)>,
    /// By name.
    pub(super) channels: BTreeMap<Box<str>, Stored>,
    pub(super) ids: Vec<StoredId>,
    /// Keys of commands, each with the name of its tenant, which is empty for the default one.
    pub(super) commands: Vec<(Box<str>, CommandRecord)>,
    /// Socket.IO sessions that ended, encoded.
    pub(super) sessions: Vec<Box<[u8]>>,
    pub(super) revocations: Vec<revocations::Stored>,
}

/// An evicted channel.
#[derive(Debug)]
pub(super) struct StoredTombstone {
    pub(super) name: StoredName,
    pub(super) latest: u64,
}

/// A channel.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) name: StoredName,
    pub(super) stripe: u8,
    pub(super) floor: u64,
    pub(super) latest: u64,
    /// Until when newcomers get the last value, in Unix milliseconds.
    pub(super) fresh_until_ms: Option<i64>,
    pub(super) record_key: Option<Box<str>>,
    pub(super) last: Option<StoredEvent>,
    pub(super) events: Vec<StoredEvent>,
    pub(super) records: Vec<StoredRecord>,
    // What its other rows' checksums should add up to, and what they do.
    expected: u64,
    found: u64,
}

/// An event of a history, or a last value.
#[derive(Debug)]
pub(super) struct StoredEvent {
    pub(super) version: u64,
    /// When it was accepted, in Unix milliseconds.
    pub(super) at_unix_ms: i64,
    pub(super) name: Box<str>,
    pub(super) timestamp_ms: u64,
    pub(super) data: Bytes,
}

/// A merged record.
#[derive(Debug)]
pub(super) struct StoredRecord {
    pub(super) name: Box<str>,
    pub(super) version: u64,
    pub(super) index: u64,
    pub(super) raw: Box<str>,
}

/// The id of an accepted event.
#[derive(Debug)]
pub(super) struct StoredId {
    pub(super) stripe: u8,
    pub(super) id: u128,
    pub(super) version: u64,
    /// When it was saved, in Unix milliseconds.
    pub(super) noted_ms: u64,
}

impl Content {
    /// Reads a file and checks it as a whole.
    ///
    /// # Errors
    ///
    /// If it is damaged or cannot be read.
    pub(super) fn read(transaction: &ReadTransaction, meta: Meta) -> Result<Self, Error> {
        let (mut content, mut sum, layout) = (Self::default(), Sum::default(), meta.layout);
        let (this, rows) = (&mut content, &mut sum);
        STRIPE.read(transaction, layout, rows, |_, stripe, row| this.add_stripe(stripe, row))?;
        FORGOTTEN.read(transaction, layout, rows, |_, stripe, row| {
            this.add_forgotten(stripe, row)
        })?;
        TOMBSTONE.read(transaction, layout, rows, |_, name, row| this.add_tombstone(name, row))?;
        if layout == LAYOUT_PLAIN {
            PLAIN_CHANNEL.read(transaction, layout, rows, |_, name, row| {
                this.add_plain_channel(name, row)
            })?;
        } else {
            CHANNEL.read(transaction, layout, rows, |_, name, row| this.add_channel(name, row))?;
        }
        // In layout 1, rows without their channel were never read.
        let belongs = |found: bool| {
            let is_fine = found || layout == LAYOUT_PLAIN;
            is_fine
                .then_some(())
                .ok_or(Error::damaged("it has rows of a channel that it does not have"))
        };
        LAST.read(transaction, layout, rows, |sum, name, row| {
            belongs(this.add_last(sum, name, row)?)
        })?;
        EVENT.read(transaction, layout, rows, |sum, key, row| {
            belongs(this.add_event(sum, key, row)?)
        })?;
        RECORD.read(transaction, layout, rows, |sum, key, row| {
            belongs(this.add_record(sum, key, row))
        })?;
        ID.read(transaction, layout, rows, |_, key, row| this.add_id(key, row))?;
        meta.check(sum)?;
        content.commands = commands::read(transaction, layout)?;
        content.sessions = sessions::read(transaction, layout)?;
        content.revocations = revocations::read(transaction, layout)?;
        if layout != LAYOUT_PLAIN && !content.channels.values().all(Stored::is_whole) {
            return Err(Error::damaged("rows of a channel are missing"));
        }
        for stored in content.channels.values_mut() {
            stored.records.sort_by_key(|record| record.index);
        }
        Ok(content)
    }

    pub(super) fn add_stripe(&mut self, stripe: u8, (newest, evicted): Row<'_, (u64, u64)>) -> Result<(), Error> {
        let counters = self.stripe(stripe)?;
        // The table `forgotten` overrides the last one, where the file has it.
        (counters.newest, counters.evicted, counters.forgotten) = (newest, evicted, evicted);
        Ok(())
    }

    pub(super) fn add_forgotten(&mut self, stripe: u8, version: u64) -> Result<(), Error> {
        self.stripe(stripe)?.forgotten = version;
        Ok(())
    }

    fn stripe(&mut self, stripe: u8) -> Result<&mut StripeCounters, Error> {
        let counters = self.counters.get_mut(usize::from(stripe));
        counters.ok_or(Error::damaged("it has too many stripes"))
    }

    pub(super) fn add_tombstone(&mut self, name: &str, row: Row<'_, (u8, u64, u64)>) -> Result<(), Error> {
        let (stripe, version, latest) = row;
        let name = StoredName::parse(name)?;
        self.tombstones
            .push((version, stripe, StoredTombstone { name, latest }));
        Ok(())
    }

    fn add_plain_channel(&mut self, name: &str, row: Row<'_, PlainChannelRow>) -> Result<(), Error> {
        let (stripe, floor, latest, fresh_until_ms, record_key) = row;
        self.add_channel(name, (stripe, floor, latest, fresh_until_ms, record_key, 0))
    }

    pub(super) fn add_channel(&mut self, name: &str, row: Row<'_, ChannelRow>) -> Result<(), Error> {
        let (stripe, floor, latest, fresh_until_ms, record_key, expected) = row;
        let stored = Stored {
            name: StoredName::parse(name)?,
            stripe,
            floor,
            latest,
            fresh_until_ms,
            record_key: record_key.map(Into::into),
            last: None,
            events: Vec::new(),
            records: Vec::new(),
            expected,
            found: 0,
        };
        self.channels.insert(name.into(), stored);
        Ok(())
    }

    /// Returns whether the file has the channel.
    pub(super) fn add_last(&mut self, sum: u64, name: &str, row: Row<'_, (u64, EventRow)>) -> Result<bool, Error> {
        let event = stored_event(row.0, row.1)?;
        Ok(self.with_channel(name, sum, |stored| stored.last = Some(event)))
    }

    /// Returns whether the file has the channel.
    pub(super) fn add_event(
        &mut self,
        sum: u64,
        (name, version): (&str, u64),
        row: Row<'_, EventRow>,
    ) -> Result<bool, Error> {
        let event = stored_event(version, row)?;
        Ok(self.with_channel(name, sum, |stored| stored.events.push(event)))
    }

    /// Returns whether the file has the channel.
    pub(super) fn add_record(&mut self, sum: u64, (owner, name): (&str, &str), row: (u64, u64, &str)) -> bool {
        let (version, index, raw) = row;
        let record = StoredRecord {
            name: name.into(),
            version,
            index,
            raw: raw.into(),
        };
        self.with_channel(owner, sum, |stored| stored.records.push(record))
    }

    pub(super) fn add_id(&mut self, (stripe, id): (u8, u128), row: (u64, u64)) -> Result<(), Error> {
        self.stripe(stripe)?;
        let (version, noted_ms) = row;
        self.ids.push(StoredId {
            stripe,
            id,
            version,
            noted_ms,
        });
        Ok(())
    }

    fn with_channel(&mut self, name: &str, sum: u64, add: impl FnOnce(&mut Stored)) -> bool {
        let stored = self.channels.get_mut(name);
        stored.is_some_and(|stored| {
            stored.found = stored.found.wrapping_add(sum);
            add(stored);
            true
        })
    }

    /// Counts what is there.
    pub(super) fn count(&self) -> Contents {
        let sum = |count: fn(&Stored) -> usize| self.channels.values().map(|stored| count(stored) as u64).sum();
        Contents {
            channels: self.channels.len() as u64,
            events: sum(|stored| stored.events.len()),
            lasts: sum(|stored| usize::from(stored.last.is_some())),
            records: sum(|stored| stored.records.len()),
            evicted_names: self.tombstones.len() as u64,
            ids: self.ids.len() as u64,
            command_keys: self.commands.len() as u64,
            sessions: self.sessions.len() as u64,
            revocations: self.revocations.len() as u64,
        }
    }
}

impl Stored {
    /// Whether all rows of the channel are there, in a file of layout 2.
    pub(super) const fn is_whole(&self) -> bool {
        self.expected == self.found
    }

    /// The sum of the checksums of the channel's other rows.
    pub(super) const fn sum(&self) -> u64 {
        self.found
    }
}

fn stored_event(version: u64, row: Row<'_, EventRow>) -> Result<StoredEvent, Error> {
    let (at_unix_ms, name, timestamp_ms, data) = row;
    let text = std::str::from_utf8(data).map_err(|_| Error::damaged("an event's data is not UTF-8"))?;
    check_value(text).map_err(|_| Error::damaged("an event's data is not JSON"))?;
    Ok(StoredEvent {
        version,
        at_unix_ms,
        name: name.into(),
        timestamp_ms,
        data: Bytes::copy_from_slice(data),
    })
}
