//! Brokers: they carry events from publishers to the hub.
//!
//! The gateway publishes only through the [`Broker`] trait. [`Embedded`] publishes directly into the hub of its own process,
//! for a single gateway. [`nats::Nats`] and [`redis::Redis`] connect several gateways: their hubs follow one log, as
//! `replica` says.
//!
//! Invariant: a receipt is given only for an event that the hub of this gateway has. A [`Refusal`] says whether the event may
//! have been published all the same.

mod claims;
mod classes;
pub mod embedded;
pub mod lease;
mod link;
mod merged;
mod message;
mod metrics;
pub mod nats;
mod pending;
mod rates;
pub mod redis;
mod replica;
mod requests;
mod terms;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use crate::event::{NewEvent, Refusal};
use crate::hub::Receipt;
use crate::shard::mailbox::ConnectionId;
use crate::suspended::{Claim, Record};
use crate::time::Now;

pub use claims::{Claimed, Claims, Held};
pub use classes::ClassTable;
pub use embedded::Embedded;
pub use lease::{Duties, Fence, Register, contend};
pub(crate) use link::chain;
pub use message::DEFAULT_TENANT as NAME_OF_DEFAULT_TENANT;
pub use metrics::BrokerSample;
pub use replica::{Applied, Listeners};
pub use requests::{Answer, Doing, Learn, NoReply, Peers, Reply, Service, Taken};

/// What became of each event, in their order.
pub type Outcomes = Vec<Result<Receipt, Refusal>>;

/// The settings of a broker that connects several gateways.
#[derive(Clone, Debug)]
pub enum SharedSettings {
    /// Over NATS.
    Nats(nats::Settings),
    /// Over Redis or Valkey.
    Redis(redis::Settings),
}

impl SharedSettings {
    /// A hash of the classes of channels, which must be the same on all gateways.
    #[must_use]
    pub fn classes(&self) -> u64 {
        match self {
            Self::Nats(settings) => settings.classes.hash,
            Self::Redis(settings) => settings.classes.hash,
        }
    }

    /// What they mean, in sentences for operators.
    #[must_use]
    pub fn explained(&self) -> String {
        match self {
            Self::Nats(settings) => settings.explained(),
            Self::Redis(settings) => settings.explained(),
        }
    }
}

/// Publishes events, and tells how current the hub is. Shared by the admin API, the feeds, the command router and the
/// shards.
pub trait Broker: Send + Sync {
    /// Publishes the events in order, and resolves when the outcome of each is known: an event with a receipt is stored and
    /// in the inbox of every interested shard. If the future is dropped earlier, only a first part of the events may be
    /// published.
    fn publish(&self, events: Vec<NewEvent>) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>>;

    /// Publishes the events of the gateway that has the duties. An event that comes later than one with a higher fence is
    /// dropped, and its outcome is [`Refusal::Rejected`]. A gateway that stands alone has no rival.
    fn publish_fenced(
        &self,
        events: Vec<NewEvent>,
        fence: Fence,
    ) -> Pin<Box<dyn Future<Output = Outcomes> + Send + '_>> {
        let _ = fence;
        self.publish(events)
    }

    /// Publishes one event from the thread of a shard, without waiting.
    fn try_publish(&self, from: Origin, event: NewEvent, now: Now) -> Submitted;

    /// Whether the hub is current enough for a client that joins now and has been given versions up to `version`
    /// elsewhere. A join that is not [`Readiness::Ready`] has to wait. The hub of a gateway that stands alone always is.
    fn prepare(&self, version: u64) -> Readiness {
        let _ = version;
        Readiness::Ready
    }

    /// Keeps what a Socket.IO session had until its client takes it back, at any gateway.
    ///
    /// # Errors
    ///
    /// The broker does not keep it now, or keeps no sessions. It is handed back, and stays in the memory of this gateway.
    fn keep_session(&self, session: Record) -> Result<(), Record> {
        Err(session)
    }

    /// Takes out a session that any gateway has given to [`Broker::keep_session`], so that nobody else gets it. Returns
    /// `false` if the broker keeps no sessions. Otherwise exactly one
    /// [`ShardMessage::TakenBack`](crate::shard::mailbox::ShardMessage::TakenBack) tells whether there was one for this
    /// client, within a few seconds.
    fn take_session(&self, from: Origin, claim: Claim) -> bool {
        let _ = (from, claim);
        false
    }

    /// Names that the gateways of this broker claim; `None`: each gateway is on its own.
    fn claims(&self) -> Option<&dyn Claims> {
        None
    }

    /// The state of the connection to the other gateways. A gateway that stands alone needs none.
    fn link(&self) -> Link {
        Link::Up
    }

    /// Why the link is down; `None`: it is up.
    fn trouble(&self) -> Option<Trouble> {
        None
    }

    /// Whether events can be published now. `/readyz` reports it.
    fn is_ready(&self) -> bool {
        self.link() == Link::Up
    }
}

/// Who publishes from the thread of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The connection.
    pub connection: ConnectionId,
    /// The session's number of the request.
    pub request: u32,
}

/// The immediate outcome of [`Broker::try_publish`].
#[derive(Debug)]
pub enum Submitted {
    /// The event is published.
    Done(Receipt),
    /// The event is on its way. Exactly one [`ShardMessage::Published`](crate::shard::mailbox::ShardMessage::Published)
    /// tells the outcome.
    Pending,
    /// There is no room for the event at present. The shard's doorbell rings when it can try again.
    NoRoom(NewEvent),
    /// The event is not published.
    Refused(Refusal),
}

/// Whether the hub is current enough for a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The join can be carried out.
    Ready,
    /// The hub has yet to apply what the client has already seen elsewhere.
    Behind,
    /// The gateway has no connection to the other gateways, so nobody knows how current the hub is.
    Unavailable,
}

/// The state of the connection to the other gateways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Events are published and received.
    Up,
    /// There is no connection, or it was not heard of for too long. Nothing is published.
    #[default]
    Down,
}

/// Why a link is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Whether what the broker has, or the configuration of another gateway, does not fit to that of this one. Waiting does not
    /// help then.
    pub is_unfit: bool,
    /// The reason, for operators.
    pub reason: Arc<str>,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}
