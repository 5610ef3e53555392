//! One gateway without sockets: a hub, its broker, and a reader that joins patterns and takes events out of an inbox.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tickgate::broker::nats::{self, Nats};
use tickgate::broker::redis::{self, Redis};
use tickgate::broker::{Broker, Embedded, Link, Listeners, Origin, Readiness};
use tickgate::event::{EventId, NewEvent, PublishOptions};
use tickgate::hub::{self, Hub, Inbox, Numbering, PageLimit, Since};
use tickgate::redis::RedisServer;
use tickgate::shard::mailbox::{ConnectionId, Mailbox, ShardHandle, ShardMessage, mailbox};
use tickgate::suspended::{Claim, Record};
use tickgate::time::{Clock, Now};
use tickgate_protocol::channel::{BookRules, Channel, Class, Classes, History, Overflow, Pattern};
use tickgate_protocol::dialect;
use tickgate_protocol::json::RecordDelete;
use tokio::runtime::{Handle, Runtime};

/// The longest wait. A test that reaches it fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const HISTORY_SIZE: u32 = 200;

/// `kept.*` has a history and a last value, `last.*` a last value, `same.*` only sends changes, `rows.*` merges records,
/// `gone.*` as well, with a member that deletes them, `mixed.*` with a history, `book.*` are order books, `deep.*` the best
/// levels of books, and all others keep nothing.
pub(crate) fn classes() -> Classes {
    let history = Class {
        cache_last: true,
        history: Some(History {
            size: HISTORY_SIZE,
            ttl_ms: 3_600_000,
        }),
        overflow: Overflow::Disconnect,
        ..Class::default()
    };
    let last = Class {
        cache_last: true,
        overflow: Overflow::Conflate,
        ..Class::default()
    };
    let same = Class {
        only_changed: true,
        ..last.clone()
    };
    let rows = Class {
        record_key: Some("id".into()),
        ..last.clone()
    };
    let gone = Class {
        record_delete: Some(RecordDelete {
            field: "gone".into(),
            values: [].into(),
        }),
        ..rows.clone()
    };
    let book = Class {
        book: Some(BookRules::default()),
        ..last.clone()
    };
    let mixed = Class {
        history: history.history,
        overflow: Overflow::Disconnect,
        ..gone.clone()
    };
    let deep = Class {
        book: Some(BookRules { depth: Some(3) }),
        ..last.clone()
    };
    let entries = [
        ("gone.*", gone),
        ("mixed.*", mixed),
        ("book.*", book),
        ("deep.*", deep),
        ("kept.*", history),
        ("last.*", last),
        ("same.*", same),
        ("rows.*", rows),
    ];
    let pattern = |text| Pattern::parse(text).expect("valid");
    Classes::new(entries.map(|(text, class)| (pattern(text), class)).into())
}

pub(crate) fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("valid")
}

pub(crate) fn event(name: &str, data: impl ToString) -> NewEvent {
    NewEvent {
        channel: channel(name),
        name: "update".into(),
        data: data.to_string().into(),
        timestamp_ms: 1_703_836_800_000,
        options: PublishOptions::default(),
    }
}

pub(crate) fn with_id(name: &str, data: impl ToString, id: &str) -> NewEvent {
    let mut event = event(name, data);
    event.options.id = Some(EventId::new(None, &event.channel, id.as_bytes()));
    event
}

/// An event that a reader got: its channel, version and data.
pub(crate) type Got = (String, u64, String);

fn nobody() -> Listeners {
    Listeners {
        applied: Box::new(|_| {}),
        learn: Box::new(|_| true),
    }
}

/// One gateway; see the module's docs.
pub(crate) struct Node {
    pub(crate) hub: Arc<Hub>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) nats: Option<Arc<Nats>>,
    pub(crate) redis: Option<Arc<Redis>>,
    inbox: Inbox,
    mailbox: Mailbox,
    clock: Clock,
    runtime: Runtime,
    /// How often all connections of the gateway would have been ended.
    pub(crate) resyncs: usize,
}

impl Node {
    fn of(numbering: Numbering) -> (Arc<Hub>, Inbox, Clock, Runtime) {
        // Shown when the test fails.
        let _ = tracing_subscriber::fmt().with_test_writer().try_init();
        let settings = hub::Settings {
            classes: Arc::new(classes()),
            numbering,
            ..hub::Settings::default()
        };
        let (hub, mut inboxes) = Hub::new(settings, 1, dialect::encode_event);
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().expect("a runtime");
        (hub, inboxes.remove(0), Clock::start(), runtime)
    }

    pub(crate) fn embedded() -> Self {
        let started = Self::with(Numbering::Own, |(hub, _), clock, _| Ok(Embedded::new(hub, clock)));
        started.expect("nothing is connected").0
    }

    /// A node with the broker that `start` starts.
    pub(crate) fn with<B: Broker + 'static>(
        numbering: Numbering,
        start: impl FnOnce((Arc<Hub>, Vec<ShardHandle>), Clock, &Handle) -> Result<B, String>,
    ) -> Result<(Self, Arc<B>), String> {
        let (hub, inbox, clock, runtime) = Self::of(numbering);
        let (shard, mailbox) = mailbox(Arc::clone(inbox.doorbell()), Arc::default());
        let broker = Arc::new(start((Arc::clone(&hub), vec![shard]), clock, runtime.handle())?);
        let node = Self {
            broker: Arc::clone(&broker) as Arc<dyn Broker>,
            nats: None,
            redis: None,
            hub,
            inbox,
            mailbox,
            clock,
            runtime,
            resyncs: 0,
        };
        Ok((node, broker))
    }

    pub(crate) fn settings(url: String, name: &str) -> nats::Settings {
        nats::Settings {
            urls: vec![url.into()],
            node: name.into(),
            prefix: "suite.one".into(),
            log_bytes: 64 << 20,
            plain_bytes: 16 << 20,
            events_per_channel: u64::from(HISTORY_SIZE) + 1,
            ..nats::Settings::default()
        }
    }

    pub(crate) fn nats(settings: nats::Settings) -> Self {
        Self::try_nats(settings).expect("the streams fit")
    }

    pub(crate) fn try_nats(settings: nats::Settings) -> Result<Self, String> {
        let (node, nats) = Self::with(Numbering::Log, |parts, clock, runtime| {
            Nats::start(settings, parts, clock, runtime, nobody())
        })?;
        Ok(Self {
            nats: Some(nats),
            ..node
        })
    }

    pub(crate) fn redis_settings(url: &str, name: &str) -> redis::Settings {
        let server = RedisServer {
            addresses: vec![url.parse().expect("an address")],
            ..RedisServer::default()
        };
        Self::redis_settings_at(server, name)
    }

    pub(crate) fn redis_settings_at(server: RedisServer, name: &str) -> redis::Settings {
        redis::Settings {
            server,
            node: name.into(),
            prefix: "suite.one".into(),
            log_bytes: 64 << 20,
            plain_bytes: 16 << 20,
            events_per_channel: u64::from(HISTORY_SIZE) + 1,
            ..redis::Settings::default()
        }
    }

    pub(crate) fn redis(settings: redis::Settings) -> Self {
        Self::try_redis(settings).expect("the server fits")
    }

    pub(crate) fn try_redis(settings: redis::Settings) -> Result<Self, String> {
        let (node, redis) = Self::with(Numbering::Log, |parts, clock, runtime| {
            Redis::start(settings, parts, clock, runtime, nobody())
        })?;
        Ok(Self {
            redis: Some(redis),
            ..node
        })
    }

    /// Publishes events, in order.
    pub(crate) fn publish(&self, events: Vec<NewEvent>) -> tickgate::broker::Outcomes {
        self.runtime.block_on(self.broker.publish(events))
    }

    pub(crate) fn publish_one(&self, event: NewEvent) -> hub::Receipt {
        self.publish(vec![event])[0].expect("published")
    }

    /// Waits for the link.
    pub(crate) fn wait_for(&mut self, link: Link) {
        let broker = Arc::clone(&self.broker);
        until("the link", || broker.link() == link);
        self.take_messages();
    }

    pub(crate) fn take_messages(&mut self) {
        while let Some(message) = self.mailbox.pop() {
            self.resyncs += usize::from(matches!(message, ShardMessage::Resync));
        }
    }

    /// Asks the broker for a session, and waits for its answer.
    pub(crate) fn take_session(&mut self, claim: Claim) -> Option<Record> {
        self.ask_for_session(claim);
        self.session_answer()
    }

    pub(crate) fn ask_for_session(&self, claim: Claim) {
        let connection = ConnectionId {
            shard: 0,
            slot: 0,
            generation: 1,
        };
        let from = Origin { connection, request: 1 };
        assert!(self.broker.take_session(from, claim), "the broker keeps sessions");
    }

    pub(crate) fn session_answer(&mut self) -> Option<Record> {
        let mut answer = None;
        until("the answer", || {
            while let Some(message) = self.mailbox.pop() {
                if let ShardMessage::TakenBack { found, .. } = message {
                    answer = Some(found);
                }
            }
            answer.is_some()
        });
        answer.flatten().map(|found| *found)
    }

    /// Waits for something that the broker does.
    pub(crate) fn wait<T>(&self, doing: impl Future<Output = T>) -> T {
        self.runtime.block_on(doing)
    }

    pub(crate) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Joins a pattern.
    pub(crate) fn join(&mut self, pattern: &str) {
        self.join_pattern(&Pattern::parse(pattern).expect("valid"));
    }

    pub(crate) fn join_pattern(&mut self, pattern: &Pattern) {
        self.inbox.join(pattern);
    }

    /// Takes out the events that have arrived.
    pub(crate) fn take(&mut self, got: &mut Vec<Got>) {
        while let Some(popped) = self.inbox.pop() {
            let event = popped.event;
            let data = String::from_utf8(event.data.to_vec()).expect("text");
            got.push((event.channel.as_str().to_owned(), event.version, data));
        }
    }

    /// Takes out the events that have arrived, with the channels' tenants.
    pub(crate) fn take_events(&mut self, got: &mut Vec<(Channel, String)>) {
        while let Some(popped) = self.inbox.pop() {
            let data = String::from_utf8(popped.event.data.to_vec()).expect("text");
            got.push((popped.event.channel.clone(), data));
        }
    }

    /// Takes out events until there are as many.
    pub(crate) fn take_until(&mut self, got: &mut Vec<Got>, count: usize) {
        until_with("the events", || {
            self.take(got);
            if got.len() >= count {
                Ok(())
            } else {
                Err(format!("{} of {count}", got.len()))
            }
        });
    }

    /// What a client gets that comes back with a position in this channel; `None`: it is told that something may be
    /// missing.
    pub(crate) fn recover(&mut self, name: &str, epoch: hub::Epoch, position: u64) -> Option<Vec<String>> {
        if epoch != self.hub.epoch() {
            return None;
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.broker.prepare(position) != Readiness::Ready && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let missed = self.page(name, epoch, position)?;
        Some(missed.into_iter().map(|(.., data)| data).collect())
    }

    /// The same for a gateway that is ready for this position.
    pub(crate) fn page(&self, name: &str, epoch: hub::Epoch, position: u64) -> Option<Vec<Got>> {
        if epoch != self.hub.epoch() {
            return None;
        }
        let position = self.hub.locate(position)?;
        let limit = PageLimit {
            events: usize::MAX,
            bytes: usize::MAX,
        };
        let mut covers = false;
        let view = &mut |view: hub::ChannelView<'_>| covers = view.covers(position);
        let page = self
            .hub
            .read(&channel(name), Since::After(position), limit, self.clock.now(), view);
        let got = |event: &Arc<tickgate::event::Event>| {
            let data = String::from_utf8(event.data.to_vec()).expect("text");
            (name.to_owned(), event.version, data)
        };
        (covers && !page.overtaken).then(|| page.events.iter().map(got).collect())
    }

    pub(crate) fn last(&self, name: &str) -> Option<String> {
        self.last_of(&channel(name))
    }

    pub(crate) fn last_of(&self, channel: &Channel) -> Option<String> {
        let last = self.hub.last(channel, self.clock.now())?;
        Some(String::from_utf8(last.data.to_vec()).expect("text"))
    }
}

/// Polls until the condition holds.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    until_with(what, || if condition() { Ok(()) } else { Err(String::new()) });
}

pub(crate) fn until_with(what: &str, mut condition: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(so_far) = condition() {
        assert!(Instant::now() < deadline, "timed out: {what}; {so_far}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Checks what a reader got: of each publisher's events on each channel, all from its first to its last, in order, once;
/// and versions of kept channels that grow. The data of the events are `[publisher, number]`.
pub(crate) fn check_order(got: &[Got]) -> Result<(), String> {
    let (mut numbers, mut versions) = (HashMap::new(), HashMap::new());
    for (channel, version, data) in got {
        let (publisher, number): (u64, u64) = serde_json::from_str(data).map_err(|error| error.to_string())?;
        let expected = numbers.entry((channel.clone(), publisher)).or_insert(number);
        if *expected != number {
            return Err(format!(
                "{channel} of publisher {publisher}: {number} instead of {expected}"
            ));
        }
        *expected += 1;
        if *version > 0 {
            let newest = versions.entry(channel.clone()).or_insert(0);
            if *newest >= *version {
                return Err(format!("{channel}: version {version} after {newest}"));
            }
            *newest = *version;
        }
    }
    Ok(())
}
