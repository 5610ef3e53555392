//! Saving what changed.

use redb::{ReadableTable as _, TableHandle as _, WriteTransaction};

use super::layout::{
    CHANNEL, ChannelRow, Checked, EVENT, EventRow, FORGOTTEN, ID, LAST, LAYOUT, Meta, RECORD, STRIPE, TABLES, TOMBSTONE,
};
use super::{Error, Snapshot, guarded, names, revocations, unix_ms};
use crate::event::Event;
use crate::hub::{ChannelExport, Hub, STRIPES};
use crate::time::Now;

/// All tables, open in one transaction.
pub(super) struct Tables<'t> {
    pub(super) stripes: Checked<'t, u8, (u64, u64)>,
    pub(super) forgotten: Checked<'t, u8, u64>,
    pub(super) tombstones: Checked<'t, &'static str, (u8, u64, u64)>,
    pub(super) channels: Checked<'t, &'static str, ChannelRow>,
    pub(super) lasts: Checked<'t, &'static str, (u64, EventRow)>,
    pub(super) events: Checked<'t, (&'static str, u64), EventRow>,
    pub(super) records: Checked<'t, (&'static str, &'static str), (u64, u64, &'static str)>,
    pub(super) ids: Checked<'t, (u8, u128), (u64, u64)>,
}

impl Snapshot {
    /// Saves what changed in the hub since the last save.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. Its content is unchanged then. The next call opens the file again and saves
    /// everything.
    pub fn save(&mut self, hub: &Hub, now: Now) -> Result<(), Error> {
        if self.store.is_none() {
            self.reopen()?;
        }
        let all = std::mem::replace(&mut self.is_behind, true);
        let written = guarded(|| {
            let revocations = self.write_revocations(all, now)?;
            if !self.write(hub, all, now)? {
                self.write(hub, true, now)?;
            }
            Ok(revocations)
        });
        match written {
            Ok(revocations) => {
                self.revocations_saved = Some(revocations);
                if let Some(store) = &mut self.store {
                    // A complete save has converted the file.
                    store.layout = LAYOUT;
                }
                self.is_behind = false;
                Ok(())
            }
            Err(error) => {
                // After a failure the database refuses everything.
                if let Some(store) = self.store.take() {
                    let _ = guarded(|| {
                        drop(store);
                        Ok(())
                    });
                }
                Err(error)
            }
        }
    }

    /// Writes the revocations if they changed, and returns their version.
    fn write_revocations(&self, all: bool, now: Now) -> Result<u64, Error> {
        // A change during the writing is written the next time.
        let version = self.revocations.version();
        if self.revocations_saved == Some(version) && !(all && version > 0) {
            return Ok(version);
        }
        let list = self.revocations.list(None, now.unix_ms);
        let tenants = &self.settings.tenants;
        let rows = list.iter().map(|one| (revocations::name(tenants, one.tenant), one));
        let transaction = self.store()?.database.begin_write()?;
        revocations::write(&transaction, rows)?;
        transaction.commit()?;
        Ok(version)
    }

    /// Returns `false`, and writes nothing, if the hub could not note all changes since the last export.
    fn write(&self, hub: &Hub, all: bool, now: Now) -> Result<bool, Error> {
        let store = self.store()?;
        if !store.file.is_at(self.path()) {
            return Err(Error::Replaced);
        }
        let tenants = &self.settings.tenants;
        let transaction = store.database.begin_write()?;
        if all {
            clear(&transaction)?;
            Meta::open(LAYOUT, self.epoch).write(&transaction)?;
        }
        {
            let mut tables = Tables::open(&transaction)?;
            for stripe in (0u8..).take(STRIPES) {
                let export = hub.export(stripe, all, now);
                if export.is_partial {
                    return Ok(false);
                }
                let counters = export.counters;
                STRIPE.insert(&mut tables.stripes, stripe, (counters.newest, counters.evicted))?;
                for (version, tombstone) in &export.tombstones {
                    let row = (stripe, *version, tombstone.latest);
                    let name = names::text(&tombstone.channel, tenants);
                    TOMBSTONE.insert(&mut tables.tombstones, &*name, row)?;
                }
                let before = tables.forgotten.get(stripe)?.map(|row| row.value().1);
                FORGOTTEN.insert(&mut tables.forgotten, stripe, counters.forgotten)?;
                if before < Some(counters.forgotten) {
                    let is_kept = |(of, version, _): (u8, u64, u64)| of != stripe || version > counters.forgotten;
                    tables.tombstones.retain(|_, (_, row)| is_kept(row))?;
                }
                for channel in &export.gone {
                    tables.remove(&names::text(channel, tenants))?;
                }
                for channel in &export.channels {
                    tables.write(stripe, &names::text(&channel.channel, tenants), channel, now)?;
                }
                for (id, version) in export.ids {
                    let key = (stripe, u128::from_be_bytes(id.0));
                    ID.insert(&mut tables.ids, key, (version, now.unix_ms))?;
                }
            }
            // Ids are remembered for at most twice the window, also after a restart.
            let oldest_ms = now
                .unix_ms
                .saturating_sub(self.settings.dedup_window_ms.saturating_mul(2));
            tables.ids.retain(|_, (_, (_, noted_ms))| noted_ms >= oldest_ms)?;
        }
        transaction.commit()?;
        Ok(true)
    }
}

/// Removes the tables, whose rows may be those of an earlier layout.
fn clear(transaction: &WriteTransaction) -> Result<(), Error> {
    let tables: Vec<_> = transaction.list_tables()?.collect();
    for table in tables {
        if TABLES.contains(&table.name()) {
            transaction.delete_table(table)?;
        }
    }
    Ok(())
}

/// The sum of the checksums of a channel's rows, while they change.
struct RowSum(u64);

impl RowSum {
    const fn add(&mut self, checksum: u64) {
        self.0 = self.0.wrapping_add(checksum);
    }

    const fn subtract(&mut self, checksum: u64) {
        self.0 = self.0.wrapping_sub(checksum);
    }

    fn replace(&mut self, (inserted, replaced): (u64, Option<u64>)) {
        self.add(inserted);
        self.subtract(replaced.unwrap_or_default());
    }
}

impl<'t> Tables<'t> {
    /// Opens the tables, and creates those that do not exist.
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, Error> {
        Ok(Self {
            stripes: transaction.open_table(STRIPE.checked())?,
            forgotten: transaction.open_table(FORGOTTEN.checked())?,
            tombstones: transaction.open_table(TOMBSTONE.checked())?,
            channels: transaction.open_table(CHANNEL.checked())?,
            lasts: transaction.open_table(LAST.checked())?,
            events: transaction.open_table(EVENT.checked())?,
            records: transaction.open_table(RECORD.checked())?,
            ids: transaction.open_table(ID.checked())?,
        })
    }

    fn remove(&mut self, name: &str) -> Result<(), Error> {
        let mut sum = RowSum(0);
        self.channels.remove(name)?;
        self.lasts.remove(name)?;
        self.remove_events(name, u64::MAX, &mut sum)?;
        self.remove_records(name, &mut sum)
    }

    /// Removes the channel's events up to this version.
    fn remove_events(&mut self, name: &str, last: u64, sum: &mut RowSum) -> Result<(), Error> {
        self.events.retain_in((name, 0)..=(name, last), |_, (checksum, _)| {
            sum.subtract(checksum);
            false
        })?;
        Ok(())
    }

    fn remove_records(&mut self, name: &str, sum: &mut RowSum) -> Result<(), Error> {
        let keys: Vec<String> = self
            .records
            .range((name, "")..)?
            .map(|row| row.map(|(key, _)| (key.value().0 == name).then(|| key.value().1.to_owned())))
            .take_while(|key| !matches!(key, Ok(None)))
            .filter_map(Result::transpose)
            .collect::<Result<_, _>>()?;
        for key in keys {
            if let Some(removed) = self.records.remove((name, key.as_str()))? {
                sum.subtract(removed.value().0);
            }
        }
        Ok(())
    }

    fn write(&mut self, stripe: u8, name: &str, export: &ChannelExport, now: Now) -> Result<(), Error> {
        let fresh_until_ms = export.fresh_ms.map(|fresh_ms| unix_ms(now).saturating_add(fresh_ms));
        let before = self.channels.get(name)?.map(|row| row.value().1.5);
        let mut sum = RowSum(before.unwrap_or_default());
        self.remove_events(name, export.floor, &mut sum)?;
        for (event, age_ms) in &export.events {
            let row = row(event, unix_ms(now).saturating_sub(*age_ms));
            sum.replace(EVENT.insert(&mut self.events, (name, event.version), row)?);
        }
        match &export.last {
            Some(last) => {
                let at_unix_ms = export
                    .last_age_ms
                    .map_or(0, |age_ms| unix_ms(now).saturating_sub(age_ms));
                sum.replace(LAST.insert(&mut self.lasts, name, (last.version, row(last, at_unix_ms)))?);
            }
            None => {
                if let Some(removed) = self.lasts.remove(name)? {
                    sum.subtract(removed.value().0);
                }
            }
        }
        if export.restarted {
            self.remove_records(name, &mut sum)?;
        }
        for record in &export.records {
            let row = (record.version, record.index, &*record.raw);
            sum.replace(RECORD.insert(&mut self.records, (name, &*record.name), row)?);
        }
        let key = export.record_key.as_deref();
        let row = (stripe, export.floor, export.latest, fresh_until_ms, key, sum.0);
        CHANNEL.insert(&mut self.channels, name, row)?;
        Ok(())
    }
}

fn row(event: &Event, at_unix_ms: i64) -> (i64, &str, u64, &[u8]) {
    (at_unix_ms, &event.name, event.timestamp_ms, &event.data)
}
