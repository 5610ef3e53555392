//! Holding and comparing secrets.

use std::fmt;

use aws_lc_rs::{constant_time, digest};

/// Bytes that are never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for those who must use them.
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

/// Whether two secrets are the same, in a time that tells neither where they differ nor how long they are.
#[must_use]
pub fn same_secret(given: &[u8], expected: &[u8]) -> bool {
    let (given, expected) = (
        digest::digest(&digest::SHA256, given),
        digest::digest(&digest::SHA256, expected),
    );
    constant_time::verify_slices_are_equal(given.as_ref(), expected.as_ref()).is_ok()
}
