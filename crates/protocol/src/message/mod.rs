//! The one internal model that every dialect translates to and from: what clients say, and what they are told.
//!
//! Invariant: a [`ClientMessage`] is checked in form (fields, types, the channel grammar) and in nothing else: who may
//! do what is the session's business. A [`Reply`] is data; only a dialect knows how it is written.

mod fields;
mod publish;
mod recover;
mod reply;

use std::borrow::Cow;

use crate::channel::{Channel, Pattern};
use crate::event::Epoch;

pub(crate) use fields::{FieldError, Fields, shorten};
pub use publish::PublishItem;
pub use recover::{Position, Reached, Recover};
pub use reply::{Reply, Status, SubscribeOutcome};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// The codes of `error` and `response` messages and of HTTP error bodies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }
        impl ErrorCode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// As it stands on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }
        }
    };
}

codes! {
    /// Not JSON, or nested deeper than 64.
    InvalidJson = "INVALID_JSON";
    /// A field is missing or wrong; the message names it.
    InvalidMessage = "INVALID_MESSAGE";
    /// No such `type`.
    UnknownType = "UNKNOWN_TYPE";
    /// A channel or pattern that breaks the grammar; the message names it.
    InvalidChannel = "INVALID_CHANNEL";
    /// Not authenticated (yet).
    Unauthenticated = "UNAUTHENTICATED";
    /// The token is bad.
    TokenInvalid = "TOKEN_INVALID";
    /// The token was good once.
    TokenExpired = "TOKEN_EXPIRED";
    /// A refresh with another user's token.
    AuthSubjectMismatch = "AUTH_SUBJECT_MISMATCH";
    /// Not allowed for this user.
    Forbidden = "FORBIDDEN";
    /// More patterns than the limit.
    SubscriptionLimit = "SUBSCRIPTION_LIMIT";
    /// Too fast.
    RateLimited = "RATE_LIMITED";
    /// A published event above the limit.
    MessageTooLarge = "MESSAGE_TOO_LARGE";
    /// The gateway failed.
    Internal = "INTERNAL";
    /// No route for this action.
    UnknownAction = "UNKNOWN_ACTION";
    /// A command with this id is still in flight on this connection.
    DuplicateId = "DUPLICATE_ID";
    /// The backend could not be reached or failed.
    BackendUnavailable = "BACKEND_UNAVAILABLE";
    /// No answer in time; the outcome is unknown.
    Timeout = "TIMEOUT";
}

/// Longest `id` of a request that is a string, in bytes.
pub const ID_BYTES_MAX: usize = 128;

/// Longest name of an event, in bytes.
pub const EVENT_NAME_BYTES_MAX: usize = 128;

/// Most events of one `history` answer.
pub const HISTORY_EVENTS_MAX: u32 = 1000;

/// Events of a `history` answer when the request names no limit.
pub const HISTORY_EVENTS_DEFAULT: u32 = 100;

/// Longest `channels` list of one request. It bounds what one message can cost; a client with more to say sends two.
pub const CHANNELS_PER_REQUEST_MAX: usize = 1000;

/// A request's `id`, echoed as given: a string of up to 128 bytes or an integer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestId {
    /// A string; held unescaped.
    Text(Box<str>),
    /// An integer, from `i64::MIN` to `u64::MAX`.
    Number(i128),
    /// The number of an acknowledgement that the client waits for (Socket.IO), and the `id` that it gave beside it.
    Acknowledgement {
        /// Counted by the client.
        number: u64,
        /// As text, also when it was a number.
        id: Option<Box<str>>,
    },
}

impl RequestId {
    /// The name that a publisher gives an event by this id. A text and a number that look alike give different names.
    #[must_use]
    pub fn event_name(&self) -> String {
        match self {
            Self::Text(text) => format!("\"{text}"),
            Self::Number(number) => number.to_string(),
            // Publishers do not use acknowledgements as ids. The prefix keeps such a name apart from all others.
            Self::Acknowledgement { number, .. } => format!("#{number}"),
        }
    }
}

/// What a reply must repeat of its request. The session hands it from one to the other and does not look inside; a
/// dialect keeps in it what it needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestRef {
    /// The request's `id`.
    pub id: Option<RequestId>,
    /// Members of the request that its answer repeats, as they stood there, each with a comma before it; empty in
    /// dialects that repeat none.
    pub members: Box<str>,
}

impl RequestRef {
    /// Of a request that is known by its `id` alone.
    #[must_use]
    pub fn of_id(id: Option<RequestId>) -> Self {
        Self {
            id,
            members: Box::default(),
        }
    }
}

/// The messages a client can send, by name.
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

/// One message from a client, borrowed from the reader's buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage<'a> {
    /// Presents a token.
    Auth {
        /// Echoed.
        request_ref: RequestRef,
        /// The JWT.
        token: Cow<'a, str>,
    },
    /// Asks for patterns, all or nothing.
    Subscribe {
        /// Echoed.
        request_ref: RequestRef,
        /// In the order given.
        patterns: Vec<Pattern>,
        /// Where the client was when it lost its last connection; `None`: it wants no recovery.
        recover: Option<Recover>,
    },
    /// Gives patterns back.
    Unsubscribe {
        /// Echoed.
        request_ref: RequestRef,
        /// In the order given.
        patterns: Vec<Pattern>,
    },
    /// A command for a backend.
    Command {
        /// Names it among the connection's commands in flight.
        id: RequestId,
        /// By the channel grammar, without `*`.
        action: Channel,
        /// One JSON value, byte for byte; `null` when absent.
        params: &'a str,
    },
    /// An event to publish.
    Publish {
        /// Answered only when it has an `id`.
        request_ref: RequestRef,
        /// Where it goes.
        channel: Channel,
        /// Its name: 1 to 128 bytes without control characters.
        event: Cow<'a, str>,
        /// One JSON value, byte for byte; `null` when absent.
        data: &'a str,
    },
    /// Heartbeat; answered with `pong`.
    Ping {
        /// Echoed.
        request_ref: RequestRef,
    },
    /// Heartbeat's answer; not answered.
    Pong,
    /// Asks for the connection's own figures.
    GetStatus {
        /// Echoed.
        request_ref: RequestRef,
    },
    /// Asks for what a channel keeps.
    History {
        /// Echoed.
        request_ref: RequestRef,
        /// Whose.
        channel: Channel,
        /// Which part of it.
        range: HistoryRange,
    },
}

/// Which events of a channel's history a `history` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRange {
    /// Those after this offset; `None`: from the oldest on that is kept.
    pub since: Option<u64>,
    /// The store that `since` counts in, as the client knows it: `None`: it did not say; `Some(None)`: not one of ours.
    pub epoch: Option<Option<Epoch>>,
    /// At most so many, 1 to [`HISTORY_EVENTS_MAX`].
    pub limit: u32,
}

impl ClientMessage<'_> {
    /// Its name.
    #[must_use]
    pub const fn message_type(&self) -> MessageType {
        match self {
            Self::Auth { .. } => MessageType::Auth,
            Self::Subscribe { .. } => MessageType::Subscribe,
            Self::Unsubscribe { .. } => MessageType::Unsubscribe,
            Self::Command { .. } => MessageType::Command,
            Self::Publish { .. } => MessageType::Publish,
            Self::Ping { .. } => MessageType::Ping,
            Self::Pong => MessageType::Pong,
            Self::GetStatus { .. } => MessageType::GetStatus,
            Self::History { .. } => MessageType::History,
        }
    }
}

/// A message that is none: what was wrong, and what an answer can still be tied to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// `INVALID_JSON`, `INVALID_MESSAGE`, `UNKNOWN_TYPE` or `INVALID_CHANNEL`.
    pub code: ErrorCode,
    /// For the client; names the field.
    pub message: Box<str>,
    /// What could be read of the request's `id`. A command that has one is answered by a `response`.
    pub request_ref: RequestRef,
    /// Which message it was meant to be; `None`: not even that is known, or there is no such type.
    pub message_type: Option<MessageType>,
}
