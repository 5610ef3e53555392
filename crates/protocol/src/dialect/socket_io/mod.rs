//! The Socket.IO dialect: Socket.IO revision 5 over Engine.IO 4, and revision 4 over Engine.IO 3.
//!
//! Invariant: the argument of an event is the typed dialect's message without `count`. This module only adds the packet around
//! it, `42["<name>",<message>]`.
//!
//! Nothing here knows a connection. The session knows whether a client is connected to the namespace, how many attachments are
//! still to come, and who the user is.

mod encode;
mod names;
mod packet;
mod parse;
#[cfg(test)]
mod tests;

pub(super) use encode::{encode_acknowledgement, encode_event, encode_reply};
pub use encode::{
    encode_connect, encode_connect_error, encode_disconnect, encode_ending, encode_invalid_namespace, with_offset,
};
pub use packet::{ATTACHMENTS_MAX, Kind, Packet};
pub(super) use parse::request_head;
pub use parse::{EventError, connect_return, connect_token, parse_event, refuse_binary};

use std::sync::Arc;

use super::typed::Timestamps;

/// The settings of an endpoint with this dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The notation of times.
    pub timestamps: Timestamps,
    /// The `message` of `connected`, for people.
    pub connected_message: Arc<str>,
    /// How long a client may be away and get its session back, in milliseconds; `None`: there is no connection state
    /// recovery.
    pub recovery_window_ms: Option<u64>,
}

impl Default for Settings {
    /// Times with a `Z`, and `Socket.IO connected`.
    fn default() -> Self {
        Self {
            timestamps: Timestamps::Utc,
            connected_message: "Socket.IO connected".into(),
            recovery_window_ms: None,
        }
    }
}

/// The types of account data for `subscribe_trading`. Each is the channel `user.<sub>.<type>`.
const TRADING_TYPES: [&str; 4] = ["balance", "positions", "pnl", "orders"];
