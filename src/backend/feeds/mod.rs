//! Feeds: sources that cannot push are polled, and what changed becomes events.
//!
//! Invariant: a source is asked only while somebody listens to its channel (or an operator asks); of one channel one
//! poll is under way at most, so its events keep their order; and a poll that fails changes nothing that is known.
//!
//! # The life of a poll
//!
//! 1. A shard joins a pattern; the hub notes it ([`crate::hub::InterestWatch`]); the [`Runner`] finds the feeds it
//!    concerns. A channel with a placeholder (`template`) is an instance of its own for each value.
//! 2. `schedule` says when an instance is due: at once for a newcomer, then each interval with jitter, later while
//!    it fails. [`SLOTS`] polls of one feed are under way at most; the others wait in order.
//! 3. `source` asks: HTTP or Redis. Whatever it is, the answer is one JSON text.
//! 4. `change` compares it with the last good one and says what is to be told.
//! 5. The events go to the broker. `health` notes how it went, and `system.log` hears of changes for the worse and
//!    for the better.
//!
//! There is one task that owns all instances, and one for each poll under way.

mod attributes;
mod change;
mod failure;
mod health;
mod poll;
mod report;
mod runner;
mod schedule;
mod source;
mod stats;
mod template;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use tickgate_protocol::channel::Pattern;

pub use health::State;
pub use runner::Runner;
pub use source::{RedisAddress, RedisKey, SourceSettings, UrlTemplate};
pub use stats::Snapshot;
pub use template::{ChannelTemplate, TemplateError};

use stats::FeedMetrics;

/// Polls of one feed under way at one time: enough for 10,000 channels every 10 seconds from a source that takes
/// 60 ms, few enough not to trample it.
pub const SLOTS: usize = 64;

/// The shortest time from one poll to the next, such as a newcomer causes; half the interval when that is shorter. However
/// many come, and however often they come and go, a source is asked no more often than that.
pub const NEWCOMER_GAP: Duration = Duration::from_secs(1);

/// Orders of operators that wait to be taken.
const PUSHES_MAX: usize = 64;

/// `[[feed]]`: all of them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The feeds, in the order of the file.
    pub feeds: Vec<FeedSettings>,
    /// Longest `data` of an event, in bytes (`limits.event_bytes`). A source's answer may have 16 times that.
    pub event_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            feeds: Vec::new(),
            event_bytes: 256 * 1024,
        }
    }
}

/// One feed.
#[derive(Clone, Debug)]
pub struct FeedSettings {
    /// The channel, perhaps with a placeholder.
    pub channel: ChannelTemplate,
    /// The events' name.
    pub event: Box<str>,
    /// What is asked.
    pub source: SourceSettings,
    /// What of an answer is told.
    pub tell: Tell,
    /// From one poll to the next.
    pub interval: Duration,
    /// For one poll as a whole.
    pub timeout: Duration,
}

/// What of an answer is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tell {
    /// Every answer.
    Everything,
    /// An answer that differs from the last one.
    Changed,
    /// Of an array of records with this field, those that differ from the last ones of the same key.
    ChangedRecords(Box<str>),
}

/// What a push of one channel gave: the records sent, or why the source gave none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The channel.
    pub channel: Box<str>,
    /// Records of an array, 1 for anything else.
    pub records: Result<usize, Box<str>>,
}

/// An order to poll now.
struct Push {
    channels: Pattern,
    reply: oneshot::Sender<Option<Vec<oneshot::Receiver<Pushed>>>>,
}

/// Why there is no answer to a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushRefused {
    /// No feed has such a channel.
    Unknown,
    /// The gateway ends.
    Ending,
}

/// What others ask of the feeds while they run.
pub struct Feeds {
    pushes: mpsc::Sender<Push>,
    stats: Arc<[FeedMetrics]>,
}

impl Feeds {
    /// Polls every feed's channel that the pattern matches now, whether somebody listens or not, and publishes all it
    /// has. An exact pattern fills placeholders; of another one only what is listened to already is polled.
    ///
    /// # Errors
    ///
    /// See [`PushRefused`]; that a source fails is told in [`Pushed`].
    pub async fn push(&self, channels: Pattern) -> Result<Vec<Pushed>, PushRefused> {
        let (reply, polls) = oneshot::channel();
        let order = Push { channels, reply };
        self.pushes.send(order).await.map_err(|_| PushRefused::Ending)?;
        let polls = polls.await.map_err(|_| PushRefused::Ending)?;
        let mut pushed = Vec::new();
        for poll in polls.ok_or(PushRefused::Unknown)? {
            pushed.push(poll.await.map_err(|_| PushRefused::Ending)?);
        }
        Ok(pushed)
    }

    /// Every feed's figures, in the order of the settings.
    #[must_use]
    pub fn snapshot(&self) -> Vec<Snapshot> {
        self.stats.iter().map(FeedMetrics::read).collect()
    }
}
