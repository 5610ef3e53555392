//! How the rest of the gateway talks to a shard: by small messages in one direction, and a doorbell.
//!
//! Invariant: the shard takes messages out in the order in which they were sent. A message to a shard that has ended is
//! handed back. The sender never waits.

mod clients;
mod id;
pub mod polling;
mod socket;
mod trace;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use crate::auth::{Identity, Revocation, TokenError};
use crate::event::{Event, Refusal};
use crate::hub::{Doorbell, Receipt};
use crate::memory::Budget;
use crate::metrics::{Gauge, ShardMetrics};
use crate::session::{Command, CommandOutcome, Opening, Settings};
use crate::suspended::{Record, SuspendedSessions};
use tickgate_protocol::channel::{Channel, Tenant};
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::message::CommandKey;
use tickgate_protocol::wire::Deflate;

pub use clients::{ClientFilter, ClientInfo, ClientOrder, ClientsPage, EndedClient, SubscriptionsPage};
pub use id::ConnectionId;
pub(super) use id::scramble;
pub use socket::UnclaimedSocket;
pub use trace::{Trace, TraceLine, TraceTarget};

/// A connection that the ingress hands to a shard, after the response 101 was sent.
#[derive(Debug)]
pub struct Adopt {
    /// The socket (TCP or Unix), without TLS or HTTP, non-blocking.
    pub socket: UnclaimedSocket,
    /// Bytes that were read after the request's head. They may contain the first frames.
    pub unread: Bytes,
    /// The endpoint's settings.
    pub settings: Arc<Settings>,
    /// How the session was opened, on an endpoint with an Engine.IO dialect. [`Adopt::identity`] is `Ok(None)` then,
    /// because the session verifies the token when the client connects.
    pub engine_io: Option<Opening>,
    /// The identity of a verified handshake token; `Ok(None)`: the client has yet to authenticate. An error says why
    /// the token was refused; the client gets `auth_result` and is closed.
    pub identity: Result<Option<Arc<Identity>>, TokenError>,
    /// The client's address, as reported by trusted proxies; `None` for a Unix socket without a proxy.
    pub address: Option<IpAddr>,
    /// Random bits, from which the client id and the phase of the heartbeat follow.
    pub nonce: u64,
    /// The negotiated compression; `None`: none.
    pub deflate: Option<Deflate>,
    /// Held while the connection lives. Dropping it frees the connection's permit in the ingress limits.
    pub permit: Box<dyn ConnectionPermit>,
}

/// A connection's permit in the ingress limits (total, for each address, for each user). Dropped when the connection
/// ends.
pub trait ConnectionPermit: Send + std::fmt::Debug {
    /// Reports the connection's id, once, when a shard has taken it.
    fn adopted(&mut self, id: ConnectionId) {
        let _ = id;
    }

    /// Reports that an in-band `auth` made this the connection of `user`. Returns `false` if the user has too many
    /// connections.
    fn authenticated(&mut self, user: &str) -> bool;

    /// Reports the outcome of a [`ShardMessage::Challenge`]: whether the client gave a sign of life. Returns whether the
    /// connection must end, to make room for a newer one of its user. It does not count for the user from then on.
    fn challenged(&mut self, has_answered: bool) -> bool {
        let _ = has_answered;
        false
    }
}

/// A message to a shard.
pub enum ShardMessage {
    /// Take over a connection.
    Adopt(Box<Adopt>),
    /// Open an Engine.IO session without a socket.
    Open(Box<polling::Open>),
    /// An HTTP request of a session without a socket.
    Poll(polling::Poll),
    /// A socket for a session without one. As with [`ShardMessage::Adopt`], the reactor takes the socket.
    Upgrade(Box<polling::Upgrade>),
    /// Answer to a verification.
    Verified {
        /// The connection that made the request.
        to: ConnectionId,
        /// The request's number.
        request: u32,
        /// The client's identity, or why the token was refused.
        outcome: Result<Arc<Identity>, TokenError>,
    },
    /// Answer to a command or a question for its status.
    Responded {
        /// The connection that made the request.
        to: ConnectionId,
        /// The request's number.
        request: u32,
        /// The answer.
        outcome: CommandOutcome,
    },
    /// The outcome of an event that a client published.
    Published {
        /// The connection that made the request.
        to: ConnectionId,
        /// The request's number.
        request: u32,
        /// What became of the event.
        outcome: Result<Receipt, Refusal>,
    },
    /// Answer to [`Broker::take_session`](crate::broker::Broker::take_session).
    TakenBack {
        /// The connection that made the request.
        to: ConnectionId,
        /// The request's number.
        request: u32,
        /// The session; `None`: there is none for this client.
        found: Option<Box<Record>>,
    },
    /// Events may be missing from what connections have got: end all of them, so that they come back and recover.
    Resync,
    /// End one connection. `reply` gets whether it existed.
    Disconnect {
        /// The connection.
        id: ConnectionId,
        /// The connection's tenant: a connection of another one does not exist. `None`: any.
        tenant: Option<Tenant>,
        /// The ending that the client gets.
        ending: Disconnect,
        /// Gets whether the connection existed.
        reply: Box<dyn FnOnce(bool) + Send>,
    },
    /// Ask a connection for a sign of life, because a newer one of its user wants a place. The outcome is reported to
    /// [`ConnectionPermit::challenged`].
    Challenge {
        /// The connection.
        id: ConnectionId,
    },
    /// End all connections of one user. `reply` gets how many there were.
    DisconnectUser {
        /// The user's tenant.
        tenant: Tenant,
        /// The `sub` of the user's tokens.
        user: Box<str>,
        /// The ending that the clients get.
        ending: Disconnect,
        /// Gets how many connections were ended.
        reply: Box<dyn FnOnce(usize) + Send>,
    },
    /// End the connections whose token is revoked. `reply` gets how many there were.
    Revoke {
        /// The tokens.
        revocation: Arc<Revocation>,
        /// Gets the number of connections.
        reply: Box<dyn FnOnce(usize) + Send>,
    },
    /// Send an event to every authenticated connection of its channel's tenant, subscribed or not. `reply` gets how many there are.
    Broadcast {
        /// The event.
        event: Arc<Event>,
        /// Gets for how many connections the event was queued.
        reply: Box<dyn FnOnce(usize) + Send>,
    },
    /// List connections in slot order. A page may have fewer than `limit` although others follow.
    Clients {
        /// The first slot of the page.
        from_slot: u32,
        /// The maximum number of connections.
        limit: usize,
        /// Which connections.
        filter: ClientFilter,
        /// Gets the page.
        reply: Box<dyn FnOnce(ClientsPage) + Send>,
    },
    /// List the connections with the most of something.
    WorstClients {
        /// Of what.
        by: ClientOrder,
        /// The maximum number of connections.
        limit: usize,
        /// List only the connections of this tenant; `None`: of all.
        tenant: Option<Tenant>,
        /// Gets the connections, largest first.
        reply: Box<dyn FnOnce(Vec<ClientInfo>) + Send>,
    },
    /// Begin a trace.
    BeginTrace(Box<Trace>),
    /// End a trace before its time.
    EndTrace {
        /// Its number.
        id: u64,
    },
    /// List connections that have ended.
    Endings {
        /// The maximum number of endings.
        limit: usize,
        /// Gets the endings, newest first.
        reply: Box<dyn FnOnce(Vec<EndedClient>) + Send>,
    },
    /// List the patterns with the most subscribers.
    Subscriptions {
        /// The maximum number of patterns.
        limit: usize,
        /// List only the patterns of this tenant; `None`: of all.
        tenant: Option<Tenant>,
        /// Gets the page.
        reply: Box<dyn FnOnce(SubscriptionsPage) + Send>,
    },
    /// Count the connections that get the events of a channel.
    Subscribers {
        /// The channel.
        channel: Channel,
        /// Gets the number of connections.
        reply: Box<dyn FnOnce(u64) + Send>,
    },
    /// Tell subscribers that nothing was published to channels for too long (`stale`), and that others go on (`fresh`).
    Freshness {
        /// The channels that became silent.
        stale: Arc<[Channel]>,
        /// The channels that go on.
        fresh: Arc<[Channel]>,
    },
    /// Close all connections with code 1012, spread over a time, then stop.
    Drain {
        /// The time in milliseconds.
        over_ms: u64,
    },
}

/// Services that a shard requests from threads that may wait. Implementations return at once and answer by the mailbox,
/// always exactly once.
pub trait Services: Send + Sync {
    /// Verifies a token of a tenant; answered by [`ShardMessage::Verified`].
    fn verify(&self, from: ConnectionId, request: u32, tenant: Tenant, token: Box<str>);
    /// Routes a command; answered by [`ShardMessage::Responded`]. `client_id`, the connection's public name, and
    /// `address` ([`Adopt::address`]) are for the audit trail.
    fn command(&self, from: ConnectionId, client_id: &str, address: Option<IpAddr>, request: u32, command: Command);
    /// Tells how the command with a key of the identity's user ended; answered by [`ShardMessage::Responded`].
    fn command_status(&self, from: ConnectionId, request: u32, identity: &Identity, key: &CommandKey);
    /// Records in the audit trail that a command was refused for lack of permission; not answered.
    fn forbidden(&self, client_id: &str, address: Option<IpAddr>, command: Command);
    /// Whether the token of an identity was revoked. A shard asks once for each connection that it takes over, and for each
    /// token that was verified: a revocation may have come in between.
    fn is_revoked(&self, identity: &Identity) -> bool {
        let _ = identity;
        false
    }
    /// The budget of memory, which the shard asks for once.
    fn budget(&self) -> Arc<Budget> {
        Arc::new(Budget::unlimited())
    }
    /// What sessions had that ended, which the shards share. The shard asks for it once.
    fn suspended(&self) -> Arc<SuspendedSessions> {
        Arc::default()
    }
}

/// The sending end of a shard's mailbox. Cheap to clone.
#[derive(Clone)]
pub struct ShardHandle {
    sender: Sender<ShardMessage>,
    shared: Arc<Shared>,
}

/// The receiving end of a shard's mailbox, owned by the shard's thread. Dropping it drops the messages in it: sockets
/// are closed, permits are freed, and replies are never called.
pub struct Mailbox {
    receiver: Receiver<ShardMessage>,
    shared: Arc<Shared>,
}

struct Shared {
    doorbell: Arc<Doorbell>,
    metrics: Arc<ShardMetrics>,
    // Connections that were sent and not taken out yet. They are load that the shard does not count yet.
    adopting: Gauge,
}

/// Creates a mailbox whose messages ring this doorbell.
///
/// The mailbox is unbounded. A bound could only lose an answer that a client waits for, or make a thread wait for a
/// shard. Its senders are bounded instead: connections by the ingress limits; answers by the one verification and the
/// commands in flight that each connection may have; queries by the admin listener.
#[must_use]
pub fn mailbox(doorbell: Arc<Doorbell>, metrics: Arc<ShardMetrics>) -> (ShardHandle, Mailbox) {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let shared = Arc::new(Shared {
        doorbell,
        metrics,
        adopting: Gauge::default(),
    });
    let handle = ShardHandle {
        sender,
        shared: shared.clone(),
    };
    (handle, Mailbox { receiver, shared })
}

/// Whether the message adds a connection to the shard.
const fn is_adoption(message: &ShardMessage) -> bool {
    matches!(message, ShardMessage::Adopt(_) | ShardMessage::Open(_))
}

impl ShardHandle {
    /// Puts a message into the shard's mailbox and rings its doorbell.
    ///
    /// # Errors
    ///
    /// The shard has ended. The message is handed back.
    pub fn send(&self, message: ShardMessage) -> Result<(), Box<ShardMessage>> {
        let adoption = i64::from(is_adoption(&message));
        self.shared.adopting.add(adoption);
        match self.sender.send(message) {
            Ok(()) => {
                self.shared.doorbell.ring();
                Ok(())
            }
            Err(refused) => {
                self.shared.adopting.add(-adoption);
                Err(Box::new(refused.into_inner()))
            }
        }
    }

    /// The shard's metrics.
    #[must_use]
    pub fn metrics(&self) -> &ShardMetrics {
        &self.shared.metrics
    }

    /// The number of connections, including those on their way. The ingress hands a new connection to the shard with
    /// the fewest.
    #[must_use]
    pub fn load(&self) -> i64 {
        self.shared.metrics.connections.get() + self.shared.adopting.get()
    }
}

impl Mailbox {
    /// Takes out the next message; `None`: the mailbox is empty.
    pub fn pop(&mut self) -> Option<ShardMessage> {
        let message = self.receiver.try_recv().ok()?;
        if is_adoption(&message) {
            self.shared.adopting.add(-1);
        }
        Some(message)
    }

    /// The shard's metrics, shared with its handles.
    #[must_use]
    pub fn metrics(&self) -> &Arc<ShardMetrics> {
        &self.shared.metrics
    }

    /// The number of messages in the mailbox.
    #[must_use]
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Whether the mailbox is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(over_ms: u64) -> ShardMessage {
        ShardMessage::Drain { over_ms }
    }

    #[test]
    fn messages_arrive_in_order_and_ring_the_doorbell() {
        let bell = Arc::new(Doorbell::default());
        let (handle, mut mailbox) = mailbox(bell.clone(), Arc::default());
        bell.answer();
        for n in 0..3 {
            assert!(handle.clone().send(drain(n)).is_ok());
        }
        assert!(!bell.fall_asleep());
        assert_eq!(mailbox.len(), 3);
        for n in 0..3 {
            assert!(matches!(mailbox.pop(), Some(ShardMessage::Drain { over_ms }) if over_ms == n));
        }
        assert!(mailbox.pop().is_none() && mailbox.is_empty());
    }

    #[test]
    fn a_message_to_a_shard_that_has_ended_is_handed_back() {
        let (handle, mailbox) = mailbox(Arc::default(), Arc::default());
        drop(mailbox);
        let back = handle.send(drain(7)).expect_err("the shard has ended");
        assert!(matches!(*back, ShardMessage::Drain { over_ms: 7 }));
    }
}
