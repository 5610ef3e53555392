//! WebSocket framing (RFC 6455) without I/O. It is strict and can resume after any byte.
//!
//! Invariants:
//!
//! * The result depends only on the bytes, not on how they are split into reads.
//! * Memory is held only for bytes that have arrived, not for bytes that a header announces.
//!
//! Parts:
//!
//! * [`Decoder`] reads the masked frames of a client in place, in the buffer of the reader.
//! * [`encode`] writes the unmasked frames of the gateway.
//! * [`deflate`] compresses and inflates whole messages (RFC 7692).
//! * [`negotiate`] handles the extension header of the handshake.

mod decoder;
pub mod deflate;
pub mod encode;
mod header;
pub mod negotiate;
mod utf8;

pub use decoder::Decoder;
pub use deflate::{Deflate, Inflater};

use crate::disconnect::Disconnect;

/// One complete message or control frame, unmasked. It borrows from the reader's buffer, the decoder or the inflater.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A text message, which is valid UTF-8.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A Ping frame with its payload of at most 125 bytes.
    Ping(&'a [u8]),
    /// A Pong frame with its payload of at most 125 bytes.
    Pong(&'a [u8]),
    /// A Close frame with its code and reason; `None` if its payload is empty.
    Close(Option<(u16, &'a str)>),
}

/// The reason why decoding failed. Each has its close code (RFC 6455, section 7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The client broke this rule of RFC 6455 or RFC 7692: close code 1002.
    #[error("{0}")]
    Protocol(&'static str),
    /// A text message or a close reason is not UTF-8: close code 1007.
    #[error("invalid UTF-8")]
    InvalidUtf8,
    /// The message exceeds the size limit: close code 1009.
    #[error("message too big")]
    TooBig,
}

impl Error {
    /// The reason with which the connection ends.
    #[must_use]
    pub const fn disconnect(self) -> Disconnect {
        match self {
            Self::Protocol(_) => Disconnect::Protocol,
            Self::InvalidUtf8 => Disconnect::InvalidUtf8,
            Self::TooBig => Disconnect::TooBig,
        }
    }

    /// The reason text of the Close frame: the rule that was broken.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Protocol(rule) => rule,
            Self::InvalidUtf8 | Self::TooBig => self.disconnect().reason(),
        }
    }
}
