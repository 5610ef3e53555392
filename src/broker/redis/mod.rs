//! The Redis broker: several gateways over streams of one Redis or Valkey server, or of one node of a Redis Cluster.
//!
//! Every gateway appends the events of its publishers to one stream, and follows it. It applies what it reads to its hub, in
//! the order of the stream, also its own events. So the hubs of all gateways hold the same, and a client can recover on any
//! of them.
//!
//! | key | contents |
//! |---|---|
//! | `{<prefix>}:events` | everything that gateways follow: events, notices and what they tell each other; short, without gaps |
//! | `{<prefix>}:kept` | the events that a gateway needs that starts: of each channel as many as its class keeps |
//! | `{<prefix>}:merged` | the merged values of channels, for a gateway that starts |
//! | `{<prefix>}:keep:<tenant>.<channel>` | the numbers and sizes of the channel's events in `kept` |
//! | `{<prefix>}:state` | the newest notice and its term, and the sizes of both streams |
//! | `{<prefix>}:id:<id>` | the number of the event with this id, until it expires |
//! | `{<prefix>}:control` | what gateways must not forget |
//! | `{<prefix>}:lease` | the number of the lease of the duties |
//! | `{<prefix>}:session:<hash>` | what a Socket.IO session had that ended, until it expires |
//! | `{<prefix>}:claims` | claimed names, such as keys of commands, and what they hold |
//! | `{<prefix>}:claims_changed` | when each claim was changed last |
//!
//! The braces are a hash tag: in a Redis Cluster all keys lie in one slot, so one script can use any of them.
//!
//! A stream of Redis cannot keep the last events of each channel, as one of NATS can: so there are two. `events` is cut at
//! its end only, and so every gap in it is a loss. `kept` has the same entries under the same numbers, and loses those that
//! newer ones of their channels replace. A gateway that starts reads `kept` up to the newest number and goes on in `events`.
//! One stream is enough for channels with and without state, since gateways follow both.
//!
//! A batch of events is one call of a script, which does everything or nothing of each event: it compares the term, looks
//! for the id, appends to both streams and forgets what is replaced. One call is on its way at a time, so no event overtakes
//! another one.
//!
//! Invariants: nothing is sent unless the link is up, that is after the terms are known. An event is never sent twice. If
//! something in `events` cannot be read any more, all connections of the gateway end, and their clients recover.
//!
//! | module | contents |
//! |---|---|
//! | `inspect` | what the server must be like |
//! | `session` | one connection: publishing, outcomes, and what ends it |
//! | `attach` | from a connection to the right place in the log |
//! | `follow` | reading the streams into the hub |
//! | `merged` | merged values for gateways that start |
//! | `entry` | what is read |
//! | `scripts` | what the server does at once |
//! | `messages` | what gateways tell and ask each other, and must not forget |
//! | `sessions` | Socket.IO sessions that ended |
//! | `lease` | which gateway has the duties |
//! | `claims` | keys of commands |

mod attach;
mod claims;
mod entry;
mod follow;
mod inspect;
mod lease;
mod merged;
mod messages;
mod scripts;
mod session;
mod sessions;

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::link::fits;
use super::message::Decoder;
use super::metrics::BrokerSample;
use super::pending::Waiter;
use super::replica::{Listeners, Membership, Replica, Value};
use super::{Broker, Claims, ClassTable, Fence, Link, Origin, Outcomes, Readiness, Submitted, Trouble};
use crate::event::{Deletion, EventId, NewEvent};
use crate::hub::Hub;
use crate::redis::RedisServer;
use crate::shard::mailbox::ShardHandle;
use crate::suspended::{Claim, Record};
use crate::time::{Clock, Now};
use tickgate_protocol::channel::Channel;

pub use entry::read_reply;

use entry::Kind;
use messages::Messages;

/// The settings of the broker.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the server is.
    pub server: RedisServer,
    /// The beginning of all keys, in braces.
    pub prefix: Box<str>,
    /// The most bytes of the stream with what a gateway needs that starts.
    pub log_bytes: u64,
    /// The most bytes of the stream that gateways follow.
    pub plain_bytes: u64,
    /// How many events are kept of a channel whose events are merged.
    pub events_per_channel: u64,
    /// How long the broker remembers the ids of events.
    pub duplicate_window: Duration,
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

impl Default for Settings {
    fn default() -> Self {
        Self {
            server: RedisServer::default(),
            prefix: "tickgate".into(),
            log_bytes: 1 << 30,
            plain_bytes: 64 << 20,
            events_per_channel: 5001,
            duplicate_window: Duration::from_secs(300),
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
        let Keys { kept, events, .. } = Keys::new(&self.prefix);
        let addresses: Vec<String> = self.server.addresses.iter().map(ToString::to_string).collect();
        let (kept_mib, events_mib) = (self.log_bytes >> 20, self.plain_bytes >> 20);
        format!(
            "all gateways with the prefix {:?} share the events of Redis at {}. The key {kept} holds what a gateway needs that \
             starts, in at most {kept_mib} MiB; {events} holds the last {events_mib} MiB of all events. The server needs about \
             twice as much memory, and the maxmemory-policy noeviction.",
            self.prefix,
            addresses.join(", "),
        )
    }
}

/// The broker; see the module's docs.
pub struct Redis {
    shared: Arc<Shared>,
    runtime: Handle,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

/// What the tasks of the broker share.
struct Shared {
    replica: Arc<Replica>,
    settings: Settings,
    keys: Keys,
    messages: Messages,
    outgoing: mpsc::UnboundedSender<Outgoing>,
    // The newest number of the log that this gateway has heard of.
    newest: AtomicU64,
    // The address of the server of the last session that came up.
    last_server: Mutex<Option<String>>,
}

impl Deref for Shared {
    type Target = Replica;

    fn deref(&self) -> &Replica {
        &self.replica
    }
}

/// The keys that all gateways use.
#[derive(Debug)]
struct Keys {
    /// The beginning of all keys.
    tag: String,
    events: String,
    kept: String,
    merged: String,
    state: String,
    control: String,
    lease: String,
    claims: String,
    claims_changed: String,
    /// A key that never exists. A server that hands the slot of the keys over to another one refuses every call that names a
    /// key which it does not have. So no script works with a part of the keys.
    none: String,
}

impl Keys {
    fn new(prefix: &str) -> Self {
        let tag = format!("{{{prefix}}}");
        let key = |name: &str| format!("{tag}:{name}");
        Self {
            events: key("events"),
            kept: key("kept"),
            merged: key("merged"),
            state: key("state"),
            control: key("control"),
            lease: key("lease"),
            claims: key("claims"),
            claims_changed: key("claims_changed"),
            none: key("none"),
            tag,
        }
    }
}

/// What waits for the session.
enum Outgoing {
    Draft(Draft),
    /// Is told when everything before it was sent.
    Flush(oneshot::Sender<()>),
}

/// An entry that is to be appended.
struct Draft {
    /// The number among the events that are on their way; 0: nobody waits for it.
    number: u64,
    /// With the letter of its kind.
    name: String,
    payload: Bytes,
    /// How many events of the channel are kept.
    keep: u64,
    id: Option<EventId>,
    /// If set, it is the merged value with this number.
    value: Option<u64>,
}

impl Redis {
    /// Starts to connect to the broker, on `runtime`. `clock` must be the clock of the shards, and the hub must number by
    /// the log.
    ///
    /// # Errors
    ///
    /// Why the server does not fit to the configuration, if that is known within four seconds. A server that cannot be
    /// reached is no error: it is tried again.
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
            keys: Keys::new(&settings.prefix),
            messages: Messages::default(),
            outgoing,
            newest: AtomicU64::new(0),
            last_server: Mutex::default(),
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

impl Broker for Redis {
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        let shared = &self.shared;
        let send = |event, waiter| shared.send(event, waiter, None);
        Box::pin(shared.publish_all(events, usize::MAX, send))
    }

    fn publish_fenced(
        &self,
        events: Vec<NewEvent>,
        fence: Fence,
    ) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        let shared = &self.shared;
        let send = move |event, waiter| shared.send(event, waiter, Some(fence));
        Box::pin(shared.publish_all(events, usize::MAX, send))
    }

    fn try_publish(&self, from: Origin, event: NewEvent, now: Now) -> Submitted {
        let shared = &self.shared;
        let send = |event, waiter| shared.send(event, waiter, None);
        shared.try_publish(from, event, usize::MAX, now, send)
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

impl Shared {
    /// Hands an event to the session.
    fn send(&self, event: NewEvent, waiter: Waiter, fence: Option<Fence>) {
        let (source, is_kept) = self.add_pending(&event, waiter);
        let draft = Draft {
            number: source.number,
            name: self.name(is_kept, &event.channel),
            payload: Decoder::encode(&event, source, fence),
            keep: if is_kept { self.keep(&event) } else { 0 },
            id: event.options.id,
            value: None,
        };
        if self.outgoing.send(Outgoing::Draft(draft)).is_err() {
            self.not_sent(source.number);
        }
    }

    fn name(&self, is_kept: bool, channel: &Channel) -> String {
        let kind = if is_kept { Kind::Kept } else { Kind::Plain };
        self.decoder.name(kind.letter().encode_utf8(&mut [0; 4]), channel)
    }

    /// How many events of the channel are kept for gateways that start, after this one.
    fn keep(&self, event: &NewEvent) -> u64 {
        let class = self.hub.class_of(&event.channel);
        if event.options.deletes == Some(Deletion::EndedLast) {
            // It may delete nothing, and a gateway that starts sees itself that the value has ended.
            0
        } else if class.merges() {
            self.settings.events_per_channel
        } else {
            // One more than the history, so that a gateway that starts sees that there were more.
            class.history.map_or(1, |history| 1 + u64::from(history.size))
        }
    }

    /// Hands a merged value over.
    fn store_value(&self, value: Value) {
        let draft = Draft {
            number: 0,
            name: self
                .decoder
                .name(Kind::Value.letter().encode_utf8(&mut [0; 4]), &value.channel),
            payload: value.payload,
            keep: 0,
            id: None,
            value: Some(value.number),
        };
        // If the gateway ends, another one has read the events.
        let _ = self.outgoing.send(Outgoing::Draft(draft));
    }
}
