//! One subscribe request: what its session asks for, and what is known of it while it is carried out.

use hashbrown::HashSet;

use super::outcome::Outcome;
use crate::hub::{Scan, TombstoneScan};
use crate::shard::connection::Cold;
use crate::shard::core::connections::{Connection, Connections};
use crate::shard::core::fanout::Fanout;
use crate::shard::mailbox::ConnectionId;
use crate::shard::table::NodeId;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::message::Resume;
use tickgate_protocol::rate::Rate;

/// A subscribe request as its session makes it.
pub(in crate::shard::core) struct Request {
    /// The connection.
    pub(in crate::shard::core) from: ConnectionId,
    /// The session's number of the request.
    pub(in crate::shard::core) number: u32,
    /// Patterns that the connection does not hold.
    pub(in crate::shard::core) patterns: Vec<Pattern>,
    /// What the client has from an earlier connection, of channels that these patterns newly cover.
    pub(in crate::shard::core) resume: Option<Resume>,
    /// The rate of the patterns; `None`: no limit.
    pub(in crate::shard::core) max_rate: Option<Rate>,
}

/// One subscribe request while it is carried out.
pub(super) struct Subscribe {
    pub(super) request: Request,
    pub(super) slot: u32,
    /// Patterns that were held before and have channels in common with the requested ones.
    pub(super) held: Box<[Pattern]>,
    /// Channels that were requested by their exact names.
    pub(super) named: HashSet<Channel>,
    /// The shard's own instances of the requested patterns.
    pub(super) interned: Vec<Pattern>,
    /// The nodes of the scan's patterns.
    pub(super) nodes: Vec<NodeId>,
    pub(super) scan: Scan,
    /// Finds channels that were evicted before the scan came to them.
    pub(super) tombstones: TombstoneScan,
    /// The number of evictions before the request began.
    pub(super) evictions: u64,
    pub(super) outcome: Outcome,
    /// The connection's catch-up state knows that the request is under way.
    pub(super) is_announced: bool,
}

impl Subscribe {
    /// The connection that made the request.
    pub(super) const fn from(&self) -> ConnectionId {
        self.request.from
    }

    pub(super) fn new(request: Request, connections: &Connections, fanout: &Fanout) -> Self {
        let slot = request.from.slot;
        let inbox = fanout.inbox();
        // Read before anything else, so that no later eviction counts as an earlier one.
        let evictions = inbox.evictions();
        let began_at = inbox.newest_version();
        let is_admin = connections.cold(slot).is_some_and(Cold::is_admin);
        let concerns = |held: &&Pattern| request.patterns.iter().any(|pattern| held.intersects(pattern));
        Self {
            slot,
            held: fanout.table().held(slot).filter(concerns).cloned().collect(),
            named: HashSet::new(),
            interned: Vec::with_capacity(request.patterns.len()),
            nodes: Vec::new(),
            scan: Scan::default(),
            tombstones: TombstoneScan::new(Vec::new()),
            evictions,
            outcome: Outcome::new(request.resume.as_ref(), is_admin, inbox.epoch(), began_at),
            is_announced: false,
            request,
        }
    }

    /// Whether a channel was covered before the request, or was requested by its name.
    pub(super) fn covered_before(&self, channel: &Channel) -> bool {
        let mut held = self.held.iter();
        held.any(|pattern| pattern.matches(channel)) || self.named.contains(channel)
    }

    /// The inbox index that the answer has to wait for. An answer's position in one channel covers all channels of the
    /// connection, so it must not overtake events of its older patterns whose channels have been evicted since.
    pub(super) fn waits_until(&self, fanout: &Fanout) -> Option<u64> {
        let is_older = |held: &Pattern| !self.request.patterns.contains(held);
        (fanout.overtakes_evicted(self.slot, is_older)).then(|| fanout.inbox().end())
    }

    /// Tells the connection's catch-up state which patterns were held before the request. Everything else that matches comes
    /// by the request.
    pub(super) fn announce(&self, connections: &mut Connections, fanout: &mut Fanout) {
        let is_new = |held: &&Pattern| self.request.patterns.contains(held);
        let held = fanout.table().held(self.slot).filter(|held| !is_new(held)).cloned();
        let held = held.collect();
        if let Some(Connection { hot, cold, .. }) = connections.get(self.slot) {
            let catch_up = cold.catch_up_or_new();
            catch_up.note_began_at(self.outcome.began_at());
            catch_up.begin_subscribe(held);
            fanout.outgoing_mut().note_catching_up(hot, true);
        }
    }
}
