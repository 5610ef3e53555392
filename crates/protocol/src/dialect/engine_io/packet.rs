//! Engine.IO packets: one character for the type, then the data.

use crate::wire::encode::{self, Kind};

/// One text packet. It borrows from its frame or payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'t> {
    /// `0`: the handshake of the server.
    Open(&'t str),
    /// `1`: the sender ends the session.
    Close,
    /// `2`: asks for a [`Packet::Pong`] with the same data.
    Ping(&'t str),
    /// `3`: answers a [`Packet::Ping`].
    Pong(&'t str),
    /// `4`: a message, whose data is a Socket.IO packet.
    Message(&'t str),
    /// `5`: the client changes the transport.
    Upgrade,
    /// `6`: no content. It answers a poll when there is nothing to send.
    Noop,
}

impl<'t> Packet<'t> {
    /// Parses one packet; `None` if `text` is not a packet.
    #[must_use]
    pub fn parse(text: &'t str) -> Option<Self> {
        let data = text.get(1..)?;
        Some(match text.as_bytes()[0] {
            b'0' => Self::Open(data),
            b'1' => Self::Close,
            b'2' => Self::Ping(data),
            b'3' => Self::Pong(data),
            b'4' => Self::Message(data),
            b'5' => Self::Upgrade,
            b'6' => Self::Noop,
            _ => return None,
        })
    }
}

/// Appends the frame of a packet.
pub fn encode_packet(out: &mut Vec<u8>, packet: Packet<'_>) {
    let (kind, data) = match packet {
        Packet::Open(data) => (b'0', data),
        Packet::Close => (b'1', ""),
        Packet::Ping(data) => (b'2', data),
        Packet::Pong(data) => (b'3', data),
        Packet::Message(data) => (b'4', data),
        Packet::Upgrade => (b'5', ""),
        Packet::Noop => (b'6', ""),
    };
    out.extend_from_slice(encode::Header::new(Kind::Text, 1 + data.len()).as_slice());
    out.push(kind);
    out.extend_from_slice(data.as_bytes());
}
