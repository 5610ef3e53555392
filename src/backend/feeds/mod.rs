//! Feeds: sources that cannot push are polled, and their changes become events.
//!
//! Invariant: a source is polled only while its channel has subscribers, or when an operator asks. Each channel has at
//! most one poll under way, so its events keep their order. A failed poll changes nothing that is known of the source.
//!
//! # The life of a poll
//!
//! 1. A shard joins a pattern. The hub records it ([`crate::hub::InterestWatch`]), and the [`Runner`] finds the feeds that
//!    it concerns. A channel with a placeholder has one instance for each value.
//! 2. `schedule` decides when an instance is due: at once for a new subscriber, then once per interval with jitter, and
//!    less often while polls fail. At most [`SLOTS`] polls of one feed are under way; the others wait in order.
//! 3. `source` fetches one JSON text, by HTTP or from Redis.
//! 4. `change` compares it with the last good response and decides what is published.
//! 5. The events go to the broker. `health` tracks the state of the source, and `report` announces its changes on
//!    `system.log`.
//!
//! One task owns all instances, and each poll under way has a task of its own.
//!
//! Of several gateways that share a broker, the one with the [`Duties`] polls for the clients of all. The others tell it
//! which channels they want (`runner/share.rs`).

pub(super) mod attributes;
mod change;
mod failure;
mod health;
mod instance;
mod metrics;
mod poll;
mod report;
mod runner;
mod schedule;
mod source;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot, watch};

use crate::broker::Duties;
use crate::session::RefusedValue;
use tickgate_protocol::channel::{ChannelTemplate, Class, Classes, Overflow, Pattern, TenantNames};
use tickgate_protocol::json::RecordKey;

pub use health::FeedState;
pub use metrics::{FeedCounts, FeedSample};
pub use runner::Runner;
pub use source::{RedisKey, SourceSettings, UrlTemplate};

use metrics::FeedMetrics;

/// Polls of one feed under way at one time. This is enough for 10,000 channels every 10 seconds from a source that takes
/// 60 ms, and does not overload the source.
pub const SLOTS: usize = 64;

/// The shortest time from one poll of a channel to the next, or half the interval if that is shorter. Subscribers that come
/// and go do not cause more polls than that.
pub const NEWCOMER_GAP: Duration = Duration::from_secs(1);

/// Requests of operators that may wait for the runner.
const PUSHES_MAX: usize = 64;

/// The settings of all feeds (`[[feed]]`).
#[derive(Clone, Debug)]
pub struct Settings {
    /// The feeds, in the order of the configuration.
    pub feeds: Vec<FeedSettings>,
    /// The names of the tenants beside the default one, for logs and metrics.
    pub tenants: TenantNames,
    /// Longest `data` of an event, in bytes (`limits.event_bytes`). A source's response may be 16 times as long.
    pub event_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            feeds: Vec::new(),
            tenants: TenantNames::default(),
            event_bytes: 256 * 1024,
        }
    }
}

impl Settings {
    /// The channels that no feed can poll, because their placeholder's value cannot stand in the source's key.
    #[must_use]
    pub fn refused_values(&self) -> Arc<[RefusedValue]> {
        let refused = |feed: &FeedSettings| {
            let others = self.feeds.iter().filter(|other| other.channel == feed.channel);
            // Another feed of the channel may carry what this one cannot.
            let characters = others
                .map(|other| other.source.refused_characters())
                .min_by_key(|text| text.len())?;
            (!characters.is_empty() && feed.channel.fixed().is_none()).then(|| RefusedValue {
                template: feed.channel.clone(),
                characters,
            })
        };
        self.feeds.iter().filter_map(refused).collect()
    }

    /// Adds to `classes` that the channels of feeds keep their last value, where no entry says what is kept. So a newcomer
    /// gets the value from the hub, and the others do not get it again.
    ///
    /// A channel of several feeds is left out: its last event is that of one feed only.
    #[must_use]
    pub fn classes(&self, classes: &Classes) -> Classes {
        let is_alone = |feed: &FeedSettings| {
            let pattern = feed.channel.pattern();
            let intersecting = self
                .feeds
                .iter()
                .filter(|other| other.channel.pattern().intersects(&pattern));
            intersecting.count() == 1
        };
        let alone = self.feeds.iter().filter(|feed| is_alone(feed));
        let polled = alone.map(|feed| {
            let class = Class {
                cache_last: true,
                overflow: Overflow::Conflate,
                record_key: feed.publish.record_key().cloned(),
                ..Class::default()
            };
            (feed.channel.clone(), class)
        });
        classes.clone().with_defaults(polled.collect())
    }
}

/// One feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedSettings {
    /// The channel, with or without a placeholder.
    pub channel: ChannelTemplate,
    /// The name of its events.
    pub event: Box<str>,
    /// What is polled.
    pub source: SourceSettings,
    /// Which part of a response is published.
    pub publish: PublishMode,
    /// The time from one poll to the next.
    pub interval: Duration,
    /// The time limit of one poll as a whole.
    pub timeout: Duration,
}

impl FeedSettings {
    /// Whether this feed and another one poll and publish the same.
    fn has_source_of(&self, other: &Self) -> bool {
        let paced = |feed: &Self| (feed.interval, feed.timeout);
        let (interval, timeout) = paced(other);
        let same = Self {
            interval,
            timeout,
            ..self.clone()
        };
        same == *other
    }
}

/// Which part of a source's response is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishMode {
    /// Every response.
    Everything,
    /// A response that differs from the last one.
    Changed,
    /// The changed records of an array, which this key identifies.
    ChangedRecords(RecordKey),
}

impl PublishMode {
    fn record_key(&self) -> Option<&RecordKey> {
        match self {
            Self::ChangedRecords(key) => Some(key),
            Self::Everything | Self::Changed => None,
        }
    }
}

/// The result of a push for one channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The channel.
    pub channel: Box<str>,
    /// The number of records published (1 for anything but an array), or why there are none.
    pub records: Result<usize, PushError>,
}

/// Why a channel that was pushed has no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The source works, and does not have the key or path.
    Missing,
    /// The poll failed.
    Failed(Box<str>),
}

/// Channels whose polls were requested, each with its result once it is there.
type PushedLater = Vec<(Box<str>, oneshot::Receiver<Pushed>)>;

/// A request to poll now.
struct Push {
    channels: Pattern,
    reply: oneshot::Sender<Result<PushedLater, PushRefused>>,
}

/// Why a push was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushRefused {
    /// No feed has such a channel.
    Unknown,
    /// The value of the placeholder is not allowed in a Redis key.
    Value,
    /// The gateway is shutting down.
    Ending,
}

/// A handle to the running feeds.
pub struct Feeds {
    pushes: mpsc::Sender<Push>,
    wanted: watch::Sender<Vec<FeedSettings>>,
    metrics: Arc<RwLock<Vec<Arc<FeedMetrics>>>>,
    event_bytes: Arc<AtomicUsize>,
    duties: Duties,
    heard: mpsc::Sender<Bytes>,
}

impl Feeds {
    /// What gateways tell each other about feeds is told under this topic.
    pub const TOPIC: &str = "gateways.feeds";

    /// Whether this gateway polls. Of several gateways, one does so for the clients of all.
    #[must_use]
    pub fn are_polled_here(&self) -> bool {
        self.duties.fence().is_some()
    }

    /// Takes what a gateway told. Without room it is lost, and will be told again.
    pub fn hear(&self, told: Bytes) {
        let _ = self.heard.try_send(told);
    }

    /// Replaces [`Settings::event_bytes`], for polls that begin from now on.
    pub fn set_event_bytes(&self, bytes: usize) {
        self.event_bytes.store(bytes, Relaxed);
    }

    /// Replaces the feeds. Those that stay go on undisturbed; the polls of those that do not are aborted.
    pub fn replace(&self, feeds: Vec<FeedSettings>) {
        self.wanted.send_if_modified(|wanted| {
            let is_other = *wanted != feeds;
            *wanted = feeds;
            is_other
        });
    }

    /// The feeds, in the order of the configuration.
    #[must_use]
    pub fn settings(&self) -> Vec<FeedSettings> {
        self.wanted.borrow().clone()
    }

    /// Polls every channel of a feed that the pattern matches now, with or without subscribers, and publishes the whole
    /// response. An exact pattern fills placeholders. For any other pattern, a feed with a placeholder is polled only for
    /// its channels with subscribers.
    ///
    /// # Errors
    ///
    /// See [`PushRefused`]. The failure of a source is part of [`Pushed`].
    pub async fn push(&self, channels: Pattern) -> Result<Vec<Pushed>, PushRefused> {
        let (reply, polls) = oneshot::channel();
        let push = Push { channels, reply };
        self.pushes.send(push).await.map_err(|_| PushRefused::Ending)?;
        let polls = polls.await.map_err(|_| PushRefused::Ending)?;
        let mut pushed = Vec::new();
        for (channel, poll) in polls? {
            match poll.await {
                Ok(result) => pushed.push(result),
                Err(_) if self.pushes.is_closed() => return Err(PushRefused::Ending),
                Err(_) => pushed.push(Pushed {
                    channel,
                    records: Err(PushError::Failed("the feed was replaced".into())),
                }),
            }
        }
        Ok(pushed)
    }

    /// Reads the counters of every feed, in the order of the settings.
    #[must_use]
    pub fn read(&self) -> Vec<FeedSample> {
        self.metrics.read().iter().map(|metrics| metrics.read()).collect()
    }
}
