//! The snapshot: the hub's state on disk, so that a restart continues where the last run ended.
//!
//! Invariants: an epoch continues only if the file has everything that happened in it. The file is marked as open before
//! the first event, and as complete after the last one is written. If a file is open at start, the process was killed and
//! events may be lost. Its content then gets a new epoch, and every floor is above zero, so that no position from the lost
//! time is accepted.
//!
//! A file is used only if it is whole, and it is not changed before that is known: a start reads all of it in a view that
//! keeps changes in memory. Every row has a checksum, every channel the sum of those of its rows, and a complete file a
//! seal over all of them (`layout`). A panic of the storage library is a report of damage.
//!
//! The file is a redb database, which provides transactions. Each save writes what changed since the last one, in one
//! transaction. Each stripe is saved as of one instant.
//!
//! Per file: `layout` (tables and checksums), `names` (of channels), `file` (the lock and the view), `content` (reading), `load` and `save`,
//! `commands`, `sessions` and `revocations` (what is no state of channels), `check` and `repair` with `salvage` (what the command line does), `writer` (the thread).

mod check;
mod commands;
mod content;
mod file;
mod first_page;
mod layout;
mod load;
mod names;
mod repair;
mod revocations;
mod salvage;
mod save;
mod sessions;
#[cfg(test)]
mod tests;
mod writer;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{Database, ReadableDatabase};

use crate::auth::{Revocation, Revocations};
use crate::hub::{Epoch, Hub};
use crate::suspended::Record;
use crate::time::Now;
use tickgate_protocol::channel::{Tenant, TenantNames};

use content::Content;
use file::Locked;
use layout::{LAYOUT, LAYOUT_PLAIN, Meta, Sum};

pub use check::{Contents, Found, check};
pub use commands::{CommandRecord, RecordedOutcome};
pub use repair::{Repaired, drop_file, repair};
pub use writer::{SnapshotMetrics, SnapshotSample, SnapshotWriter};

/// The settings of a snapshot (`state.snapshot` and `state.snapshot_interval` in the configuration).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The path of the file.
    pub path: PathBuf,
    /// The time between two saves.
    pub interval: Duration,
    /// How long ids are remembered, in milliseconds.
    pub dedup_window_ms: u64,
    /// The names of the tenants beside the default one.
    pub tenants: TenantNames,
}

/// What is written when the file is completed, and only then.
#[derive(Clone, Debug, Default)]
pub struct LastRecords {
    /// The keys of commands.
    pub commands: Vec<CommandRecord>,
    /// The Socket.IO sessions that ended.
    pub sessions: Vec<Record>,
}

/// Why a snapshot cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The database refuses to work.
    #[error("{0}")]
    Store(redb::Error),
    /// There is no file under the path.
    #[error("there is no such file")]
    Missing,
    /// Another process uses the file.
    #[error("another process uses the file")]
    InUse,
    /// The file has a layout that this version does not read.
    #[error("the file has layout {found}, and this version reads the layouts {LAYOUT_PLAIN} and {LAYOUT}")]
    Layout {
        /// The layout of the file.
        found: u64,
    },
    /// The file was removed or replaced while it was in use.
    #[error("the file was removed or replaced while the gateway used it")]
    Replaced,
    /// The content of the file is invalid or contradicts itself.
    #[error("the file is damaged: {0}")]
    Damaged(Cow<'static, str>),
    /// The file is damaged so much that nothing of it can be read.
    #[error("nothing in the file can be repaired: {0}")]
    Hopeless(Cow<'static, str>),
}

impl Error {
    fn damaged(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Damaged(what.into())
    }

    /// Whether the operating system does not let this process write the file.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Io(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem))
    }

    /// Whether the file is damaged.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Hopeless(_))
    }
}

impl From<redb::Error> for Error {
    fn from(error: redb::Error) -> Self {
        match error {
            // The database reads behind the end of the file, or what it reads makes no sense.
            redb::Error::Io(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
                ) =>
            {
                Self::damaged(error.to_string())
            }
            redb::Error::Io(error) => Self::Io(error),
            redb::Error::PreviousIo | redb::Error::DatabaseAlreadyOpen | redb::Error::TransactionInProgress => {
                Self::Store(error)
            }
            error => Self::damaged(error.to_string()),
        }
    }
}

macro_rules! store_errors {
    ($($type:ty),*) => { $(
        impl From<$type> for Error {
            fn from(error: $type) -> Self { redb::Error::from(error).into() }
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

/// Calls the storage library. A panic of it becomes a report of damage.
fn guarded<T>(call: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let message = (panic.downcast_ref::<String>().map(String::as_str)).or(panic.downcast_ref::<&str>().copied());
        let message = message.unwrap_or("no message");
        Err(Error::damaged(format!("the storage library failed on it ({message})")))
    })
}

/// An open snapshot. The file is marked as open until [`Snapshot::close`].
pub struct Snapshot {
    // `None` after a failed save: the database then refuses everything, and the file must be opened again.
    store: Option<Store>,
    settings: Settings,
    epoch: Epoch,
    // What the file had at start, until it is restored.
    content: Content,
    // What is written when the file is completed.
    last: LastRecords,
    // The tokens that were revoked, and their version in the file.
    revocations: Arc<Revocations>,
    revocations_saved: Option<u64>,
    // Whether there was no earlier state.
    is_new: bool,
    // Whether the file was open at start, so that its content gets a new epoch.
    was_open: bool,
    // Whether the file lacks changes that the hub will not export again, or has another layout. The next save is complete
    // then.
    is_behind: bool,
}

/// The file while it is in use.
struct Store {
    database: Database,
    file: Locked,
    // The layout of its tables.
    layout: u64,
}

/// What was restored from a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The number of channels.
    pub channels: u64,
    /// The number of events in their histories.
    pub events: u64,
    /// Whether the last run ended without [`Snapshot::close`], for example because the process was killed.
    pub was_open: bool,
    /// Tenants that do not exist any more, each with the number of its channels. They were dropped.
    pub unknown_tenants: BTreeMap<Box<str>, u64>,
}

impl Snapshot {
    /// Opens the file, or creates it, and marks it as open.
    ///
    /// # Errors
    ///
    /// If the file is damaged, has another layout, is in use by another process, or cannot be written. The file is not
    /// changed then.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let fresh = Epoch(rand::random());
        let (store, found) = open(&settings.path, fresh)?;
        let (meta, content) = found.unzip();
        let (epoch, was_open) = match meta {
            None => (fresh, false),
            // An open file gets its new epoch here, but its versions are renumbered by the first save. If the process is
            // killed before that, the file is still open and gets another epoch at the next start.
            Some(meta) if meta.open => (fresh, true),
            Some(meta) => (meta.epoch, false),
        };
        let snapshot = Self {
            settings,
            epoch,
            is_new: meta.is_none(),
            was_open,
            // In a new epoch, all versions in the file are out of date.
            is_behind: was_open || store.layout != LAYOUT,
            content: content.unwrap_or_default(),
            last: LastRecords::default(),
            revocations: Arc::default(),
            revocations_saved: Some(0),
            store: Some(store),
        };
        snapshot.mark(|layout| Meta::open(layout, epoch))?;
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

    /// Saves the last changes and the [`LastRecords`], reads the file once more, seals it and marks it as complete. Nothing
    /// may be published any more.
    ///
    /// # Errors
    ///
    /// If the file cannot be written, or is damaged. It is open at the next start then, or refused.
    pub fn close(mut self, hub: &Hub, now: Now) -> Result<(), Error> {
        self.save(hub, now)?;
        let (epoch, store) = (self.epoch, self.store()?);
        guarded(|| {
            let transaction = store.database.begin_write()?;
            commands::write(&transaction, &self.last.commands, &self.settings.tenants)?;
            sessions::write(&transaction, &self.last.sessions, &self.settings.tenants)?;
            Ok(transaction.commit()?)
        })?;
        let sum = guarded(|| Sum::of(&store.database.begin_read()?))?;
        self.mark(|_| Meta::complete(epoch, sum))?;
        let Some(Store { database, .. }) = self.store.take() else {
            return Ok(());
        };
        guarded(|| Ok(database.close()?))
    }

    fn store(&self) -> Result<&Store, Error> {
        self.store.as_ref().ok_or(Error::Replaced)
    }

    /// Opens the file again after a failure, and marks it as open, because it may be a new file by now.
    fn reopen(&mut self) -> Result<(), Error> {
        // The old file is closed first, because its lock excludes the new one.
        self.store = None;
        let epoch = self.epoch;
        let (store, _) = open(&self.settings.path, epoch)?;
        self.store = Some(store);
        self.mark(|layout| Meta::open(layout, epoch))
    }

    /// Writes the table `meta`, for the layout of the other tables.
    fn mark(&self, meta: impl FnOnce(u64) -> Meta) -> Result<(), Error> {
        let store = self.store()?;
        guarded(|| {
            let transaction = store.database.begin_write()?;
            meta(store.layout).write(&transaction)?;
            Ok(transaction.commit()?)
        })
    }

    /// What [`Snapshot::close`] is to write.
    pub fn keep_last(&mut self, last: LastRecords) {
        self.last = last;
    }

    /// Takes out the keys of commands that the file had at start, without those of tenants that do not exist any more. To be
    /// called before [`Snapshot::load`].
    pub fn take_commands(&mut self) -> Vec<CommandRecord> {
        let commands = std::mem::take(&mut self.content.commands);
        let of_tenant = |(name, record): (Box<str>, CommandRecord)| {
            let tenant = if name.is_empty() {
                Tenant::DEFAULT
            } else {
                self.settings.tenants.find(&name)?
            };
            Some(CommandRecord { tenant, ..record })
        };
        commands.into_iter().filter_map(of_tenant).collect()
    }

    /// Takes out the Socket.IO sessions that the file had at start, without those of tenants that do not exist any more, and
    /// those that this version cannot read. To be called before [`Snapshot::load`].
    pub fn take_sessions(&mut self) -> Vec<Record> {
        let sessions = std::mem::take(&mut self.content.sessions);
        let sessions = sessions.iter().map(|row| &**row);
        let decode = |row: &[u8]| Record::decode(row, &self.settings.tenants);
        sessions.filter_map(decode).collect()
    }

    /// Restores the revoked tokens that the file had at start, without those of tenants that do not exist any more, and keeps
    /// them in the file from now on. To be called before [`Snapshot::load`].
    pub fn keep_revocations(&mut self, revocations: Arc<Revocations>, now: Now) {
        let mut is_complete = true;
        for (name, stored) in std::mem::take(&mut self.content.revocations) {
            let tenant = if name.is_empty() {
                Some(Tenant::DEFAULT)
            } else {
                self.settings.tenants.find(&name)
            };
            let added = tenant.map(|tenant| revocations.add(Revocation { tenant, ..stored }, now.unix_ms));
            is_complete &= added == Some(Ok(()));
        }
        // The rows of a tenant that is gone leave the file with the next save.
        self.revocations_saved = is_complete.then(|| revocations.version());
        self.revocations = revocations;
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.settings.path
    }
}

/// Opens the file, or creates it, marked as open in this epoch. Also returns the table `meta` and the content of a file that
/// was there.
fn open(path: &Path, epoch: Epoch) -> Result<(Store, Option<(Meta, Content)>), Error> {
    // An attempt fails only if another process creates or removes the file at this moment.
    for _ in 0..3 {
        let Some(file) = Locked::open(path)? else {
            let (layout, created) = (LAYOUT, Locked::create(path, |file| guarded(|| empty(file, epoch)))?);
            if let Some((file, database)) = created {
                return Ok((Store { database, file, layout }, None));
            }
            continue;
        };
        if !file.is_at(path) {
            continue;
        }
        let found = view(&file)?;
        let database = guarded(|| file.database())?;
        let layout = found.0.layout;
        return Ok((Store { database, file, layout }, Some(found)));
    }
    Err(Error::InUse)
}

/// Makes an empty database in a file.
fn empty(file: &Locked, epoch: Epoch) -> Result<Database, Error> {
    let database = file.database()?;
    let transaction = database.begin_write()?;
    Meta::open(LAYOUT, epoch).write(&transaction)?;
    transaction.commit()?;
    Ok(database)
}

/// Reads a whole file without changing it.
fn view(file: &Locked) -> Result<(Meta, Content), Error> {
    let database = guarded(|| file.view())?;
    let found = guarded(|| {
        let transaction = database.begin_read()?;
        let meta = Meta::read(&transaction)?;
        Ok((meta, Content::read(&transaction, meta)?))
    });
    // What the database writes at its end stays in memory.
    guarded(|| {
        drop(database);
        Ok(())
    })?;
    found
}

fn unix_ms(now: Now) -> i64 {
    i64::try_from(now.unix_ms).unwrap_or(i64::MAX)
}
