//! What a client can be told, as data.

use bytes::Bytes;

use super::{ErrorCode, Position, RequestId, RequestRef};
use crate::channel::{Channel, Pattern};
use crate::event::Epoch;

/// One message to one client. Times are Unix milliseconds.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    /// The connection is there.
    Connected {
        /// The connection's public name.
        client_id: &'a str,
        /// Its user, where that is known by then.
        user: Option<&'a str>,
    },
    /// A token was accepted (or, where tokens are ignored, presented).
    AuthAccepted {
        /// Echoed.
        request_ref: &'a RequestRef,
        /// The user; `None` for an anonymous connection.
        user: Option<&'a str>,
        /// The role, as the token names it.
        role: Option<&'a str>,
        /// The token's `exp`.
        expires_at_ms: Option<u64>,
    },
    /// A token was refused.
    AuthRefused {
        /// Echoed.
        request_ref: &'a RequestRef,
        /// Why.
        code: ErrorCode,
        /// For the client.
        message: &'a str,
    },
    /// The token ends soon.
    AuthExpiring {
        /// Its `exp`.
        expires_at_ms: u64,
    },
    /// The patterns are live.
    Subscribed {
        /// Echoed.
        request_ref: &'a RequestRef,
        /// As asked for.
        patterns: &'a [Pattern],
        /// Distinct patterns held.
        active: usize,
        /// Where the client stands in the histories of what it newly gets.
        standing: &'a SubscribeOutcome,
    },
    /// The patterns are not held (any more).
    Unsubscribed {
        /// Echoed.
        request_ref: &'a RequestRef,
        /// As asked for, or as taken away.
        patterns: &'a [Pattern],
        /// Distinct patterns held.
        active: usize,
        /// They were taken away: a new token does not cover them.
        lost_permission: bool,
    },
    /// A command succeeded.
    CommandSucceeded {
        /// The command's.
        id: &'a RequestId,
        /// One JSON value, byte for byte.
        data: &'a [u8],
    },
    /// A backend refused a command.
    CommandFailed {
        /// The command's.
        id: &'a RequestId,
        /// The backend's error object, byte for byte.
        error: &'a [u8],
    },
    /// The gateway answers a command in a backend's place.
    CommandRefused {
        /// The command's.
        id: &'a RequestId,
        /// Why.
        code: ErrorCode,
        /// For the client.
        message: &'a str,
    },
    /// An event was published.
    Published {
        /// Echoed.
        request_ref: &'a RequestRef,
        /// Position in the channel's history, where it keeps one.
        position: Option<Position>,
    },
    /// What a channel keeps.
    History {
        /// Echoed.
        request_ref: &'a RequestRef,
        /// The store's.
        epoch: Epoch,
        /// Oldest first, each a JSON object as the dialect sends events.
        events: &'a [Bytes],
        /// None between what was asked for and these is missing.
        complete: bool,
        /// The last one's: where the next page begins; `None`: the channel keeps no history.
        offset: Option<u64>,
        /// There are more.
        more: bool,
    },
    /// The gateway's heartbeat.
    Ping,
    /// Answers the client's.
    Pong {
        /// Echoed.
        request_ref: &'a RequestRef,
    },
    /// The connection's own figures.
    Status(Status<'a>),
    /// A request failed.
    Error {
        /// Echoed.
        request_ref: &'a RequestRef,
        /// Why.
        code: ErrorCode,
        /// For the client.
        message: &'a str,
    },
    /// Messages were refused because they came too fast.
    RateLimited {
        /// Until the next one would be taken.
        retry_after_ms: u32,
        /// How many were refused since this was last told, not counting commands that were answered one by one.
        refused: u32,
    },
    /// Events were dropped because the client reads too slowly.
    Dropped {
        /// How many.
        count: u64,
        /// Of which channels; not of all when there are very many.
        channels: &'a [Channel],
    },
    /// The gateway will close this connection.
    GoingAway {
        /// Until then.
        close_in_ms: u64,
        /// How long the client should wait after it.
        reconnect_after_ms: u64,
    },
}

/// [`Reply::Status`]'s figures.
#[derive(Clone, Copy, Debug)]
pub struct Status<'a> {
    /// Echoed.
    pub request_ref: &'a RequestRef,
    /// Unix milliseconds.
    pub connected_at_ms: u64,
    /// Patterns held.
    pub subscriptions: &'a [Pattern],
    /// Messages delivered to this client.
    pub message_count: u64,
    /// The connection's public name.
    pub client_id: &'a str,
    /// Its user.
    pub user: Option<&'a str>,
    /// Events dropped for it.
    pub dropped: u64,
}

/// What `subscribed` says of the channels with history that a client newly gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeOutcome {
    /// The events that follow are those after these positions; none is named twice.
    pub positions: Vec<(Channel, Position)>,
    /// There are more than are named.
    pub cut: bool,
    /// When recovery was asked for: whether everything that the client missed follows.
    pub recovered: Option<Vec<(Channel, bool)>>,
}
