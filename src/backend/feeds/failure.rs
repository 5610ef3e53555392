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
    /// Whether the source answered that it does not have what was asked for.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Status(404, _))
    }

    /// Whether an operator who knows the other failure learns nothing from this one. Details may differ each time.
    pub(super) fn is_alike(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Status(status, _), Self::Status(earlier, _)) => status == earlier,
            _ => self.class() == other.class(),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kind_of_a_failure_makes_another_reason() {
        let lost = |detail: &str| PollFailure::Lost(detail.to_owned());
        assert!(lost("port 1").is_alike(&lost("port 2")));
        assert!(PollFailure::Status(500, None).is_alike(&PollFailure::Status(500, None)));
        for (one, other) in [
            (PollFailure::Status(500, None), PollFailure::Status(404, None)),
            (lost(""), PollFailure::TimedOut),
        ] {
            assert!(!one.is_alike(&other), "{one} {other}");
        }
    }
}
