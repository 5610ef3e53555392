//! Events that wait so that others can share their send.
//!
//! A send with two frames costs hardly more than one with a single frame. Where each connection has a few of many channels, it
//! seldom gets two events in one turn. So while the shard is busy, the first event for a connection waits for a few
//! milliseconds, and all that arrive meanwhile go out with it. Replies do not wait, and take the events with them.
//!
//! Invariant: an event waits only while its connection has [`Flags::WAITING`] and is listed, for a time of at most
//! [`COMPANY_MAX_MS`] from now. A connection may be listed for a time at which it does not wait.

use crate::shard::connection::{Flags, Hot};

/// The longest wait, in milliseconds.
pub(in crate::shard) const COMPANY_MAX_MS: u32 = 63;

/// One list for each millisecond of the longest wait, and one for now.
const LISTS: usize = COMPANY_MAX_MS as usize + 1;

/// The connections whose events wait; see the module's docs.
pub(super) struct Company {
    wait_ms: u32,
    now_ms: u64,
    // The slots of connections by the time at which they are flushed, modulo the number of lists.
    lists: [Vec<u32>; LISTS],
    listed: usize,
}

impl Default for Company {
    fn default() -> Self {
        Self {
            wait_ms: 0,
            now_ms: 0,
            lists: [const { Vec::new() }; LISTS],
            listed: 0,
        }
    }
}

impl Company {
    /// Sets how long events wait from now on, at most [`COMPANY_MAX_MS`]; 0: they do not.
    pub(super) fn set_wait(&mut self, wait_ms: u32) {
        self.wait_ms = wait_ms.min(COMPANY_MAX_MS);
    }

    /// Whether an event that was queued for this connection waits.
    #[inline]
    pub(super) fn awaits(&mut self, slot: u32, hot: &mut Hot) -> bool {
        if hot.flags.has(Flags::WAITING) {
            return true;
        }
        if self.wait_ms == 0 || hot.flags.has(Flags::DIRTY | Flags::BLOCKED) {
            return false;
        }
        hot.flags.set(Flags::WAITING);
        self.lists[index(self.end_ms())].push(slot);
        self.listed += 1;
        true
    }

    /// When the next connection is flushed whose events wait, in monotonic milliseconds; `None`: there is none.
    pub(super) fn next_ms(&self) -> Option<u64> {
        if self.listed == 0 {
            return None;
        }
        (self.now_ms + 1..=self.now_ms + u64::from(COMPANY_MAX_MS)).find(|ms| !self.lists[index(*ms)].is_empty())
    }

    /// Until when an event waits that begins to wait now, in monotonic milliseconds.
    pub(super) const fn end_ms(&self) -> u64 {
        self.now_ms + self.wait_ms as u64
    }

    /// Comes to a time. Calls `each` for the connections that were listed for it. The slot may have been vacated meanwhile, or
    /// have another connection.
    pub(super) fn come_to(&mut self, now_ms: u64, mut each: impl FnMut(u32)) {
        let from_ms = std::mem::replace(&mut self.now_ms, now_ms) + 1;
        if self.listed == 0 {
            return;
        }
        for ms in from_ms..=now_ms.min(from_ms + u64::from(COMPANY_MAX_MS)) {
            let list = &mut self.lists[index(ms)];
            self.listed -= list.len();
            list.drain(..).for_each(&mut each);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is small")]
const fn index(ms: u64) -> usize {
    (ms % LISTS as u64) as usize
}
