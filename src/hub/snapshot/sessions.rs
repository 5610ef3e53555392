//! Socket.IO sessions that ended, in the file: what their clients may still take back after a restart.
//!
//! Invariant: as for the keys of commands, the rows are written when the file is completed, and only then. They stand outside
//! the seal, because a file without them is whole as well: the clients begin anew then.

use redb::{ReadTransaction, WriteTransaction};
use tickgate_protocol::channel::TenantNames;

use super::Error;
use super::layout::{LAYOUT, LAYOUT_PLAIN, SESSION, Sum};
use crate::suspended::Record;

/// Replaces the rows of the file.
pub(super) fn write(transaction: &WriteTransaction, records: &[Record], tenants: &TenantNames) -> Result<(), Error> {
    transaction.delete_table(SESSION.checked())?;
    let mut table = transaction.open_table(SESSION.checked())?;
    for record in records {
        SESSION.insert(&mut table, &record.pid, &record.encode(tenants))?;
    }
    Ok(())
}

/// Reads the rows of the file.
pub(super) fn read(transaction: &ReadTransaction, layout: u64) -> Result<Vec<Box<[u8]>>, Error> {
    let mut rows = Vec::new();
    if layout == LAYOUT_PLAIN {
        return Ok(rows);
    }
    SESSION.read(transaction, LAYOUT, &mut Sum::default(), |_, _, row| {
        rows.push(row.into());
        Ok(())
    })?;
    Ok(rows)
}
