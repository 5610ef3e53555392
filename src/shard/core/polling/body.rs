//! From WebSocket frames to the body of an answer to a GET.

use std::io::IoSlice;

use tickgate_protocol::dialect::engine_io::Revision;
use tickgate_protocol::dialect::engine_io::payload;
use tickgate_protocol::wire::encode::first;

/// The most bytes of one answer, unless a single packet is longer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The most packets of one answer. `python-engineio` ends a session whose answer has more (`Payload.max_decode_packets`).
const ANSWER_PACKETS_MAX: usize = 16;

/// The body of one answer.
#[derive(Default)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    packets: usize,
    /// The session ends without another packet: the GET is refused.
    pub(super) is_end: bool,
}

impl Body {
    /// Appends a packet.
    pub(super) fn push(&mut self, revision: Revision, packet: &str) {
        payload::append(revision, packet, &mut self.bytes);
        self.packets += 1;
    }
}

/// Makes the bodies of answers.
#[derive(Default)]
pub(in crate::shard::core) struct Polling {
    // Reused: frames that lie in one piece.
    frames: Vec<u8>,
}

/// What [`Polling::append`] took of the frames.
pub(super) struct Taken {
    /// Whole frames, in bytes.
    pub(super) bytes: usize,
    /// The answer takes no further packet.
    pub(super) is_full: bool,
}

impl Polling {
    /// Appends the packets of the frames in `slices` to a body.
    pub(super) fn append(&mut self, revision: Revision, slices: &[IoSlice<'_>], body: &mut Body) -> Taken {
        self.frames.clear();
        for slice in slices {
            self.frames.extend_from_slice(slice);
        }
        let mut taken = Taken {
            bytes: 0,
            is_full: false,
        };
        while let Some(frame) = first(&self.frames[taken.bytes..]) {
            // The end is an answer of its own. Official clients handle a `close` packet at once and messages a moment later,
            // so messages before it in the same answer would be lost.
            let is_end = frame.is_close || frame.payload == b"1";
            let is_beyond =
                body.packets >= ANSWER_PACKETS_MAX || body.bytes.len() + frame.payload.len() > ANSWER_BYTES_MAX;
            if body.packets > 0 && (is_end || is_beyond) {
                taken.is_full = true;
                break;
            }
            // Other control frames are for sockets only.
            if frame.is_text
                && let Ok(packet) = str::from_utf8(frame.payload)
            {
                body.push(revision, packet);
            }
            taken.bytes += frame.bytes;
            body.is_end |= frame.is_close;
        }
        taken
    }

    /// Frees memory beyond what the next answers need.
    pub(super) fn shrink(&mut self) {
        self.frames.clear();
        self.frames.shrink_to(ANSWER_BYTES_MAX);
    }
}
