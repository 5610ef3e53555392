//! The `open` packet.

use std::ops::Range;

use super::Sid;
use crate::json::push_u64;
use crate::wire::encode::{self, Kind};

/// What a session is told when it is opened.
#[derive(Clone, Copy, Debug)]
pub struct Handshake<'a> {
    /// Its name for all requests to come.
    pub sid: &'a Sid,
    /// Whether it may go on as a WebSocket.
    pub may_upgrade: bool,
    /// Between pings, in milliseconds.
    pub ping_interval_ms: u64,
    /// How long the answer to a ping may take, in milliseconds.
    pub ping_timeout_ms: u64,
    /// Longest payload that a poll may send, in bytes.
    pub payload_bytes_max: u32,
}

/// Appends the frame of the `open` packet; says where it lies.
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
