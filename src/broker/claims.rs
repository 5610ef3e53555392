//! Names that gateways claim at a broker, so that what a name stands for is done once among all of them.
//!
//! Invariant: at most one claim of a name holds at a time. A claim is replaced or given up only by whoever knows its version.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::Doing;
use crate::event::Refusal;

/// The most bytes of all claims of a broker.
pub(super) const BYTES_MAX: u64 = 256 << 20;

/// How long a claim is kept after its last change: longer than the command of a key may take, and longer than its outcome is
/// remembered.
pub(super) const KEPT: Duration = Duration::from_secs(900);

/// The claims of one broker; see the module's docs.
///
/// A claim that nobody replaces is forgotten a quarter of an hour after it was made or replaced last.
pub trait Claims: Send + Sync + fmt::Debug {
    /// Claims a name and stores a text with it. A name is a token of letters and digits.
    ///
    /// It fails if the broker cannot be reached or is full, or if the name may or may not be claimed now.
    fn claim<'a>(&'a self, name: &'a str, text: Bytes) -> Doing<'a, Result<Claimed, Refusal>>;

    /// The claim of a name; `None`: nobody claims it.
    fn look<'a>(&'a self, name: &'a str) -> Doing<'a, Result<Option<Held>, Refusal>>;

    /// Puts another text in the place of a claim, or gives it up. Returns its new version; `None`: it is not the claim of this
    /// version any more.
    fn replace<'a>(
        &'a self,
        name: &'a str,
        version: u64,
        text: Option<Bytes>,
    ) -> Doing<'a, Result<Option<u64>, Refusal>>;
}

/// The outcome of claiming a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is claimed now, in this version.
    Now(u64),
    /// It was claimed before.
    Before(Held),
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Every change of a claim gives it another version.
    pub version: u64,
    /// What is stored with it.
    pub text: Bytes,
}
