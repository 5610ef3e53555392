//! Records: objects in an array, each identified by the value of one field.

use super::{Error, Kind, Scratch};

/// The reason why a value is not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The value is not a JSON object.
    #[error("is not a record: {0}")]
    NotAnObject(Error),
    /// The key field is missing.
    #[error("has no such field")]
    Missing,
    /// The key field is a string with an unpaired surrogate, which is not Unicode text.
    #[error("has a key that is not Unicode text")]
    NotUnicode,
    /// The key field is neither a string nor a number nor a boolean.
    #[error("has a key that is neither text nor a number")]
    WrongKind,
}

/// The name that identifies a record: the text of its field `key`, or the number as written.
///
/// A string and a number with the same text give the same name, since a source may change from one to the other.
///
/// # Errors
///
/// `record` is not an object, or its field `key` is missing or has another kind.
pub fn record_name(scratch: &mut Scratch, record: &str, key: &str) -> Result<Box<str>, RecordError> {
    let mut object = scratch.object(record).map_err(RecordError::NotAnObject)?;
    let value = object.get(key).ok_or(RecordError::Missing)?;
    match value.kind {
        Kind::String { .. } => Ok(object.text(value).ok_or(RecordError::NotUnicode)?.into()),
        Kind::Integer | Kind::Number | Kind::Bool => Ok(value.raw.into()),
        Kind::Null | Kind::Array | Kind::Object => Err(RecordError::WrongKind),
    }
}
