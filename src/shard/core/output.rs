//! From outboxes to the driver that writes to the sockets.

use std::io::IoSlice;

use super::ShardCore;
use super::bandwidth::within;
use crate::session::Input;
use crate::shard::connection::{Flags, Stage};
use crate::shard::mailbox::ConnectionId;
use crate::shard::outbox::precedes;
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;

/// What is left after [`ShardCore::sent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Nothing waits to be written.
    Drained,
    /// There is more to write.
    More,
}

impl ShardCore {
    /// The next connection with something to write. Each is returned once until it becomes dirty again.
    pub fn next_dirty(&mut self) -> Option<ConnectionId> {
        while let Some(slot) = self.fanout.outgoing_mut().pop_dirty() {
            let flags = &mut self.connections.hot_mut(slot).flags;
            if flags.has(Flags::DIRTY) && !flags.has(Flags::POLLING) {
                flags.clear(Flags::DIRTY);
                return Some(self.connections.id(slot));
            }
        }
        None
    }

    /// Whether [`ShardCore::next_dirty`] may find a connection.
    #[must_use]
    pub fn has_dirty(&self) -> bool {
        self.fanout.outgoing().has_dirty()
    }

    /// Fills `slices` with what to write next to a connection, in order; returns how many it filled.
    ///
    /// The bytes stay where they are, unchanged, until [`ShardCore::sent`] for this connection or any other call that is
    /// not `pending` or `next_dirty`: frames are shared and never edited. So a driver that can do without the borrow may
    /// gather the slices of several connections and write them at once.
    pub fn pending<'e>(&'e mut self, id: ConnectionId, now: Now, slices: &mut [IoSlice<'e>]) -> usize {
        let Some(slot) = self.connections.slot(id) else {
            return 0;
        };
        let allowed = self.allowed_bytes(slot, now);
        if allowed == 0 {
            return 0;
        }
        let until = self.prepare(slot, slices.len(), now);
        let outgoing = self.fanout.outgoing();
        let filled = outgoing.gather(self.connections.hot(slot), until, slices);
        if allowed == usize::MAX {
            filled
        } else {
            within(&slices[..filled], allowed)
        }
    }

    /// Prepares the next `limit` frames of a connection. Returns the position from which on nothing may be written yet.
    ///
    /// It does not list the connection: a driver that gathers what several connections have to write would gather the same
    /// bytes a second time.
    #[inline]
    pub(super) fn prepare(&mut self, slot: u32, limit: usize, now: Now) -> Option<u32> {
        if self.connections.hot(slot).flags.has(Flags::CATCH_UP | Flags::GAP) {
            self.prepare_behind(slot, limit, now)
        } else {
            None
        }
    }

    // For a connection that catches up, or that has yet to be told of a loss.
    #[inline(never)]
    fn prepare_behind(&mut self, slot: u32, limit: usize, now: Now) -> Option<u32> {
        let is_listed = self.connections.hot(slot).flags.has(Flags::DIRTY);
        let mut until = None;
        if self.connections.hot(slot).flags.has(Flags::CATCH_UP) {
            until = self
                .recovery
                .read_ahead(slot, limit, self.now, &mut self.connections, &mut self.fanout);
        }
        if self.connections.hot(slot).flags.has(Flags::GAP)
            && let Some(connection) = self.connections.get(slot)
            && let Some(gap) = self.fanout.tell_gap_in_time(connection, now)
        {
            until = Some(until.map_or(gap, |until| earlier(until, gap)));
        }
        let hot = self.connections.hot(slot);
        debug_assert_eq!(hot.flags.has(Flags::DIRTY), is_listed, "listed while it is written");
        until
    }

    /// Never frees what [`ShardCore::pending`] gave, since the kernel may still read it.
    pub fn leak_pending(&mut self, id: ConnectionId) {
        if let Some(slot) = self.connections.slot(id) {
            self.fanout.outgoing().leak(self.connections.hot(slot));
        }
    }

    /// The first `bytes` of what [`ShardCore::pending`] gave were written. Input that was held back until there was room
    /// among the replies is taken.
    pub fn sent(&mut self, id: ConnectionId, bytes: usize, now: Now) -> Sent {
        let sent = self.count_sent(id, bytes);
        self.after_sent(id, now);
        sent
    }

    /// The first half of [`ShardCore::sent`], which touches only this connection. A driver that wrote to several
    /// connections at once calls it for each of them before [`ShardCore::after_sent`] for any.
    pub fn count_sent(&mut self, id: ConnectionId, bytes: usize) -> Sent {
        self.metrics.bytes_out.bump(bytes as u64);
        let Some(slot) = self.connections.slot(id) else {
            return Sent::Drained;
        };
        self.connections.count_out(slot, bytes);
        if self.connections.hot(slot).flags.has(Flags::TRACED) {
            self.trace_sent(slot, bytes, self.now);
        }
        self.spend_bytes(slot, bytes);
        let hot = self.connections.hot_mut(slot);
        self.fanout.advance(hot, bytes);
        let is_flushing = hot.stage == Stage::Flushing;
        let has_frames = !hot.outbox.is_empty() || hot.flags.has(Flags::GAP);
        let may_read_on = hot.flags.has(Flags::CATCH_UP);
        if has_frames || may_read_on && self.connections.has_more_to_read(slot) {
            return Sent::More;
        }
        if is_flushing {
            self.finish_flush(slot);
        }
        Sent::Drained
    }

    /// The second half of [`ShardCore::sent`]: takes input that was held back.
    pub fn after_sent(&mut self, id: ConnectionId, now: Now) {
        if let Some(slot) = self.connections.slot(id) {
            self.resume(slot, now);
        }
    }

    /// The socket takes no more: the connection is not dirty again before [`ShardCore::writable`]. A client with more
    /// replies pending than it may have is ended as a slow consumer.
    pub fn blocked(&mut self, id: ConnectionId, now: Now) {
        let Some(slot) = self.connections.slot(id) else { return };
        let hot = self.connections.hot_mut(slot);
        hot.flags.set(Flags::BLOCKED);
        self.troubles
            .blocked(slot, &hot.outbox, self.fanout.outgoing().pool(), now);
        if self.connections.has_too_many_replies(slot) {
            self.tell(slot, Input::End(Disconnect::SlowConsumer), now);
        } else {
            self.resume(slot, now);
        }
    }

    /// The socket takes more again. Returns whether the connection waited for that.
    pub fn writable(&mut self, id: ConnectionId) -> bool {
        let Some(slot) = self.connections.slot(id) else {
            return false;
        };
        let hot = self.connections.hot(slot);
        // The frames of a polling session wait for a GET, not for its candidate socket.
        if !hot.flags.has(Flags::BLOCKED) || hot.flags.has(Flags::POLLING) || self.is_throttled(slot) {
            return false;
        }
        let hot = self.connections.hot_mut(slot);
        hot.flags.clear(Flags::BLOCKED);
        self.fanout.outgoing_mut().mark_dirty(slot, hot);
        true
    }

    /// There are bytes left to write, but the turn's bound is reached. The connection is dirty in the next turn.
    pub fn postpone(&mut self, id: ConnectionId) {
        if let Some(slot) = self.connections.slot(id) {
            let hot = self.connections.hot_mut(slot);
            self.fanout.outgoing_mut().mark_dirty(slot, hot);
        }
    }
}

// The earlier of two positions among the queued frames.
const fn earlier(left: u32, right: u32) -> u32 {
    if precedes(right, left) { right } else { left }
}
