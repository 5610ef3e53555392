//! Comparing secrets.

use aws_lc_rs::{constant_time, digest};

/// Whether two secrets are the same, in a time that tells neither where they differ nor how long they are.
#[must_use]
pub fn same_secret(given: &[u8], expected: &[u8]) -> bool {
    let (given, expected) = (
        digest::digest(&digest::SHA256, given),
        digest::digest(&digest::SHA256, expected),
    );
    constant_time::verify_slices_are_equal(given.as_ref(), expected.as_ref()).is_ok()
}
