//! JSON without loss: one strict scan finds the raw spans, and simd-json decodes the few values that are read.
//!
//! Invariant: the scan accepts exactly the texts of RFC 8259 within [`MAX_DEPTH`] and changes nothing. A raw span is the
//! publisher's own bytes.
//!
//! simd-json modifies its input and refuses numbers beyond `u64` and numbers such as `1e400`. So it gets only copies of
//! single strings, or of arrays of strings, that a dialect reads by name.

mod book;
mod count;
mod decimal;
mod decode;
mod members;
mod record;
mod same;
mod scan;
#[cfg(test)]
mod tests;
mod write;

pub use book::{BookError, BookLevel, BookUpdate, read_book, read_level, removed_level};
pub use count::count_items;
pub use decimal::Decimal;
pub use members::{Object, Scratch, Value};
pub use record::{Deleted, Record, RecordDelete, RecordError, RecordKey, RecordKeyError, read_record};
pub use same::is_same_value;
pub use scan::{Error, Kind, check_value, split_array};
pub use write::push_string;
pub(crate) use write::{push_i128, push_u64};

/// The limit on nested arrays and objects in a message. The message itself is level 1.
pub const MAX_DEPTH: u32 = 64;

/// The limit on keys with escapes in one object.
///
/// No client needs such keys, and each one costs a call of the decoder. Without the limit a message of 64 KiB with 6,000 of
/// them would take milliseconds.
pub const ESCAPED_KEYS_MAX: usize = 64;
