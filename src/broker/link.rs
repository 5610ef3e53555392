//! What ends a session with a broker, and when the next one begins.

use std::sync::mpsc::Receiver;
use std::time::Duration;

use rand::RngExt as _;
use tokio::task::JoinError;

/// How often a notice is written, and how often publishes that take too long are looked for.
pub(super) const NOTICE_EVERY: Duration = Duration::from_secs(1);
pub(super) const LATE_EVERY: Duration = Duration::from_millis(250);

/// A link over which no notice came for this long is down.
pub(super) const SILENCE_MAX: Duration = Duration::from_millis(3500);

/// The longest random wait before the first attempt to connect again, and before each later one: doubled each time, up to
/// the second value. A gateway that comes back late may find that the log has forgotten events that it missed, so the
/// longest wait is short.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long the start waits to learn whether the broker fits to the configuration.
const PROBE: Duration = Duration::from_secs(4);

/// How long the broker may take for one answer.
pub(super) const ANSWER: Duration = Duration::from_secs(3);

/// How often opening a term is tried while other gateways write notices.
pub(super) const ATTEMPTS: usize = 50;

/// If another gateway with other classes has not been heard of for this long, this gateway's classes count from now on.
pub(super) const OTHERS_GONE: Duration = Duration::from_secs(4);

/// Why a session with the broker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection is lost or cannot be made, or the broker does not do what it is asked for. It is tried again.
    Failed(String),
    /// What the broker has does not fit to the configuration, or other gateways have another one. At the start this is an
    /// error, later it is tried again.
    Unfit(String),
    /// Events are missing in what is read: the gateway begins anew.
    Gap(String),
}

impl End {
    pub(super) fn reason(&self) -> &str {
        let (Self::Failed(reason) | Self::Unfit(reason) | Self::Gap(reason)) = self;
        reason
    }
}

/// Waits for a moment to learn from the first session whether the broker fits to the configuration. One that cannot be reached
/// may.
///
/// # Errors
///
/// Why it does not fit.
pub(super) fn fits(first: &Receiver<Option<End>>) -> Result<(), String> {
    match first.recv_timeout(PROBE) {
        Ok(Some(End::Unfit(reason))) => Err(reason),
        _ => Ok(()),
    }
}

/// What a task of a session that is over says of its end.
pub(super) fn end_of(task: Result<End, JoinError>) -> End {
    task.unwrap_or_else(|error| End::Failed(error.to_string()))
}

/// When the next session begins.
#[derive(Debug)]
pub(super) struct Retry {
    backoff: Duration,
    // What was said last of each server that is tried in turn.
    said: Vec<String>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            backoff: BACKOFF.0,
            said: Vec::new(),
        }
    }
}

impl Retry {
    /// Notes why a session with one of the servers ended, and returns how long to wait. Logs the reason each time that it
    /// changes. If events are missing, the broker itself is well, and a long wait would lose more of them.
    pub(super) fn after(&mut self, server: usize, was_up: bool, end: &End) -> Duration {
        if self.is_news(server, was_up, end.reason()) {
            tracing::warn!(
                reason = end.reason(),
                "the link to the broker is down; it is tried again"
            );
        }
        self.backoff = if was_up || matches!(end, End::Gap(_)) {
            BACKOFF.0
        } else {
            (2 * self.backoff).min(BACKOFF.1)
        };
        rand::rng().random_range(Duration::ZERO..=self.backoff)
    }

    fn is_news(&mut self, server: usize, was_up: bool, reason: &str) -> bool {
        self.said.resize(self.said.len().max(server + 1), String::new());
        let is_news = was_up || self.said[server] != reason;
        reason.clone_into(&mut self.said[server]);
        is_news
    }
}

/// Turns a client library's error into the end of the session.
pub(super) fn failed<E: std::error::Error>(what: &'static str) -> impl Fn(E) -> End {
    move |error| End::Failed(format!("{what}: {}", chain(&error)))
}

/// The messages of an error and its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_back_two_seconds_after_its_broker_and_begins_anew_without_delay() {
        let failed = End::Failed(String::new());
        let mut retry = Retry::default();
        for _ in 0..20 {
            assert!(retry.after(0, false, &failed) <= BACKOFF.1);
        }
        assert_eq!(retry.backoff, Duration::from_secs(2));
        retry.after(0, true, &failed);
        assert_eq!(retry.backoff, BACKOFF.0);
        retry.after(0, false, &failed);
        retry.after(0, false, &End::Gap(String::new()));
        assert_eq!(retry.backoff, BACKOFF.0);
    }

    #[test]
    fn a_reason_is_said_when_it_changes_for_one_of_several_servers() {
        let mut retry = Retry::default();
        let mut news = |server, was_up, reason| retry.is_news(server, was_up, reason);
        assert!(news(0, false, "no connection to a") && news(1, false, "no connection to b"));
        assert!(!news(0, false, "no connection to a") && !news(1, false, "no connection to b"));
        assert!(news(1, false, "the password is wrong") && !news(0, false, "no connection to a"));
        assert!(news(0, true, "no connection to a"), "the link was up");
    }
}
