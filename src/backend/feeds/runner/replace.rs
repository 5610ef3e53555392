//! Replaces feeds while others go on.
//!
//! Invariant: a feed that stays keeps its channels, its last responses, its polls under way and its counters. The polls of
//! a feed that goes are aborted, so at most one source is polled for a channel and event.

use std::sync::Arc;

use super::{Feed, Runner};
use crate::backend::feeds::FeedSettings;
use crate::backend::feeds::schedule::Pace;

impl Runner {
    /// Takes over other feeds. A feed whose channel, event, source and `publish` are the same stays, also if its interval
    /// or timeout changes.
    pub(super) fn replace(&mut self, wanted: Vec<FeedSettings>) {
        let mut running: Vec<Option<Feed>> = self.feeds.drain(..).map(Some).collect();
        // Where each running feed is from now on.
        let mut places = vec![None; running.len()];
        for (place, settings) in wanted.into_iter().enumerate() {
            let is_same = |feed: &Option<Feed>| {
                let known = feed.as_ref().map(|feed| &feed.poller.settings);
                known.is_some_and(|known| known.has_source_of(&settings))
            };
            let same = running.iter().position(is_same);
            let kept = same.and_then(|index| {
                places[index] = Some(place);
                running[index].take()
            });
            let feed = match kept {
                Some(feed) => feed.paced(settings),
                None => self.feed(settings),
            };
            self.feeds.push(feed);
        }
        let (instances, agenda) = (&mut self.instances, &mut self.agenda);
        instances.retain(|_, instance| match places[instance.feed] {
            Some(place) => {
                instance.feed = place;
                true
            }
            None => {
                instance.abort();
                false
            }
        });
        agenda.retain(|entry| instances.contains(entry.0.1));
        self.connections.forget_unused();
        let now_ms = self.now_ms();
        let keys: Vec<usize> = self.instances.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.reschedule(key, |schedule, pace| schedule.pace_changed(pace, now_ms));
        }
        *self.metrics.write() = self
            .feeds
            .iter()
            .map(|feed| Arc::clone(feed.poller.metrics()))
            .collect();
        *self.templates.write() = (self.feeds.iter())
            .map(|feed| feed.poller.settings.channel.clone())
            .collect();
        // The channels that have subscribers already.
        self.hub.note_held();
    }
}

impl Feed {
    /// The same feed with another interval and timeout.
    fn paced(mut self, settings: FeedSettings) -> Self {
        self.pace = Pace::new(settings.interval);
        self.poller = Arc::new(self.poller.with_settings(settings));
        self
    }
}
