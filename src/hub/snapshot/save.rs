//! Saving what changed.

use redb::{ReadableTable, Table, WriteTransaction};

use super::{
    CHANNEL, ChannelRow, EVENT, Error, EventRow, FORGOTTEN, ID, LAST, RECORD, STRIPE, Snapshot, TOMBSTONE, unix_ms,
};
use crate::event::Event;
use crate::hub::{ChannelExport, Hub, STRIPES};
use crate::time::Now;
use tickgate_protocol::channel::Channel;

/// The tables of channels, open in one transaction.
struct Tables<'t> {
    channels: Table<'t, &'static str, ChannelRow>,
    events: Table<'t, (&'static str, u64), EventRow>,
    lasts: Table<'t, &'static str, (u64, EventRow)>,
    records: Table<'t, (&'static str, &'static str), (u64, u64, &'static str)>,
}

impl Snapshot {
    /// Saves what changed in the hub since the last save.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Its content is unchanged then. The next call opens the file again and saves
    /// everything.
    pub fn save(&mut self, hub: &Hub, now: Now) -> Result<(), Error> {
        if self.database.is_none() {
            self.reopen()?;
        }
        let all = std::mem::replace(&mut self.is_behind, true);
        let written = match self.write(hub, all, now) {
            Ok(false) => self.write(hub, true, now),
            written => written,
        };
        // After a failure the database refuses everything.
        written.inspect_err(|_| self.database = None)?;
        self.is_behind = false;
        Ok(())
    }

    /// Returns `false`, and writes nothing, if the hub could not note all changes since the last export.
    fn write(&self, hub: &Hub, all: bool, now: Now) -> Result<bool, Error> {
        let transaction = self.database()?.begin_write()?;
        if all {
            clear(&transaction)?;
        }
        {
            let mut tables = Tables {
                channels: transaction.open_table(CHANNEL)?,
                events: transaction.open_table(EVENT)?,
                lasts: transaction.open_table(LAST)?,
                records: transaction.open_table(RECORD)?,
            };
            let mut stripes = transaction.open_table(STRIPE)?;
            let mut forgotten = transaction.open_table(FORGOTTEN)?;
            let mut tombstones = transaction.open_table(TOMBSTONE)?;
            let mut ids = transaction.open_table(ID)?;
            for stripe in (0u8..).take(STRIPES) {
                let export = hub.export(stripe, all, now);
                if export.is_partial {
                    return Ok(false);
                }
                let counters = export.counters;
                stripes.insert(stripe, (counters.newest, counters.evicted))?;
                for (version, tombstone) in &export.tombstones {
                    tombstones.insert(tombstone.channel.as_str(), (stripe, *version, tombstone.latest))?;
                }
                let before = forgotten
                    .insert(stripe, counters.forgotten)?
                    .map(|before| before.value());
                if before < Some(counters.forgotten) {
                    tombstones.retain(|_, (of, version, _)| of != stripe || version > counters.forgotten)?;
                }
                for channel in &export.gone {
                    tables.remove(channel)?;
                }
                for channel in &export.channels {
                    tables.write(stripe, channel, now)?;
                }
                for (id, version) in export.ids {
                    ids.insert((stripe, u128::from_be_bytes(id.0)), (version, now.unix_ms))?;
                }
            }
            // Ids are remembered for at most twice the window, also after a restart.
            let oldest_ms = now
                .unix_ms
                .saturating_sub(self.settings.dedup_window_ms.saturating_mul(2));
            ids.retain(|_, (_, noted_ms)| noted_ms >= oldest_ms)?;
        }
        transaction.commit()?;
        Ok(true)
    }
}

/// Empties the tables that a complete export fills.
fn clear(transaction: &WriteTransaction) -> Result<(), Error> {
    transaction.delete_table(CHANNEL)?;
    transaction.delete_table(EVENT)?;
    transaction.delete_table(LAST)?;
    transaction.delete_table(RECORD)?;
    transaction.delete_table(TOMBSTONE)?;
    transaction.delete_table(ID)?;
    Ok(())
}

impl Tables<'_> {
    fn remove(&mut self, channel: &Channel) -> Result<(), Error> {
        let name = channel.as_str();
        self.channels.remove(name)?;
        self.lasts.remove(name)?;
        self.remove_events(name, u64::MAX)?;
        self.remove_records(name)
    }

    /// Removes the channel's events up to this version.
    fn remove_events(&mut self, name: &str, last: u64) -> Result<(), Error> {
        self.events.retain_in((name, 0)..=(name, last), |_, _| false)?;
        Ok(())
    }

    fn remove_records(&mut self, name: &str) -> Result<(), Error> {
        let keys: Vec<String> = self
            .records
            .range((name, "")..)?
            .map(|row| row.map(|(key, _)| (key.value().0 == name).then(|| key.value().1.to_owned())))
            .take_while(|key| !matches!(key, Ok(None)))
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        for key in keys {
            self.records.remove((name, key.as_str()))?;
        }
        Ok(())
    }

    fn write(&mut self, stripe: u8, export: &ChannelExport, now: Now) -> Result<(), Error> {
        let name = export.channel.as_str();
        let fresh_until_ms = export.fresh_ms.map(|fresh_ms| unix_ms(now).saturating_add(fresh_ms));
        let key = export.record_key.as_deref();
        self.channels
            .insert(name, (stripe, export.floor, export.latest, fresh_until_ms, key))?;
        self.remove_events(name, export.floor)?;
        for (event, age_ms) in &export.events {
            let row = row(event, unix_ms(now).saturating_sub(*age_ms));
            self.events.insert((name, event.version), row)?;
        }
        match &export.last {
            Some(last) => drop(self.lasts.insert(name, (last.version, row(last, 0)))?),
            None => drop(self.lasts.remove(name)?),
        }
        if export.restarted {
            self.remove_records(name)?;
        }
        for record in &export.records {
            let value = (record.version, record.index, &*record.raw);
            self.records.insert((name, &*record.name), value)?;
        }
        Ok(())
    }
}

fn row(event: &Event, at_unix_ms: i64) -> (i64, &str, u64, &[u8]) {
    (at_unix_ms, &event.name, event.timestamp_ms, &event.data)
}
