//! What operators ask first: which clients read too slowly or send too fast, and why clients left.
//!
//! Invariant: only connections that were blocked or refused have a record here, and a record ends with its connection. The
//! lists of endings are bounded. Nothing here is touched by a delivery.

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::connections::Connections;
use super::journal::is_routine;
use crate::shard::connection::Hot;
use crate::shard::mailbox::EndedClient;
use crate::shard::outbox::Outbox;
use crate::shard::pool::Pool;
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;

/// Endings that are kept of those that are somebody's fault or decision, and of all others. A wave of clients that leave
/// hides no fault.
const ENDINGS_MAX: [usize; 2] = [256, 64];

/// The troubles of one shard.
#[derive(Default)]
pub(super) struct Troubles {
    of_slot: HashMap<u32, Trouble>,
    // Newest last: faults and decisions, then routine.
    endings: [VecDeque<EndedClient>; 2],
}

/// The troubles of one connection.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    // When the socket took no more, in monotonic milliseconds, and the sequence number of the next frame at that time.
    blocked: Option<(u64, u32)>,
    refused: u64,
    // When a message was refused last, in Unix milliseconds.
    refused_at_ms: u64,
}

impl Troubles {
    /// The socket of a connection takes no more.
    pub(super) fn blocked(&mut self, slot: u32, outbox: &Outbox, pool: &Pool, now: Now) {
        let trouble = self.of_slot.entry(slot).or_default();
        // If everything that waited before has been written meanwhile, a new wait begins.
        if !trouble.blocked.is_some_and(|(_, end)| outbox.begins_before(end, pool)) {
            trouble.blocked = Some((now.mono_ms, outbox.next_sequence()));
        }
    }

    /// Messages of a connection were refused because they came too fast.
    pub(super) fn refused(&mut self, slot: u32, messages: u64, now: Now) {
        let trouble = self.of_slot.entry(slot).or_default();
        trouble.refused += messages;
        trouble.refused_at_ms = now.unix_ms;
    }

    /// A session has ended; its connection is still there.
    pub(super) fn ended(&mut self, connections: &Connections, slot: u32, ending: Disconnect, now: Now) {
        let Some(cold) = connections.cold(slot) else { return };
        let (hot, session) = (connections.hot(slot), &cold.session);
        let class = usize::from(is_routine(ending));
        let kept = &mut self.endings[class];
        if kept.len() == ENDINGS_MAX[class] {
            kept.pop_front();
        }
        let settings = &connections.endpoint(slot).settings;
        kept.push_back(EndedClient {
            tenant: settings.tenant,
            client_id: session.client_id().into(),
            user: session.identity().and_then(|identity| identity.user.clone()),
            address: cold.address,
            dialect: settings.dialect.name(),
            ending,
            connected_at_ms: session.connected_at_ms(),
            ended_at_ms: now.unix_ms,
            message_count: hot.delivered,
            dropped: hot.dropped.into(),
        });
    }

    /// A connection is removed.
    pub(super) fn forget(&mut self, slot: u32) {
        if !self.of_slot.is_empty() {
            self.of_slot.remove(&slot);
        }
    }

    /// Endings, newest first.
    pub(super) fn endings(&self, limit: usize) -> Vec<EndedClient> {
        let mut endings: Vec<_> = self.endings.iter().flatten().cloned().collect();
        endings.sort_by_key(|ending| std::cmp::Reverse(ending.ended_at_ms));
        endings.truncate(limit);
        endings
    }

    /// How long the connection's socket has not taken everything, in milliseconds; `None`: nothing waits for it.
    pub(super) fn waiting_ms(&self, slot: u32, hot: &Hot, now: Now) -> Option<u64> {
        let (since_ms, _) = self.of_slot.get(&slot)?.blocked?;
        (!hot.outbox.is_empty()).then(|| now.mono_ms.saturating_sub(since_ms))
    }

    /// How many messages of the connection were refused, and when the last one was, in Unix milliseconds.
    pub(super) fn refusals(&self, slot: u32) -> (u64, Option<u64>) {
        let trouble = self.of_slot.get(&slot).copied().unwrap_or_default();
        (trouble.refused, (trouble.refused > 0).then_some(trouble.refused_at_ms))
    }
}
