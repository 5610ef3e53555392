//! Reading what can be read of a damaged file.
//!
//! The database is opened without a check of its pages, so that one damaged page does not hide the others. What it returns
//! counts only with its checksum and in the order of its keys.

use std::cmp::Ordering;

use redb::{AccessGuard, Key, Range, ReadableTable as _, StorageError, Value};

use super::file::{Locked, Reading};
use super::first_page::FirstPage;
use super::layout::{Rows, optional};
use super::{Error, guarded};

/// How many damaged rows of a table are skipped in one direction.
const BAD_MAX: u64 = 10_000;

/// A damaged file, and the first page that is used instead of its own.
#[derive(Clone, Copy)]
pub(super) struct Damaged<'f> {
    pub(super) file: &'f Locked,
    pub(super) first_page: Option<&'f FirstPage>,
}

impl Damaged<'_> {
    /// The database.
    pub(super) fn view(self) -> Result<Box<dyn Reading>, Error> {
        self.file.unchecked_view(self.first_page)
    }
}

/// A row as the database gives it.
type RowResult<'t, K, V> = Result<(AccessGuard<'t, K>, AccessGuard<'t, V>), StorageError>;

/// How far a table was read in one direction.
#[derive(Default)]
struct Walk {
    // The key of the last good row.
    last: Option<Vec<u8>>,
    // Rows that were skipped.
    bad: u64,
}

/// The key of a row, and that of the good row before it.
struct Keys<'k> {
    before: Option<&'k [u8]>,
    at: &'k [u8],
}

impl<K: Key + 'static, V: Value + 'static> Rows<K, V> {
    /// Visits the rows of a table in layout 2 of which something can be read, in any order, and skips what cannot be. The
    /// rows before the damage are reached from the front, those behind it from the back, each in a view of its own. Returns
    /// whether the table was read to its end, and how many of its rows differ from their checksums.
    pub(super) fn salvage(
        &self,
        file: Damaged<'_>,
        mut visit: impl for<'r> FnMut(u64, K::SelfType<'r>, V::SelfType<'r>) -> Result<(), Error>,
    ) -> (bool, u64) {
        let (mut from_front, mut from_back) = (Walk::default(), Walk::default());
        let is_complete = guarded(|| {
            self.walk(
                file,
                &mut visit,
                &mut from_front,
                |rows| rows.next(),
                |key| {
                    key.before
                        .is_none_or(|before| K::compare(before, key.at) == Ordering::Less)
                },
            )
        });
        if is_complete.is_err() {
            let front = from_front.last.as_deref();
            let _ = guarded(|| {
                self.walk(
                    file,
                    &mut visit,
                    &mut from_back,
                    |rows| rows.next_back(),
                    |key| {
                        key.before
                            .is_none_or(|before| K::compare(before, key.at) == Ordering::Greater)
                            && front.is_none_or(|front| K::compare(front, key.at) == Ordering::Less)
                    },
                )
            });
        }
        (is_complete.is_ok(), from_front.bad + from_back.bad)
    }

    /// Visits the rows of a table until its end, or until a row cannot be read or is not the next one.
    fn walk(
        &self,
        file: Damaged<'_>,
        visit: &mut impl for<'r> FnMut(u64, K::SelfType<'r>, V::SelfType<'r>) -> Result<(), Error>,
        walk: &mut Walk,
        next: impl for<'t> Fn(&mut Range<'t, K, (u64, V)>) -> Option<RowResult<'t, K, (u64, V)>>,
        is_next: impl Fn(Keys<'_>) -> bool,
    ) -> Result<(), Error> {
        let database = file.view()?;
        let transaction = database.begin_read()?;
        let Some(table) = optional(transaction.open_table(self.checked()))? else {
            return Ok(());
        };
        let mut rows = table.iter()?;
        while let Some(row) = next(&mut rows) {
            let (key, value) = row?;
            // A key or a value that is no value of its type is as bad as one with a wrong checksum.
            let visited = guarded(|| {
                let (key, (checksum, value)) = (key.value(), value.value());
                if self.checksum(&key, &value) != checksum {
                    return Err(Error::damaged("a row differs from its checksum"));
                }
                let at = K::as_bytes(&key).as_ref().to_vec();
                let before = walk.last.as_deref();
                if !is_next(Keys { before, at: &at }) {
                    return Ok(false);
                }
                walk.last = Some(at);
                visit(checksum, key, value)?;
                Ok(true)
            });
            match visited {
                Ok(true) => {}
                Ok(false) => return Err(Error::damaged("the rows of a table are not in order")),
                Err(_) if walk.bad == BAD_MAX => return Err(Error::damaged("too many rows are damaged")),
                Err(_) => walk.bad += 1,
            }
        }
        Ok(())
    }
}
