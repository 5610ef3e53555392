//! Dialects translate between the bytes of a client and the messages of [`message`](crate::message).
//!
//! Invariant: a dialect has no state and reads no clock, so the same input gives the same bytes. An encoded message is a
//! finished WebSocket frame with its header. So no later code copies or measures it again.

pub mod engine_io;
mod native;
#[cfg(test)]
mod sample;
pub mod socket_io;
#[cfg(test)]
mod tests;
pub mod typed;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::channel::Pattern;
use crate::event::{Encoding, EventView};
use crate::json::Scratch;
use crate::message::{ClientMessage, ErrorCode, Malformed, Reply, RequestHead, RequestRef};

/// The dialect of an endpoint. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// One JSON object per text message. The WebSocket subprotocol is `zigquant-v2`.
    Native,
    /// JSON messages in which the `type` of an event is the event's own name.
    Typed(Arc<typed::Settings>),
    /// Socket.IO packets over Engine.IO, with the transports WebSocket and HTTP long polling.
    SocketIo(socket_io::Settings),
    /// Sends every message back unchanged. For conformance suites and load tests.
    Echo,
}

impl Dialect {
    /// The name of the dialect in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Typed(_) => "typed",
            Self::SocketIo(_) => "socket_io",
            Self::Echo => "echo",
        }
    }

    /// The encoding of events in this dialect; `None` if its connections get no events.
    #[must_use]
    pub fn encoding(&self) -> Option<Encoding> {
        match self {
            Self::Native => Some(Encoding::Native),
            Self::Typed(settings) => Some(match settings.timestamps {
                typed::Timestamps::Utc => Encoding::Typed,
                typed::Timestamps::Naive => Encoding::TypedNaive,
            }),
            Self::SocketIo(settings) => Some(match settings.timestamps {
                typed::Timestamps::Utc => Encoding::SocketIo,
                typed::Timestamps::Naive => Encoding::SocketIoNaive,
            }),
            Self::Echo => None,
        }
    }

    /// The text by which clients of this dialect name a pattern that they subscribe to, for statistics; `None` if they use
    /// the pattern itself.
    #[must_use]
    pub fn subscription_name(&self, pattern: &Pattern) -> Option<String> {
        match self {
            Self::Typed(settings) => settings.subscription_name(pattern),
            Self::Native | Self::SocketIo(_) | Self::Echo => None,
        }
    }

    /// Whether connections of this dialect are Engine.IO sessions, which have a handshake and can change their transport.
    #[must_use]
    pub const fn is_engine_io(&self) -> bool {
        matches!(self, Self::SocketIo(_))
    }

    /// How long a client may be away and get its session back, in milliseconds; `None`: it does not.
    #[must_use]
    pub const fn recovery_window_ms(&self) -> Option<u64> {
        match self {
            Self::SocketIo(settings) => settings.recovery_window_ms,
            Self::Native | Self::Typed(_) | Self::Echo => None,
        }
    }

    /// Parses one text message of a client.
    ///
    /// Messages of Engine.IO sessions are always refused here. Their packets are read in two steps, by [`engine_io`] and then
    /// by [`socket_io`].
    ///
    /// # Errors
    ///
    /// The message is malformed, or the dialect has no messages.
    pub fn parse<'t>(&self, text: &'t str, scratch: &mut Scratch) -> Result<ClientMessage<'t>, Malformed> {
        match self {
            Self::Native => native::parse(text, scratch),
            Self::Typed(settings) => typed::parse(text, scratch, settings),
            Self::SocketIo(_) | Self::Echo => Err(Malformed {
                code: ErrorCode::UnknownType,
                message: "this endpoint's messages have no meaning by themselves".into(),
                request_ref: RequestRef::default(),
                message_type: None,
            }),
        }
    }

    /// What the answer to a request refers to, if the request is refused before it is parsed. `None` for a message that is
    /// answered by no id, which takes little time.
    #[must_use]
    pub fn request_head(&self, text: &str, scratch: &mut Scratch) -> Option<RequestHead> {
        match self {
            Self::Native | Self::Typed(_) => native::request_head(text, scratch),
            Self::SocketIo(_) => socket_io::request_head(text, scratch),
            Self::Echo => None,
        }
    }

    /// Appends the frame of a reply to `out` and returns its range there. Bytes between the old end and the range are unused.
    ///
    /// `None` if the dialect has no such message.
    pub fn encode_reply(&self, reply: &Reply<'_>, now_unix_ms: u64, out: &mut Vec<u8>) -> Option<Range<usize>> {
        match self {
            Self::Native => native::encode_reply(reply, now_unix_ms, out),
            Self::Typed(settings) => Some(typed::encode_reply(reply, now_unix_ms, settings, out)),
            Self::SocketIo(settings) => socket_io::encode_reply(reply, now_unix_ms, settings, out),
            Self::Echo => None,
        }
    }

    /// Like [`encode_reply`](Self::encode_reply), for the acknowledgement that a Socket.IO client asked for with its request.
    ///
    /// `None` if the dialect has no acknowledgements, or the client did not ask for one.
    pub fn encode_acknowledgement(
        &self,
        reply: &Reply<'_>,
        now_unix_ms: u64,
        out: &mut Vec<u8>,
    ) -> Option<Range<usize>> {
        match self {
            Self::SocketIo(settings) => socket_io::encode_acknowledgement(reply, now_unix_ms, settings, out),
            Self::Native | Self::Typed(_) | Self::Echo => None,
        }
    }
}

/// Encodes an event as a frame, which all receivers of this encoding share.
#[must_use]
pub fn encode_event(encoding: Encoding, event: &EventView<'_>) -> Bytes {
    match encoding {
        Encoding::Native => native::encode_event(event),
        Encoding::Typed => typed::encode_event(event, typed::Timestamps::Utc),
        Encoding::TypedNaive => typed::encode_event(event, typed::Timestamps::Naive),
        Encoding::SocketIo => socket_io::encode_event(event, typed::Timestamps::Utc),
        Encoding::SocketIoNaive => socket_io::encode_event(event, typed::Timestamps::Naive),
    }
}
