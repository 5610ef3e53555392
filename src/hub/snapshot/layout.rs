//! What lies where in the file, and the checksums over it.
//!
//! | | layout 1 | layout 2 |
//! |---|---|---|
//! | a row | the value | a checksum over table, key and value, and the value |
//! | a channel | | has the sum of the checksums of its events, its last value and its records |
//! | a complete file | | has the number of all rows, and a seal over their checksums, the epoch and the layout |
//! | keys of commands, sessions, revocations | | rows with checksums, outside the seal |
//!
//! Files are written in layout 2. A file in layout 1 is read, and the first save converts it.

use redb::{Key, ReadTransaction, ReadableTable as _, Table, TableDefinition, TableError, Value};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Error;
use crate::hub::{Epoch, STRIPES};

/// The layout that is written.
pub(super) const LAYOUT: u64 = 2;
/// The layout without checksums, which is still read.
pub(super) const LAYOUT_PLAIN: u64 = 1;

/// When the event was accepted (Unix milliseconds), name, timestamp, data.
pub(super) type EventRow = (i64, &'static str, u64, &'static [u8]);
/// Stripe, floor, newest version, until when newcomers get the last value (Unix milliseconds), and record key.
pub(super) type PlainChannelRow = (u8, u64, u64, Option<i64>, Option<&'static str>);
/// As [`PlainChannelRow`], with the sum of the checksums of the channel's events, last value and records.
pub(super) type ChannelRow = (u8, u64, u64, Option<i64>, Option<&'static str>, u64);

/// When the key of a command is forgotten (Unix milliseconds), a hash of the command, the kind of its outcome, and the text
/// of the outcome.
pub(super) type CommandRow = (u64, u128, u8, &'static [u8]);

/// Keys: `format`, `epoch`, `open` (1 or 0), `stripes`; in a complete file of layout 2 also `rows` and `seal`.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// By stripe: the newest version, and the highest version of an evicted channel.
pub(super) const STRIPE: Rows<u8, (u64, u64)> = Rows::new("stripe");
/// By channel.
pub(super) const CHANNEL: Rows<&str, ChannelRow> = Rows::new("channel");
/// As [`CHANNEL`], in layout 1.
pub(super) const PLAIN_CHANNEL: Rows<&str, PlainChannelRow> = Rows::new("channel");
/// By stripe: the version up to which the names of evicted channels are forgotten. In a file without this table, that is
/// the highest version of an evicted channel.
pub(super) const FORGOTTEN: Rows<u8, u64> = Rows::new("forgotten");
/// By evicted channel: stripe, version of the eviction, newest version of the channel.
pub(super) const TOMBSTONE: Rows<&str, (u8, u64, u64)> = Rows::new("tombstone");
/// By channel and version.
pub(super) const EVENT: Rows<(&str, u64), EventRow> = Rows::new("event");
/// By channel: the version of the last event, and its row.
pub(super) const LAST: Rows<&str, (u64, EventRow)> = Rows::new("last");
/// By channel and name: version, index in the order of the merged records, text.
pub(super) const RECORD: Rows<(&str, &str), (u64, u64, &str)> = Rows::new("record");
/// By tenant (empty: none), user and key of a command.
pub(super) const COMMAND: Rows<(&str, &str, &str), CommandRow> = Rows::new("command");
/// By the name of a Socket.IO session that ended: what it had, as [`Record::encode`](crate::suspended::Record::encode) writes it.
pub(super) const SESSION: Rows<&str, &[u8]> = Rows::new("session");
/// By tenant (empty: none), kind (0: a `jti`, 1: a user) and name: when the revocation is forgotten, and before when the
/// user's tokens were issued (Unix milliseconds).
pub(super) const REVOCATION: Rows<(&str, u8, &str), (u64, u64)> = Rows::new("revocation");
/// By stripe and id: the version of the event, and when the id was saved (Unix milliseconds).
pub(super) const ID: Rows<(u8, u128), (u64, u64)> = Rows::new("id");

/// The names of the tables that a complete save fills.
pub(super) const TABLES: [&str; 8] = [
    STRIPE.name,
    CHANNEL.name,
    FORGOTTEN.name,
    TOMBSTONE.name,
    EVENT.name,
    LAST.name,
    RECORD.name,
    ID.name,
];

/// A table whose rows have checksums in layout 2.
pub(super) struct Rows<K: Key + 'static, V: Value + 'static> {
    name: &'static str,
    types: std::marker::PhantomData<fn(K, V)>,
}

/// An open table of layout 2.
pub(super) type Checked<'t, K, V> = Table<'t, K, (u64, V)>;

impl<K: Key + 'static, V: Value + 'static> Rows<K, V> {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            types: std::marker::PhantomData,
        }
    }

    /// The table, as it lies in layout 2.
    pub(super) const fn checked(&self) -> TableDefinition<'static, K, (u64, V)> {
        TableDefinition::new(self.name)
    }

    /// The checksum of a row.
    pub(super) fn checksum(&self, key: &K::SelfType<'_>, value: &V::SelfType<'_>) -> u64 {
        let table = xxh3_64(self.name.as_bytes());
        let key = xxh3_64_with_seed(K::as_bytes(key).as_ref(), table);
        xxh3_64_with_seed(V::as_bytes(value).as_ref(), key)
    }

    /// Inserts a row with its checksum; returns the checksum, and that of the row that was replaced.
    pub(super) fn insert<'k, 'v>(
        &self,
        table: &mut Checked<'_, K, V>,
        key: K::SelfType<'k>,
        value: V::SelfType<'v>,
    ) -> Result<(u64, Option<u64>), Error> {
        let checksum = self.checksum(&key, &value);
        let replaced = table.insert(key, (checksum, value))?.map(|row| row.value().0);
        Ok((checksum, replaced))
    }

    /// The name of the table.
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Visits all rows of a table in the order of their keys, and adds their checksums to `sum`. The visitor gets the
    /// checksum as well, which is 0 in layout 1. A table that does not exist has no rows.
    ///
    /// # Errors
    ///
    /// If a row cannot be read, its checksum is wrong, or the visitor refuses it.
    pub(super) fn read(
        &self,
        transaction: &ReadTransaction,
        layout: u64,
        sum: &mut Sum,
        mut visit: impl for<'r> FnMut(u64, K::SelfType<'r>, V::SelfType<'r>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if layout == LAYOUT_PLAIN {
            let plain = TableDefinition::<K, V>::new(self.name);
            let Some(table) = optional(transaction.open_table(plain))? else {
                return Ok(());
            };
            for row in table.iter()? {
                let (key, value) = row?;
                sum.add(0);
                visit(0, key.value(), value.value())?;
            }
            return Ok(());
        }
        let Some(table) = optional(transaction.open_table(self.checked()))? else {
            return Ok(());
        };
        for row in table.iter()? {
            let (key, value) = row?;
            let (key, (checksum, value)) = (key.value(), value.value());
            if self.checksum(&key, &value) != checksum {
                let name = self.name;
                return Err(Error::damaged(format!(
                    "a row of the table `{name}` differs from its checksum"
                )));
            }
            sum.add(checksum);
            visit(checksum, key, value)?;
        }
        Ok(())
    }
}

/// The number of rows, and the sum of their checksums in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) rows: u64,
    pub(super) checksums: u64,
}

impl Sum {
    pub(super) const fn add(&mut self, checksum: u64) {
        self.rows += 1;
        self.checksums = self.checksums.wrapping_add(checksum);
    }

    /// Reads all rows of a file in layout 2 and adds them up.
    ///
    /// # Errors
    ///
    /// If the file is damaged or cannot be read.
    pub(super) fn of(transaction: &ReadTransaction) -> Result<Self, Error> {
        let mut sum = Self::default();
        STRIPE.read(transaction, LAYOUT, &mut sum, |_, _, _| Ok(()))?;
        FORGOTTEN.read(transaction, LAYOUT, &mut sum, |_, _, _| Ok(()))?;
        TOMBSTONE.read(transaction, LAYOUT, &mut sum, |_, _, _| Ok(()))?;
        CHANNEL.read(transaction, LAYOUT, &mut sum, |_, _, _| Ok(()))?;
        LAST.read(transaction, LAYOUT, &mut sum, |_, _, _| Ok(()))?;
        EVENT.read(transaction, LAYOUT, &mut sum, |_, _, _| Ok(()))?;
        RECORD.read(transaction, LAYOUT, &mut sum, |_, _, _| Ok(()))?;
        ID.read(transaction, LAYOUT, &mut sum, |_, _, _| Ok(()))?;
        Ok(sum)
    }

    /// The seal of a complete file with these rows.
    fn seal(self, layout: u64, epoch: Epoch) -> u64 {
        let words = [layout, STRIPES as u64, epoch.0, self.rows, self.checksums];
        xxh3_64(&words.map(u64::to_le_bytes).concat())
    }
}

/// The table `meta`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meta {
    pub(super) layout: u64,
    pub(super) epoch: Epoch,
    /// Whether the run that wrote the file did not end with [`super::Snapshot::close`].
    pub(super) open: bool,
    /// The number of rows and the seal.
    seal: Option<(u64, u64)>,
}

impl Meta {
    /// A file that is open.
    pub(super) const fn open(layout: u64, epoch: Epoch) -> Self {
        Self {
            layout,
            epoch,
            open: true,
            seal: None,
        }
    }

    /// A file that is complete with these rows.
    pub(super) fn complete(epoch: Epoch, sum: Sum) -> Self {
        Self {
            layout: LAYOUT,
            epoch,
            open: false,
            seal: Some((sum.rows, sum.seal(LAYOUT, epoch))),
        }
    }

    /// Reads the table.
    ///
    /// # Errors
    ///
    /// If the layout is not one that this version reads, or the table is damaged.
    pub(super) fn read(transaction: &ReadTransaction) -> Result<Self, Error> {
        let meta = optional(transaction.open_table(META))?.ok_or(Error::damaged("it has no table `meta`"))?;
        let optional = |key: &str| -> Result<Option<u64>, Error> { Ok(meta.get(key)?.map(|value| value.value())) };
        let value = |key: &str| {
            optional(key)?.ok_or_else(|| Error::damaged(format!("the key `{key}` of the table `meta` is missing")))
        };
        let layout = value("format")?;
        if ![LAYOUT_PLAIN, LAYOUT].contains(&layout) {
            return Err(Error::Layout { found: layout });
        }
        if value("stripes")? != STRIPES as u64 {
            return Err(Error::damaged("it has another number of stripes"));
        }
        Ok(Self {
            layout,
            epoch: Epoch(value("epoch")?),
            open: value("open")? != 0,
            seal: optional("rows")?.zip(optional("seal")?),
        })
    }

    /// Writes the table.
    pub(super) fn write(self, transaction: &redb::WriteTransaction) -> Result<(), Error> {
        let mut meta = transaction.open_table(META)?;
        meta.insert("format", self.layout)?;
        meta.insert("stripes", STRIPES as u64)?;
        meta.insert("epoch", self.epoch.0)?;
        meta.insert("open", u64::from(self.open))?;
        if let Some((rows, seal)) = self.seal {
            meta.insert("rows", rows)?;
            meta.insert("seal", seal)?;
        } else {
            meta.remove("rows")?;
            meta.remove("seal")?;
        }
        Ok(())
    }

    /// Checks the rows of a complete file against its seal. An open file has none, and neither has one of layout 1.
    ///
    /// # Errors
    ///
    /// If they differ.
    pub(super) fn check(&self, sum: Sum) -> Result<(), Error> {
        if self.open || self.layout == LAYOUT_PLAIN {
            return Ok(());
        }
        let (rows, seal) = self
            .seal
            .ok_or_else(|| Error::damaged("it is marked as complete and has no seal"))?;
        if rows != sum.rows {
            let found = sum.rows;
            return Err(Error::damaged(format!(
                "it has {found} rows, and had {rows} when it was completed"
            )));
        }
        if seal != sum.seal(self.layout, self.epoch) {
            return Err(Error::damaged("its rows differ from its seal"));
        }
        Ok(())
    }
}

/// Turns "the table does not exist" into `None`.
pub(super) fn optional<T>(table: Result<T, TableError>) -> Result<Option<T>, Error> {
    match table {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
