//! The `open` packet, which is the handshake of Engine.IO.

use std::ops::Range;

use super::Sid;
use crate::json::push_u64;
use crate::wire::encode::{self, Kind};

/// The content of the `open` packet.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    /// The session id, which later requests carry.
    pub sid: &'a Sid,
    /// Whether the client may upgrade to the transport WebSocket.
    pub may_upgrade: bool,
    /// The interval between pings, in milliseconds.
    pub ping_interval_ms: u64,
    /// The time within which a ping must be answered, in milliseconds.
    pub ping_timeout_ms: u64,
    /// The limit on the payload of a POST, in bytes.
    pub payload_bytes_max: u32,
}

/// Appends the frame of the `open` packet and returns its range.
pub fn encode_open(handshake: &Handshake<'_>, out: &mut Vec<u8>) -> Range<usize> {
    let frame = encode::begin(out);
    out.extend_from_slice(b"0{\"sid\":\"");
    out.extend_from_slice(handshake.sid.to_text().as_bytes());
    out.extend_from_slice(if handshake.may_upgrade {
        b"\",\"upgrades\":[\"websocket\"]"
    } else {
        b"\",\"upgrades\":[]"
    });
    for (name, number) in [
        (&b",\"pingInterval\":"[..], handshake.ping_interval_ms),
        (b",\"pingTimeout\":", handshake.ping_timeout_ms),
        (b",\"maxPayload\":", handshake.payload_bytes_max.into()),
    ] {
        out.extend_from_slice(name);
        push_u64(out, number);
    }
    out.push(b'}');
    encode::finish(out, frame, Kind::Text)
}
