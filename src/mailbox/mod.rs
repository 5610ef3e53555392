//! How the rest of the gateway talks to a shard: small messages, one way, and a doorbell.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;

use crate::auth::{Identity, TokenError};
use crate::disconnect::Disconnect;
use crate::event::Event;
use crate::session::{Command, CommandOutcome, Settings};

/// Names one connection for as long as it lives. A stale one names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The shard.
    pub shard: u16,
    /// Its place in the shard.
    pub slot: u32,
    /// How often the place was taken before.
    pub generation: u32,
}

/// A socket on its way from the door to a shard, after the 101 went out.
#[derive(Debug)]
pub struct Adopt {
    /// The bare socket (TCP or Unix), non-blocking.
    pub socket: OwnedFd,
    /// What was read behind the request's head: a first frame can sit in it.
    pub unread: Bytes,
    /// The endpoint's settings.
    pub settings: Arc<Settings>,
    /// Who it is: a verified handshake token's identity, `None` when the client has yet to authenticate, or why the
    /// token was refused (answered with `auth_result` and a close).
    pub identity: Result<Option<Arc<Identity>>, TokenError>,
    /// The client's address, as the trusted proxies tell it; `None` on a bare Unix socket.
    pub address: Option<IpAddr>,
    /// Random bits for its client id and the phase of its heartbeat.
    pub nonce: u64,
    /// Held while the connection lives; dropping it gives its place in the door's limits back.
    pub permit: Box<dyn ConnectionPermit>,
}

/// A connection's place in the door's limits (total, per address, per user). Dropped when the connection is gone.
pub trait ConnectionPermit: Send + std::fmt::Debug {
    /// The connection became this user by an in-band `auth`. `false`: the user has too many connections already.
    fn authenticated(&mut self, user: &str) -> bool;
}

/// What a shard can be told.
pub enum ShardMessage {
    /// Take this connection.
    Adopt(Box<Adopt>),
    /// Answer to a verification.
    Verified {
        /// Who asked.
        to: ConnectionId,
        /// The request's number.
        request: u32,
        /// Who it is, or why not.
        outcome: Result<Arc<Identity>, TokenError>,
    },
    /// Answer to a command.
    Responded {
        /// Who asked.
        to: ConnectionId,
        /// The request's number.
        request: u32,
        /// The answer.
        outcome: CommandOutcome,
    },
    /// End one connection; `reply` says whether it existed.
    Disconnect {
        /// Which.
        id: ConnectionId,
        /// With what ending.
        ending: Disconnect,
        /// Whether it existed.
        reply: Box<dyn FnOnce(bool) + Send>,
    },
    /// End all connections of one user; `reply` gets how many there were.
    DisconnectUser {
        /// The `sub`.
        user: Box<str>,
        /// With what ending.
        ending: Disconnect,
        /// How many there were.
        reply: Box<dyn FnOnce(usize) + Send>,
    },
    /// Send this event to every authenticated connection, subscribed or not; `reply` gets how many.
    Broadcast {
        /// What to send.
        event: Arc<Event>,
        /// To how many it was queued.
        reply: Box<dyn FnOnce(usize) + Send>,
    },
    /// List connections in slot order.
    Clients {
        /// From this slot on.
        from_slot: u32,
        /// At most so many.
        limit: usize,
        /// Only this user's.
        user: Option<Box<str>>,
        /// The page, and the slot the next one begins at (`None`: there is none).
        reply: Box<dyn FnOnce(ClientsPage) + Send>,
    },
    /// Patterns and how many connections hold each, largest first.
    Subscriptions {
        /// At most so many.
        limit: usize,
        /// The patterns, and how many subscriptions there are in all.
        reply: Box<dyn FnOnce(SubscriptionsPage) + Send>,
    },
    /// Close everybody with 1012 spread over this time, then stop.
    Drain {
        /// Milliseconds.
        over_ms: u64,
    },
}

/// A page of [`ShardMessage::Clients`].
#[derive(Clone, Debug, Default)]
pub struct ClientsPage {
    /// In slot order.
    pub clients: Vec<ClientInfo>,
    /// Where the next page begins.
    pub next_slot: Option<u32>,
}

/// A page of [`ShardMessage::Subscriptions`].
#[derive(Clone, Debug, Default)]
pub struct SubscriptionsPage {
    /// Pattern and holders, largest first.
    pub patterns: Vec<(Box<str>, u64)>,
    /// All subscriptions of the shard.
    pub total: u64,
}

/// What the admin API tells of one connection.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// Its name.
    pub id: ConnectionId,
    /// As clients see it, in `status`.
    pub client_id: Box<str>,
    /// Its user.
    pub user: Option<Arc<str>>,
    /// Its address.
    pub address: Option<IpAddr>,
    /// `native`, ...
    pub dialect: &'static str,
    /// Unix milliseconds.
    pub connected_at_ms: u64,
    /// When a ping was last sent to it, Unix milliseconds.
    pub last_ping_ms: Option<u64>,
    /// When a pong (frame or message) last came, Unix milliseconds.
    pub last_pong_ms: Option<u64>,
    /// Patterns held.
    pub subscriptions: Vec<Box<str>>,
    /// Messages delivered.
    pub message_count: u64,
    /// Frames waiting.
    pub pending: u64,
    /// Events dropped.
    pub dropped: u64,
    /// Whether it is open (not closing).
    pub is_alive: bool,
}

/// What a shard asks of the threads that may wait. Implementations return at once and answer by mailbox, always, once.
pub trait Services: Send + Sync {
    /// Verify a token; answered by [`ShardMessage::Verified`].
    fn verify(&self, from: ConnectionId, request: u32, token: Box<str>);
    /// Route a command; answered by [`ShardMessage::Responded`]. `client_id` is the connection's public name and
    /// `address` the client's ([`Adopt::address`]), for the audit trail.
    fn command(&self, from: ConnectionId, client_id: &str, address: Option<IpAddr>, request: u32, command: Command);
}

/// The outside's end of one shard. Cheap to clone.
#[derive(Clone)]
pub struct ShardHandle {}

impl ShardHandle {
    /// Puts a message into the shard's mailbox and rings its doorbell; hands it back when the shard is gone.
    pub fn send(&self, message: ShardMessage) -> Result<(), Box<ShardMessage>> {
        let _ = message;
        unimplemented!()
    }
    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> &crate::stats::ShardStats {
        unimplemented!()
    }
    /// How loaded it is: the door hands a new connection to the shard with the least.
    #[must_use]
    pub fn load(&self) -> i64 {
        unimplemented!()
    }
}
