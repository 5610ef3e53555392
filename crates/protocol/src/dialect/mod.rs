//! Dialects translate between bytes and the one internal model, nothing else.
//!
//! Invariant: no state and no clock in here; the same input gives the same bytes. Everything that is encoded is a
//! finished WebSocket frame, header included, so that nobody behind a dialect copies or measures it again.

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

use crate::event::{Encoding, EventView};
use crate::json::Scratch;
use crate::message::{ClientMessage, ErrorCode, Malformed, Reply, RequestId, RequestRef};

/// How an endpoint speaks. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// JSON messages, subprotocol `zigquant-v2`.
    Native,
    /// JSON messages, events by their own names.
    Typed(Arc<typed::Settings>),
    /// Socket.IO packets over Engine.IO, by WebSocket and long polling.
    SocketIo(socket_io::Settings),
    /// Returns every message as it came; for conformance suites and load tests.
    Echo,
}

impl Dialect {
    /// Its name in the configuration.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Typed(_) => "typed",
            Self::SocketIo(_) => "socket_io",
            Self::Echo => "echo",
        }
    }

    /// The form in which its connections get events; `None`: they get none.
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

    /// Whether its connections are Engine.IO sessions, which have states and transports of their own.
    #[must_use]
    pub const fn is_engine_io(&self) -> bool {
        matches!(self, Self::SocketIo(_))
    }

    /// Reads one text message. (Of Engine.IO sessions the packets are read one layer at a time: [`engine_io`], then
    /// [`socket_io`].)
    ///
    /// # Errors
    /// What is wrong with it, and what an answer can be tied to.
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

    /// The id of a message that is refused unread, when it is a command that must be answered all the same. Cheap
    /// for what is no command.
    #[must_use]
    pub fn command_id(&self, text: &str, scratch: &mut Scratch) -> Option<RequestId> {
        match self {
            Self::Native | Self::Typed(_) => native::command_id(text, scratch),
            Self::SocketIo(_) => socket_io::command_id(text, scratch),
            Self::Echo => None,
        }
    }

    /// Appends the frame of a reply to `out` and says where in `out` it lies (the bytes before it belong to nobody).
    /// `None`: the dialect has no such message.
    pub fn encode_reply(&self, reply: &Reply<'_>, now_unix_ms: u64, out: &mut Vec<u8>) -> Option<Range<usize>> {
        match self {
            Self::Native => native::encode_reply(reply, now_unix_ms, out),
            Self::Typed(settings) => Some(typed::encode_reply(reply, now_unix_ms, settings, out)),
            Self::SocketIo(settings) => socket_io::encode_reply(reply, now_unix_ms, settings, out),
            Self::Echo => None,
        }
    }

    /// As [`Dialect::encode_reply`], for the acknowledgement that a request may wait for beside its answer. `None`: the
    /// dialect has none, or nobody waits.
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

/// The frame of an event in one form. Made once for all its receivers.
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
