//! RFC 6455 framing without I/O: strict, resumable at every byte.
//!
//! Invariant: what comes out depends on the bytes alone, never on how they were cut into reads; and memory is held
//! only for bytes that have arrived, never for bytes that a header promises.
//!
//! * [`Decoder`] reads what clients send (masked), in place, out of the reader's own buffer.
//! * [`encode`] writes what the gateway sends (not masked).
//! * [`deflate`] compresses and inflates whole messages; [`negotiate`] agrees with a client to do so.

mod decoder;
pub mod deflate;
pub mod encode;
mod header;
pub mod negotiate;
mod utf8;

pub use decoder::Decoder;
pub use deflate::{Deflate, Inflater};

use crate::disconnect::Disconnect;

/// One whole message or control frame, unmasked, borrowed from the reader's buffer or from the decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message, checked to be UTF-8.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping with its payload (at most 125 bytes).
    Ping(&'a [u8]),
    /// A pong with its payload (at most 125 bytes).
    Pong(&'a [u8]),
    /// A Close frame: its code and reason, or nothing.
    Close(Option<(u16, &'a str)>),
}

/// Why decoding cannot go on. Each has its close code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Breaks RFC 6455: close 1002. Says which rule.
    #[error("{0}")]
    Protocol(&'static str),
    /// A text message or close reason that is not UTF-8: close 1007.
    #[error("invalid UTF-8")]
    InvalidUtf8,
    /// The message would exceed the limit: close 1009.
    #[error("message too big")]
    TooBig,
}

impl Error {
    /// The ending that this error means.
    #[must_use]
    pub const fn disconnect(self) -> Disconnect {
        match self {
            Self::Protocol(_) => Disconnect::Protocol,
            Self::InvalidUtf8 => Disconnect::InvalidUtf8,
            Self::TooBig => Disconnect::TooBig,
        }
    }
}
