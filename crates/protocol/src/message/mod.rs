//! The messages of the protocol, independent of a dialect: requests of clients and the replies to them.
//!
//! Invariant: the syntax of a [`ClientMessage`] is checked: its fields, their types and the channel grammar. Nothing else is
//! checked here; the session decides what a client may do. A [`Reply`] is data, which a dialect encodes.

mod cursor;
mod fields;
mod key;
mod offset;
mod publish;
mod recover;
mod reply;

use std::borrow::Cow;

use crate::channel::{Channel, Pattern, Tenant};
use crate::event::Epoch;
use crate::rate::Rate;
use crate::trace_context::TraceParent;

pub(crate) use cursor::ResumeFields;
pub use cursor::{Cursor, Resume};
pub(crate) use fields::{FieldError, Fields, shorten};
pub use key::{CommandKey, KEY_BYTES_MAX};
pub use offset::{Beyond, Offset};
pub use publish::PublishItem;
pub use recover::{Position, Reached, Recover};
pub(crate) use reply::OVERLOADED;
pub use reply::{NamedChannels, Recovered, Reply, Status, SubscribeOutcome};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// The codes of `error` and `response` messages and of HTTP error bodies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }
        impl ErrorCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// The code as text, as clients see it.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

codes! {
    /// The message is not JSON or is nested deeper than 64 levels.
    InvalidJson = "INVALID_JSON";
    /// A field is missing or invalid. The error message names it.
    InvalidMessage = "INVALID_MESSAGE";
    /// The `type` of the message is unknown.
    UnknownType = "UNKNOWN_TYPE";
    /// A channel or pattern breaks the grammar. The error message names it.
    InvalidChannel = "INVALID_CHANNEL";
    /// The client is not authenticated.
    Unauthenticated = "UNAUTHENTICATED";
    /// The token is invalid.
    TokenInvalid = "TOKEN_INVALID";
    /// The token has expired.
    TokenExpired = "TOKEN_EXPIRED";
    /// A token refresh had the token of another user.
    AuthSubjectMismatch = "AUTH_SUBJECT_MISMATCH";
    /// The user lacks the permission.
    Forbidden = "FORBIDDEN";
    /// The connection would have more patterns than its limit.
    SubscriptionLimit = "SUBSCRIPTION_LIMIT";
    /// The client sends faster than its rate limit.
    RateLimited = "RATE_LIMITED";
    /// The gateway is short of memory and takes no new subscription for now.
    Overloaded = "OVERLOADED";
    /// A published event is above the size limit.
    MessageTooLarge = "MESSAGE_TOO_LARGE";
    /// The gateway had an internal error.
    Internal = "INTERNAL";
    /// No route accepts this action.
    UnknownAction = "UNKNOWN_ACTION";
    /// A command with this id is still in progress on this connection.
    DuplicateId = "DUPLICATE_ID";
    /// The backend failed or could not be reached.
    BackendUnavailable = "BACKEND_UNAVAILABLE";
    /// The gateway has lost its connection to the other gateways. Nothing was done.
    BrokerUnavailable = "BROKER_UNAVAILABLE";
    /// The other gateways did not confirm a published event in time. It may have been published.
    OutcomeUnknown = "OUTCOME_UNKNOWN";
    /// The backend did not answer in time, so the outcome is unknown.
    Timeout = "TIMEOUT";
    /// The key belongs to a command with another action or other params.
    KeyReused = "KEY_REUSED";
    /// The command with this key may or may not have been carried out.
    Unknown = "UNKNOWN";
    /// The key was never seen, or is forgotten.
    UnknownKey = "UNKNOWN_KEY";
}

/// The length limit of a request's `id` that is a string, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// The length limit of an event's name, in bytes.
pub const EVENT_NAME_BYTES_MAX: usize = 128;

/// Whether a text can be the name of an event: 1 to [`EVENT_NAME_BYTES_MAX`] bytes without control characters.
#[must_use]
pub fn is_event_name(name: &str) -> bool {
    (1..=EVENT_NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control)
}

/// The limit on events in one reply to `history`.
pub const HISTORY_EVENTS_MAX: u32 = 1000;

/// The limit on events in a reply to `history` if the request has no `limit`.
pub const HISTORY_EVENTS_DEFAULT: u32 = 100;

/// The limit on channels in one request. It bounds the cost of one message; a client can send several.
pub const CHANNELS_PER_REQUEST_MAX: usize = 1000;

/// The limit on channels in the `recover` of all messages that share it.
pub const RECOVER_CHANNELS_MAX: usize = 10_000;

/// The `id` of a request, which the reply repeats: a string of at most [`ID_BYTES_MAX`] bytes or an integer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestId {
    /// A string, decoded.
    Text(Box<str>),
    /// An integer, from `i64::MIN` to `u64::MAX`.
    Number(i128),
    /// The id of a Socket.IO acknowledgement that the client waits for, and the `id` that the request gave beside it.
    Acknowledgement {
        /// The acknowledgement id, which the client counts.
        number: u64,
        /// The `id`. A number is held as text.
        id: Option<Box<str>>,
    },
}

impl RequestId {
    /// The key by which repeated publishing with this id is recognised. A string and a number with the same digits give
    /// different keys.
    #[must_use]
    pub fn event_name(&self) -> String {
        match self {
            Self::Text(text) => format!("\"{text}"),
            Self::Number(number) => number.to_string(),
            // A publisher has no acknowledgements. The prefix keeps such a key different from all others.
            Self::Acknowledgement { number, .. } => format!("#{number}"),
        }
    }
}

/// The parts of a request that its reply repeats. The dialect fills it from the request and reads it for the reply. The
/// session only passes it on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestRef {
    /// The `id` of the request.
    pub id: Option<RequestId>,
    /// The raw JSON members of the request that the reply repeats, each with a comma before it. Empty in dialects that
    /// repeat none.
    pub members: Box<str>,
}

impl RequestRef {
    /// A reference that has only an `id`.
    pub(crate) fn of_id(id: Option<RequestId>) -> Self {
        Self {
            id,
            members: Box::default(),
        }
    }

    /// A reference that has only the id of an acknowledgement.
    pub(crate) fn of_acknowledgement(number: Option<u64>) -> Self {
        Self::of_id(number.map(|number| RequestId::Acknowledgement { number, id: None }))
    }
}

/// What identifies a request that is refused before it is parsed, so that its client gets an answer nevertheless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The `id` of the request, or of its acknowledgement.
    pub id: RequestId,
    /// The type of the message if its answer has a form of its own: a command, a `command_status`, or an `auth` of the JSON
    /// dialects.
    pub message_type: Option<MessageType>,
}

/// The types of messages that a client can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageType {
    /// `auth`
    Auth,
    /// `subscribe`
    Subscribe,
    /// `unsubscribe`
    Unsubscribe,
    /// `command`
    Command,
    /// `command_status`
    CommandStatus,
    /// `publish`
    Publish,
    /// `ping`
    Ping,
    /// `pong`
    Pong,
    /// `get_status`
    GetStatus,
    /// `history`
    History,
}

impl MessageType {
    /// Whether the answer is a `response`, also if the message is refused.
    #[must_use]
    pub const fn has_response(self) -> bool {
        matches!(self, Self::Command | Self::CommandStatus)
    }
}

/// One message from a client. It borrows from the buffer of the reader.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage<'a> {
    /// The client presents a token.
    Auth {
        /// What the reply repeats.
        request_ref: RequestRef,
        /// The JSON Web Token.
        token: Cow<'a, str>,
    },
    /// Subscribes to all of the patterns, or to none if one of them is refused.
    Subscribe {
        /// What the reply repeats.
        request_ref: RequestRef,
        /// The patterns in the order of the request.
        patterns: Vec<Pattern>,
        /// What the client has from an earlier connection; `None` if it does not return.
        resume: Option<Resume>,
        /// The most updates of a channel that the client wants; `None` if it wants all.
        max_rate: Option<Rate>,
        /// Whether another message has more of what the client has: nothing is subscribed yet.
        more: bool,
    },
    /// Ends the subscriptions to the patterns.
    Unsubscribe {
        /// What the reply repeats.
        request_ref: RequestRef,
        /// The patterns in the order of the request.
        patterns: Vec<Pattern>,
    },
    /// A command for a backend.
    Command {
        /// Identifies the command among the connection's commands in progress.
        id: RequestId,
        /// The action, which follows the grammar of channel names.
        action: Channel,
        /// One JSON value as sent; `null` if absent.
        params: &'a str,
        /// The idempotency key; `None`: every such command is carried out.
        key: Option<CommandKey>,
        /// The trace that the command belongs to. One that cannot be read is left out.
        trace: Option<TraceParent>,
    },
    /// Asks how the command with a key ended.
    CommandStatus {
        /// Identifies the request among the connection's commands in progress.
        id: RequestId,
        /// The key.
        key: CommandKey,
    },
    /// Publishes an event.
    Publish {
        /// What the reply repeats. Without an `id` there is no reply.
        request_ref: RequestRef,
        /// The channel to publish to.
        channel: Channel,
        /// The name of the event: 1 to 128 bytes without control characters.
        event: Cow<'a, str>,
        /// One JSON value as sent; `null` if absent.
        data: &'a str,
    },
    /// A heartbeat, which is answered with `pong`.
    Ping {
        /// What the reply repeats.
        request_ref: RequestRef,
    },
    /// The answer to a heartbeat of the gateway.
    Pong,
    /// Requests the statistics of this connection.
    GetStatus {
        /// What the reply repeats.
        request_ref: RequestRef,
    },
    /// Requests events from the history of a channel.
    History {
        /// What the reply repeats.
        request_ref: RequestRef,
        /// The channel.
        channel: Channel,
        /// The requested part of the history.
        range: HistoryRange,
    },
}

/// The part of a channel's history that a `history` request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRange {
    /// Events after this offset; `None` for events from the oldest one on.
    pub since: Option<u64>,
    /// The epoch of `since`. `None` if the request has none; `Some(None)` if it is not an epoch of a tickgate gateway.
    pub epoch: Option<Option<Epoch>>,
    /// The limit on events, 1 to [`HISTORY_EVENTS_MAX`].
    pub limit: u32,
}

impl ClientMessage<'_> {
    /// The same message with names of a tenant. Parsed names are those of the default tenant.
    #[must_use]
    pub fn in_tenant(mut self, tenant: Tenant) -> Self {
        if tenant.is_default() {
            return self;
        }
        let move_pattern = |pattern: &mut Pattern| *pattern = pattern.clone().in_tenant(tenant);
        let move_channel = |channel: &mut Channel| *channel = channel.clone().in_tenant(tenant);
        // Every field is listed, so that a new one that holds a name is not forgotten.
        match &mut self {
            Self::Subscribe {
                request_ref: _,
                patterns,
                resume,
                max_rate: _,
                more: _,
            } => {
                patterns.iter_mut().for_each(move_pattern);
                match resume {
                    Some(Resume::Keys(Recover(keys))) => keys.iter_mut().for_each(|(channel, _)| move_channel(channel)),
                    Some(Resume::Cursor {
                        cursor: _,
                        newest: _,
                        seen,
                    }) => {
                        seen.iter_mut().for_each(|(channel, _)| move_channel(channel));
                    }
                    None => {}
                }
            }
            Self::Unsubscribe {
                request_ref: _,
                patterns,
            } => patterns.iter_mut().for_each(move_pattern),
            Self::Command {
                id: _,
                action,
                params: _,
                key: _,
                trace: _,
            } => move_channel(action),
            Self::Publish {
                request_ref: _,
                channel,
                event: _,
                data: _,
            }
            | Self::History {
                request_ref: _,
                channel,
                range: _,
            } => move_channel(channel),
            Self::Auth {
                request_ref: _,
                token: _,
            }
            | Self::CommandStatus { id: _, key: _ }
            | Self::Ping { request_ref: _ }
            | Self::Pong
            | Self::GetStatus { request_ref: _ } => {}
        }
        self
    }

    /// The type of this message.
    #[must_use]
    pub const fn message_type(&self) -> MessageType {
        match self {
            Self::Auth { .. } => MessageType::Auth,
            Self::Subscribe { .. } => MessageType::Subscribe,
            Self::Unsubscribe { .. } => MessageType::Unsubscribe,
            Self::Command { .. } => MessageType::Command,
            Self::CommandStatus { .. } => MessageType::CommandStatus,
            Self::Publish { .. } => MessageType::Publish,
            Self::Ping { .. } => MessageType::Ping,
            Self::Pong => MessageType::Pong,
            Self::GetStatus { .. } => MessageType::GetStatus,
            Self::History { .. } => MessageType::History,
        }
    }
}

/// A malformed message: the error, and the parts that the error reply can refer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// `INVALID_JSON`, `INVALID_MESSAGE`, `UNKNOWN_TYPE` or `INVALID_CHANNEL`.
    pub code: ErrorCode,
    /// The text for the client. It names the field.
    pub message: Box<str>,
    /// The request's `id`, if it could be read. A command or `command_status` with an `id` is answered by a `response`.
    pub request_ref: RequestRef,
    /// The type of the message; `None` if it could not be read or is unknown.
    pub message_type: Option<MessageType>,
}
