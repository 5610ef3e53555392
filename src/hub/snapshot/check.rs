//! Looking at a file without changing it.

use std::path::Path;

use super::file::Locked;
use super::{Error, view};
use crate::hub::Epoch;

/// What a whole file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// The number of its layout.
    pub layout: u64,
    /// The epoch in which it was written.
    pub epoch: Epoch,
    /// Whether the run that wrote it did not end with a drain. The next start begins a new epoch then.
    pub open: bool,
    /// Its size, in bytes.
    pub bytes: u64,
    /// What it keeps.
    pub contents: Contents,
}

/// Numbers of what a file keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Channels of which something is kept.
    pub channels: u64,
    /// Events in their histories.
    pub events: u64,
    /// Last values.
    pub lasts: u64,
    /// Merged records.
    pub records: u64,
    /// Names of evicted channels.
    pub evicted_names: u64,
    /// Ids of events.
    pub ids: u64,
    /// Keys of commands with their outcomes.
    pub command_keys: u64,
    /// Socket.IO sessions that ended, and that their clients may take back.
    pub sessions: u64,
    /// Revoked tokens and users.
    pub revocations: u64,
}

/// Reads a whole file and checks everything in it. The file is not changed.
///
/// # Errors
///
/// If there is no file, it is in use, damaged, has another layout, or cannot be read.
pub fn check(path: &Path) -> Result<Found, Error> {
    let file = Locked::open(path)?.ok_or(Error::Missing)?;
    let (meta, content) = view(&file)?;
    Ok(Found {
        layout: meta.layout,
        epoch: meta.epoch,
        open: meta.open,
        bytes: file.bytes()?,
        contents: content.count(),
    })
}
