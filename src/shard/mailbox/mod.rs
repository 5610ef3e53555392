//! How the rest of the gateway talks to a shard: small messages, one way, and a doorbell.
//!
//! Invariant: a message sent is either taken out by the shard, in order, or handed back because the shard is gone;
//! the sender never waits.

pub mod polling;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender};

use crate::auth::{Identity, TokenError};
use crate::event::Event;
use crate::hub::Doorbell;
use crate::metrics::{Gauge, ShardMetrics};
use crate::session::{Command, CommandOutcome, Opening, Settings};
use tickgate_protocol::channel::Channel;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::wire::Deflate;

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

impl ConnectionId {
    const SLOT_BITS: u32 = 26;

    /// 64 bits that stand for this connection and look random: 6 of the shard, 26 of the slot, 32 of the generation,
    /// scrambled. Shards and slots beyond that (a hub has at most 64 shards) would share their names.
    #[must_use]
    pub fn public_bits(self) -> u64 {
        let place = u64::from(self.shard) << Self::SLOT_BITS | u64::from(self.slot);
        scramble(place << 32 | u64::from(self.generation))
    }

    /// As clients and the admin API see it: `client_` and the [`public_bits`](Self::public_bits) as 16 hexadecimal
    /// digits. It says by itself where the connection is, so nobody keeps a map of names.
    #[must_use]
    pub fn client_id(self) -> String {
        format!("client_{:016x}", self.public_bits())
    }

    /// The inverse of [`client_id`](Self::client_id); `None` when the text is none. Whether the connection exists is
    /// for its shard to say, and whether there is such a shard for the caller.
    #[must_use]
    pub fn from_client_id(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("client_")?;
        let is_digit = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 16 || !digits.bytes().all(is_digit) {
            return None;
        }
        Self::from_public_bits(u64::from_str_radix(digits, 16).ok()?)
    }

    /// The inverse of [`public_bits`](Self::public_bits), under the same reservation.
    #[must_use]
    pub fn from_public_bits(bits: u64) -> Option<Self> {
        let bits = unscramble(bits);
        let place = bits >> 32;
        Some(Self {
            shard: u16::try_from(place >> Self::SLOT_BITS).ok()?,
            slot: u32::try_from(place & ((1 << Self::SLOT_BITS) - 1)).ok()?,
            generation: u32::try_from(bits & u64::from(u32::MAX)).ok()?,
        })
    }
}

// The finalizer of splitmix64, which maps 64 bits to 64 bits one to one, and its inverse. No secret: it only keeps
// neighbours from looking alike.
const fn scramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

const fn unscramble(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 31) ^ (bits >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    bits = (bits ^ (bits >> 27) ^ (bits >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    bits ^ (bits >> 30) ^ (bits >> 60)
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
    /// How it was opened, on an endpoint of an Engine.IO dialect. [`Adopt::identity`] is `Ok(None)` then: the session
    /// looks at the token when the client connects.
    pub engine_io: Option<Opening>,
    /// Who it is: a verified handshake token's identity, `None` when the client has yet to authenticate, or why the
    /// token was refused (answered with `auth_result` and a close).
    pub identity: Result<Option<Arc<Identity>>, TokenError>,
    /// The client's address, as the trusted proxies tell it; `None` on a bare Unix socket.
    pub address: Option<IpAddr>,
    /// Random bits for its client id and the phase of its heartbeat.
    pub nonce: u64,
    /// What was agreed on compression; `None`: none.
    pub deflate: Option<Deflate>,
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
    /// Open an Engine.IO session without a socket.
    Open(Box<polling::Open>),
    /// A request of such a session.
    Poll(polling::Poll),
    /// A socket for such a session; the driver's, as [`ShardMessage::Adopt`].
    Upgrade(Box<polling::Upgrade>),
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
    /// How many connections get the events of a channel.
    Subscribers {
        /// Which.
        channel: Channel,
        /// How many.
        reply: Box<dyn FnOnce(u64) + Send>,
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
    /// `websocket`, or `polling`.
    pub transport: &'static str,
    /// What was agreed on compression; `None`: none.
    pub deflate: Option<Deflate>,
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
    /// Tell the audit trail of a command that was refused for want of permission; not answered.
    fn forbidden(&self, client_id: &str, address: Option<IpAddr>, command: Command);
}

/// The outside's end of one shard. Cheap to clone.
#[derive(Clone)]
pub struct ShardHandle {
    post: Sender<ShardMessage>,
    shared: Arc<Shared>,
}

/// The shard's end of its mailbox; owned by its thread. Messages left in it when it is dropped are dropped with it:
/// sockets close, permits go back, replies are never called.
pub struct Mailbox {
    letters: Receiver<ShardMessage>,
    shared: Arc<Shared>,
}

struct Shared {
    doorbell: Arc<Doorbell>,
    stats: Arc<ShardMetrics>,
    // Connections sent and not yet taken out: they are load the shard does not count yet.
    adopting: Gauge,
}

/// A mailbox that rings this doorbell, and its outside end.
///
/// Unbounded, because a bound could only lose an answer that somebody waits for, or make a thread wait for a shard
/// that waits for nobody. What lies in it is bounded where it comes from: connections by the door's limits, answers
/// by the one verification and the commands in flight a connection may have, queries by the admin listener.
#[must_use]
pub fn mailbox(doorbell: Arc<Doorbell>, stats: Arc<ShardMetrics>) -> (ShardHandle, Mailbox) {
    let (post, letters) = crossbeam_channel::unbounded();
    let shared = Arc::new(Shared {
        doorbell,
        stats,
        adopting: Gauge::default(),
    });
    let handle = ShardHandle {
        post,
        shared: shared.clone(),
    };
    (handle, Mailbox { letters, shared })
}

/// Whether the shard has one more connection by it.
const fn is_adoption(message: &ShardMessage) -> bool {
    matches!(message, ShardMessage::Adopt(_) | ShardMessage::Open(_))
}

impl ShardHandle {
    /// Puts a message into the shard's mailbox and rings its doorbell; hands it back when the shard is gone.
    pub fn send(&self, message: ShardMessage) -> Result<(), Box<ShardMessage>> {
        let adoption = i64::from(is_adoption(&message));
        self.shared.adopting.add(adoption);
        match self.post.send(message) {
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

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> &ShardMetrics {
        &self.shared.stats
    }

    /// How loaded it is: the door hands a new connection to the shard with the least.
    #[must_use]
    pub fn load(&self) -> i64 {
        self.shared.stats.connections.get() + self.shared.adopting.get()
    }
}

impl Mailbox {
    /// The next message.
    pub fn pop(&mut self) -> Option<ShardMessage> {
        let message = self.letters.try_recv().ok()?;
        if is_adoption(&message) {
            self.shared.adopting.add(-1);
        }
        Some(message)
    }

    /// The shard's counters, which its handles show.
    #[must_use]
    pub fn stats(&self) -> &Arc<ShardMetrics> {
        &self.shared.stats
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(over_ms: u64) -> ShardMessage {
        ShardMessage::Drain { over_ms }
    }

    #[test]
    fn a_client_id_names_its_connection() {
        for (shard, slot, generation) in [(0, 0, 1), (63, (1 << 26) - 1, u32::MAX), (7, 123_456, 0xdead_beef)] {
            let id = ConnectionId {
                shard,
                slot,
                generation,
            };
            assert_eq!(ConnectionId::from_client_id(&id.client_id()), Some(id));
        }
        for text in [
            "",
            "client_",
            "client_12",
            "client_+123456789abcde0",
            "client_0123456789ABCDEF",
            "0123456789abcdef",
        ] {
            assert_eq!(ConnectionId::from_client_id(text), None, "{text}");
        }
    }

    #[test]
    fn messages_arrive_in_order_and_ring() {
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
    fn a_message_to_a_shard_that_is_gone_comes_back() {
        let (handle, mailbox) = mailbox(Arc::default(), Arc::default());
        drop(mailbox);
        let back = handle.send(drain(7)).expect_err("nobody is there");
        assert!(matches!(*back, ShardMessage::Drain { over_ms: 7 }));
    }
}
