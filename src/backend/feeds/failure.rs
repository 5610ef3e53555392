//! Why a poll brought nothing.

use std::fmt;

/// Why a poll brought nothing. Its text is for the log and for operators; what subscribers of `system.log` may read is
/// [`Failure::class`], which names neither users nor keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection.
    Unreachable(String),
    /// The connection broke, or what came over it was none of the protocol.
    Lost(String),
    /// It took longer than the feed's timeout.
    TimedOut,
    /// HTTP, not 2xx.
    Status(u16),
    /// Redis refused the request.
    Refused(String),
    /// An answer that no event can be made of.
    BadAnswer(String),
}

impl Failure {
    /// In general terms.
    pub(super) fn class(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "the source cannot be reached",
            Self::Lost(_) => "the connection to the source broke",
            Self::TimedOut => "the source did not answer in time",
            Self::Status(_) => "the source answered with an error status",
            Self::Refused(_) => "the source refused the request",
            Self::BadAnswer(_) => "the source's answer is not usable",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str(self.class()),
            Self::Status(status) => write!(f, "the source answered with status {status}"),
            Self::Unreachable(why) | Self::Lost(why) | Self::Refused(why) | Self::BadAnswer(why) => {
                write!(f, "{}: {why}", self.class())
            }
        }
    }
}
