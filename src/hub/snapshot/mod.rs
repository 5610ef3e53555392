//! The hub's state on disk, so that a restart goes on where the last run ended.
//!
//! Invariant: an epoch is only taken up again when the file holds everything that happened in it. The file says `open`
//! from before the first event until the last one is in it; a file found `open` (the process was killed) gives what it
//! holds a new epoch, and every floor above zero, so that no position given out in the lost time is ever believed.
//!
//! The store is redb: transactions, checksums and a lock against a second process are its own. What is written each time
//! is what changed; each stripe is at one instant, and all of them are in one transaction.

mod load;
mod save;
#[cfg(test)]
mod tests;
mod writer;

use std::path::{Path, PathBuf};
use std::time::Duration;

use redb::{Database, ReadableDatabase, TableDefinition};

use crate::hub::{Epoch, Hub, STRIPES};
use crate::time::Now;

pub use writer::SnapshotWriter;

/// Of this layout; another one is refused.
const FORMAT: u64 = 1;

/// `format`, `epoch`, `open` (1 or 0), `stripes`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Newest version, and the highest of an evicted channel.
const STRIPE: TableDefinition<'_, u8, (u64, u64)> = TableDefinition::new("stripe");
/// Stripe, floor, newest version, until when newcomers get the last value (Unix milliseconds), record key.
type ChannelRow = (u8, u64, u64, Option<i64>, Option<&'static str>);
const CHANNEL: TableDefinition<'_, &str, ChannelRow> = TableDefinition::new("channel");
/// Up to which number evictions have no names. Without this table: up to the highest version of an evicted channel.
const FORGOTTEN: TableDefinition<'_, u8, u64> = TableDefinition::new("forgotten");
/// Of a channel that was evicted: stripe, number of the eviction, newest version.
const TOMBSTONE: TableDefinition<'_, &str, (u8, u64, u64)> = TableDefinition::new("tombstone");
/// When it came (Unix milliseconds), name, timestamp, data.
type EventRow = (i64, &'static str, u64, &'static [u8]);
const EVENT: TableDefinition<'_, (&str, u64), EventRow> = TableDefinition::new("event");
/// Version, and an event's row.
const LAST: TableDefinition<'_, &str, (u64, EventRow)> = TableDefinition::new("last");
/// Version, place, text.
const RECORD: TableDefinition<'_, (&str, &str), (u64, u64, &'static str)> = TableDefinition::new("record");
/// Version, and when it was noted (Unix milliseconds).
const ID: TableDefinition<'_, (u8, u128), (u64, u64)> = TableDefinition::new("id");

/// `[state] snapshot`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// From one writing to the next.
    pub interval: Duration,
    /// How long ids are remembered, in milliseconds.
    pub dedup_window_ms: u64,
}

/// Why a snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store's own words.
    #[error("{0}")]
    Store(#[from] redb::Error),
    /// Another version's file, or none of ours.
    #[error("the file is of another layout ({found}, this version's is {FORMAT})")]
    Format {
        /// What it says.
        found: u64,
    },
    /// It failed before, and could not be opened again.
    #[error("the file could not be opened again after an error")]
    Closed,
    /// Something in it contradicts itself.
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
}

macro_rules! store_errors {
    ($($type:ty),*) => { $(
        impl From<$type> for Error {
            fn from(error: $type) -> Self { Self::Store(error.into()) }
        }
    )* };
}
store_errors!(
    redb::DatabaseError,
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError
);

/// An open snapshot. Marked as open in the file, until [`Snapshot::close`].
pub struct Snapshot {
    // None: writing failed, after which the store refuses everything, and the file is to be opened anew.
    database: Option<Database>,
    settings: Settings,
    epoch: Epoch,
    // What is in the file goes on under a new epoch.
    was_open: bool,
    // The file lacks something that the hub does not tell again: everything is written next time.
    is_behind: bool,
}

/// What was taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Channels.
    pub channels: u64,
    /// Events of histories.
    pub events: u64,
    /// The last run was not ended by a drain.
    pub was_open: bool,
}

impl Snapshot {
    /// Opens the file, or makes it, and marks it as open before it returns.
    ///
    /// # Errors
    ///
    /// It is damaged, of another layout, in use by another process, or cannot be written. It is left as it is.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let database = Database::create(&settings.path)?;
        let found = read_meta(&database)?;
        let (epoch, was_open) = match found {
            None => (Epoch(rand::random()), false),
            Some(meta) if meta.format != FORMAT => return Err(Error::Format { found: meta.format }),
            Some(meta) if meta.stripes != STRIPES as u64 => return Err(Error::Damaged("another number of stripes")),
            Some(meta) if meta.open => (Epoch(rand::random()), true),
            Some(meta) => (meta.epoch, false),
        };
        let snapshot = Self {
            database: Some(database),
            settings,
            epoch,
            was_open,
            is_behind: false,
        };
        // The file's epoch stays until everything in it is renumbered: killed again before that, it is still `open`.
        snapshot.mark(true)?;
        Ok(snapshot)
    }

    /// The epoch to go on with.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Writes everything that the hub has not told yet and marks the file as complete. Nothing may be published after
    /// this.
    ///
    /// # Errors
    ///
    /// It could not be written; the next start finds it open.
    pub fn close(mut self, hub: &Hub, now: Now) -> Result<(), Error> {
        self.save(hub, now)?;
        self.mark(false)
    }

    fn database(&self) -> Result<&Database, Error> {
        self.database.as_ref().ok_or(Error::Closed)
    }

    /// Opens the file again after a failure; marked anew, since it may be another one by now.
    fn reopen(&mut self) -> Result<(), Error> {
        // Not before the old one is closed: it holds the lock.
        self.database = None;
        self.database = Some(Database::create(&self.settings.path)?);
        self.mark(true)
    }

    fn mark(&self, open: bool) -> Result<(), Error> {
        let transaction = self.database()?.begin_write()?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert("format", FORMAT)?;
            meta.insert("stripes", STRIPES as u64)?;
            meta.insert("epoch", self.epoch.0)?;
            meta.insert("open", u64::from(open))?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// Its path, for people.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.settings.path
    }
}

struct Meta {
    format: u64,
    stripes: u64,
    epoch: Epoch,
    open: bool,
}

/// `None`: the file is new.
fn read_meta(database: &Database) -> Result<Option<Meta>, Error> {
    let transaction = database.begin_read()?;
    let meta = match transaction.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let value = |key: &str| -> Result<u64, Error> {
        let value = redb::ReadableTable::get(&meta, key)?;
        value
            .map(|value| value.value())
            .ok_or(Error::Damaged("a mark is missing"))
    };
    Ok(Some(Meta {
        format: value("format")?,
        stripes: value("stripes")?,
        epoch: Epoch(value("epoch")?),
        open: value("open")? != 0,
    }))
}

fn unix_ms(now: Now) -> i64 {
    i64::try_from(now.unix_ms).unwrap_or(i64::MAX)
}
