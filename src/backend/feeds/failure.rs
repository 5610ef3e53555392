//! Why a poll failed.

use std::fmt;

/// Why a poll failed. `Display` is for the log and for operators. Subscribers of `system.log` see only
/// [`PollFailure::class`], which names no users, keys or addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PollFailure {
    /// No connection was made.
    Unreachable(String),
    /// The connection broke, or the source violated the protocol.
    Lost(String),
    /// The poll took longer than the feed's timeout.
    TimedOut,
    /// HTTP: a status other than 2xx, and where a redirect leads.
    Status(u16, Option<String>),
    /// Redis refused the request.
    Refused(String),
    /// No event can be made from the response.
    BadResponse(String),
}

impl PollFailure {
    /// A general description.
    pub(super) fn class(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "the source cannot be reached",
            Self::Lost(_) => "the connection to the source broke",
            Self::TimedOut => "the source did not respond in time",
            Self::Status(..) => "the source responded with an error status",
            Self::Refused(_) => "the source refused the request",
            Self::BadResponse(_) => "the source's response is not usable",
        }
    }
}

impl fmt::Display for PollFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut => f.write_str(self.class()),
            Self::Status(status, None) => write!(f, "the source responded with status {status}"),
            Self::Status(status, Some(location)) => write!(
                f,
                "the source responded with status {status}: it redirects to {location}, and redirects are not followed"
            ),
            Self::Unreachable(why) | Self::Lost(why) | Self::Refused(why) | Self::BadResponse(why) => {
                write!(f, "{}: {why}", self.class())
            }
        }
    }
}
