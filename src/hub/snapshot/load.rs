//! Restoring the state from the file.

use std::sync::Arc;

use bytes::Bytes;
use redb::{ReadTransaction, ReadableDatabase, ReadableTable, TableError};

use super::{CHANNEL, EVENT, Error, FORGOTTEN, ID, LAST, Loaded, RECORD, STRIPE, Snapshot, TOMBSTONE, unix_ms};
use crate::event::{Event, EventId, EventMeta, NewEvent, PublishOptions, Transit};
use crate::hub::{ChannelExport, Hub, IDS_RESTORED_MAX, RecordExport, STRIPES, StripeCounters, Tombstone};
use crate::time::Now;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::json::check_value;

/// The values of an event's row.
type Row<'r> = (i64, &'r str, u64, &'r [u8]);

fn restore_counters(hub: &Hub, all: &[StripeCounters; STRIPES]) {
    for (stripe, counters) in (0u8..).zip(all) {
        hub.restore_counters(stripe, *counters);
    }
}

fn load_tombstones(transaction: &ReadTransaction, hub: &Hub, shift: u64) -> Result<(), Error> {
    let Some(table) = optional(transaction.open_table(TOMBSTONE))? else {
        return Ok(());
    };
    let mut all = Vec::new();
    for row in table.iter()? {
        let (name, row) = row?;
        let (_, version, latest) = row.value();
        let channel = Channel::parse(name.value()).map_err(|_| Error::Damaged("a channel name is invalid"))?;
        let latest = latest + shift;
        all.push((version + shift, Tombstone { channel, latest }));
    }
    all.sort_unstable_by_key(|(version, _)| *version);
    for (version, tombstone) in all {
        hub.restore_tombstone(version, tombstone);
    }
    Ok(())
}

impl Snapshot {
    /// Restores the file's content into the hub, and makes the hub note its changes from now on. The hub must be new and
    /// have this snapshot's epoch.
    ///
    /// # Errors
    ///
    /// If the file is damaged or cannot be read. The hub must not be used then.
    pub fn load(&mut self, hub: &Hub, now: Now) -> Result<Loaded, Error> {
        hub.track();
        let mut loaded = Loaded {
            was_open: self.was_open,
            ..Loaded::default()
        };
        let transaction = self.database()?.begin_read()?;
        // In a new epoch all versions grow by one, so that no floor is zero. A floor of zero would say that the history is
        // complete from the channel's beginning, although events may be lost. The shift also applies if the last run never
        // saved anything.
        let shift = u64::from(self.was_open);
        let mut counters = [StripeCounters::at(shift); STRIPES];
        if let Some(stripes) = optional(transaction.open_table(STRIPE))? {
            for row in stripes.iter()? {
                let (stripe, row) = row?;
                let (newest, evicted) = row.value();
                let restored = counters.get_mut(usize::from(stripe.value()));
                *restored.ok_or(Error::Damaged("it has too many stripes"))? = StripeCounters {
                    newest: newest + shift,
                    evicted: evicted + shift,
                    // The table `FORGOTTEN` below overrides this.
                    forgotten: evicted + shift,
                };
            }
        }
        if let Some(forgotten) = optional(transaction.open_table(FORGOTTEN))? {
            for row in forgotten.iter()? {
                let (stripe, version) = row?;
                let restored = counters.get_mut(usize::from(stripe.value()));
                restored.ok_or(Error::Damaged("it has too many stripes"))?.forgotten = version.value() + shift;
            }
        }
        // Before the channels, because channels that exceed the bounds are evicted at once, with new versions.
        restore_counters(hub, &counters);
        load_tombstones(&transaction, hub, shift)?;
        let is_moved = self.load_channels(&transaction, hub, shift, now, &mut loaded)?;
        if is_moved {
            // The channels are distributed over the stripes in another way than when the file was written. So every counter
            // must be at the maximum.
            let newest = counters
                .iter()
                .map(|counters| counters.newest)
                .max()
                .unwrap_or_default();
            restore_counters(hub, &[StripeCounters::at(newest); STRIPES]);
        }
        self.load_ids(&transaction, hub, shift, now)?;
        // In a new epoch, all versions in the file are out of date.
        self.is_behind = self.was_open;
        Ok(loaded)
    }

    /// Returns whether a channel is now in another stripe than when it was saved.
    fn load_channels(
        &self,
        transaction: &ReadTransaction,
        hub: &Hub,
        shift: u64,
        now: Now,
        loaded: &mut Loaded,
    ) -> Result<bool, Error> {
        let Some(channels) = optional(transaction.open_table(CHANNEL))? else {
            return Ok(false);
        };
        let events = transaction.open_table(EVENT)?;
        let lasts = transaction.open_table(LAST)?;
        let records = transaction.open_table(RECORD)?;
        let mut is_moved = false;
        for row in channels.iter()? {
            let (name, row) = row?;
            let (stripe, floor, latest, fresh_until_ms, key) = row.value();
            let name = name.value();
            let channel = Channel::parse(name).map_err(|_| Error::Damaged("a channel name is invalid"))?;
            let class = Arc::clone(hub.class_of(&channel));
            let event = |version: u64, (_, event, timestamp_ms, data): Row<'_>| -> Result<Arc<Event>, Error> {
                let text = std::str::from_utf8(data).map_err(|_| Error::Damaged("an event's data is not UTF-8"))?;
                check_value(text).map_err(|_| Error::Damaged("an event's data is not JSON"))?;
                let new = NewEvent {
                    channel: channel.clone(),
                    name: event.into(),
                    data: Bytes::copy_from_slice(data),
                    timestamp_ms,
                    options: PublishOptions::default(),
                };
                let version = version + shift;
                let meta = EventMeta {
                    offset: class.history.map(|_| version),
                    version,
                    class: Arc::clone(&class),
                };
                Ok(Arc::new(Event::in_transit(new, meta, Transit::default())))
            };
            let mut export = ChannelExport {
                channel: channel.clone(),
                floor: floor + shift,
                latest: latest + shift,
                last: None,
                fresh_ms: fresh_until_ms.map(|until_ms| until_ms.saturating_sub(unix_ms(now))),
                events: Vec::new(),
                records: Vec::new(),
                record_key: key.map(Into::into),
                restarted: true,
            };
            if let Some(last) = lasts.get(name)? {
                let (version, row) = last.value();
                export.last = Some(event(version, row)?);
            }
            for row in events.range((name, 0)..=(name, u64::MAX))? {
                let (key, row) = row?;
                let (row, version) = (row.value(), key.value().1);
                export
                    .events
                    .push((event(version, row)?, unix_ms(now).saturating_sub(row.0)));
            }
            for row in records.range((name, "")..)? {
                let (key, row) = row?;
                let (owner, key) = key.value();
                if owner != name {
                    break;
                }
                let (version, index, raw) = row.value();
                export.records.push(RecordExport {
                    name: key.into(),
                    raw: raw.into(),
                    version: version + shift,
                    index,
                });
            }
            export.records.sort_by_key(|record| record.index);
            loaded.channels += 1;
            loaded.events += export.events.len() as u64;
            is_moved |= hub.restore(export, now) != stripe;
        }
        Ok(is_moved)
    }

    fn load_ids(&self, transaction: &ReadTransaction, hub: &Hub, shift: u64, now: Now) -> Result<(), Error> {
        let Some(ids) = optional(transaction.open_table(ID))? else {
            return Ok(());
        };
        let oldest_ms = now.unix_ms.saturating_sub(self.settings.dedup_window_ms);
        let mut found = Vec::new();
        for row in ids.iter()? {
            let (key, row) = row?;
            let ((stripe, id), (version, noted_ms)) = (key.value(), row.value());
            if noted_ms >= oldest_ms {
                // 0 stands for a channel without versions.
                let version = if version == 0 { 0 } else { version + shift };
                found.push((noted_ms, stripe, id, version));
            }
        }
        // Only the newest ids are restored, in the order of their age.
        found.sort_unstable();
        for (_, stripe, id, version) in found.drain(found.len().saturating_sub(IDS_RESTORED_MAX)..) {
            hub.restore_id(stripe, EventId(id.to_be_bytes()), version);
        }
        Ok(())
    }
}

/// Turns "the table does not exist" into `None`.
fn optional<T>(table: Result<T, TableError>) -> Result<Option<T>, Error> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
