//! What shards tell operators of connections.

use std::net::IpAddr;
use std::sync::Arc;

use super::ConnectionId;
use crate::auth::Identity;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::disconnect::Disconnect;
use tickgate_protocol::rate::Rate;
use tickgate_protocol::wire::Deflate;

/// Which connections [`ShardMessage::Clients`](super::ShardMessage::Clients) lists. The default: all.
#[derive(Clone, Debug, Default)]
pub struct ClientFilter {
    /// Only those of this tenant.
    pub tenant: Option<Tenant>,
    /// Only those of this user.
    pub user: Option<Box<str>>,
    /// Only those with this text in the name of the user or of the client, or in the address.
    pub search: Option<Box<str>>,
}

/// A page of [`ShardMessage::Clients`](super::ShardMessage::Clients).
#[derive(Clone, Debug, Default)]
pub struct ClientsPage {
    /// In slot order.
    pub clients: Vec<ClientInfo>,
    /// The first slot of the next page; `None`: this is the last page.
    pub next_slot: Option<u32>,
}

/// A page of [`ShardMessage::Subscriptions`](super::ShardMessage::Subscriptions).
#[derive(Clone, Debug, Default)]
pub struct SubscriptionsPage {
    /// What clients subscribe to, in their own words ([`Dialect::subscription_name`]), and how many, largest number first.
    ///
    /// [`Dialect::subscription_name`]: tickgate_protocol::dialect::Dialect::subscription_name
    pub names: Vec<(Box<str>, u64)>,
    /// The number of all subscriptions of the shard.
    pub total: u64,
}

/// By what [`ShardMessage::WorstClients`](super::ShardMessage::WorstClients) orders connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientOrder {
    /// Bytes in the outbox.
    PendingBytes,
    /// How long the socket has not taken everything.
    Waiting,
    /// Events dropped.
    Dropped,
    /// Messages refused because they came too fast.
    RateLimited,
    /// The sum of the milliseconds of a wait of a second or longer, of dropped events and of refused messages: every client that
    /// an operator should look at.
    Trouble,
}

impl ClientOrder {
    /// How much a connection has of it.
    #[must_use]
    pub const fn amount(self, pending_bytes: u64, waiting_ms: u64, dropped: u64, rate_limited: u64) -> u64 {
        match self {
            Self::PendingBytes => pending_bytes,
            Self::Waiting => waiting_ms,
            Self::Dropped => dropped,
            Self::RateLimited => rate_limited,
            Self::Trouble => {
                let long_wait_ms = if waiting_ms < LONG_WAIT_MS { 0 } else { waiting_ms };
                long_wait_ms.saturating_add(dropped).saturating_add(rate_limited)
            }
        }
    }
}

/// Shorter waits are usual.
const LONG_WAIT_MS: u64 = 1000;

/// A connection that has ended.
#[derive(Clone, Debug)]
pub struct EndedClient {
    /// Its tenant.
    pub tenant: Tenant,
    /// Its public name.
    pub client_id: Box<str>,
    /// The user; `None`: anonymous or not authenticated.
    pub user: Option<Arc<str>>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The name of the dialect.
    pub dialect: &'static str,
    /// How it ended.
    pub ending: Disconnect,
    /// When the connection was adopted, in Unix milliseconds.
    pub connected_at_ms: u64,
    /// When it ended, in Unix milliseconds.
    pub ended_at_ms: u64,
    /// Messages delivered to the client.
    pub message_count: u64,
    /// Events dropped for the client.
    pub dropped: u64,
}

/// What the admin API shows of one connection.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// Its id.
    pub id: ConnectionId,
    /// Its tenant.
    pub tenant: Tenant,
    /// Its public name, as in the client's `status`.
    pub client_id: Box<str>,
    /// Who the client is and what it may do; `None`: it has not authenticated.
    pub identity: Option<Arc<Identity>>,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// The name of the dialect: `native`, ...
    pub dialect: &'static str,
    /// The transport: `websocket` or `polling`.
    pub transport: &'static str,
    /// The negotiated compression; `None`: none.
    pub deflate: Option<Deflate>,
    /// When the connection was adopted, in Unix milliseconds.
    pub connected_at_ms: u64,
    /// When a ping was last sent to the client, in Unix milliseconds.
    pub last_ping_ms: Option<u64>,
    /// When a pong (frame, packet or message) last arrived, in Unix milliseconds.
    pub last_pong_ms: Option<u64>,
    /// The patterns that the client is subscribed to.
    pub subscriptions: Vec<Box<str>>,
    /// The patterns whose rate is limited.
    pub max_rates: Vec<(Box<str>, Rate)>,
    /// The bytes that the client is sent in a second; 0: no limit.
    pub bytes_per_second: u32,
    /// Messages delivered to the client.
    pub message_count: u64,
    /// Frames in the outbox.
    pub pending: u64,
    /// Bytes in the outbox.
    pub pending_bytes: u64,
    /// How long the socket has not taken everything, in milliseconds; `None`: nothing waits for it.
    pub waiting_ms: Option<u64>,
    /// Events dropped for the client.
    pub dropped: u64,
    /// Messages refused because they came too fast.
    pub rate_limited: u64,
    /// When the last one was refused, in Unix milliseconds.
    pub rate_limited_at_ms: Option<u64>,
    /// Whether the connection is open; `false`: it is closing.
    pub is_alive: bool,
}
