//! From WebSocket frames to the body of an answer to a GET.

use std::io::IoSlice;

use tickgate_protocol::dialect::engine_io::Revision;
use tickgate_protocol::dialect::engine_io::payload;
use tickgate_protocol::wire::encode::first;

/// The most bytes of one answer, unless a single packet is longer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;

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
    pub(super) fn append(&mut self, revision: Revision, slices: &[IoSlice<'_>], body: &mut Vec<u8>) -> Taken {
        self.frames.clear();
        for slice in slices {
            self.frames.extend_from_slice(slice);
        }
        let mut taken = Taken {
            bytes: 0,
            is_full: false,
        };
        while let Some(frame) = first(&self.frames[taken.bytes..]) {
            // The `close` packet is sent alone. Official clients handle it at once and messages a moment later, so messages
            // before it in the same answer would be lost.
            let is_close = frame.payload == b"1";
            if !body.is_empty() && (is_close || body.len() + frame.payload.len() > ANSWER_BYTES_MAX) {
                taken.is_full = true;
                break;
            }
            // Control frames are for sockets only.
            if frame.is_text
                && let Ok(packet) = str::from_utf8(frame.payload)
            {
                payload::append(revision, packet, body);
            }
            taken.bytes += frame.bytes;
        }
        taken
    }

    /// Frees memory beyond what the next answers need.
    pub(super) fn shrink(&mut self) {
        self.frames.clear();
        self.frames.shrink_to(ANSWER_BYTES_MAX);
    }
}
