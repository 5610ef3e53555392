//! The NATS broker: several gateways over one log in JetStream.
//!
//! Every gateway appends the events of its publishers to one of two streams, and follows both. It applies what it reads to
//! its hub, in the order of the streams, also its own events. So the hubs of all gateways hold the same, and a client can
//! recover on any of them.
//!
//! * `LOG` has the events of all channels that keep state. Their sequence numbers become the versions of the events, by
//!   the table of `terms`.
//! * `PLAIN` has the events of all other channels. It is short: it bridges the time in which a gateway reconnects.
//!
//! Both are followed as a whole, whatever clients subscribe to. So a gateway needs no interest in the broker that would
//! have to be in force before a join, and a slow gateway waits in the broker, where nobody feels it.
//!
//! Invariants: nothing is sent unless the link is up, that is after the terms are known. An event is never sent twice. The
//! publisher gets its receipt when this gateway has applied the event. If something in a stream cannot be read any more,
//! all connections of the gateway end, and their clients recover ([`Disconnect::Resync`]).
//!
//! [`Disconnect::Resync`]: tickgate_protocol::disconnect::Disconnect::Resync
//!
//! | module | contents |
//! |---|---|
//! | `session` | one connection: publishing, outcomes, and what ends it |
//! | `attach` | from a connection to the right place in both streams |
//! | `follow` | reading a stream into the hub |
//! | `terms` | the versions of events |
//! | `message` | events as messages |
//! | `streams` | the configuration of the streams |
//! | `pending` | events that are on their way |
//! | `control` | what gateways must not forget |
//! | `requests` | requests that the gateway answers and sends |

mod attach;
mod connect;
mod control;
mod follow;
mod message;
mod metrics;
mod pending;
mod requests;
mod session;
mod streams;
mod terms;

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::rates::PublishRates;
use super::{Broker, Link, Origin, Outcomes, Readiness, Submitted};
use crate::event::{EventId, NewEvent, PublishOptions, Refusal};
use crate::hub::{Hub, LOG_STEP, Receipt};
use crate::shard::mailbox::ShardHandle;
use crate::time::{Clock, Now};
use tickgate_protocol::channel::Channel;

pub use connect::Login;
pub use control::Learn;
pub use message::DEFAULT_TENANT as SUBJECT_OF_DEFAULT_TENANT;
pub use metrics::{NatsMetrics, NatsSample};
pub use requests::{Answer, NoReply, Reply, Service};

use follow::Position;
use message::{Decoder, HEAD_BYTES_MAX, Source};
use pending::{Pending, Waiter};
use requests::Requests;
use terms::{Notice, Table};

/// How long the start waits to learn whether the broker's streams fit.
const PROBE: Duration = Duration::from_secs(4);

/// The settings of the broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `nats://host:port` or `tls://host:port`, at least one.
    pub urls: Vec<Box<str>>,
    /// How the gateway authenticates.
    pub login: Login,
    /// The certificates of authorities that may have signed the broker's; `None`: those of the system.
    pub ca_file: Option<std::path::PathBuf>,
    /// The first tokens of all subjects.
    pub prefix: Box<str>,
    /// Where new streams are stored.
    pub storage: Storage,
    /// The replicas of new streams, 1 to 5.
    pub replicas: u8,
    /// The most bytes of the stream `LOG`, and of the stream `PLAIN`.
    pub log_bytes: u64,
    /// See [`Settings::log_bytes`].
    pub plain_bytes: u64,
    /// The events of a channel that the log keeps: more than the largest history.
    pub events_per_channel: u64,
    /// How long the broker remembers the ids of events.
    pub duplicate_window: Duration,
    /// The most bytes of the data of an event.
    pub event_bytes: usize,
    /// The name of this gateway.
    pub node: Box<str>,
    /// A hash of the classes of channels, which must be the same on all gateways.
    pub classes: u64,
    /// The names of the tenants, from number 1 on.
    pub tenants: Vec<Box<str>>,
    /// Events per second of one publisher of each tenant through this gateway, the default tenant's first; 0 or missing: no
    /// limit.
    pub publish_per_second: Vec<u32>,
}

/// Where a stream is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// In files.
    #[default]
    File,
    /// In the memory of the broker.
    Memory,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            urls: vec!["nats://127.0.0.1:4222".into()],
            login: Login::None,
            ca_file: None,
            prefix: "tickgate".into(),
            storage: Storage::File,
            replicas: 1,
            log_bytes: 1 << 30,
            plain_bytes: 64 << 20,
            events_per_channel: 5001,
            duplicate_window: Duration::from_secs(300),
            event_bytes: 256 * 1024,
            node: "tickgate".into(),
            classes: 0,
            tenants: Vec::new(),
            publish_per_second: Vec::new(),
        }
    }
}

/// Is told the channel of every event that another gateway published.
pub type Foreign = Box<dyn Fn(&Channel) + Send + Sync>;

/// Who is told what comes from the broker.
pub struct Listeners {
    /// See [`Foreign`].
    pub foreign: Foreign,
    /// See [`Learn`].
    pub learn: Learn,
}

/// The broker; see the module's docs.
pub struct Nats {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

/// What the tasks of the broker share.
struct Shared {
    settings: Settings,
    hub: Arc<Hub>,
    clock: Clock,
    // Tells this gateway's events from those of others, and of an earlier run.
    gateway: u64,
    decoder: Decoder,
    rates: PublishRates,
    pending: Pending,
    requests: Requests,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    is_up: AtomicBool,
    // The largest message that the broker takes.
    payload_max: AtomicUsize,
    position: Mutex<Position>,
    metrics: Arc<NatsMetrics>,
    foreign: Foreign,
    learn: Learn,
}

/// An event that is to be sent.
struct Outgoing {
    number: u64,
    subject: String,
    payload: Bytes,
    id: Option<EventId>,
    // If set, the event is stored only if this is the number of the channel's newest one.
    after: Option<u64>,
}

/// Why a session with the broker ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// The connection is lost or cannot be made, or the broker does not do what it is asked for. It is tried again.
    Failed(String),
    /// The broker's streams do not fit to the configuration, or other gateways have another one. At the start this is an
    /// error, later it is tried again.
    Unfit(String),
    /// Events are missing in a stream: the gateway begins anew.
    Gap(String),
}

impl End {
    fn reason(&self) -> &str {
        let (Self::Failed(reason) | Self::Unfit(reason) | Self::Gap(reason)) = self;
        reason
    }
}

impl Nats {
    /// Starts to connect to the broker, on `runtime`. `clock` must be the clock of the shards, and the hub must number by
    /// the log.
    ///
    /// # Errors
    ///
    /// Why the broker's streams do not fit to the configuration, if that is known within four seconds. A broker that cannot
    /// be reached is no error: it is tried again.
    pub fn start(
        settings: Settings,
        (hub, shards): (Arc<Hub>, Vec<ShardHandle>),
        clock: Clock,
        runtime: &Handle,
        Listeners { foreign, learn }: Listeners,
    ) -> Result<Self, String> {
        let (outgoing, receiver) = mpsc::unbounded_channel();
        let metrics = Arc::<NatsMetrics>::default();
        let shared = Arc::new(Shared {
            hub,
            clock,
            gateway: rand::random(),
            decoder: Decoder::new(&settings.prefix, &settings.tenants),
            rates: PublishRates::new(settings.publish_per_second.clone()),
            pending: Pending::new(shards, Arc::clone(&metrics)),
            requests: Requests::default(),
            outgoing,
            is_up: AtomicBool::new(false),
            payload_max: AtomicUsize::new(settings.event_bytes + HEAD_BYTES_MAX),
            position: Mutex::default(),
            metrics,
            foreign,
            learn,
            settings,
        });
        let (first, is_first) = std::sync::mpsc::channel();
        let task = Arc::clone(&shared);
        runtime.spawn(Arc::clone(&shared).give_up_late());
        runtime.spawn(async move { task.run(receiver, first).await });
        match is_first.recv_timeout(PROBE) {
            Ok(Some(End::Unfit(reason))) => Err(reason),
            _ => Ok(Self { shared }),
        }
    }

    /// The counters of the broker.
    #[must_use]
    pub fn sample(&self) -> NatsSample {
        self.shared.metrics.sample(self.shared.is_up())
    }

    async fn publish_all(&self, events: Vec<NewEvent>) -> Outcomes {
        let mut waiting = Vec::with_capacity(events.len());
        for event in events {
            waiting.push(match self.shared.check(&event, self.shared.clock.now()) {
                Err(outcome) => Err(outcome),
                Ok(()) => {
                    let permit = self.shared.pending.room().await;
                    let (sender, receiver) = oneshot::channel();
                    self.shared.send(event, Waiter::Task(sender, permit));
                    Ok(receiver)
                }
            });
        }
        let mut outcomes = Vec::with_capacity(waiting.len());
        for outcome in waiting {
            outcomes.push(match outcome {
                Err(outcome) => outcome,
                // Each event has an outcome within a bounded time; see `pending`.
                Ok(receiver) => receiver.await.unwrap_or(Err(Refusal::Unknown)),
            });
        }
        outcomes
    }
}

impl Broker for Nats {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        Box::pin(self.publish_all(events))
    }

    fn try_publish(&self, from: Origin, event: NewEvent, now: Now) -> Submitted {
        if self.shared.is_up() && !self.shared.pending.has_room(from.connection.shard) {
            return Submitted::NoRoom(event);
        }
        match self.shared.check(&event, now) {
            Err(Ok(receipt)) => Submitted::Done(receipt),
            Err(Err(refusal)) => Submitted::Refused(refusal),
            Ok(()) => {
                self.shared.send(event, Waiter::Client(from));
                Submitted::Pending
            }
        }
    }

    fn prepare(&self, version: u64) -> Readiness {
        if !self.shared.is_up() {
            Readiness::Unavailable
        } else if version / LOG_STEP <= self.shared.hub.newest_version() / LOG_STEP {
            Readiness::Ready
        } else {
            Readiness::Behind
        }
    }

    fn link(&self) -> Link {
        if self.shared.is_up() { Link::Up } else { Link::Down }
    }
}

/// Reads a message of a stream as a gateway without configured tenants does; `None`: it is skipped. For checks.
#[must_use]
pub fn read_message(prefix: &str, subject: &str, payload: &Bytes) -> Option<NewEvent> {
    let decoded = Decoder::new(prefix, &[]).decode(subject, payload).ok()?;
    Some(decoded.event)
}

/// The subject and the payload of an event of a channel that keeps state. For checks.
#[must_use]
pub fn write_message(prefix: &str, event: &NewEvent) -> (String, Bytes) {
    let source = Source { gateway: 0, number: 0 };
    let subject = Decoder::new(prefix, &[]).subject(&event.channel, true);
    (subject, Decoder::encode(event, source, false))
}

/// Reads a notice that the broker stored under a number, at a time in Unix milliseconds. Returns the versions that no event
/// has; `None`: it is not valid. For checks.
#[must_use]
pub fn read_notice(payload: &[u8], sequence: u64, stored_ms: u64) -> Option<Vec<Range<u64>>> {
    let table = Table::of(&Notice::parse(payload)?, sequence, stored_ms)?;
    Some(table.lost())
}

impl Shared {
    fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    /// Whether an event can be sent; otherwise its outcome.
    fn check(&self, event: &NewEvent, now: Now) -> Result<(), Result<Receipt, Refusal>> {
        let refusal = if !self.is_up() {
            Refusal::Unavailable
        } else if !self.decoder.knows(&event.channel)
            || event.data.len() + HEAD_BYTES_MAX > self.payload_max.load(Ordering::Relaxed)
        {
            Refusal::Rejected
        } else if self
            .rates
            .allow(event.channel.tenant(), event.options.publisher.as_ref(), now)
        {
            return Ok(());
        } else {
            self.hub.count_limited();
            return Err(Ok(Receipt::of_limited()));
        };
        self.metrics.count_refusal(refusal);
        Err(Err(refusal))
    }

    /// Hands an event to the session.
    fn send(&self, event: NewEvent, waiter: Waiter) {
        let now = Instant::now();
        let is_kept = self.hub.class_of(&event.channel).keeps_state();
        let subject = self.decoder.subject(&event.channel, is_kept);
        let id = event.options.id;
        let duplicate = id.map(|id| (event.channel.clone(), id));
        let number = self.pending.add(waiter, duplicate, now);
        let source = Source {
            gateway: self.gateway,
            number,
        };
        let outgoing = Outgoing {
            number,
            subject,
            payload: Decoder::encode(&event, source, false),
            id,
            after: None,
        };
        if self.outgoing.send(outgoing).is_err() {
            self.pending.finish(number, Err(Refusal::Unavailable), now);
        }
    }

    /// Writes the merged records of a channel into the log, unless an event came after the one with this number. A gateway
    /// that reads the log back has all records then, even if the log has not kept the events that brought them.
    fn write_whole(&self, channel: &Channel, sequence: u64) {
        let Some(last) = self.hub.last(channel, self.clock.now()) else {
            return;
        };
        let event = NewEvent {
            channel: channel.clone(),
            name: last.name.clone(),
            data: last.data.clone(),
            timestamp_ms: last.timestamp_ms,
            options: PublishOptions {
                even_if_unchanged: true,
                ..PublishOptions::default()
            },
        };
        let source = Source {
            gateway: self.gateway,
            number: 0,
        };
        let payload = Decoder::encode(&event, source, true);
        if payload.len() > self.payload_max.load(Ordering::Relaxed) {
            tracing::debug!(
                channel = channel.as_str(),
                "the merged records are too large for one message of the broker"
            );
            return;
        }
        let outgoing = Outgoing {
            number: 0,
            subject: self.decoder.subject(channel, true),
            payload,
            id: None,
            after: Some(sequence),
        };
        // Another event will bring the next one.
        let _ = self.outgoing.send(outgoing);
    }
}
