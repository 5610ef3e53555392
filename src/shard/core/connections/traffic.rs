//! The bytes that each connection has read and written.

use super::Connections;

/// The bytes of frames, or of the bodies of polls, that a connection has read and written. Handshakes and HTTP heads are not
/// among them.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::shard::core) struct Traffic {
    pub(in crate::shard::core) bytes_in: u64,
    pub(in crate::shard::core) bytes_out: u64,
}

impl Connections {
    /// What the connection in a slot has read and written.
    pub(in crate::shard::core) fn traffic(&self, slot: u32) -> Traffic {
        self.traffic[slot]
    }

    /// Counts bytes that came from the connection in a slot.
    pub(in crate::shard::core) fn count_in(&mut self, slot: u32, bytes: usize) {
        self.traffic[slot].bytes_in += bytes as u64;
    }

    /// Counts bytes that were written to the connection in a slot.
    pub(in crate::shard::core) fn count_out(&mut self, slot: u32, bytes: usize) {
        self.traffic[slot].bytes_out += bytes as u64;
    }
}
