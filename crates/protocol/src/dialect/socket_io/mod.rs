//! The Socket.IO dialect: Socket.IO revision 5 over Engine.IO 4, and revision 4 over Engine.IO 3.
//!
//! Invariant: what an event carries is the typed dialect's message (without `count`); here it only gets its envelope,
//! `42["<name>",<message>]`. Nothing here knows a connection: that a client is connected, how many attachments are
//! still to come and who it is is the session's business.

mod encode;
mod packet;
mod parse;
#[cfg(test)]
mod tests;

pub(super) use encode::{encode_acknowledgement, encode_event, encode_reply};
pub use encode::{encode_connect, encode_connect_error, encode_disconnect, encode_ending, encode_invalid_namespace};
pub use packet::{ATTACHMENTS_MAX, Kind, Packet};
pub(super) use parse::command_id;
pub use parse::{Unreadable, connect_token, parse_event, refuse_binary};

use super::typed::Timestamps;

/// `[[endpoint]]`: what connections of one endpoint of this dialect share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// How times are written.
    pub timestamps: Timestamps,
}

/// The kinds of account data that `subscribe_trading` knows; each is the channel `user.<sub>.<type>`.
pub const TRADING_TYPES: [&str; 4] = ["balance", "positions", "pnl", "orders"];
