//! The one internal model that every dialect translates to and from: what clients say, and what they are told.

use std::borrow::Cow;

use crate::channel::{Channel, Pattern};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// The codes of `error` and `response` messages and of HTTP error bodies.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)* }
        impl ErrorCode {
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
    /// A channel, pattern or action that breaks the grammar.
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

/// A request's `id`, echoed as given: a string of up to 128 bytes or an integer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestId {
    /// A string; held unescaped.
    Text(Box<str>),
    /// An integer, from `i64::MIN` to `u64::MAX`.
    Number(i128),
}

/// One message from a client, borrowed from the reader's buffer.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientMessage<'a> {
    /// Presents a token.
    Auth {
        /// Echoed.
        id: Option<RequestId>,
        /// The JWT.
        token: Cow<'a, str>,
    },
    /// Asks for patterns, all or nothing.
    Subscribe {
        /// Echoed.
        id: Option<RequestId>,
        /// In the order given.
        patterns: Vec<Pattern>,
    },
    /// Gives patterns back.
    Unsubscribe {
        /// Echoed.
        id: Option<RequestId>,
        /// In the order given.
        patterns: Vec<Pattern>,
    },
    /// A command for a backend.
    Command {
        /// Present when usable.
        id: Option<RequestId>,
        /// By the channel grammar, without `*`.
        action: Channel,
        /// One JSON value, byte for byte; `null` when absent.
        params: &'a [u8],
    },
    /// An event to publish.
    Publish {
        /// Answered only when given.
        id: Option<RequestId>,
        /// Where it goes.
        channel: Channel,
        /// Its name.
        event: Cow<'a, str>,
        /// One JSON value, byte for byte; `null` when absent.
        data: &'a [u8],
    },
    /// Heartbeat; answered with `pong`.
    Ping {
        /// Echoed.
        id: Option<RequestId>,
    },
    /// Heartbeat's answer; not answered.
    Pong,
    /// Asks for the connection's own figures.
    GetStatus {
        /// Echoed.
        id: Option<RequestId>,
    },
}
