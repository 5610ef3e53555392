//! Packets: one character that says what it is, then its data.

use crate::wire::encode::{self, Kind};

/// One text packet, borrowed from its frame or payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet<'t> {
    /// `0`: the server's handshake.
    Open(&'t str),
    /// `1`: the sender ends the session.
    Close,
    /// `2`: asks for a [`Packet::Pong`] with the same data.
    Ping(&'t str),
    /// `3`
    Pong(&'t str),
    /// `4`: what the layer above says.
    Message(&'t str),
    /// `5`: the transport is changed.
    Upgrade,
    /// `6`: nothing; answers a poll.
    Noop,
}

impl<'t> Packet<'t> {
    /// Reads one; `None`: it is none.
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
