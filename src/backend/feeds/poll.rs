//! One poll: fetch, compare, publish.
//!
//! Invariant: a poll returns everything it was given and found out, however it ends, and every operator who waits for it
//! gets a result.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::oneshot;

use super::change::{self, LastResponse};
use super::failure::PollFailure;
use super::metrics::FeedMetrics;
use super::source::{Connections, Source};
use super::{FeedSettings, PushError, Pushed};
use crate::broker::{Broker, Fence};
use crate::event::{NewEvent, PublishOptions};
use crate::pause;
use crate::time::unix_ms;
use tickgate_protocol::channel::Channel;

/// Longest response, as a multiple of the longest event: records are split over several events.
const RESPONSE_EVENTS: usize = 16;

/// New subscribers do not get a value that no poll has confirmed for this many intervals.
const FRESH_INTERVALS: u32 = 3;

/// What the polls of a feed share.
pub(super) struct Poller {
    pub(super) settings: FeedSettings,
    source: Arc<Source>,
    // It may change while the gateway runs.
    event_bytes: Arc<AtomicUsize>,
    metrics: Arc<FeedMetrics>,
}

/// The poll of one channel, as it begins.
pub(super) struct PollStart {
    pub(super) key: usize,
    // Tells the instance from a later one with the same key.
    pub(super) stamp: u64,
    pub(super) channel: Channel,
    pub(super) value: Option<Box<str>>,
    pub(super) full: bool,
    // Whether subscribers joined since the last good poll began.
    pub(super) newcomers: bool,
    // Whether the channel has subscribers.
    pub(super) wanted: bool,
    // That of the gateway's duties; `None`: another gateway has them, and an operator asked this one.
    pub(super) fence: Option<Fence>,
    pub(super) last: LastResponse,
    pub(super) pushes: Vec<oneshot::Sender<Pushed>>,
}

/// The poll of one channel, as it ended.
pub(super) struct PollEnd {
    pub(super) key: usize,
    pub(super) stamp: u64,
    pub(super) newcomers: bool,
    pub(super) last: LastResponse,
    pub(super) failure: Option<PollFailure>,
    /// Whether only an operator asked, for a value that the source does not have. This says nothing about the source.
    pub(super) says_nothing: bool,
}

/// What a poll published.
struct Published {
    records: usize,
    is_missing: bool,
}

impl Poller {
    pub(super) fn new(
        settings: FeedSettings,
        event_bytes: Arc<AtomicUsize>,
        connections: &mut Connections,
        metrics: Arc<FeedMetrics>,
    ) -> Self {
        Self {
            source: Arc::new(Source::new(&settings.source, connections)),
            settings,
            event_bytes,
            metrics,
        }
    }

    /// The same source with other settings of its polls.
    pub(super) fn with_settings(&self, settings: FeedSettings) -> Self {
        Self {
            settings,
            source: Arc::clone(&self.source),
            event_bytes: Arc::clone(&self.event_bytes),
            metrics: Arc::clone(&self.metrics),
        }
    }

    pub(super) const fn metrics(&self) -> &Arc<FeedMetrics> {
        &self.metrics
    }

    /// How long new subscribers get the value of a good response.
    pub(super) fn fresh_ms(&self) -> u32 {
        let fresh = self.settings.interval.saturating_mul(FRESH_INTERVALS);
        u32::try_from(fresh.as_millis()).unwrap_or(u32::MAX)
    }

    pub(super) async fn run(&self, mut poll: PollStart, broker: &dyn Broker) -> PollEnd {
        let result = self.publish_changes(&mut poll, broker).await;
        let is_missing = match &result {
            Ok(published) => published.is_missing,
            // A URL without a placeholder is wrong itself.
            Err(failure) => poll.value.is_some() && failure.is_missing(),
        };
        let says_nothing = is_missing && !poll.wanted;
        let counters = &self.metrics().counters;
        counters.polls.add(1);
        if result.is_err() && !says_nothing {
            counters.failures.add(1);
        }
        let records = match &result {
            _ if is_missing => Err(PushError::Missing),
            Ok(published) => Ok(published.records),
            Err(failure) => Err(PushError::Failed(failure.to_string().into())),
        };
        for push in poll.pushes {
            // The receiver is gone when the operator's request was dropped meanwhile.
            let _ = push.send(Pushed {
                channel: poll.channel.as_str().into(),
                records: records.clone(),
            });
        }
        PollEnd {
            key: poll.key,
            stamp: poll.stamp,
            newcomers: poll.newcomers,
            last: poll.last,
            failure: result.err(),
            says_nothing,
        }
    }

    /// Polls the source and publishes the changes. Nothing is published for a value that the source does not have and no
    /// subscriber waits for.
    async fn publish_changes(&self, poll: &mut PollStart, broker: &dyn Broker) -> Result<Published, PollFailure> {
        let mode = &self.settings.publish;
        let bytes_max = self.event_bytes.load(Relaxed).saturating_mul(RESPONSE_EVENTS);
        let fetched = self.source.fetch(poll.value.as_deref(), mode, bytes_max);
        let response = match pause::timeout(self.settings.timeout, fetched).await {
            Ok(response) => response?,
            Err(_) => {
                self.source.timed_out();
                return Err(PollFailure::TimedOut);
            }
        };
        let is_missing = response.is_missing;
        if is_missing && !poll.wanted {
            return Ok(Published { records: 0, is_missing });
        }
        // A byte order mark is not JSON (RFC 8259, section 8.1).
        let response = response.text.strip_prefix('\u{feff}').unwrap_or(&response.text);
        let changes = change::changes(
            &mut poll.last,
            mode,
            response,
            poll.full,
            self.event_bytes.load(Relaxed),
        )?;
        let timestamp_ms = unix_ms();
        let options = PublishOptions {
            even_if_unchanged: poll.full,
            fresh_ms: Some(self.fresh_ms()),
            ..PublishOptions::default()
        };
        let event = |data| NewEvent {
            channel: poll.channel.clone(),
            name: self.settings.event.clone(),
            data,
            timestamp_ms,
            options: options.clone(),
        };
        let events: Vec<NewEvent> = changes.events.into_iter().map(event).collect();
        if !events.is_empty() {
            let outcomes = match poll.fence {
                Some(fence) => broker.publish_fenced(events, fence).await,
                None => broker.publish(events).await,
            };
            let published = outcomes.iter().flatten().count();
            if published < outcomes.len() {
                // The next poll publishes the whole value again.
                poll.last = LastResponse::default();
            }
            let counters = &self.metrics().counters;
            counters.events.add(published as u64);
            counters.records.add(changes.records as u64);
        }
        Ok(Published {
            records: changes.records,
            is_missing,
        })
    }
}
