//! Engine.IO, protocol revisions 3 and 4: packets, payloads of HTTP long polling, and session ids.
//!
//! Invariant: an encoded packet is a WebSocket text frame. Long polling carries the payloads of the same frames, so nothing is
//! encoded twice.
//!
//! Socket.IO clients 3.x and 4.x use revision 4, clients 1.x and 2.x use revision 3. Text packets are the same in both. The
//! revisions differ in the side that pings (the server in 4, the client in 3), in how long polling concatenates packets
//! ([`payload`]), and in how it carries binary packets.

mod handshake;
mod packet;
pub mod payload;
mod sid;
#[cfg(test)]
mod tests;

pub use handshake::{Handshake, encode_open};
pub use packet::{Packet, encode_packet};
pub use sid::{SECRET_BYTES, Sid};

/// The protocol revision of a client: `EIO` in the query of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// `EIO=3`
    Three,
    /// `EIO=4`
    Four,
}

impl Revision {
    /// Reads the value of `EIO`; `None` if the revision is not supported.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "3" => Some(Self::Three),
            "4" => Some(Self::Four),
            _ => None,
        }
    }
}
