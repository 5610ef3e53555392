//! What feeds count.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::health::State;
use crate::metrics::{Counter, Gauge};

/// The counters of one feed. Written by the runner and its polls.
#[derive(Debug, Default)]
pub(super) struct FeedMetrics {
    pub(super) channel: Box<str>,
    pub(super) channels: Gauge,
    pub(super) in_flight: Gauge,
    pub(super) polls: Counter,
    pub(super) failures: Counter,
    pub(super) late: Counter,
    pub(super) events: Counter,
    pub(super) records: Counter,
    pub(super) refused: Counter,
    state: AtomicU8,
}

impl FeedMetrics {
    pub(super) fn new(channel: &str) -> Self {
        Self {
            channel: channel.into(),
            ..Self::default()
        }
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    pub(super) fn read(&self) -> Snapshot {
        Snapshot {
            channel: self.channel.clone(),
            state: State::ALL[usize::from(self.state.load(Relaxed)) % State::ALL.len()],
            channels: self.channels.get(),
            in_flight: self.in_flight.get(),
            polls: self.polls.get(),
            failures: self.failures.get(),
            late: self.late.get(),
            events: self.events.get(),
            records: self.records.get(),
            refused: self.refused.get(),
        }
    }
}

/// One reading of a feed's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Its channel, as configured.
    pub channel: Box<str>,
    /// How its source does.
    pub state: State,
    /// Channels that somebody listens to.
    pub channels: i64,
    /// Polls under way.
    pub in_flight: i64,
    /// Polls ended.
    pub polls: u64,
    /// Polls that brought nothing usable.
    pub failures: u64,
    /// Polls that began late by more than a tenth of the interval.
    pub late: u64,
    /// Events published.
    pub events: u64,
    /// Records in them.
    pub records: u64,
    /// Subscriptions whose value may not stand in a Redis key.
    pub refused: u64,
}
