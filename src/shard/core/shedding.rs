//! What a shard holds for its clients, and what it gives up when all clients together hold too much.
//!
//! Invariants: a connection is closed for the memory that it holds only if it is stalled: its socket took nothing between
//! two looks, with something to write all the time. What a shard holds is counted when it changes, never by looking at
//! all connections.

use std::sync::Arc;

use hashbrown::HashMap;

use super::ShardCore;
use super::connections::Connections;
use crate::memory::{Budget, Pressure, RETRY_AFTER_MS};
use crate::metrics::ShardMetrics;
use crate::session::Input;
use crate::shard::connection::{Flags, Hot};
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;
use tickgate_protocol::disconnect::Disconnect;

/// The time between two looks at all connections, in milliseconds.
const LOOK_MS: u64 = 1_000;

/// Watches the budget; see the module's docs.
pub(super) struct Shedding {
    budget: Arc<Budget>,
    pressure: Pressure,
    held: u64,
    // The next look, in monotonic milliseconds.
    look_ms: u64,
    // The blocked connections of the last look, and how far they had written.
    blocked: HashMap<ConnectionId, Written>,
}

/// How far a connection has written: whole messages, and bytes of the next one.
type Written = (u64, u32);

impl Shedding {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            pressure: Pressure::None,
            held: 0,
            look_ms: 0,
            blocked: HashMap::new(),
        }
    }

    /// When a client may subscribe again whose request has to be refused now, in milliseconds; `None`: it need not be
    /// refused.
    pub(super) fn refuses_joins(&self) -> Option<u32> {
        (self.pressure >= Pressure::Joins).then_some(RETRY_AFTER_MS)
    }

    /// Whether connections are being watched, so that the shard may not sleep for long.
    pub(super) fn next_look_ms(&self) -> Option<u64> {
        (self.pressure > Pressure::None).then_some(self.look_ms)
    }

    // The stalled connections, the most expensive first, with their bytes. Notes those that are blocked now.
    fn stalled(&mut self, connections: &mut Connections) -> Vec<(u64, ConnectionId)> {
        let before = std::mem::take(&mut self.blocked);
        let mut stalled = Vec::new();
        for slot in connections.slots() {
            if !connections.is_open(slot) || !connections.hot(slot).flags.has(Flags::BLOCKED) {
                continue;
            }
            let (id, written, bytes) = (
                connections.id(slot),
                written(connections.hot(slot)),
                connections.held_bytes(slot),
            );
            if bytes == 0 {
                continue;
            }
            if before.get(&id) == Some(&written) {
                stalled.push((bytes, id));
            }
            self.blocked.insert(id, written);
        }
        stalled.sort_unstable_by_key(|(bytes, id)| (std::cmp::Reverse(*bytes), id.slot));
        stalled
    }
}

fn written(hot: &Hot) -> Written {
    (hot.delivered, hot.outbox.sent())
}

impl ShardCore {
    /// Reports what the shard holds, and closes stalled connections if all shards together hold too much.
    pub(super) fn keep_budget(&mut self, now: Now) {
        let held = self.held();
        self.shedding.held = held;
        self.shedding.budget.report(self.fanout.inbox().shard(), held);
        self.shedding.pressure = self.shedding.budget.pressure();
        if self.shedding.pressure == Pressure::None {
            self.shedding.blocked = HashMap::new();
        } else if self.shedding.look_ms <= now.mono_ms {
            self.shedding.look_ms = now.mono_ms + LOOK_MS;
            self.shed(now);
        }
    }

    fn shed(&mut self, now: Now) {
        let stalled = self.shedding.stalled(&mut self.connections);
        let (budget, pressure) = (Arc::clone(&self.shedding.budget), self.shedding.pressure);
        let mut closed = 0;
        if pressure == Pressure::Connections {
            let to_free = budget.to_free(self.shedding.held);
            let mut freed = 0;
            for (bytes, id) in stalled {
                if freed >= to_free {
                    break;
                }
                let Some(slot) = self.connections.open_slot(id) else {
                    continue;
                };
                // Its socket takes nothing, so nothing is lost that it could get. What is partly sent stays.
                (self.fanout.outgoing_mut()).pass_over(self.connections.hot_mut(slot), usize::MAX, |_, _| true);
                self.tell(slot, Input::End(Disconnect::Overload), now);
                freed += bytes;
                closed += 1;
            }
            self.metrics.shed.bump(closed);
        }
        if budget.may_log(now.mono_ms) {
            tracing::warn!(
                used_bytes = budget.used_bytes(),
                limit_bytes = budget.limit_bytes(),
                shard = self.fanout.inbox().shard(),
                shard_bytes = self.shedding.held,
                closed,
                state = pressure.label(),
                "memory is short (limits.memory): new connections and subscriptions are refused, and above the limit the \
                 most expensive of the stalled connections are closed with 1013"
            );
        }
    }

    // The bytes that the shard holds for clients, by kind for the metrics.
    fn held(&self) -> u64 {
        let outgoing = self.fanout.outgoing();
        let outboxes = outgoing.outbox_bytes();
        let catch_up = outgoing.catch_up_bytes();
        let input = (self.connections.assembly_bytes() + self.publishing.parked_bytes()) as u64;
        update(&self.metrics, [outboxes, catch_up, input]);
        outboxes + catch_up + input
    }
}

fn update(metrics: &ShardMetrics, [outboxes, catch_up, input]: [u64; 3]) {
    let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    metrics.outbox_memory.set(signed(outboxes));
    metrics.catch_up_memory.set(signed(catch_up));
    metrics.input_memory.set(signed(input));
}
