//! A bound for the log lines of tasks: what fails for one command fails for a thousand.

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::session::limits::LineLimit;

/// The [`LineLimit`] of one kind of line, shared by tasks.
#[derive(Debug)]
pub(super) struct Lines {
    limit: Mutex<LineLimit>,
    // The origin of the limit's time. It is tokio's, so that tests can pause it.
    started: Instant,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            limit: Mutex::new(LineLimit::new(0)),
            started: Instant::now(),
        }
    }

    /// Asks for a line. The value is how many were left out since the last one. `None`: this one is left out, too.
    pub(super) fn take(&self) -> Option<u64> {
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.limit.lock().take(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_storm_of_lines_is_counted_instead_of_logged() {
        let lines = Lines::new();
        let granted = (0..100).filter(|_| lines.take().is_some()).count();
        assert_eq!(granted, LineLimit::LINES_PER_SECOND as usize);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(lines.take(), Some(80));
    }
}
