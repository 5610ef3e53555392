//! Holds and compares secrets.

use std::fmt;

use aws_lc_rs::{constant_time, digest};

/// Secret bytes. `Debug` does not show them.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Wraps the bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Whether two secrets are equal. The time that it takes depends neither on where they differ nor on the length of the
/// expected one.
#[must_use]
pub fn same_secret(given: &[u8], expected: &[u8]) -> bool {
    let (given, expected) = (
        digest::digest(&digest::SHA256, given),
        digest::digest(&digest::SHA256, expected),
    );
    constant_time::verify_slices_are_equal(given.as_ref(), expected.as_ref()).is_ok()
}
