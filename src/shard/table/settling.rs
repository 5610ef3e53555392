//! Which events of a new subscription count, until it is settled.

use hashbrown::hash_map::Entry;

use super::{FRESH, NodeId, Table, UNSETTLED};
use crate::hub::JoinPosition;
use tickgate_protocol::channel::{Channel, Pattern};

/// A subscription whose start position in the inbox was not reached yet, or that is in its first period.
#[derive(Debug)]
pub(super) struct Unsettled {
    // `None`: the subscription was settled before, and its pace has changed since.
    pub(super) at: Option<JoinPosition>,
    // Events with a lower inbox index were delivered already, or are not owed.
    pub(super) from: u64,
    // How many ends of periods are left until the subscription is fresh no longer.
    pub(super) ends_left: u8,
    // Patterns held before this one that were removed since. Their channels were covered all the time, so their events
    // before `at` must be delivered too.
    earlier: Vec<RemovedPattern>,
}

/// A removed pattern, together with the later removed patterns that inherited its events. A channel counts if all of
/// them match it.
#[derive(Clone, Debug)]
struct RemovedPattern {
    patterns: Vec<Pattern>,
    // Where its subscription started; `None`: it was settled.
    at: Option<JoinPosition>,
}

impl Unsettled {
    pub(super) const fn new(at: Option<JoinPosition>, from: u64) -> Self {
        Self {
            at,
            from,
            ends_left: 0,
            earlier: Vec::new(),
        }
    }

    fn is_settled(&self, index: u64) -> bool {
        self.at.as_ref().is_none_or(|at| at.is_settled(index))
    }

    fn includes(&self, channel: &Channel, stripe: u8, index: u64) -> bool {
        let is_from = |at: &Option<JoinPosition>| at.as_ref().is_none_or(|at| at.includes(channel, stripe, index));
        let is_included = |removed: &RemovedPattern| {
            is_from(&removed.at) && removed.patterns.iter().all(|pattern| pattern.matches(channel))
        };
        index >= self.from && (is_from(&self.at) || self.earlier.iter().any(is_included))
    }
}

impl Table {
    /// Restricts a subscription to the events that `at` includes. While `at` is not whole, this is called again
    /// whenever it grows.
    pub(in crate::shard) fn unsettle(&mut self, slot: u32, node: NodeId, at: JoinPosition) {
        if self.mark(slot, node, UNSETTLED, true).is_none() {
            return;
        }
        if at.is_complete() {
            self.settling.push_back((slot, node));
        }
        match self.unsettled.entry((slot, node)) {
            Entry::Occupied(mut known) => known.get_mut().at = Some(at),
            Entry::Vacant(vacant) => {
                vacant.insert(Unsettled::new(Some(at), 0));
            }
        }
    }

    /// Whether an unsettled subscription gets the event of `channel` that was popped from `stripe` at position `index`.
    pub(in crate::shard) fn includes(
        &self,
        slot: u32,
        node: NodeId,
        channel: &Channel,
        stripe: u8,
        index: u64,
    ) -> bool {
        self.unsettled
            .get(&(slot, node))
            .is_none_or(|unsettled| unsettled.includes(channel, stripe, index))
    }

    /// How many subscriptions a node has; `None`: some of them are not settled.
    pub(in crate::shard) fn settled_subscribers(&self, node: NodeId) -> Option<usize> {
        let node = self.node(node)?;
        (node.unsettled == 0).then_some(node.subscribers.len())
    }

    /// Settles the subscriptions that include every event from position `index` on.
    pub(in crate::shard) fn settle(&mut self, index: u64) {
        while let Some(&key) = self.settling.front() {
            // A subscription that was removed and made again settles at its later position. Until then `includes`
            // decides, so it misses no event.
            match self.unsettled.get(&key) {
                Some(unsettled) if !unsettled.is_settled(index) => return,
                Some(_) => self.unmark(key, UNSETTLED),
                None => {}
            }
            self.settling.pop_front();
        }
    }

    /// Takes a mark from a subscription, and forgets its position if that does not matter any more.
    pub(super) fn unmark(&mut self, key: (u32, NodeId), mark: u32) {
        let marks = self.mark(key.0, key.1, mark, false);
        if marks.is_none_or(|marks| marks & (UNSETTLED | FRESH) == 0) {
            self.unsettled.remove(&key);
        }
    }

    /// Lets the connection's other unsettled patterns that intersect this one inherit the events it has yet to get.
    pub(super) fn remember(&mut self, slot: u32, node: NodeId, pattern: &Pattern) {
        let own = self.unsettled.get(&(slot, node));
        let mut removed = vec![RemovedPattern {
            patterns: vec![pattern.clone()],
            at: own.and_then(|own| own.at.clone()),
        }];
        removed.extend(own.iter().flat_map(|own| &own.earlier).cloned().map(|mut earlier| {
            earlier.patterns.push(pattern.clone());
            earlier
        }));
        let held = self.held.get(slot).map_or(&[][..], |held| held);
        for other in held.iter().filter(|held| held.node != node) {
            let is_covered = self.nodes[other.node as usize]
                .as_ref()
                .is_some_and(|other| other.pattern.intersects(pattern));
            if let Some(unsettled) = self.unsettled.get_mut(&(slot, other.node))
                && is_covered
            {
                unsettled.earlier.extend(removed.iter().cloned());
            }
        }
    }
}
