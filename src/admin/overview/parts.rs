//! The checks of feeds, sources and backends.

use super::{Check, DELAY_WARN_MS, Status};
use crate::backend::commands::{BackendSample, CircuitState};
use crate::backend::feeds::{FeedSample, FeedState};
use crate::backend::ingest::{SourceSample, SourceState};

pub(super) fn feed(feed: &FeedSample, is_polled_here: bool, of: &str) -> Check {
    let name = format!("feed {}{of}", feed.channel);
    if !is_polled_here {
        return Check::new(name, Status::Ok, "another gateway polls it");
    }
    let counts = &feed.counts;
    match feed.state {
        FeedState::Good if counts.channels == 0 => Check::new(name, Status::Ok, "nobody subscribes: not polled"),
        FeedState::Good if counts.channels == 1 => Check::new(name, Status::Ok, "1 channel is fresh"),
        FeedState::Good => Check::new(name, Status::Ok, format!("{} channels are fresh", counts.channels)),
        FeedState::Unknown => Check::new(name, Status::Ok, "not polled yet: nobody subscribes"),
        FeedState::Partly => Check::new(
            name,
            Status::Warn,
            format!(
                "some of {} channels failed in their last poll: see the log",
                counts.channels
            ),
        ),
        FeedState::Failing => Check::new(
            name,
            Status::Bad,
            "every channel failed in its last poll: is the source reachable? The log has the reason",
        ),
    }
}

pub(super) fn source(source: &SourceSample, of: &str) -> Check {
    let name = format!("source {}{of}", source.channel);
    let behind = source.counts.behind;
    match source.state {
        SourceState::Standby => Check::new(name, Status::Ok, "another gateway reads it"),
        SourceState::Connecting => Check::new(name, Status::Warn, "is being connected to"),
        SourceState::Reading if behind > 0 && source.delay_ms >= DELAY_WARN_MS => {
            let detail = format!(
                "{behind} messages wait; the newest event was {} s old when it was published",
                source.delay_ms / 1000
            );
            Check::new(name, Status::Warn, detail)
        }
        SourceState::Reading => {
            let detail = format!(
                "is read: {} events, {} bad messages",
                source.counts.events, source.counts.bad
            );
            Check::new(name, Status::Ok, detail)
        }
        SourceState::Failing => Check::new(
            name,
            Status::Bad,
            "cannot be read, or its events cannot be published: the log has the reason",
        ),
    }
}

pub(super) fn backend(backend: &BackendSample, of: &str) -> Check {
    let name = format!("backend {}{of}", backend.name);
    match backend.circuit {
        CircuitState::Closed => {
            let detail = format!("{} answered, {} failed", backend.attempts, backend.failures);
            Check::new(name, Status::Ok, detail)
        }
        CircuitState::HalfOpen => Check::new(name, Status::Warn, "was failing; one command probes it"),
        CircuitState::Open => Check::new(
            name,
            Status::Bad,
            "failed too often: commands are refused with BACKEND_UNAVAILABLE until it answers a probe",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_of_a_source_tells_whether_it_is_read_and_how_late() {
        let check = |state, behind, delay_ms| {
            let mut sample = SourceSample {
                channel: "a.{2}".into(),
                state,
                delay_ms,
                ..SourceSample::default()
            };
            sample.counts.behind = behind;
            let check = source(&sample, " of acme");
            assert_eq!(check.name, "source a.{2} of acme");
            check.status
        };
        for (state, behind, delay_ms, status) in [
            (SourceState::Standby, 0, 0, Status::Ok),
            (SourceState::Connecting, 0, 0, Status::Warn),
            (SourceState::Reading, 0, 60_000, Status::Ok),
            (SourceState::Reading, 9, DELAY_WARN_MS - 1, Status::Ok),
            (SourceState::Reading, 9, DELAY_WARN_MS, Status::Warn),
            (SourceState::Failing, 0, 0, Status::Bad),
        ] {
            assert_eq!(check(state, behind, delay_ms), status, "{state:?} {behind} {delay_ms}");
        }
        let polled = |here| {
            feed(
                &FeedSample {
                    state: FeedState::Failing,
                    ..feed_sample()
                },
                here,
                "",
            )
            .status
        };
        assert_eq!((polled(true), polled(false)), (Status::Bad, Status::Ok));
    }

    fn feed_sample() -> FeedSample {
        FeedSample {
            tenant: Default::default(),
            tenant_name: None,
            channel: "a".into(),
            state: FeedState::Good,
            counts: Default::default(),
        }
    }
}
