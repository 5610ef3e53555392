//! Records: objects in an array that are told apart by one field.

use super::{Error, Kind, Scratch};

/// Why a value is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It is no object.
    #[error("is no record: {0}")]
    NoObject(Error),
    /// It has no such field.
    #[error("has no such field")]
    Missing,
    /// The field is a string that no Unicode text can hold.
    #[error("has no Unicode text there")]
    NoText,
    /// The field is neither text nor number.
    #[error("has neither text nor number there")]
    WrongKind,
}

/// What tells a record from others: the text of its field `key`, or the number as it is written. (Text and number are
/// not told apart: a source that changes from one to the other means the same record.)
///
/// # Errors
///
/// `record` is none.
pub fn record_name(scratch: &mut Scratch, record: &str, key: &str) -> Result<Box<str>, RecordError> {
    let mut object = scratch.object(record).map_err(RecordError::NoObject)?;
    let value = object.get(key).ok_or(RecordError::Missing)?;
    match value.kind {
        Kind::String { .. } => Ok(object.text(value).ok_or(RecordError::NoText)?.into()),
        Kind::Integer | Kind::Number | Kind::Bool => Ok(value.raw.into()),
        Kind::Null | Kind::Array | Kind::Object => Err(RecordError::WrongKind),
    }
}
