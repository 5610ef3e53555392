//! The budget of half-received messages: how many bytes they take in all, and when each must be complete.
//!
//! Invariant: [`Assembly::slots`] lists exactly the open connections with [`Cold::input_bytes`] above zero, and
//! [`Assembly::bytes`] is the sum of those.
//!
//! [`Cold::input_bytes`]: crate::shard::connection::Cold::input_bytes

use std::mem;

use super::Connections;
use crate::shard::Settings;
use crate::shard::connection::Flags;
use crate::time::Now;
use tickgate_protocol::wire::Decoder;

/// The half-received messages of all connections.
pub(super) struct Assembly {
    slots: Vec<u32>,
    bytes: usize,
    bytes_max: usize,
    // How long a message may take from its first byte to its last.
    duration_ms: u32,
}

impl Assembly {
    pub(super) const fn new(settings: &Settings) -> Self {
        Self {
            slots: Vec::new(),
            bytes: 0,
            bytes_max: settings.assembly_bytes,
            duration_ms: settings.assembly_ms,
        }
    }

    /// How long a message may take from its first byte to its last, in milliseconds.
    pub(super) const fn duration_ms(&self) -> u32 {
        self.duration_ms
    }
}

impl Connections {
    /// Updates the budget and the message's deadline after input was read. `is_new_message`: a message was completed, so
    /// the bytes that are left belong to a later one.
    pub(in crate::shard::core) fn account_assembly(&mut self, slot: u32, is_new_message: bool, now: Now) {
        let Some(cold) = &mut self.cold[slot] else { return };
        let bytes = cold.decoder.buffered_bytes() + cold.held_bytes();
        let before = mem::replace(&mut cold.input_bytes, u32::try_from(bytes).unwrap_or(u32::MAX));
        if !cold.decoder.is_mid_message() {
            cold.deadline_ms = 0;
        } else if is_new_message || cold.deadline_ms == 0 {
            cold.deadline_ms = now.mono_ms + u64::from(self.assembly.duration_ms);
        }
        if before == 0 && bytes == 0 {
            return;
        }
        self.assembly.bytes = self.assembly.bytes - before as usize + cold.input_bytes as usize;
        let index = cold.assembly_index;
        if before == 0 {
            cold.assembly_index = u32::try_from(self.assembly.slots.len()).unwrap_or(u32::MAX);
            self.assembly.slots.push(slot);
        } else if bytes == 0 {
            self.leave_assembly(index);
        }
        self.arm(slot);
    }

    /// While the budget is exceeded: the slot of the connection with the largest half-received message. (The connection
    /// that exceeded the budget may have received only a few bytes.)
    pub(in crate::shard::core) fn largest_assembly_over_budget(&self) -> Option<u32> {
        if self.assembly.bytes <= self.assembly.bytes_max {
            return None;
        }
        let bytes = |&slot: &u32| self.cold[slot].as_ref().map_or(0, |cold| cold.input_bytes);
        self.assembly.slots.iter().copied().max_by_key(bytes)
    }

    /// Frees input that will not be read any more, since the session has ended.
    pub(in crate::shard::core) fn forget_input(&mut self, slot: u32) {
        let Some(cold) = &mut self.cold[slot] else { return };
        if !self.hot[slot].flags.has(Flags::POLLING) {
            // Kept for a polling session, since its candidate socket may still take over.
            cold.decoder = Decoder::new(0);
        }
        cold.take_held();
        if cold.input_bytes > 0 {
            self.assembly.bytes -= cold.input_bytes as usize;
            cold.input_bytes = 0;
            let index = cold.assembly_index;
            self.leave_assembly(index);
        }
    }

    /// The bytes of all half-received messages.
    pub(in crate::shard::core) const fn assembly_bytes(&self) -> usize {
        self.assembly.bytes
    }

    /// How many messages are half received.
    #[cfg(test)]
    pub(in crate::shard::core) const fn assemblies(&self) -> usize {
        self.assembly.slots.len()
    }

    fn leave_assembly(&mut self, index: u32) {
        self.assembly.slots.swap_remove(index as usize);
        if let Some(&moved) = self.assembly.slots.get(index as usize)
            && let Some(cold) = &mut self.cold[moved]
        {
            cold.assembly_index = index;
        }
    }
}
