//! One poll: ask, compare, publish.
//!
//! Invariant: what a poll found out is handed back whole, whatever came of it, and whoever waits for it is told.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::change::{self, Memory};
use super::failure::Failure;
use super::source::{Connections, Source};
use super::stats::FeedMetrics;
use super::{FeedSettings, Pushed};
use crate::broker::Broker;
use crate::event::{NewEvent, PublishOptions};
use crate::time::unix_ms;
use tickgate_protocol::channel::Channel;

/// An answer may have so many times the bytes of an event: records go into several events.
const ANSWER_EVENTS: usize = 16;

/// An answer that was not confirmed for so many intervals is not given to newcomers.
const FRESH_INTERVALS: u32 = 3;

/// What all polls of a feed share.
pub(super) struct Poll {
    pub(super) settings: FeedSettings,
    pub(super) source: Source,
    event_bytes: usize,
    // Of all feeds, and which of them is this one.
    stats: (Arc<[FeedMetrics]>, usize),
}

/// One channel's poll, as it begins.
pub(super) struct Polled {
    pub(super) key: usize,
    pub(super) channel: Channel,
    pub(super) value: Option<Box<str>>,
    pub(super) full: bool,
    pub(super) memory: Memory,
    pub(super) pushes: Vec<oneshot::Sender<Pushed>>,
}

/// And as it ended.
pub(super) struct Done {
    pub(super) key: usize,
    pub(super) full: bool,
    pub(super) memory: Memory,
    pub(super) failure: Option<Failure>,
}

impl Poll {
    pub(super) fn new(
        settings: FeedSettings,
        event_bytes: usize,
        connections: &mut Connections,
        stats: (Arc<[FeedMetrics]>, usize),
    ) -> Self {
        Self {
            source: Source::new(&settings.source, connections),
            settings,
            event_bytes,
            stats,
        }
    }

    pub(super) fn stats(&self) -> &FeedMetrics {
        &self.stats.0[self.stats.1]
    }

    /// How long newcomers are given what a good answer said.
    pub(super) fn fresh_ms(&self) -> u32 {
        let fresh = self.settings.interval.saturating_mul(FRESH_INTERVALS);
        u32::try_from(fresh.as_millis()).unwrap_or(u32::MAX)
    }

    pub(super) async fn run(&self, mut polled: Polled, broker: &dyn Broker) -> Done {
        let result = self.publish_changes(&mut polled, broker).await;
        self.stats().polls.add(1);
        if result.is_err() {
            self.stats().failures.add(1);
        }
        for push in polled.pushes {
            // Whoever asked may have gone away.
            let _ = push.send(Pushed {
                channel: polled.channel.as_str().into(),
                records: result.clone().map_err(|failure| failure.to_string().into()),
            });
        }
        Done {
            key: polled.key,
            full: polled.full,
            memory: polled.memory,
            failure: result.err(),
        }
    }

    /// The records published.
    async fn publish_changes(&self, polled: &mut Polled, broker: &dyn Broker) -> Result<usize, Failure> {
        let tell = &self.settings.tell;
        let bytes_max = self.event_bytes.saturating_mul(ANSWER_EVENTS);
        let asked = self.source.ask(polled.value.as_deref(), tell, bytes_max);
        let answer = match tokio::time::timeout(self.settings.timeout, asked).await {
            Ok(answer) => answer?,
            Err(_) => {
                self.source.timed_out();
                return Err(Failure::TimedOut);
            }
        };
        let changes = change::note(&mut polled.memory, tell, &answer, polled.full, self.event_bytes)?;
        let timestamp_ms = unix_ms();
        let options = PublishOptions {
            even_if_unchanged: polled.full,
            fresh_ms: Some(self.fresh_ms()),
            ..PublishOptions::default()
        };
        let event = |data| NewEvent {
            channel: polled.channel.clone(),
            name: self.settings.event.clone(),
            data,
            timestamp_ms,
            options,
        };
        let events: Vec<NewEvent> = changes.events.into_iter().map(event).collect();
        if !events.is_empty() {
            let published = broker.publish(events).await.len();
            self.stats().events.add(published as u64);
            self.stats().records.add(changes.records as u64);
        }
        Ok(changes.records)
    }
}
