//! Engine.IO, revisions 3 and 4: packets, what long polling carries them in, and the names of sessions.
//!
//! Invariant: an encoded packet is a WebSocket text frame, as everything else that is encoded; long polling carries the
//! payloads of those same frames, so that nothing is encoded twice.
//!
//! Revision 4 is spoken by Socket.IO clients 3.x and 4.x, revision 3 by 1.x and 2.x. A text packet is written alike in
//! both. They differ in who pings (4: the server; 3: the client), in how long polling joins packets
//! ([`payload`]), and in how it carries binary ones.

mod handshake;
mod packet;
pub mod payload;
mod sid;
#[cfg(test)]
mod tests;

pub use handshake::{Handshake, encode_open};
pub use packet::{Packet, encode_packet};
pub use sid::{SECRET_BYTES, Sid};

/// Which revision of the protocol a client speaks: `EIO` in its requests' query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revision {
    /// `EIO=3`
    Three,
    /// `EIO=4`
    Four,
}

impl Revision {
    /// By the value of `EIO`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "3" => Some(Self::Three),
            "4" => Some(Self::Four),
            _ => None,
        }
    }
}
