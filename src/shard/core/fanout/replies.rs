//! What a connection is told beside events: replies, losses, and how far it is.
//!
//! Invariant: a client learns of a loss before anything that was queued behind the lost event. So a cursor that covers the
//! event never comes first.

use super::Fanout;
use crate::shard::connection::Flags;
use crate::shard::core::connections::Connection;
use crate::shard::frame::Frame;
use crate::time::Now;
use tickgate_protocol::message::{Beyond, Reply};

impl Fanout {
    /// Queues a reply or control message; returns whether the bounds allow it. `is_last`: it is queued in any case, since
    /// the session ends with it.
    pub(in crate::shard::core) fn queue_reply(
        &mut self,
        connection: &mut Connection<'_>,
        bytes: &[u8],
        is_last: bool,
    ) -> bool {
        let Connection { id, hot, endpoint, .. } = connection;
        let frame = Frame::reply(endpoint.reply(bytes, &self.inbox, &self.metrics));
        self.outgoing.queue_reply(id.slot, hot, frame, endpoint, is_last)
    }

    /// Tells a loss, unless the replies are full. Then it waits until nothing is queued before it, so that the client learns
    /// of it before anything later: above all before a cursor that covers what was lost. Returns that position while it waits.
    pub(in crate::shard::core) fn tell_gap_in_time(&mut self, connection: Connection<'_>, now: Now) -> Option<u32> {
        let extra = connection.cold.extra.as_ref();
        let at = extra.and_then(|extra| extra.gap.as_ref()).map(|gap| gap.sequence)?;
        let outbox = &connection.hot.outbox;
        let is_full = outbox.reply_frames() >= connection.endpoint.bounds.reply_frames;
        if is_full && outbox.begins_before(at, self.outgoing.pool()) {
            return Some(at);
        }
        self.tell_gap(connection, now);
        None
    }

    /// Queues the `dropped` message at the position of the first missing event.
    pub(in crate::shard::core) fn tell_gap(&mut self, connection: Connection<'_>, now: Now) {
        let Connection {
            hot, cold, endpoint, ..
        } = connection;
        hot.flags.clear(Flags::GAP);
        let extra = cold.extra.as_mut();
        let Some(gap) = extra.and_then(|extra| extra.gap.take()) else {
            return;
        };
        let reply = Reply::Dropped {
            count: gap.count,
            channels: &gap.channels,
        };
        let mut bytes = Vec::new();
        if let Some(range) = endpoint.settings.dialect.encode_reply(&reply, now.unix_ms, &mut bytes) {
            let frame = Frame::reply(endpoint.reply(&bytes[range], &self.inbox, &self.metrics));
            self.outgoing.push_at_gap(hot, frame, gap.sequence);
        }
    }

    /// Queues the `cursor` message of a connection that catches up behind what it was sent, if there is room. The connection
    /// is not listed: as a rule, it is being written.
    pub(in crate::shard::core) fn tell_cursor(&mut self, connection: Connection<'_>, now: Now) {
        let context = connection.context(now);
        let Connection {
            hot, cold, endpoint, ..
        } = connection;
        let Some(cursor) = cold.session.cursor(&context) else {
            return;
        };
        let mut bytes = Vec::new();
        let beyond = Beyond {
            // With the page that was just read.
            delivered: &self.head.newest,
            had: cold.catch_up().map_or(&[][..], |catch_up| catch_up.had()),
            ..context.beyond
        };
        let reply = Reply::Progress { cursor, beyond };
        if let Some(range) = endpoint.settings.dialect.encode_reply(&reply, now.unix_ms, &mut bytes) {
            let frame = Frame::reply(endpoint.reply(&bytes[range], &self.inbox, &self.metrics));
            self.outgoing.push_reply(hot, frame, endpoint);
        }
    }
}
