//! The keys of commands in the file: the outcomes that clients may still ask for after a restart.
//!
//! Invariant: the rows are written when the file is completed, and only then. They stand outside the seal, because a file
//! without them is whole as well: the keys are forgotten then.

use bytes::Bytes;
use redb::{ReadTransaction, WriteTransaction};
use tickgate_protocol::channel::{Tenant, TenantNames};
use tickgate_protocol::message::CommandKey;

use super::Error;
use super::layout::{COMMAND, LAYOUT, LAYOUT_PLAIN, Sum};

/// The key of a command, and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandRecord {
    /// The tenant of the user.
    pub tenant: Tenant,
    /// The user that the key belongs to.
    pub user: Box<str>,
    /// The key.
    pub key: CommandKey,
    /// A hash of the action and the params.
    pub fingerprint: u128,
    /// When the key is forgotten, in Unix milliseconds.
    pub until_unix_ms: u64,
    /// The outcome.
    pub outcome: RecordedOutcome,
}

/// How a command with a key ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordedOutcome {
    /// The backend's `data`.
    Success(Bytes),
    /// The backend's `error`.
    Failure(Bytes),
    /// The command may have been carried out.
    Unknown {
        /// The text for the client.
        message: Box<str>,
        /// Whether it is carried out again if it is sent again.
        may_repeat: bool,
    },
}

impl RecordedOutcome {
    fn row(&self) -> (u8, &[u8]) {
        match self {
            Self::Success(data) => (0, data),
            Self::Failure(error) => (1, error),
            Self::Unknown { message, may_repeat } => (2 + u8::from(*may_repeat), message.as_bytes()),
        }
    }

    fn of_row(kind: u8, text: &[u8]) -> Option<Self> {
        let message = std::str::from_utf8(text).ok()?;
        Some(match kind {
            0 => Self::Success(Bytes::copy_from_slice(text)),
            1 => Self::Failure(Bytes::copy_from_slice(text)),
            2 | 3 => Self::Unknown {
                message: message.into(),
                may_repeat: kind == 3,
            },
            _ => return None,
        })
    }
}

/// Replaces the rows of the file.
pub(super) fn write(
    transaction: &WriteTransaction,
    records: &[CommandRecord],
    tenants: &TenantNames,
) -> Result<(), Error> {
    transaction.delete_table(COMMAND.checked())?;
    let mut table = transaction.open_table(COMMAND.checked())?;
    for record in records {
        let (kind, text) = record.outcome.row();
        let row = (record.until_unix_ms, record.fingerprint, kind, text);
        // The default tenant has no name.
        let tenant = tenants.of(record.tenant).unwrap_or_default();
        COMMAND.insert(&mut table, (tenant, &*record.user, record.key.as_str()), row)?;
    }
    Ok(())
}

/// Reads the rows of the file, each with the name of its tenant, which is empty for the default one.
pub(super) fn read(transaction: &ReadTransaction, layout: u64) -> Result<Vec<(Box<str>, CommandRecord)>, Error> {
    let mut records = Vec::new();
    if layout == LAYOUT_PLAIN {
        return Ok(records);
    }
    COMMAND.read(
        transaction,
        LAYOUT,
        &mut Sum::default(),
        |_, (tenant, user, key), row| {
            let (until_unix_ms, fingerprint, kind, text) = row;
            let invalid = || Error::damaged("the outcome of a command is invalid");
            let record = CommandRecord {
                tenant: Tenant::DEFAULT,
                user: user.into(),
                key: CommandKey::parse(key).ok_or_else(invalid)?,
                fingerprint,
                until_unix_ms,
                outcome: RecordedOutcome::of_row(kind, text).ok_or_else(invalid)?,
            };
            records.push((tenant.into(), record));
            Ok(())
        },
    )?;
    Ok(records)
}
