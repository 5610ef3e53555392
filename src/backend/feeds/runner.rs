//! The task that owns all channels of all feeds: who listens, what is due, what is under way.
//!
//! Invariant: a channel is polled when it is due and wanted (or an operator waits for it), never twice at a time; one
//! that nobody wants is forgotten as soon as that cannot make the source be asked too early again.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

use super::change::Memory;
use super::failure::Failure;
use super::health::{Health, State};
use super::poll::{Done, Poll, Polled};
use super::report::Reports;
use super::schedule::{Pace, Turns};
use super::source::Connections;
use super::stats::FeedMetrics;
use super::{Feeds, PUSHES_MAX, Push, Pushed, SLOTS, Settings};
use crate::broker::Broker;
use crate::hub::{Hub, InterestWatch};
use crate::time::Clock;
use tickgate_protocol::channel::{Channel, Pattern};

/// A feed at work.
struct Feed {
    poll: Arc<Poll>,
    pace: Pace,
    // The instance of each channel.
    channels: HashMap<Channel, usize>,
    in_flight: usize,
    // Due, but without a slot.
    waiting: VecDeque<usize>,
    health: Health,
}

/// One channel of one feed.
struct Instance {
    feed: usize,
    channel: Channel,
    // What fills the placeholder.
    value: Option<Box<str>>,
    wanted: bool,
    running: bool,
    waiting: bool,
    // The next answer is told in full.
    full: bool,
    turns: Turns,
    // Of the entry in the agenda that counts.
    stamp: u64,
    memory: Memory,
    // How the last poll went.
    went: Option<bool>,
    pushes: Vec<oneshot::Sender<Pushed>>,
}

/// Runs all feeds. [`Runner::run`] does not end.
pub struct Runner {
    hub: Arc<Hub>,
    watch: Option<Arc<InterestWatch>>,
    broker: Arc<dyn Broker>,
    feeds: Vec<Feed>,
    instances: Slab<Instance>,
    // When which instance is due, with the stamp it had then; outdated entries are passed over.
    agenda: BinaryHeap<Reverse<(u64, usize, u64)>>,
    stamps: u64,
    polls: JoinSet<Done>,
    orders: mpsc::Receiver<Push>,
    started: Instant,
    // The hub's.
    clock: Clock,
}

impl Runner {
    /// The feeds of a gateway, to be run on a tokio runtime, and what others ask of them. Watches the hub from now on,
    /// so it is made before the first connection can subscribe.
    pub fn new(settings: Settings, hub: Arc<Hub>, broker: Arc<dyn Broker>, clock: Clock) -> (Arc<Feeds>, Self) {
        let templates: Vec<_> = settings.feeds.iter().map(|feed| feed.channel.clone()).collect();
        let concerns = move |pattern: &Pattern| templates.iter().any(|template| template.concerns(pattern));
        let watch = if settings.feeds.is_empty() {
            None
        } else {
            hub.watch(Box::new(concerns))
        };
        let stats: Arc<[FeedMetrics]> = settings
            .feeds
            .iter()
            .map(|feed| FeedMetrics::new(&feed.channel.to_string()))
            .collect();
        let mut connections = Connections::default();
        let event_bytes = settings.event_bytes;
        let feed = |(index, settings): (usize, super::FeedSettings)| Feed {
            pace: Pace::new(settings.interval),
            poll: Arc::new(Poll::new(
                settings,
                event_bytes,
                &mut connections,
                (Arc::clone(&stats), index),
            )),
            channels: HashMap::new(),
            in_flight: 0,
            waiting: VecDeque::new(),
            health: Health::default(),
        };
        let feeds = settings.feeds.into_iter().enumerate().map(feed).collect();
        let (pushes, orders) = mpsc::channel(PUSHES_MAX);
        let runner = Self {
            hub,
            watch,
            broker,
            feeds,
            instances: Slab::new(),
            agenda: BinaryHeap::new(),
            stamps: 0,
            polls: JoinSet::new(),
            orders,
            started: Instant::now(),
            clock,
        };
        (Arc::new(Feeds { pushes, stats }), runner)
    }

    /// Runs until the task is aborted, and with it the polls under way.
    pub async fn run(mut self) {
        let reports = Reports::start(Arc::clone(&self.broker));
        loop {
            let due = self.next_due();
            tokio::select! {
                changed = changed(self.watch.as_deref()) => self.interest(changed),
                Some(done) = self.polls.join_next() => self.ended(done, &reports),
                Some(push) = self.orders.recv() => self.push(push),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
            self.begin_due(&reports);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn next_due(&self) -> Option<Instant> {
        let Reverse((due_ms, ..)) = self.agenda.peek()?;
        Some(self.started + Duration::from_millis(*due_ms))
    }

    /// Puts the instance's next turn into the agenda.
    fn enter(&mut self, key: usize) {
        let instance = &mut self.instances[key];
        self.stamps += 1;
        instance.stamp = self.stamps;
        self.agenda.push(Reverse((instance.turns.due_ms, key, instance.stamp)));
    }

    /// Changes an instance's turns, and its place in the agenda when that makes a difference.
    fn retime(&mut self, key: usize, change: impl FnOnce(&mut Turns, Pace)) {
        let instance = &mut self.instances[key];
        let before_ms = instance.turns.due_ms;
        change(&mut instance.turns, self.feeds[instance.feed].pace);
        // One that runs or waits for a slot is entered when that is over.
        if instance.turns.due_ms != before_ms && !instance.running && !instance.waiting {
            self.enter(key);
        }
    }

    /// Patterns were joined or left.
    fn interest(&mut self, changed: HashMap<Pattern, bool>) {
        for (pattern, joined) in changed {
            for index in 0..self.feeds.len() {
                let template = &self.feeds[index].poll.settings.channel;
                if !template.concerns(&pattern) {
                    continue;
                }
                let channel = match template.fixed() {
                    Some(channel) => channel.clone(),
                    // A pattern that fills a template is a channel.
                    None => match Channel::parse(pattern.as_str()) {
                        Ok(channel) => channel,
                        Err(_) => continue,
                    },
                };
                let wanted = if template.fixed().is_some() {
                    self.hub.is_wanted(channel.as_str())
                } else {
                    self.hub.holds(&pattern)
                };
                self.want(index, &channel, wanted, joined);
            }
        }
    }

    fn want(&mut self, feed: usize, channel: &Channel, wanted: bool, joined: bool) {
        let now_ms = self.now_ms();
        if wanted {
            let Some(key) = self.instance(feed, channel) else {
                return;
            };
            let instance = &mut self.instances[key];
            if !instance.wanted {
                instance.wanted = true;
                self.feeds[feed].poll.stats().channels.add(1);
            } else if !joined {
                return;
            }
            instance.full = true;
            self.retime(key, |turns, pace| turns.hurry(pace, now_ms));
        } else if let Some(&key) = self.feeds[feed].channels.get(channel)
            && std::mem::take(&mut self.instances[key].wanted)
        {
            self.feeds[feed].poll.stats().channels.add(-1);
            self.instances[key].memory = Memory::default();
            self.retime(key, |turns, pace| turns.rest(pace, now_ms));
        }
    }

    /// The channel's instance, a new one when there is none; `None` when its value may not be put into the source.
    fn instance(&mut self, index: usize, channel: &Channel) -> Option<usize> {
        let feed = &mut self.feeds[index];
        if let Some(key) = feed.channels.get(channel) {
            return Some(*key);
        }
        let value = feed.poll.settings.channel.value(channel.as_str());
        if !value.is_none_or(|value| feed.poll.source.takes(value)) {
            feed.poll.stats().refused.add(1);
            tracing::debug!(%channel, "a value that may not stand in a Redis key is not polled");
            return None;
        }
        let instance = Instance {
            feed: index,
            channel: channel.clone(),
            value: value.map(Into::into),
            wanted: false,
            running: false,
            waiting: false,
            full: true,
            turns: Turns::new(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)),
            stamp: 0,
            memory: Memory::default(),
            went: None,
            pushes: Vec::new(),
        };
        let key = self.instances.insert(instance);
        feed.channels.insert(channel.clone(), key);
        self.enter(key);
        Some(key)
    }

    /// An operator's order.
    fn push(&mut self, push: Push) {
        let now_ms = self.now_ms();
        let (mut known, mut polls) = (false, Vec::new());
        for index in 0..self.feeds.len() {
            let template = &self.feeds[index].poll.settings.channel;
            if !template.can_match(&push.channels) {
                continue;
            }
            known = true;
            let channels = match (template.fixed(), push.channels.is_exact()) {
                (Some(channel), _) => vec![channel.clone()],
                (None, true) => Channel::parse(push.channels.as_str()).into_iter().collect(),
                (None, false) => {
                    let live = self.feeds[index].channels.iter();
                    let live = live.filter(|(_, key)| self.instances[**key].wanted);
                    live.map(|(channel, _)| channel.clone()).collect()
                }
            };
            for channel in channels {
                let Some(key) = self.instance(index, &channel) else {
                    continue;
                };
                let (told, result) = oneshot::channel();
                polls.push(result);
                self.instances[key].pushes.push(told);
                self.retime(key, |turns, _| turns.now(now_ms));
            }
        }
        // Whoever asked may have gone away.
        let _ = push.reply.send(known.then_some(polls));
    }

    /// Begins what is due, as far as there are slots.
    fn begin_due(&mut self, reports: &Reports) {
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
                self.begin(key, now_ms, reports);
            }
        }
    }

    /// Begins a poll, or forgets the instance when nobody wants it.
    fn begin(&mut self, key: usize, now_ms: u64, reports: &Reports) {
        let instance = &mut self.instances[key];
        if !instance.wanted && instance.pushes.is_empty() {
            return self.forget(key, reports);
        }
        let feed = &mut self.feeds[instance.feed];
        if instance.turns.start(feed.pace, now_ms) {
            feed.poll.stats().late.add(1);
        }
        instance.running = true;
        feed.in_flight += 1;
        feed.poll.stats().in_flight.add(1);
        let pushes = std::mem::take(&mut instance.pushes);
        let polled = Polled {
            key,
            channel: instance.channel.clone(),
            value: instance.value.clone(),
            full: std::mem::take(&mut instance.full) || !pushes.is_empty(),
            memory: std::mem::take(&mut instance.memory),
            pushes,
        };
        let (poll, broker) = (Arc::clone(&feed.poll), Arc::clone(&self.broker));
        self.polls.spawn(async move { poll.run(polled, &*broker).await });
    }

    fn forget(&mut self, key: usize, reports: &Reports) {
        let instance = self.instances.remove(key);
        self.feeds[instance.feed].channels.remove(&instance.channel);
        self.tell_change(&instance.channel, instance.feed, (instance.went, None), None, reports);
    }

    /// The last poll of a channel of this feed went otherwise than the one before; gives the feed's last state when
    /// that changes it.
    fn tell_change(
        &mut self,
        channel: &Channel,
        feed: usize,
        (before, now): (Option<bool>, Option<bool>),
        failure: Option<&Failure>,
        reports: &Reports,
    ) -> Option<State> {
        let feed = &mut self.feeds[feed];
        let last = feed.health.change(before, now)?;
        let stats = feed.poll.stats();
        stats.set_state(feed.health.state());
        reports.changed(&stats.channel, last, &feed.health, channel.as_str(), failure);
        Some(last)
    }

    /// A poll ended.
    fn ended(&mut self, done: Result<Done, JoinError>, reports: &Reports) {
        let done = match done {
            Ok(done) => done,
            // The gateway does not go on with a feed that has lost track.
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => return,
        };
        let now_ms = self.now_ms();
        let instance = &mut self.instances[done.key];
        let feed = &mut self.feeds[instance.feed];
        instance.running = false;
        feed.in_flight -= 1;
        feed.poll.stats().in_flight.add(-1);
        let (pace, chance) = (feed.pace, rand::random::<f64>());
        match &done.failure {
            None => {
                instance.turns.succeeded(pace, now_ms, chance);
                // Also what did not change is as good as new.
                self.hub
                    .confirm_last(&instance.channel, feed.poll.fresh_ms(), self.clock.now());
            }
            Some(_) => instance.turns.failed(pace, now_ms, chance),
        }
        if instance.wanted {
            instance.memory = done.memory;
            instance.full |= done.full && done.failure.is_some();
            if instance.full {
                // Somebody came meanwhile.
                instance.turns.hurry(pace, now_ms);
            }
        } else {
            instance.turns.rest(pace, now_ms);
        }
        if !instance.pushes.is_empty() {
            instance.turns.now(now_ms);
        }
        let went = Some(done.failure.is_none());
        let before = std::mem::replace(&mut instance.went, went);
        let (index, channel) = (instance.feed, instance.channel.clone());
        let last = self.tell_change(&channel, index, (before, went), done.failure.as_ref(), reports);
        if last == Some(State::Failing) {
            self.encourage(index, now_ms);
        }
        self.enter(done.key);
    }

    /// A source that was lost answers again: its other channels need not wait out their pauses.
    fn encourage(&mut self, feed: usize, now_ms: u64) {
        let keys: Vec<usize> = self.feeds[feed].channels.values().copied().collect();
        for key in keys {
            self.retime(key, |turns, pace| turns.encourage(pace, now_ms, rand::random()));
        }
    }
}

/// What changed in the hub; never, when nobody watches.
async fn changed(watch: Option<&InterestWatch>) -> HashMap<Pattern, bool> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
