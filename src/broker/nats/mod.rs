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
//! | `streams`, `subjects` | the configuration of the streams, and what they hold |
//! | `control` | what gateways must not forget |
//! | `lease` | which gateway has the duties |
//! | `requests` | requests that the gateway answers and sends |
//! | `sessions` | Socket.IO sessions that ended |
//! | `claims` | keys of commands, each claimed by one gateway |
//! | `stored` | single messages of these |

mod attach;
mod claims;
mod connect;
mod control;
mod follow;
mod lease;
mod merged;
mod requests;
mod session;
mod sessions;
mod stored;
mod streams;
mod subjects;

use std::ops::{Deref, Range};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::link::fits;
use super::merged as merged_value;
use super::message::{Decoder, HEAD_BYTES_MAX, Source};
use super::metrics::BrokerSample;
use super::pending::Waiter;
use super::replica::{Listeners, Membership, Replica};
use super::terms::{Notice, Table};
use super::{Broker, Claims, ClassTable, Fence, Link, Origin, Outcomes, Readiness, Submitted, Trouble};
use crate::event::{EventId, NewEvent};
use crate::hub::{Hub, Merged};
use crate::shard::mailbox::ShardHandle;
use crate::suspended::{Claim, Record};
use crate::time::{Clock, Now};
use tickgate_protocol::channel::Channel;

pub use connect::Login;
pub(crate) use connect::{Target, connect_to};

use requests::Requests;
use streams::Lane;
use subjects::Subjects;

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
    /// The classes of channels, which must be the same on all gateways.
    pub classes: ClassTable,
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
            classes: ClassTable::default(),
            tenants: Vec::new(),
            publish_per_second: Vec::new(),
        }
    }
}

impl Settings {
    /// See [`SharedSettings::explained`](super::SharedSettings::explained).
    pub(super) fn explained(&self) -> String {
        let Self { prefix, replicas, .. } = self;
        let (log, plain) = (Lane::Log.stream(prefix), Lane::Plain.stream(prefix));
        let (log_mib, plain_mib) = (self.log_bytes >> 20, self.plain_bytes >> 20);
        let storage = match self.storage {
            Storage::File => "in files",
            Storage::Memory => "in the memory of the server",
        };
        format!(
            "all gateways with the prefix {prefix:?} share the events of NATS at {}. The stream {log} keeps the last {} events \
             of each channel with state, in at most {log_mib} MiB; {plain} keeps {plain_mib} MiB of other events. Missing streams \
             are made with {replicas} replicas, {storage}. The server's max_payload must be at least {} bytes.",
            self.urls.join(", "),
            self.events_per_channel,
            self.event_bytes + HEAD_BYTES_MAX,
        )
    }
}

/// The broker; see the module's docs.
pub struct Nats {
    shared: Arc<Shared>,
    runtime: Handle,
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
    replica: Arc<Replica>,
    settings: Settings,
    subjects: Subjects,
    requests: Requests,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    // The largest message that the broker takes.
    payload_max: AtomicUsize,
    // The last message of the stream of channels without state that was applied: its number and when it was stored, in
    // nanoseconds. The time is missing if no message was read.
    plain: Mutex<Option<(u64, Option<i128>)>>,
}

impl Deref for Shared {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

/// An event that is to be sent.
struct Outgoing {
    number: u64,
    subject: String,
    payload: Bytes,
    id: Option<EventId>,
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
        parts: (Arc<Hub>, Vec<ShardHandle>),
        clock: Clock,
        runtime: &Handle,
        listeners: Listeners,
    ) -> Result<Self, String> {
        let (outgoing, receiver) = mpsc::unbounded_channel();
        let membership = Membership {
            node: settings.node.clone(),
            classes: settings.classes.clone(),
            events_per_channel: settings.events_per_channel,
            tenants: settings.tenants.clone(),
            publish_per_second: settings.publish_per_second.clone(),
        };
        let shared = Arc::new(Shared {
            replica: Arc::new(Replica::new(membership, parts, clock, listeners)),
            subjects: Subjects::new(&settings.prefix),
            requests: Requests::default(),
            outgoing,
            payload_max: AtomicUsize::new(settings.event_bytes + HEAD_BYTES_MAX),
            plain: Mutex::default(),
            settings,
        });
        let (first, is_first) = std::sync::mpsc::channel();
        let task = Arc::clone(&shared);
        runtime.spawn(Arc::clone(&shared.replica).give_up_late());
        runtime.spawn(async move { task.run(receiver, first).await });
        fits(&is_first)?;
        Ok(Self {
            shared,
            runtime: runtime.clone(),
        })
    }

    /// The counters of the broker.
    #[must_use]
    pub fn sample(&self) -> BrokerSample {
        self.shared.metrics.sample(self.shared.is_up())
    }
}

impl Broker for Nats {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        let shared = &self.shared;
        let send = |event, waiter| shared.send(event, waiter, None);
        Box::pin(shared.publish_all(events, shared.data_bytes_max(), send))
    }

    fn publish_fenced(
        &self,
        events: Vec<NewEvent>,
        fence: Fence,
    ) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        let shared = &self.shared;
        let send = move |event, waiter| shared.send(event, waiter, Some(fence));
        Box::pin(shared.publish_all(events, shared.data_bytes_max(), send))
    }

    fn try_publish(&self, from: Origin, event: NewEvent, now: Now) -> Submitted {
        let shared = &self.shared;
        let send = |event, waiter| shared.send(event, waiter, None);
        shared.try_publish(from, event, shared.data_bytes_max(), now, send)
    }

    fn prepare(&self, version: u64) -> Readiness {
        self.shared.prepare(version)
    }

    fn keep_session(&self, session: Record) -> Result<(), Record> {
        self.keep(session)
    }

    fn take_session(&self, from: Origin, claim: Claim) -> bool {
        self.take(from, claim);
        true
    }

    fn claims(&self) -> Option<&dyn Claims> {
        Some(self)
    }

    fn link(&self) -> Link {
        self.shared.link()
    }

    fn trouble(&self) -> Option<Trouble> {
        self.shared.trouble()
    }
}

/// Reads a message of a stream as a gateway without configured tenants does; `None`: it is skipped. For checks.
#[must_use]
pub fn read_message(prefix: &str, subject: &str, payload: &Bytes) -> Option<NewEvent> {
    let name = Subjects::new(prefix).name(subject).to_owned();
    let decoded = Decoder::new(&[]).decode(&name, payload).ok()?;
    Some(decoded.event)
}

/// The subject and the payload of an event of a channel that keeps state. For checks.
#[must_use]
pub fn write_message(prefix: &str, event: &NewEvent) -> (String, Bytes) {
    let source = Source { gateway: 0, number: 0 };
    let subject = Decoder::new(&[]).name(Subjects::new(prefix).before(true), &event.channel);
    (subject, Decoder::encode(event, source, None))
}

/// Reads the merged value of a channel; `None`: it is skipped. For checks.
#[must_use]
pub fn read_merged(channel: Channel, payload: &[u8]) -> Option<Merged> {
    let decoded = merged_value::decode(channel, payload).ok()?;
    Some(decoded.merged)
}

/// Reads a notice that the broker stored under a number, at a time in Unix milliseconds. Returns the versions that no event
/// has; `None`: it is not valid. For checks.
#[must_use]
pub fn read_notice(payload: &[u8], sequence: u64, stored_ms: u64) -> Option<Vec<Range<u64>>> {
    let table = Table::of(&Notice::parse(payload)?, sequence, stored_ms)?;
    Some(table.lost())
}

impl Shared {
    /// The longest data of an event.
    fn data_bytes_max(&self) -> usize {
        let payload_max = self.payload_max.load(Ordering::Relaxed);
        payload_max.saturating_sub(HEAD_BYTES_MAX)
    }

    /// Hands an event to the session.
    fn send(&self, event: NewEvent, waiter: Waiter, fence: Option<Fence>) {
        let (source, is_kept) = self.add_pending(&event, waiter);
        let outgoing = Outgoing {
            number: source.number,
            subject: self.decoder.name(self.subjects.before(is_kept), &event.channel),
            payload: Decoder::encode(&event, source, fence),
            id: event.options.id,
        };
        if self.outgoing.send(outgoing).is_err() {
            self.not_sent(source.number);
        }
    }

    /// The longest payload of a merged value.
    fn value_bytes_max(&self) -> usize {
        self.payload_max.load(Ordering::Relaxed)
    }
}
