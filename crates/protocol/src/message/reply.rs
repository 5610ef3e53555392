//! The messages from the gateway to a client, except events, as data.

use bytes::Bytes;

use super::{Beyond, Cursor, ErrorCode, Position, RequestId, RequestRef};
use crate::channel::{Channel, Pattern};
use crate::event::Epoch;
use crate::rate::Rate;

/// One message to one client. Times are Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// The connection is open.
    Connected {
        /// The public id of the connection.
        client_id: &'a str,
        /// The user, if it is known already.
        user: Option<&'a str>,
    },
    /// A token was accepted, or presented on an endpoint that ignores tokens.
    AuthAccepted {
        /// The request that this message answers.
        request_ref: &'a RequestRef,
        /// The user; `None` for an anonymous connection.
        user: Option<&'a str>,
        /// The role that the token names.
        role: Option<&'a str>,
        /// The time of the token's `exp`.
        expires_at_ms: Option<u64>,
    },
    /// A token was refused.
    AuthRefused {
        /// The request that this message answers.
        request_ref: &'a RequestRef,
        /// The error code.
        code: ErrorCode,
        /// The error text.
        message: &'a str,
    },
    /// The token expires soon.
    AuthExpiring {
        /// The time of the token's `exp`.
        expires_at_ms: u64,
    },
    /// The subscriptions to the patterns are active.
    Subscribed {
        /// The request that this message answers.
        request_ref: &'a RequestRef,
        /// The patterns of the request.
        patterns: &'a [Pattern],
        /// The number of distinct patterns of the connection.
        active: usize,
        /// The positions in the histories of the channels that the client newly gets.
        outcome: &'a SubscribeOutcome,
        /// The rate that was granted; `None` if there is no limit.
        max_rate: Option<Rate>,
        /// The channels of the client's `recover` of which the request made no use.
        ignored: &'a [Channel],
        /// Up to when the client had everything.
        cursor: Option<Cursor>,
        /// What it had beyond that.
        beyond: Beyond<'a>,
    },
    /// The subscriptions to the patterns have ended.
    Unsubscribed {
        /// The request that this message answers.
        request_ref: &'a RequestRef,
        /// The patterns of the request, or those that were taken away.
        patterns: &'a [Pattern],
        /// The number of distinct patterns of the connection.
        active: usize,
        /// Whether the gateway took the patterns away, because a new token does not permit them.
        lost_permission: bool,
    },
    /// A command succeeded.
    CommandSucceeded {
        /// The `id` of the command.
        id: &'a RequestId,
        /// One JSON value, as the backend sent it.
        data: &'a [u8],
    },
    /// A backend refused a command.
    CommandFailed {
        /// The `id` of the command.
        id: &'a RequestId,
        /// The backend's error object, as it was sent.
        error: &'a [u8],
    },
    /// The gateway refused a command, or answers it because no backend did.
    CommandRefused {
        /// The `id` of the command.
        id: &'a RequestId,
        /// The error code.
        code: ErrorCode,
        /// The error text.
        message: &'a str,
    },
    /// An event was published.
    Published {
        /// The request that this message answers.
        request_ref: &'a RequestRef,
        /// The position of the event in the channel's history; `None` if the channel keeps no history.
        position: Option<Position>,
    },
    /// Events from the history of a channel.
    History {
        /// The request that this message answers.
        request_ref: &'a RequestRef,
        /// The epoch of the store.
        epoch: Epoch,
        /// The events, oldest first. Each is the JSON object by which the dialect sends an event.
        events: &'a [Bytes],
        /// Whether no event is missing between the requested position and these events.
        complete: bool,
        /// The offset after which the next page begins; `None` if the channel keeps no history.
        offset: Option<u64>,
        /// Whether there are more events.
        more: bool,
        /// Up to when the client had everything on its subscriptions.
        cursor: Option<Cursor>,
    },
    /// A heartbeat of the gateway.
    Ping {
        /// Up to when the client had everything.
        cursor: Option<Cursor>,
    },
    /// How far a client has come that gets what it missed.
    Progress {
        /// Up to when the client had everything.
        cursor: Cursor,
        /// What it had beyond that.
        beyond: Beyond<'a>,
    },
    /// The answer to a heartbeat of the client.
    Pong {
        /// The request that this message answers.
        request_ref: &'a RequestRef,
    },
    /// The statistics of the connection.
    Status(Status<'a>),
    /// A request failed.
    Error {
        /// The request that this message answers.
        request_ref: &'a RequestRef,
        /// The error code.
        code: ErrorCode,
        /// The error text.
        message: &'a str,
    },
    /// One request, or several messages without an id, were refused because of the rate limit.
    RateLimited {
        /// The request that this message answers. Empty if it tells of messages without an id.
        request_ref: &'a RequestRef,
        /// The time until the next message will be accepted, in milliseconds.
        retry_after_ms: u32,
        /// The number of messages without an id refused since the last such reply. 1 if the reply answers a request.
        refused: u32,
    },
    /// A `subscribe` was refused because the gateway is short of memory.
    Overloaded {
        /// The request that this message answers.
        request_ref: &'a RequestRef,
        /// The time after which the client may try again, in milliseconds.
        retry_after_ms: u32,
    },
    /// Events were dropped because the client reads too slowly.
    Dropped {
        /// The number of events.
        count: u64,
        /// The channels of the events. The list is cut if there are very many.
        channels: &'a [Channel],
    },
    /// Nothing was published to channels for too long, or they go on.
    Freshness {
        /// Whether the channels are silent; `false`: they go on.
        is_stale: bool,
        /// The number of channels.
        count: u64,
        /// The channels. The list is cut if there are very many.
        channels: &'a [Channel],
    },
    /// The gateway will close this connection.
    GoingAway {
        /// The time until the connection is closed, in milliseconds.
        close_in_ms: u64,
        /// The time that the client should wait before it reconnects, in milliseconds.
        reconnect_after_ms: u64,
        /// Up to when the client had everything.
        cursor: Option<Cursor>,
        /// What it had beyond that.
        beyond: Beyond<'a>,
    },
}

/// The text of [`Reply::Overloaded`].
pub(crate) const OVERLOADED: &str = "the gateway is short of memory";

/// The statistics of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Status<'a> {
    /// The request that this message answers.
    pub request_ref: &'a RequestRef,
    /// The start of the connection, in Unix milliseconds.
    pub connected_at_ms: u64,
    /// The patterns of the connection.
    pub subscriptions: &'a [Pattern],
    /// Those of the patterns whose rate is limited.
    pub max_rates: &'a [(&'a Pattern, Rate)],
    /// The bytes that the client is sent in a second; `None`: there is no limit.
    pub bytes_per_second: Option<u32>,
    /// The number of messages delivered to the client.
    pub message_count: u64,
    /// The public id of the connection.
    pub client_id: &'a str,
    /// The user of the connection.
    pub user: Option<&'a str>,
    /// The number of events dropped for the client.
    pub dropped: u64,
}

/// What `subscribed` says about the channels with history that the client newly gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOutcome {
    /// The client gets the events after these positions. Each channel is named at most once.
    pub positions: Vec<(Channel, Position)>,
    /// Whether `positions` is incomplete, because there are more channels.
    pub cut: bool,
    /// What the client gets of what it missed; `None` if it does not return.
    pub recovered: Option<Recovered>,
    /// The channels to which nothing was published for too long.
    pub stale: NamedChannels,
    /// Nothing is subscribed yet: another message has more of what the client has.
    pub more: bool,
    /// The hub's newest version when the request began. The client is not told.
    pub began_at: u64,
}

/// What a client that returns gets of what it missed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovered {
    /// For each channel, whether the client gets every event that it missed.
    Each(Vec<(Channel, bool)>),
    /// The channels of which it does not get every event that it missed. The list is cut if there are very many.
    Except(Vec<Channel>),
}

/// How many channels of a message are named.
const NAMED_MAX: usize = 32;

/// A number of channels, of which the first `NAMED_MAX` are named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedChannels {
    /// How many channels there are.
    pub count: u64,
    /// Some of them.
    pub names: Vec<Channel>,
}

impl NamedChannels {
    /// Adds a channel.
    pub fn add(&mut self, channel: &Channel) {
        self.count += 1;
        if self.names.len() < NAMED_MAX {
            self.names.push(channel.clone());
        }
    }

    /// Adds the channels of another list.
    pub fn add_all(&mut self, other: &Self) {
        self.count += other.count;
        let room = NAMED_MAX - self.names.len();
        self.names.extend(other.names.iter().take(room).cloned());
    }
}
