//! JSON without loss: one strict scan that finds the raw spans, simd-json for the few values that are read.
//!
//! Invariant: what passes the scan is exactly RFC 8259 within [`MAX_DEPTH`], and the scan changes nothing: a raw
//! span is the publisher's own bytes. simd-json mutates its input and refuses numbers beyond `u64` and `1e400`, so
//! it only ever sees a copy of one string, or one array of strings, that a dialect asks for by name.

mod count;
mod decode;
mod members;
mod record;
mod same;
mod scan;
#[cfg(test)]
mod tests;
mod write;

pub use count::count_items;
pub use members::{Object, Scratch, Value};
pub use record::{RecordError, record_name};
pub use same::same;
pub use scan::{Error, Kind, check_value, split_array};
pub use write::{push_i128, push_string, push_u64};

/// Deepest nesting of arrays and objects in a message; the message itself is the first level.
pub const MAX_DEPTH: u32 = 64;

/// Keys of one object that may be written with escapes. Nobody needs any, and each costs a call of the decoder: a message
/// of 64 KiB with 6,000 of them would cost milliseconds.
pub const ESCAPED_KEYS_MAX: usize = 64;
