//! The snapshot: the hub's state on disk, so that a restart continues where the last run ended.
//!
//! Invariant: an epoch continues only if the file has everything that happened in it. The file is marked as open before
//! the first event, and as complete after the last one is written. If a file is open at start, the process was killed and
//! events may be lost. Its content then gets a new epoch, and every floor is above zero, so that no position from the lost
//! time is accepted.
//!
//! The file is a redb database, which provides transactions, checksums and a lock against a second process. Each save
//! writes what changed since the last one, in one transaction. Each stripe is saved as of one instant.

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

/// The version of the tables' layout. A file with another layout is refused.
const FORMAT: u64 = 1;

/// Keys: `format`, `epoch`, `open` (1 or 0), `stripes`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// By stripe: the newest version, and the highest version of an evicted channel.
const STRIPE: TableDefinition<'_, u8, (u64, u64)> = TableDefinition::new("stripe");
/// Stripe, floor, newest version, until when newcomers get the last value (Unix milliseconds), and record key.
type ChannelRow = (u8, u64, u64, Option<i64>, Option<&'static str>);
const CHANNEL: TableDefinition<'_, &str, ChannelRow> = TableDefinition::new("channel");
/// By stripe: the version up to which the names of evicted channels are forgotten. In a file without this table, that is
/// the highest version of an evicted channel.
const FORGOTTEN: TableDefinition<'_, u8, u64> = TableDefinition::new("forgotten");
/// By evicted channel: stripe, version of the eviction, newest version of the channel.
const TOMBSTONE: TableDefinition<'_, &str, (u8, u64, u64)> = TableDefinition::new("tombstone");
/// When the event was accepted (Unix milliseconds), name, timestamp, data.
type EventRow = (i64, &'static str, u64, &'static [u8]);
const EVENT: TableDefinition<'_, (&str, u64), EventRow> = TableDefinition::new("event");
/// By channel: the version of the last event, and its row.
const LAST: TableDefinition<'_, &str, (u64, EventRow)> = TableDefinition::new("last");
/// By channel and name: version, index in the order of the merged records, text.
const RECORD: TableDefinition<'_, (&str, &str), (u64, u64, &'static str)> = TableDefinition::new("record");
/// By stripe and id: the version of the event, and when the id was saved (Unix milliseconds).
const ID: TableDefinition<'_, (u8, u128), (u64, u64)> = TableDefinition::new("id");

/// The settings of a snapshot (`state.snapshot` and `state.snapshot_interval` in the configuration).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The path of the file.
    pub path: PathBuf,
    /// The time between two saves.
    pub interval: Duration,
    /// How long ids are remembered, in milliseconds.
    pub dedup_window_ms: u64,
}

/// Why a snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database failed.
    #[error("{0}")]
    Store(#[from] redb::Error),
    /// The file has a layout that this version does not read.
    #[error("the file has layout {found}, and this version reads layout {FORMAT}")]
    Format {
        /// The layout of the file.
        found: u64,
    },
    /// The database failed before, and the file could not be opened again.
    #[error("the file could not be opened again after an error")]
    Closed,
    /// The content of the file is invalid or contradicts itself.
    #[error("the file is damaged: {0}")]
    Damaged(&'static str),
}

impl Error {
    /// Whether the operating system does not let this process write the file.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let Self::Store(redb::Error::Io(error)) = self else {
            return false;
        };
        matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem)
    }
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

/// An open snapshot. The file is marked as open until [`Snapshot::close`].
pub struct Snapshot {
    // `None` after a failed save: the database then refuses everything, and the file must be opened again.
    database: Option<Database>,
    settings: Settings,
    epoch: Epoch,
    // Whether there was no earlier state.
    is_new: bool,
    // Whether the file was open at start, so that its content gets a new epoch.
    was_open: bool,
    // Whether the file lacks changes that the hub will not export again. The next save is complete then.
    is_behind: bool,
}

/// What was restored from a snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The number of channels.
    pub channels: u64,
    /// The number of events in their histories.
    pub events: u64,
    /// Whether the last run ended without [`Snapshot::close`], for example because the process was killed.
    pub was_open: bool,
}

impl Snapshot {
    /// Opens the file, or creates it, and marks it as open.
    ///
    /// # Errors
    ///
    /// If the file is damaged, has another layout, is in use by another process, or cannot be written. The file is not
    /// changed then.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let database = Database::create(&settings.path)?;
        let found = read_meta(&database)?;
        let (epoch, was_open) = match &found {
            None => (Epoch(rand::random()), false),
            Some(meta) if meta.format != FORMAT => return Err(Error::Format { found: meta.format }),
            Some(meta) if meta.stripes != STRIPES as u64 => {
                return Err(Error::Damaged("it has another number of stripes"));
            }
            Some(meta) if meta.open => (Epoch(rand::random()), true),
            Some(meta) => (meta.epoch, false),
        };
        let snapshot = Self {
            database: Some(database),
            settings,
            epoch,
            is_new: found.is_none(),
            was_open,
            is_behind: false,
        };
        // An open file gets its new epoch here, but its versions are renumbered by the first save. If the process is killed
        // before that, the file is still open and gets another epoch at the next start.
        snapshot.mark(true)?;
        Ok(snapshot)
    }

    /// The epoch that the hub must have.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether the file was created: there was no earlier state.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.is_new
    }

    /// Saves the last changes and marks the file as complete. Nothing may be published any more.
    ///
    /// # Errors
    ///
    /// If the file cannot be written. It is still open at the next start then.
    pub fn close(mut self, hub: &Hub, now: Now) -> Result<(), Error> {
        self.save(hub, now)?;
        self.mark(false)
    }

    fn database(&self) -> Result<&Database, Error> {
        self.database.as_ref().ok_or(Error::Closed)
    }

    /// Opens the file again after a failure, and marks it as open, because it may be a new file by now.
    fn reopen(&mut self) -> Result<(), Error> {
        // Close the old database first, because it holds the lock.
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

    /// The path of the file.
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

/// Reads the table `meta`. Returns `None` if the file is new.
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
            .ok_or(Error::Damaged("a key of the table `meta` is missing"))
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
