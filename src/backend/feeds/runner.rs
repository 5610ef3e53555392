//! The task that owns all channels of all feeds: their subscribers, what is due, and what is under way.
//!
//! Invariant: a channel is polled when it is due and has subscribers or an operator waits for it, and never twice at a
//! time. A channel without subscribers is forgotten as soon as a new subscriber could not cause a poll too early.

mod push;
mod replace;
mod share;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use parking_lot::RwLock;
use slab::Slab;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use self::share::Share;
use super::failure::PollFailure;
use super::health::{FeedState, Health};
use super::instance::Instance;
use super::metrics::{FeedCounters, FeedMetrics};
use super::poll::{PollEnd, Poller};
use super::report;
use super::schedule::{Pace, Schedule};
use super::source::Connections;
use super::{FeedSettings, Feeds, PUSHES_MAX, Push, SLOTS, Settings};
use crate::backend::report::Reports;
use crate::broker::{Broker, Duties, Fence, Peers};
use crate::event::Event;
use crate::hub::{Hub, InterestWatch};
use crate::time::Clock;
use tickgate_protocol::channel::{Channel, ChannelTemplate, Pattern, TenantNames};

/// The shortest time between two log lines about the reason of one feed's failure, in milliseconds. Channels that fail for
/// different reasons must not fill the log.
const REASON_PAUSE_MS: u64 = 5_000;

/// A running feed.
struct Feed {
    poller: Arc<Poller>,
    pace: Pace,
    // The key of each channel's instance.
    channels: HashMap<Channel, usize>,
    in_flight: usize,
    // Instances that are due, while all slots are in use.
    waiting: VecDeque<usize>,
    health: Health,
    // The failure that the log told last, and when.
    told: Option<(PollFailure, u64)>,
    // Whether the log told that a value is not allowed in the source's key.
    told_refused: bool,
}

impl Feed {
    fn counters(&self) -> &FeedCounters {
        &self.poller.metrics().counters
    }
}

/// Runs all feeds, by [`Runner::run`].
pub struct Runner {
    hub: Arc<Hub>,
    watch: Option<Arc<InterestWatch>>,
    broker: Arc<dyn Broker>,
    feeds: Vec<Feed>,
    instances: Slab<Instance>,
    // When an instance is due, its key, and the stamp it had then. Entries with another stamp are outdated.
    agenda: BinaryHeap<Reverse<(u64, usize, u64)>>,
    stamps: u64,
    polls: JoinSet<PollEnd>,
    pushes: mpsc::Receiver<Push>,
    wanted: watch::Receiver<Vec<FeedSettings>>,
    // What the handle reads, in the order of the feeds.
    metrics: Arc<RwLock<Vec<Arc<FeedMetrics>>>>,
    // What the hub's notes are about.
    templates: Arc<RwLock<Vec<ChannelTemplate>>>,
    tenants: TenantNames,
    connections: Connections,
    event_bytes: Arc<AtomicUsize>,
    started: Instant,
    // The hub's clock.
    clock: Clock,
    duties: Duties,
    // That of the duties, as far as the runner has taken notice.
    fence: Option<Fence>,
    share: Share,
}

impl Runner {
    /// Creates the feeds of a gateway and the handle to them. They run on a tokio runtime.
    ///
    /// The runner watches the hub from now on, so it must be created before the first connection can subscribe.
    pub fn new(
        settings: Settings,
        hub: Arc<Hub>,
        broker: Arc<dyn Broker>,
        clock: Clock,
        (duties, peers): (Duties, Option<Arc<dyn Peers>>),
    ) -> (Arc<Feeds>, Self) {
        let templates = Arc::<RwLock<Vec<ChannelTemplate>>>::default();
        let concerns = {
            let templates = Arc::clone(&templates);
            move |pattern: &Pattern| templates.read().iter().any(|template| template.concerns(pattern))
        };
        let watch = hub.watch(Box::new(concerns));
        let metrics = Arc::<RwLock<Vec<Arc<FeedMetrics>>>>::default();
        let event_bytes = Arc::new(AtomicUsize::new(settings.event_bytes));
        let (sender, pushes) = mpsc::channel(PUSHES_MAX);
        let (wanted_sender, wanted) = watch::channel(settings.feeds.clone());
        let (share, heard) = Share::new(peers);
        let mut runner = Self {
            hub,
            watch,
            broker,
            feeds: Vec::new(),
            instances: Slab::new(),
            agenda: BinaryHeap::new(),
            stamps: 0,
            polls: JoinSet::new(),
            pushes,
            wanted,
            metrics: Arc::clone(&metrics),
            templates,
            tenants: settings.tenants,
            connections: Connections::default(),
            event_bytes: Arc::clone(&event_bytes),
            started: Instant::now(),
            clock,
            fence: duties.fence(),
            duties: duties.clone(),
            share,
        };
        runner.replace(settings.feeds);
        let handle = Feeds {
            pushes: sender,
            wanted: wanted_sender,
            metrics,
            event_bytes,
            duties,
            heard,
        };
        (Arc::new(handle), runner)
    }

    fn feed(&mut self, settings: FeedSettings) -> Feed {
        let metrics = FeedMetrics::new(&settings.channel, &self.tenants);
        let event_bytes = Arc::clone(&self.event_bytes);
        Feed {
            pace: Pace::new(settings.interval),
            poller: Arc::new(Poller::new(
                settings,
                event_bytes,
                &mut self.connections,
                Arc::new(metrics),
            )),
            channels: HashMap::new(),
            in_flight: 0,
            waiting: VecDeque::new(),
            health: Health::default(),
            told: None,
            told_refused: false,
        }
    }

    /// Runs until the task is aborted, which also aborts the polls under way.
    pub async fn run(mut self) {
        let reports = Reports::start(Arc::clone(&self.broker));
        self.share.start();
        loop {
            let due = self.next_due();
            tokio::select! {
                changed = interest_changed(self.watch.as_deref()) => self.update_interest(changed),
                Some(end) = self.polls.join_next() => self.poll_ended(end, &reports),
                Some(push) = self.pushes.recv() => self.push(push),
                Some(told) = self.share.heard.recv() => self.hear(&told),
                () = share::duties_changed(&mut self.duties, self.fence) => self.take_duties(),
                () = share::full_due(&mut self.share.full) => self.tell_all(),
                Ok(()) = self.wanted.changed() => {
                    let wanted = self.wanted.borrow_and_update().clone();
                    self.replace(wanted);
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            self.start_due(&reports);
            self.share.tell_news(&self.tenants);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn next_due(&self) -> Option<Instant> {
        let Reverse((due_ms, ..)) = self.agenda.peek()?;
        Some(self.started + Duration::from_millis(*due_ms))
    }

    /// Adds the instance's next poll to the agenda. An earlier entry of the instance becomes outdated.
    fn enter(&mut self, key: usize) {
        let instance = &mut self.instances[key];
        self.stamps += 1;
        instance.stamp = self.stamps;
        self.agenda
            .push(Reverse((instance.schedule.due_ms, key, instance.stamp)));
    }

    /// Changes an instance's schedule, and its entry in the agenda if necessary.
    fn reschedule(&mut self, key: usize, change: impl FnOnce(&mut Schedule, Pace)) {
        let instance = &mut self.instances[key];
        let before_ms = instance.schedule.due_ms;
        change(&mut instance.schedule, self.feeds[instance.feed].pace);
        // An instance that runs or waits for a slot is entered after its poll.
        if instance.schedule.due_ms != before_ms && !instance.running && !instance.waiting {
            self.enter(key);
        }
    }

    /// Shards joined or left these patterns.
    fn update_interest(&mut self, changed: HashMap<Pattern, bool>) {
        for (pattern, joined) in changed {
            for index in 0..self.feeds.len() {
                let template = &self.feeds[index].poller.settings.channel;
                if !template.concerns(&pattern) {
                    continue;
                }
                let channel = match template.fixed() {
                    Some(channel) => channel.clone(),
                    // A pattern that fills a template is a channel.
                    None => match pattern.to_channel() {
                        Some(channel) => channel,
                        None => continue,
                    },
                };
                let wanted = if template.fixed().is_some() {
                    self.hub.is_wanted(&channel)
                } else {
                    self.hub.holds(&pattern)
                };
                self.set_wanted(index, &channel, wanted, joined);
            }
        }
    }

    fn set_wanted(&mut self, feed: usize, channel: &Channel, wanted: bool, joined: bool) {
        let now_ms = self.now_ms();
        if wanted {
            let Some(key) = self.instance(feed, channel) else {
                return;
            };
            let instance = &mut self.instances[key];
            let joined_others = instance.wanted;
            if !joined_others {
                instance.wanted = true;
                self.feeds[feed].counters().channels.add(1);
            } else if !joined {
                return;
            }
            self.share.note_wanted(channel);
            let instance = &mut self.instances[key];
            instance.newcomers = true;
            // The newcomer has the value already if the hub keeps one. Then it waits for the next poll, as the others do.
            if !joined_others || self.kept(key).is_none() {
                self.reschedule(key, |schedule, pace| schedule.subscriber_joined(pace, now_ms));
            }
        } else if let Some(&key) = self.feeds[feed].channels.get(channel)
            && std::mem::take(&mut self.instances[key].wanted)
        {
            self.feeds[feed].counters().channels.add(-1);
            self.instances[key].forget_last();
            self.reschedule(key, |schedule, pace| schedule.last_subscriber_left(pace, now_ms));
        }
    }

    /// The channel's instance, which is created if necessary; `None` when the source does not accept the value.
    fn instance(&mut self, index: usize, channel: &Channel) -> Option<usize> {
        let feed = &mut self.feeds[index];
        if let Some(key) = feed.channels.get(channel) {
            return Some(*key);
        }
        let value = feed.poller.settings.channel.value(channel.as_str());
        let refused = feed.poller.settings.source.refused_characters();
        if value.is_some_and(|value| value.contains(|character| refused.contains(character))) {
            feed.counters().refused.add(1);
            let message = "not polled: the value of the placeholder has `:` and would name another Redis key";
            if std::mem::replace(&mut feed.told_refused, true) {
                tracing::debug!(%channel, "{message}");
            } else {
                tracing::warn!(%channel, feed = %feed.poller.settings.channel, "{message}");
            }
            return None;
        }
        let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let instance = Instance::new(index, channel, value, now_ms);
        let key = self.instances.insert(instance);
        feed.channels.insert(channel.clone(), key);
        self.enter(key);
        Some(key)
    }

    /// Starts the polls that are due, as long as there are free slots.
    fn start_due(&mut self, reports: &Reports) {
        let now_ms = self.now_ms();
        while let Some(&Reverse((due_ms, key, stamp))) = self.agenda.peek()
            && due_ms <= now_ms
        {
            self.agenda.pop();
            let Some(instance) = self.instances.get_mut(key) else {
                continue;
            };
            if instance.stamp != stamp || instance.running || instance.waiting {
                continue;
            }
            instance.waiting = true;
            self.feeds[instance.feed].waiting.push_back(key);
        }
        for feed in 0..self.feeds.len() {
            while self.feeds[feed].in_flight < SLOTS
                && let Some(key) = self.feeds[feed].waiting.pop_front()
            {
                self.instances[key].waiting = false;
                self.start(key, now_ms, reports);
            }
        }
    }

    /// Starts a poll, or forgets the instance when it has neither subscribers nor pushes.
    fn start(&mut self, key: usize, now_ms: u64, reports: &Reports) {
        let instance = &mut self.instances[key];
        if !instance.is_wanted(now_ms) && instance.pushes.is_empty() {
            return self.forget(key, reports);
        }
        if self.fence.is_none() && instance.pushes.is_empty() {
            // Another gateway polls.
            instance.schedule.passed_over(self.feeds[instance.feed].pace, now_ms);
            return self.enter(key);
        }
        let instance = &self.instances[key];
        let wants_kept = instance.wants_kept(&self.feeds[instance.feed].poller.settings.publish);
        let kept = wants_kept.then(|| self.kept(key)).flatten();
        let instance = &mut self.instances[key];
        let feed = &mut self.feeds[instance.feed];
        if instance.schedule.started(feed.pace, now_ms) {
            feed.counters().late.add(1);
        }
        feed.in_flight += 1;
        feed.counters().in_flight.add(1);
        let poll = instance.begin(
            (key, now_ms, self.fence),
            &feed.poller.settings.publish,
            kept.as_deref(),
        );
        let (poller, broker) = (Arc::clone(&feed.poller), Arc::clone(&self.broker));
        instance.poll = Some(self.polls.spawn(async move { poller.run(poll, &*broker).await }));
    }

    /// The value that the hub gives to newcomers of the instance's channel, if it is one of this feed.
    fn kept(&self, key: usize) -> Option<Arc<Event>> {
        let instance = &self.instances[key];
        let settings = &self.feeds[instance.feed].poller.settings;
        // Without merging, the last event has only the records that changed last.
        let class = self.hub.class_of(&instance.channel);
        if class.record_key.as_ref() != settings.publish.record_key() && settings.publish.record_key().is_some() {
            return None;
        }
        let last = self.hub.last(&instance.channel, self.clock.now())?;
        (last.name == settings.event).then_some(last)
    }

    fn forget(&mut self, key: usize, reports: &Reports) {
        let instance = self.instances.remove(key);
        self.feeds[instance.feed].channels.remove(&instance.channel);
        let results = (instance.succeeded, None);
        self.update_health(&instance.channel, instance.feed, results, None, reports);
    }

    /// Replaces the result of a channel's last poll by the new one. If that changes the feed's state, the change is
    /// reported and the previous state returned.
    fn update_health(
        &mut self,
        channel: &Channel,
        feed: usize,
        (before, now): (Option<bool>, Option<bool>),
        failure: Option<&PollFailure>,
        reports: &Reports,
    ) -> Option<FeedState> {
        let feed = &mut self.feeds[feed];
        let last = feed.health.change(before, now)?;
        let metrics = feed.poller.metrics();
        metrics.set_state(feed.health.state());
        report::changed(reports, metrics, last, &feed.health, (channel.as_str(), failure));
        Some(last)
    }

    /// A poll ended.
    fn poll_ended(&mut self, end: Result<PollEnd, JoinError>, reports: &Reports) {
        let end = match end {
            Ok(end) => end,
            // A panic lost the state of the poll, so the feed cannot continue. The gateway stops.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        let now_ms = self.now_ms();
        let is_own = |instance: &&mut Instance| instance.stamp == end.stamp;
        // A poll can end although it is aborted.
        let Some(instance) = self.instances.get_mut(end.key).filter(is_own) else {
            return;
        };
        let feed = &mut self.feeds[instance.feed];
        instance.running = false;
        instance.poll = None;
        feed.in_flight -= 1;
        feed.counters().in_flight.add(-1);
        let (pace, chance) = (feed.pace, rand::random::<f64>());
        match &end.failure {
            None => {
                instance.schedule.succeeded(pace, now_ms, chance);
                // An unchanged value is confirmed too, so that new subscribers still get it.
                if !end.says_nothing {
                    let fresh_ms = feed.poller.fresh_ms();
                    self.hub.confirm_last(&instance.channel, fresh_ms, self.clock.now());
                    self.share.note_confirmed(&instance.channel, fresh_ms);
                }
            }
            Some(_) => instance.schedule.failed(pace, now_ms, chance),
        }
        if instance.is_wanted(now_ms) {
            instance.last = end.last;
            instance.newcomers |= end.newcomers && end.failure.is_some();
        } else {
            instance.schedule.last_subscriber_left(pace, now_ms);
        }
        if !instance.pushes.is_empty() {
            instance.schedule.push_requested(now_ms);
        }
        if !end.says_nothing {
            let succeeded = Some(end.failure.is_none());
            let before = std::mem::replace(&mut instance.succeeded, succeeded);
            let (index, channel) = (instance.feed, instance.channel.clone());
            let last = self.update_health(&channel, index, (before, succeeded), end.failure.as_ref(), reports);
            if let Some(failure) = end.failure {
                self.tell(index, &channel, failure, last.is_some(), now_ms);
            }
            if last == Some(FeedState::Failing) {
                self.source_recovered(index, now_ms);
            }
        }
        let instance = &self.instances[end.key];
        if instance.is_wanted(now_ms) && instance.newcomers && self.kept(end.key).is_none() {
            // A subscriber joined during the poll, or the poll failed.
            let schedule = &mut self.instances[end.key].schedule;
            schedule.subscriber_joined(pace, now_ms);
        }
        self.enter(end.key);
    }

    /// Logs a failure whose reason is not the one that the log told last. `is_told` means that the report of a change of
    /// state has told it.
    fn tell(&mut self, feed: usize, channel: &Channel, failure: PollFailure, is_told: bool, now_ms: u64) {
        let feed = &mut self.feeds[feed];
        if !is_told {
            let is_news = feed.told.as_ref().is_none_or(|(told, told_ms)| {
                !failure.is_alike(told) && now_ms.saturating_sub(*told_ms) >= REASON_PAUSE_MS
            });
            if !is_news {
                return;
            }
            let name = &feed.poller.metrics().channel;
            tracing::warn!(feed = &**name, %channel, %failure, "feed {name} fails for another reason");
        }
        feed.told = Some((failure, now_ms));
    }

    /// A source that failed for all channels answers one again, so the others need not wait out their pauses.
    fn source_recovered(&mut self, feed: usize, now_ms: u64) {
        let keys: Vec<usize> = self.feeds[feed].channels.values().copied().collect();
        for key in keys {
            self.reschedule(key, |schedule, pace| {
                schedule.source_recovered(pace, now_ms, rand::random());
            });
        }
    }
}

/// Waits for changes of interest in the hub; forever without feeds.
async fn interest_changed(watch: Option<&InterestWatch>) -> HashMap<Pattern, bool> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
