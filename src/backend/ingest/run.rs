//! The task of each source, and the runner of all.
//!
//! Invariant: the events of a source are published in the order of its messages, batch by batch. An event that the broker did
//! not take is published again before anything behind its batch.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::RwLock;
use rand::RngExt as _;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};

use super::convert::Converter;
use super::live::Live;
use super::metrics::{SourceMetrics, SourceState};
use super::nats::{self, StreamReader};
use super::redis::{self, GroupReader};
use super::{Batch, End, Message, NatsFrom, Origin, RedisFrom, Settings, SourceSettings, Sources};
use crate::backend::lines::Lines;
use crate::backend::report::Reports;
use crate::broker::{Broker, Duties, Fence};
use crate::event::{NewEvent, Refusal};
use crate::time::unix_ms;
use tickgate_protocol::channel::TenantNames;

/// Most messages that are published together.
pub(super) const BATCH: usize = 256;

/// The longest random wait before a source is connected to again, and before each later attempt: doubled each time, up to
/// the second value.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The wait before events are published again that the broker did not take, and its upper limit.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A message that is no event is logged at most once in this time.
const BAD_LOGGED: Duration = Duration::from_secs(60);

/// How a source is read this time.
pub(super) struct Reads<'a> {
    /// The name of the gateway.
    pub(super) node: &'a str,
    /// How often it was tried before.
    pub(super) attempt: usize,
    /// Whether this gateway has read it before.
    pub(super) again: bool,
}

/// A connection to a source.
enum Reader {
    Stream(Box<StreamReader>),
    Group(Box<GroupReader>),
    Live(Live),
}

impl Reader {
    async fn open(settings: &SourceSettings, reads: &Reads<'_>) -> Result<Self, End> {
        Ok(match &settings.origin {
            Origin::Nats { server, from, stream } => match from {
                NatsFrom::Subject(subject) => Self::Live(nats::subscribe(server, subject, reads).await?),
                NatsFrom::Stream(name) => {
                    Self::Stream(Box::new(StreamReader::open(server, name, stream, reads).await?))
                }
            },
            Origin::Redis { server, from, stream } => match from {
                RedisFrom::Stream(key) => {
                    let record_key = settings.record_key.as_ref();
                    Self::Group(Box::new(
                        GroupReader::open(server, key, stream, record_key, reads).await?,
                    ))
                }
                RedisFrom::Channel(_) | RedisFrom::Pattern(_) => {
                    Self::Live(redis::subscribe(server, from, reads).await?)
                }
            },
        })
    }

    async fn next(&mut self) -> Result<Batch, End> {
        match self {
            Self::Stream(reader) => reader.next().await,
            Self::Group(reader) => reader.next().await,
            Self::Live(live) => live.next().await,
        }
    }

    async fn confirm(&mut self) -> Result<(), End> {
        match self {
            Self::Stream(reader) => reader.confirm().await,
            Self::Group(reader) => reader.confirm().await,
            Self::Live(_) => Ok(()),
        }
    }
}

/// One source.
struct Source {
    settings: SourceSettings,
    converter: Converter,
    metrics: Arc<SourceMetrics>,
    broker: Arc<dyn Broker>,
    reports: Reports,
    node: Box<str>,
    again: bool,
    bad_logged: Option<Instant>,
    lost_lines: Lines,
    // Why the source fails, as the log told last.
    told: Option<String>,
}

impl Source {
    /// Reads the source whenever the gateway has the duties.
    async fn run(mut self, mut duties: Duties) {
        loop {
            let fence = duties.begun().await;
            self.metrics.set_state(SourceState::Connecting);
            tokio::select! {
                never = self.read(fence) => match never {},
                () = duties.ended(fence) => {}
            }
            self.metrics.stand_by();
            self.told = None;
        }
    }

    /// Connects again and again.
    async fn read(&mut self, fence: Fence) -> Infallible {
        let (mut attempt, mut backoff) = (0, BACKOFF.0);
        loop {
            let connects = self.metrics.counters.connects.get();
            let Err(End(reason)) = self.session(fence, attempt).await;
            self.fail(reason);
            let was_up = self.metrics.counters.connects.get() > connects;
            backoff = if was_up {
                BACKOFF.0
            } else {
                (2 * backoff).min(BACKOFF.1)
            };
            attempt += 1;
            let wait = rand::rng().random_range(Duration::ZERO..=backoff);
            sleep(wait).await;
        }
    }

    async fn session(&mut self, fence: Fence, attempt: usize) -> Result<Infallible, End> {
        let reads = Reads {
            node: &self.node,
            attempt,
            again: self.again,
        };
        let mut reader = Reader::open(&self.settings, &reads).await?;
        self.again = true;
        self.metrics.counters.connects.add(1);
        self.work();
        loop {
            let batch = reader.next().await?;
            self.publish(batch, fence).await;
            reader.confirm().await?;
        }
    }

    /// Publishes the events of a batch until each has its outcome.
    async fn publish(&mut self, batch: Batch, fence: Fence) {
        let counters = &self.metrics.counters;
        counters.messages.add(batch.messages.len() as u64);
        if batch.lost > 0 {
            counters.lost.add(batch.lost);
            let (channel, from) = (&*self.metrics.channel, &*self.metrics.origin);
            if let Some(left_out) = self.lost_lines.take() {
                tracing::warn!(
                    channel,
                    from,
                    messages = batch.lost,
                    left_out,
                    "messages of a source were lost before they could be read"
                );
            }
        }
        let newest_ms = batch.messages.last().map(|message| message.timestamp_ms);
        let mut events = Vec::with_capacity(batch.messages.len());
        for message in &batch.messages {
            match self.converter.convert(message) {
                Ok(event) => events.push(event),
                Err(why) => self.skip(message, &why),
            }
        }
        let mut wait = AGAIN.0;
        while !events.is_empty() {
            let (again, refusal) = self.publish_once(events, fence).await;
            events = again;
            let Some(refusal) = refusal.filter(|_| !events.is_empty()) else {
                break;
            };
            self.fail(format!("its events cannot be published: {refusal}"));
            sleep(wait).await;
            wait = (2 * wait).min(AGAIN.1);
        }
        self.work();
        let metrics = &self.metrics;
        if let Some(behind) = batch.behind {
            metrics.counters.behind.set(i64::try_from(behind).unwrap_or(i64::MAX));
        }
        if let Some(newest_ms) = newest_ms {
            metrics.delay_ms.store(unix_ms().saturating_sub(newest_ms), Relaxed);
        }
    }

    /// Publishes events. Returns those that are to be published again, and why.
    async fn publish_once(&mut self, events: Vec<NewEvent>, fence: Fence) -> (Vec<NewEvent>, Option<Refusal>) {
        // An event with an id is known when it comes again. All others must not come late from a former reader.
        let has_ids = events.iter().all(|event| event.options.id.is_some());
        let outcomes = if has_ids {
            self.broker.publish(events.clone()).await
        } else {
            self.broker.publish_fenced(events.clone(), fence).await
        };
        let counters = &self.metrics.counters;
        let (mut again, mut why) = (Vec::new(), None);
        for (event, outcome) in events.into_iter().zip(outcomes) {
            match outcome {
                Ok(receipt) if receipt.duplicate => counters.duplicates.add(1),
                Ok(receipt) if receipt.malformed.is_some() => counters.bad.add(1),
                Ok(_) => counters.events.add(1),
                Err(refusal) if refusal == Refusal::Unavailable || event.options.id.is_some() => {
                    why = Some(refusal);
                    again.push(event);
                }
                // It may have been published, or came after the duties ended. Nothing would tell a second one apart.
                Err(_) => counters.lost.add(1),
            }
        }
        (again, why)
    }

    /// Counts a message that is no event.
    fn skip(&mut self, message: &Message, why: &str) {
        self.metrics.counters.bad.add(1);
        let now = Instant::now();
        if self
            .bad_logged
            .is_none_or(|logged| now.duration_since(logged) >= BAD_LOGGED)
        {
            self.bad_logged = Some(now);
            let (tenant, from) = (self.metrics.tenant_name.as_deref(), &*self.metrics.origin);
            let (subject, id) = (&*message.subject, message.id.as_deref());
            tracing::warn!(
                tenant,
                from,
                subject,
                id,
                why,
                "a message of a source is no event and is skipped (said once a minute)"
            );
        }
    }

    fn work(&mut self) {
        let before = self.metrics.set_state(SourceState::Reading);
        if before == SourceState::Reading {
            return;
        }
        let (tenant, from, channel) = (
            self.metrics.tenant_name.as_deref(),
            &*self.metrics.origin,
            &*self.metrics.channel,
        );
        tracing::info!(tenant, from, channel, "the source is read");
        if self.told.take().is_some() {
            self.report(
                "info",
                &format!("the source of {channel} is read again"),
                SourceState::Reading,
            );
        }
    }

    fn fail(&mut self, reason: String) {
        let before = self.metrics.set_state(SourceState::Failing);
        if self.told.as_ref() == Some(&reason) {
            return;
        }
        let (tenant, from, channel) = (
            self.metrics.tenant_name.as_deref(),
            &*self.metrics.origin,
            &*self.metrics.channel,
        );
        tracing::warn!(tenant, from, channel, reason, "the source fails; it is tried again");
        if before != SourceState::Failing && self.told.is_none() {
            self.report("error", &format!("the source of {channel} fails"), SourceState::Failing);
        }
        self.told = Some(reason);
    }

    fn report(&self, level: &'static str, message: &str, state: SourceState) {
        let data = json!({
            "level": level, "source": "source", "message": message,
            "channel": &*self.metrics.channel, "state": state.as_str(),
        });
        self.reports.publish(self.settings.tenant, level, &data);
    }
}

/// A source that runs.
struct Running {
    settings: SourceSettings,
    metrics: Arc<SourceMetrics>,
    task: AbortHandle,
}

/// Runs all sources, by [`Runner::run`].
pub struct Runner {
    wanted: watch::Receiver<Vec<SourceSettings>>,
    metrics: Arc<RwLock<Vec<Arc<SourceMetrics>>>>,
    broker: Arc<dyn Broker>,
    duties: Duties,
    tenants: TenantNames,
    node: Box<str>,
}

impl Runner {
    /// Creates the sources of the gateway with this name, and the handle to them. They run on a tokio runtime.
    #[must_use]
    pub fn new(settings: Settings, broker: Arc<dyn Broker>, duties: Duties, node: &str) -> (Arc<Sources>, Self) {
        let metrics = settings.sources.iter();
        let metrics = metrics.map(|source| Arc::new(SourceMetrics::new(source, &settings.tenants)));
        let metrics = Arc::new(RwLock::new(metrics.collect()));
        let (sender, mut wanted) = watch::channel(settings.sources);
        wanted.mark_changed();
        let runner = Self {
            wanted,
            metrics: Arc::clone(&metrics),
            broker,
            duties: duties.clone(),
            tenants: settings.tenants,
            node: node.into(),
        };
        let handle = Sources {
            wanted: sender,
            metrics,
            duties,
        };
        (Arc::new(handle), runner)
    }

    /// Runs until the task is aborted, which also ends the sources.
    pub async fn run(mut self) {
        let reports = Reports::start(Arc::clone(&self.broker));
        let (mut running, mut tasks) = (Vec::new(), JoinSet::new());
        loop {
            tokio::select! {
                Ok(()) = self.wanted.changed() => self.replace(&mut running, &mut tasks, &reports),
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        // The gateway stops.
                        std::panic::resume_unwind(error.into_panic());
                    }
                }
                else => std::future::pending().await,
            }
        }
    }

    /// Ends the sources that are not wanted any more, and starts new ones.
    fn replace(&mut self, running: &mut Vec<Running>, tasks: &mut JoinSet<()>, reports: &Reports) {
        let wanted = self.wanted.borrow_and_update().clone();
        let mut before = std::mem::take(running);
        for settings in wanted {
            let same = before.iter().position(|running| running.settings == settings);
            running.push(match same {
                Some(index) => before.swap_remove(index),
                None => self.start(settings, tasks, reports),
            });
        }
        for gone in before {
            gone.task.abort();
        }
        *self.metrics.write() = running.iter().map(|running| Arc::clone(&running.metrics)).collect();
    }

    fn start(&self, settings: SourceSettings, tasks: &mut JoinSet<()>, reports: &Reports) -> Running {
        let metrics = Arc::new(SourceMetrics::new(&settings, &self.tenants));
        let source = Source {
            converter: Converter::new(settings.clone(), &self.tenants),
            settings: settings.clone(),
            metrics: Arc::clone(&metrics),
            broker: Arc::clone(&self.broker),
            reports: reports.clone(),
            node: self.node.clone(),
            again: false,
            bad_logged: None,
            lost_lines: Lines::new(),
            told: None,
        };
        let task = tasks.spawn(source.run(self.duties.clone()));
        Running {
            settings,
            metrics,
            task,
        }
    }
}
