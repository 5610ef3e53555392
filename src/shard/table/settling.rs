//! Which events of a new subscription count, until it is settled.

use super::{FRESH, NodeId, Table, UNSETTLED};
use crate::hub::JoinPosition;
use tickgate_protocol::channel::{Channel, Pattern};

/// From when on the events of a subscription count whose start position in the inbox was not reached yet, or that is in its
/// first period. Very many subscriptions may be in their first period at a time.
#[derive(Debug)]
pub(super) struct Unsettled {
    // Events with a lower inbox index were delivered already, or are not owed.
    pub(super) from: u64,
    // How many ends of periods are left until the subscription is fresh no longer.
    pub(super) ends_left: u8,
    // `None`: everything from `from` on counts.
    start: Option<Box<Start>>,
}

/// What a single inbox index cannot say.
#[derive(Debug, Default)]
struct Start {
    // `None`: the subscription was settled before, and its pace has changed since.
    at: Option<JoinPosition>,
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
    // As in `Unsettled`.
    from: u64,
}

const _: () = assert!(size_of::<Unsettled>() == 24);

impl Unsettled {
    /// A subscription of which everything counts that is delivered from now on.
    pub(super) const fn new() -> Self {
        Self {
            from: 0,
            ends_left: 0,
            start: None,
        }
    }

    /// Whether the subscription has a start position that an index cannot say.
    pub(super) fn has_position(&self) -> bool {
        self.start.as_ref().is_some_and(|start| start.at.is_some())
    }

    fn start_mut(&mut self) -> &mut Start {
        self.start.get_or_insert_default()
    }

    fn is_settled(&self, index: u64) -> bool {
        let at = self.start.as_ref().and_then(|start| start.at.as_ref());
        at.is_none_or(|at| at.is_settled(index))
    }

    // The start position was reached. Values from before it may still wait for the end of a period.
    fn settle(&mut self) {
        if let Some(start) = &self.start
            && start.earlier.is_empty()
            && let Some(from) = start.at.as_ref().map_or(Some(0), JoinPosition::of_one_stripe)
        {
            self.from = self.from.max(from);
            self.start = None;
        }
    }

    fn includes(&self, channel: &Channel, stripe: u8, index: u64) -> bool {
        let is_from = |at: &Option<JoinPosition>| at.as_ref().is_none_or(|at| at.includes(channel, stripe, index));
        let is_included = |removed: &RemovedPattern| {
            index >= removed.from
                && is_from(&removed.at)
                && removed.patterns.iter().all(|pattern| pattern.matches(channel))
        };
        let starts = |start: &Start| is_from(&start.at) || start.earlier.iter().any(is_included);
        index >= self.from && self.start.as_deref().is_none_or(starts)
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
        let unsettled = self.unsettled.entry((slot, node)).or_insert_with(Unsettled::new);
        unsettled.start_mut().at = Some(at);
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
        } else if mark == UNSETTLED
            && let Some(unsettled) = self.unsettled.get_mut(&key)
        {
            unsettled.settle();
        }
    }

    /// Lets the connection's other unsettled patterns that intersect this one inherit the events it has yet to get.
    pub(super) fn remember(&mut self, slot: u32, node: NodeId, pattern: &Pattern) {
        let own = self.unsettled.get(&(slot, node));
        let start = own.and_then(|own| own.start.as_deref());
        let from = own.map_or(0, |own| own.from);
        let mut removed = vec![RemovedPattern {
            patterns: vec![pattern.clone()],
            at: start.and_then(|start| start.at.clone()),
            from,
        }];
        removed.extend(
            start
                .iter()
                .flat_map(|start| &start.earlier)
                .cloned()
                .map(|mut earlier| {
                    earlier.patterns.push(pattern.clone());
                    earlier.from = earlier.from.max(from);
                    earlier
                }),
        );
        let held = self.held.get(slot).map_or(&[][..], |held| held);
        for other in held.iter().filter(|held| held.node != node) {
            let is_covered = self.nodes[other.node as usize]
                .as_ref()
                .is_some_and(|other| other.pattern.intersects(pattern));
            if let Some(unsettled) = self.unsettled.get_mut(&(slot, other.node))
                && is_covered
            {
                unsettled.start_mut().earlier.extend(removed.iter().cloned());
            }
        }
    }
}
