//! Repairing a damaged file, and setting one aside.
//!
//! Invariant: what is repaired is never more than what was there. A row counts only with its checksum, and a channel only
//! if all of its rows are there. The repaired file is marked as open, so that the next start begins a new epoch and accepts
//! no earlier position. The damaged file is kept under another name.

use std::fs;
use std::path::{Path, PathBuf};

use redb::{Key, Value};

use super::check::{Contents, Found, check};
use super::content::{Content, Stored, StoredEvent};
use super::file::{Locked, beside, sync_folder};
use super::layout::{
    CHANNEL, EVENT, FORGOTTEN, ID, LAST, LAYOUT_PLAIN, Meta, RECORD, REVOCATION, Rows, STRIPE, TOMBSTONE,
};
use super::salvage::Damaged;
use super::save::Tables;
use super::{Error, empty, guarded, revocations, view};
use crate::hub::{Epoch, STRIPES, StripeCounters};

/// What a repair did.
#[derive(Debug)]
pub enum Repaired {
    /// Nothing: the file is whole.
    Whole(Found),
    /// The file was replaced by what could be read of it.
    Replaced {
        /// What the file keeps now.
        kept: Contents,
        /// Channels that the damaged file named, and of which something could not be read. They are not in the new file.
        lost_channels: Vec<Box<str>>,
        /// Rows that differed from their checksums or had no channel any more.
        lost_rows: u64,
        /// The tables of which a part could not be reached at all, so that channels may be lost that nothing names.
        cut_tables: Vec<&'static str>,
        /// Whether the file may have had a later commit, of which nothing can be reached. What it changed is not in the new
        /// file.
        may_be_earlier: bool,
        /// Where the damaged file is now.
        original: PathBuf,
    },
}

/// Repairs a damaged file: replaces it by a new one with the channels that can be read as a whole.
///
/// # Errors
///
/// If there is no file, it is in use, nothing of it can be read, or the new file cannot be written. The file is not
/// changed then.
pub fn repair(path: &Path) -> Result<Repaired, Error> {
    match check(path) {
        Ok(found) => return Ok(Repaired::Whole(found)),
        Err(Error::Damaged(_)) => {}
        Err(error) => return Err(error),
    }
    let file = Locked::open(path)?.ok_or(Error::Missing)?;
    let salvage = salvage(&file)?;
    let kept = salvage.content.count();
    let (new, database) = Locked::begin(path, |new| {
        guarded(|| {
            let database = empty(new, Epoch(rand::random()))?;
            write(&database, &salvage.content)?;
            Ok(database)
        })
    })?;
    guarded(|| Ok(database.close()?))?;
    // What is in use from now on was read once.
    view(&new.file)?;
    let original = keep(path)?;
    new.finish()?;
    Ok(Repaired::Replaced {
        kept,
        lost_channels: salvage.lost_channels,
        lost_rows: salvage.lost_rows,
        cut_tables: salvage.cut_tables,
        may_be_earlier: salvage.may_be_earlier,
        original,
    })
}

/// Sets a file aside, whatever is in it, so that the next start begins with a new one. Returns its new name.
///
/// # Errors
///
/// If there is no file, it is in use, or cannot be renamed.
pub fn drop_file(path: &Path) -> Result<PathBuf, Error> {
    let _file = Locked::any(path)?.ok_or(Error::Missing)?;
    let aside = free_name(path, "dropped");
    fs::rename(path, &aside)?;
    sync_folder(path)?;
    Ok(aside)
}

/// Gives a file a second name beside its own.
fn keep(path: &Path) -> Result<PathBuf, Error> {
    let kept = free_name(path, "damaged");
    // Not every file system knows links.
    if fs::hard_link(path, &kept).is_err() {
        fs::copy(path, &kept)?;
    }
    Ok(kept)
}

/// The first name behind the path that is not in use.
fn free_name(path: &Path, suffix: &str) -> PathBuf {
    let numbered = (2..).map(|number| beside(path, &format!("{suffix}.{number}")));
    let mut names = std::iter::once(beside(path, suffix)).chain(numbered);
    names
        .find(|name| !name.exists())
        .unwrap_or_else(|| beside(path, suffix))
}

/// What could be read of a damaged file.
#[derive(Default)]
struct Salvage {
    content: Content,
    lost_channels: Vec<Box<str>>,
    lost_rows: u64,
    cut_tables: Vec<&'static str>,
    may_be_earlier: bool,
}

/// Reads what can be read: with the file's own first page, or else with one that is made anew.
fn salvage(file: &Locked) -> Result<Salvage, Error> {
    let own = Damaged { file, first_page: None };
    let made = file.first_pages()?;
    let others = made.iter().map(|first_page| Damaged {
        first_page: Some(first_page),
        ..own
    });
    let mut is_open = false;
    for damaged in std::iter::once(own).chain(others) {
        if guarded(|| damaged.view()?.begin_read()).is_err() {
            continue;
        }
        is_open = true;
        let salvage = salvage_from(damaged)?;
        if salvage.content.count() != Contents::default() {
            return Ok(salvage);
        }
    }
    Err(Error::Hopeless(if is_open {
        "no channel, name or id in it can be read".into()
    } else {
        "its first page, which says where everything is, is damaged in both of its copies".into()
    }))
}

fn salvage_from(file: Damaged<'_>) -> Result<Salvage, Error> {
    let meta = guarded(|| Meta::read(&file.view()?.begin_read()?));
    match meta {
        Ok(meta) if meta.layout == LAYOUT_PLAIN => {
            return Err(Error::Hopeless("it has layout 1, whose rows have no checksums".into()));
        }
        Err(error @ (Error::Layout { .. } | Error::Io(_))) => return Err(error),
        // The table `meta` itself may be what is damaged.
        Ok(_) | Err(_) => {}
    }
    let mut salvage = Salvage {
        may_be_earlier: file.first_page.is_some_and(|page| page.may_be_earlier),
        ..Salvage::default()
    };
    let mut content = Content::default();
    let this = &mut content;
    salvage.add(&STRIPE, file, |_, stripe, row| this.add_stripe(stripe, row));
    salvage.add(&FORGOTTEN, file, |_, stripe, row| this.add_forgotten(stripe, row));
    salvage.add(&TOMBSTONE, file, |_, name, row| this.add_tombstone(name, row));
    salvage.add(&CHANNEL, file, |_, name, row| this.add_channel(name, row));
    // A row without its channel is lost with it.
    let owned = |has_channel| {
        if has_channel {
            Ok(())
        } else {
            Err(Error::damaged("no channel"))
        }
    };
    salvage.add(&LAST, file, |sum, name, row| owned(this.add_last(sum, name, row)?));
    salvage.add(&EVENT, file, |sum, key, row| owned(this.add_event(sum, key, row)?));
    salvage.add(&RECORD, file, |sum, key, row| owned(this.add_record(sum, key, row)));
    salvage.add(&ID, file, |_, key, row| this.add_id(key, row));
    salvage.add(&REVOCATION, file, |_, key, row| {
        this.revocations.push(revocations::of_row(key, row)?);
        Ok(())
    });
    let (whole, lost) = std::mem::take(&mut content.channels)
        .into_iter()
        .partition(|(_, stored)| stored.is_whole());
    content.channels = whole;
    let lost: std::collections::BTreeMap<Box<str>, Stored> = lost;
    salvage.lost_channels = lost.into_keys().collect();
    // Numbers may be lost, so every counter is at the highest number that is known.
    content.counters = [StripeCounters::at(content.newest()); STRIPES];
    salvage.content = content;
    Ok(salvage)
}

impl Salvage {
    /// Reads what can be read of a table.
    fn add<K: Key, V: Value>(
        &mut self,
        table: &Rows<K, V>,
        file: Damaged<'_>,
        visit: impl for<'r> FnMut(u64, K::SelfType<'r>, V::SelfType<'r>) -> Result<(), Error>,
    ) {
        let (is_complete, bad) = table.salvage(file, visit);
        self.lost_rows += bad;
        if !is_complete {
            self.cut_tables.push(table.name());
        }
    }
}

impl Content {
    /// The highest version that occurs.
    fn newest(&self) -> u64 {
        let counters = self
            .counters
            .iter()
            .map(|counters| counters.newest.max(counters.evicted).max(counters.forgotten));
        let tombstones = self
            .tombstones
            .iter()
            .map(|(version, _, tombstone)| *version.max(&tombstone.latest));
        let channels = self.channels.values().map(|stored| stored.latest.max(stored.floor));
        let ids = self.ids.iter().map(|id| id.version);
        counters
            .chain(tombstones)
            .chain(channels)
            .chain(ids)
            .max()
            .unwrap_or_default()
    }
}

/// Writes everything into a new file.
fn write(database: &redb::Database, content: &Content) -> Result<(), Error> {
    let transaction = database.begin_write()?;
    {
        let mut tables = Tables::open(&transaction)?;
        for (stripe, counters) in (0u8..).zip(&content.counters) {
            STRIPE.insert(&mut tables.stripes, stripe, (counters.newest, counters.evicted))?;
            FORGOTTEN.insert(&mut tables.forgotten, stripe, counters.forgotten)?;
        }
        for (version, stripe, tombstone) in &content.tombstones {
            let row = (*stripe, *version, tombstone.latest);
            TOMBSTONE.insert(&mut tables.tombstones, &*tombstone.name.text(), row)?;
        }
        for stored in content.channels.values() {
            write_channel(&mut tables, stored)?;
        }
        for id in &content.ids {
            ID.insert(&mut tables.ids, (id.stripe, id.id), (id.version, id.noted_ms))?;
        }
    }
    let rows = content.revocations.iter().map(|(tenant, one)| (&**tenant, one));
    revocations::write(&transaction, rows)?;
    Ok(transaction.commit()?)
}

fn write_channel(tables: &mut Tables<'_>, stored: &Stored) -> Result<(), Error> {
    let name = &*stored.name.text();
    if let Some(last) = &stored.last {
        LAST.insert(&mut tables.lasts, name, (last.version, row(last)))?;
    }
    for event in &stored.events {
        EVENT.insert(&mut tables.events, (name, event.version), row(event))?;
    }
    for record in &stored.records {
        let row = (record.version, record.index, &*record.raw);
        RECORD.insert(&mut tables.records, (name, &*record.name), row)?;
    }
    let (key, sum) = (stored.record_key.as_deref(), stored.sum());
    let row = (
        stored.stripe,
        stored.floor,
        stored.latest,
        stored.fresh_until_ms,
        key,
        sum,
    );
    CHANNEL.insert(&mut tables.channels, name, row)?;
    Ok(())
}

fn row(event: &StoredEvent) -> (i64, &str, u64, &[u8]) {
    (event.at_unix_ms, &event.name, event.timestamp_ms, &event.data)
}
