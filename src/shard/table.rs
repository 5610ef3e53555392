//! The subscription table: finds the connections that hold a pattern which matches a channel.
//!
//! Invariants:
//! - For each held pattern `h` in the list of a slot, `nodes[h.node].subscribers[h.position]` names that slot and the
//!   index of `h` in its list. This back reference makes removing a subscription O(1).
//! - A pattern has a node exactly while a connection holds it.
//! - Only a new node makes a cached match outdated. A removed node has no subscribers, so a match that names it is
//!   harmless.
//!
//! Matching does not iterate over patterns. A *shape* is the number of segments of a pattern and which of them are `*`.
//! At most one pattern of a given shape matches a channel: the channel's name with those segments replaced by `*`. So a
//! match takes one map lookup for each shape in use, of which there are at most 510 and usually a few. The result is
//! cached by channel.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::slots::Slots;
use crate::hub::JoinPosition;
use tickgate_protocol::channel::{Channel, Name, Pattern, SEGMENTS_MAX, Shape, segments};

/// The number of a pattern's node, valid while a connection holds the pattern.
pub(super) type NodeId = u32;

/// The number of channels whose matches are cached. When it is reached, the cache is emptied.
const CACHED_CHANNELS: usize = 65_536;

/// One connection that holds a pattern (8 bytes).
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscriber {
    /// The connection's slot.
    pub(super) slot: u32,
    // The index in the connection's list; the highest bit is set while the subscription is not settled.
    back: u32,
}

const UNSETTLED: u32 = 1 << 31;

impl Subscriber {
    /// Whether [`Table::includes`] decides about each event.
    pub(super) const fn is_unsettled(self) -> bool {
        self.back & UNSETTLED != 0
    }
    const fn index(self) -> usize {
        (self.back & !UNSETTLED) as usize
    }
}

#[derive(Clone, Copy, Debug)]
struct HeldPattern {
    node: NodeId,
    position: u32,
}

#[derive(Debug)]
struct Node {
    pattern: Pattern,
    subscribers: Vec<Subscriber>,
    // How many of the subscribers are not settled.
    unsettled: u32,
}

#[derive(Debug)]
struct Resolved {
    epoch: u64,
    nodes: Box<[NodeId]>,
}

/// A subscription whose start position in the inbox was not reached yet.
#[derive(Debug)]
struct Unsettled {
    at: JoinPosition,
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
    fn includes(&self, channel: &Channel, stripe: u8, index: u64) -> bool {
        let is_included = |removed: &RemovedPattern| {
            removed.at.as_ref().is_none_or(|at| at.includes(channel, stripe, index))
                && removed.patterns.iter().all(|pattern| pattern.matches(channel))
        };
        self.at.includes(channel, stripe, index) || self.earlier.iter().any(is_included)
    }
}

/// The result of [`Table::insert`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// The connection holds the pattern already.
    Held,
    /// Another connection of this shard holds the pattern too.
    Joined(NodeId),
    /// No connection of this shard held the pattern.
    First(NodeId),
}

/// All subscriptions of a shard.
pub(super) struct Table {
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    by_pattern: HashMap<Pattern, NodeId>,
    // How many nodes have each shape, by [`shape_index`], and the shapes that occur.
    shape_counts: Box<[u32]>,
    shapes: Vec<Shape>,
    held: Slots<Vec<HeldPattern>>,
    subscriptions: u64,
    cache: HashMap<Channel, Resolved>,
    epoch: u64,
    unsettled: HashMap<(u32, NodeId), Unsettled>,
    // In the order of subscribing, so the front settles first.
    settling: VecDeque<(u32, NodeId)>,
    text: String,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            by_pattern: HashMap::new(),
            shape_counts: vec![0; (SEGMENTS_MAX + 1) * 256].into(),
            shapes: Vec::new(),
            held: Slots::new(),
            subscriptions: 0,
            cache: HashMap::new(),
            epoch: 0,
            unsettled: HashMap::new(),
            settling: VecDeque::new(),
            text: String::new(),
        }
    }

    /// The number of subscriptions.
    pub(super) const fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    /// The pattern of a node, as the instance that connections share.
    pub(super) fn pattern(&self, node: NodeId) -> Option<&Pattern> {
        self.node(node).map(|node| &node.pattern)
    }

    /// The connections that hold the pattern of a node.
    pub(super) fn subscribers(&self, node: NodeId) -> &[Subscriber] {
        self.node(node).map_or(&[], |node| &node.subscribers)
    }

    /// Every pattern and the connections that hold it, in no particular order.
    pub(super) fn patterns(&self) -> impl Iterator<Item = (&Pattern, &[Subscriber])> {
        let nodes = self.nodes.iter().flatten();
        nodes.map(|node| (&node.pattern, &*node.subscribers))
    }

    /// The patterns that a connection holds, in no particular order.
    pub(super) fn held(&self, slot: u32) -> impl Iterator<Item = &Pattern> {
        let held = self.held.get(slot).map_or(&[][..], |held| held);
        held.iter().filter_map(|held| self.pattern(held.node))
    }

    /// Subscribes a connection to a pattern. It gets every event from now on, unless [`Table::unsettle`] is called.
    pub(super) fn insert(&mut self, slot: u32, pattern: &Pattern) -> Inserted {
        self.held.reserve(slot);
        let known = self.by_pattern.get(pattern).copied();
        if let Some(node) = known
            && self.held[slot].iter().any(|held| held.node == node)
        {
            return Inserted::Held;
        }
        let node = known.unwrap_or_else(|| self.new_node(pattern));
        let held = &mut self.held[slot];
        let back = narrow(held.len());
        if let Some(Some(target)) = self.nodes.get_mut(node as usize) {
            held.push(HeldPattern {
                node,
                position: narrow(target.subscribers.len()),
            });
            target.subscribers.push(Subscriber { slot, back });
            self.subscriptions += 1;
        }
        if known.is_some() {
            Inserted::Joined(node)
        } else {
            Inserted::First(node)
        }
    }

    /// Restricts a subscription to the events that `at` includes. While `at` is not whole, this is called again
    /// whenever it grows.
    pub(super) fn unsettle(&mut self, slot: u32, node: NodeId, at: JoinPosition) {
        if !self.mark(slot, node, UNSETTLED) {
            return;
        }
        if at.is_complete() {
            self.settling.push_back((slot, node));
        }
        match self.unsettled.entry((slot, node)) {
            Entry::Occupied(mut known) => known.get_mut().at = at,
            Entry::Vacant(vacant) => {
                let earlier = Vec::new();
                vacant.insert(Unsettled { at, earlier });
            }
        }
    }

    /// Whether an unsettled subscription gets the event of `channel` that was popped from `stripe` at position `index`.
    pub(super) fn includes(&self, slot: u32, node: NodeId, channel: &Channel, stripe: u8, index: u64) -> bool {
        self.unsettled
            .get(&(slot, node))
            .is_none_or(|unsettled| unsettled.includes(channel, stripe, index))
    }

    /// How many subscriptions a node has; `None`: some of them are not settled.
    pub(super) fn settled_subscribers(&self, node: NodeId) -> Option<usize> {
        let node = self.node(node)?;
        (node.unsettled == 0).then_some(node.subscribers.len())
    }

    /// Settles the subscriptions that include every event from position `index` on.
    pub(super) fn settle(&mut self, index: u64) {
        while let Some(&key) = self.settling.front() {
            // A subscription that was removed and made again settles at its later position. Until then `includes`
            // decides, so it misses no event.
            match self.unsettled.get(&key) {
                Some(unsettled) if !unsettled.at.is_settled(index) => return,
                Some(_) => {
                    self.unsettled.remove(&key);
                    self.mark(key.0, key.1, 0);
                }
                None => {}
            }
            self.settling.pop_front();
        }
    }

    /// Unsubscribes a connection from a pattern. Returns whether it was the pattern's last subscriber in the shard;
    /// `None`: the connection did not hold the pattern.
    pub(super) fn remove(&mut self, slot: u32, pattern: &Pattern) -> Option<bool> {
        let node = *self.by_pattern.get(pattern)?;
        let index = self.held.get(slot)?.iter().position(|held| held.node == node)?;
        if !self.unsettled.is_empty() {
            self.remember(slot, node, pattern);
        }
        self.remove_at(slot, index);
        Some(self.retire(node).is_some())
    }

    // Lets the connection's other unsettled patterns that intersect this one inherit the events it has yet to get.
    fn remember(&mut self, slot: u32, node: NodeId, pattern: &Pattern) {
        let own = self.unsettled.get(&(slot, node));
        let mut removed = vec![RemovedPattern {
            patterns: vec![pattern.clone()],
            at: own.map(|own| own.at.clone()),
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

    /// Unsubscribes a connection from all patterns. Calls `gone` with each pattern that has no subscriber left.
    pub(super) fn remove_all(&mut self, slot: u32, mut gone: impl FnMut(&Pattern)) {
        while let Some(last) = self.held.get(slot).and_then(|held| held.len().checked_sub(1)) {
            let node = self.remove_at(slot, last);
            if let Some(pattern) = self.retire(node) {
                gone(&pattern);
            }
        }
        if let Some(held) = self.held.get(slot)
            && held.capacity() > 0
        {
            self.held[slot] = Vec::new();
        }
    }

    /// Appends the nodes of all patterns that match `channel` to `nodes`.
    pub(super) fn resolve(&mut self, channel: &Channel, nodes: &mut Vec<NodeId>) {
        if let Some(known) = self.cache.get(channel)
            && known.epoch == self.epoch
        {
            nodes.extend_from_slice(&known.nodes);
            return;
        }
        let first = nodes.len();
        self.look_up(channel.key(), nodes);
        if self.cache.len() >= CACHED_CHANNELS {
            self.cache = HashMap::new();
        }
        let resolved = Resolved {
            epoch: self.epoch,
            nodes: nodes[first..].into(),
        };
        self.cache.insert(channel.clone(), resolved);
    }

    fn look_up(&mut self, Name { tenant, text: channel }: Name<'_>, nodes: &mut Vec<NodeId>) {
        let length = segments(channel).count();
        for shape in &self.shapes {
            let wanted = usize::from(shape.segments);
            if length < wanted || (length > wanted && !shape.is_open()) {
                continue;
            }
            shape.write_candidate(channel, &mut self.text);
            let candidate = Name {
                tenant,
                text: &self.text,
            };
            if let Some(&node) = self.by_pattern.get(&candidate) {
                nodes.push(node);
            }
        }
    }

    fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node as usize).and_then(Option::as_ref)
    }

    fn new_node(&mut self, pattern: &Pattern) -> NodeId {
        let node = Some(Node {
            pattern: pattern.clone(),
            subscribers: Vec::new(),
            unsettled: 0,
        });
        let id = if let Some(id) = self.vacant.pop() {
            self.nodes[id as usize] = node;
            id
        } else {
            self.nodes.push(node);
            narrow(self.nodes.len() - 1)
        };
        self.by_pattern.insert(pattern.clone(), id);
        let shape = pattern.shape();
        let count = &mut self.shape_counts[shape_index(shape)];
        *count += 1;
        if *count == 1 {
            self.shapes.push(shape);
        }
        self.epoch += 1;
        id
    }

    // Removes a node if it has no subscribers. Returns its pattern then.
    fn retire(&mut self, id: NodeId) -> Option<Pattern> {
        let vacated = self.nodes.get_mut(id as usize)?;
        if !vacated.as_ref()?.subscribers.is_empty() {
            return None;
        }
        let node = vacated.take()?;
        self.by_pattern.remove(&node.pattern);
        self.vacant.push(id);
        let shape = node.pattern.shape();
        let count = &mut self.shape_counts[shape_index(shape)];
        *count -= 1;
        if *count == 0 {
            self.shapes.retain(|known| *known != shape);
        }
        Some(node.pattern)
    }

    // Two swap-removes. Each moves one entry, whose counterpart gets the new index.
    fn remove_at(&mut self, slot: u32, index: usize) -> NodeId {
        let list = &mut self.held[slot];
        let HeldPattern { node, position } = list.swap_remove(index);
        if let Some(&moved) = list.get(index)
            && let Some(Some(target)) = self.nodes.get_mut(moved.node as usize)
        {
            let back = &mut target.subscribers[moved.position as usize].back;
            *back = *back & UNSETTLED | narrow(index);
        }
        if let Some(Some(target)) = self.nodes.get_mut(node as usize) {
            let removed = target.subscribers.swap_remove(position as usize);
            if let Some(&moved) = target.subscribers.get(position as usize) {
                self.held[moved.slot][moved.index()].position = position;
            }
            if target.subscribers.len() < target.subscribers.capacity() / 4 {
                let half = target.subscribers.capacity() / 2;
                target.subscribers.shrink_to(half);
            }
            if removed.is_unsettled() {
                target.unsettled -= 1;
                self.unsettled.remove(&(slot, node));
            }
            self.subscriptions -= 1;
        }
        node
    }

    fn mark(&mut self, slot: u32, node: NodeId, flag: u32) -> bool {
        let held = self.held.get(slot).map_or(&[][..], |held| held);
        let Some(held) = held.iter().find(|held| held.node == node) else {
            return false;
        };
        if let Some(Some(target)) = self.nodes.get_mut(node as usize) {
            let subscriber = &mut target.subscribers[held.position as usize];
            target.unsettled -= u32::from(subscriber.is_unsettled());
            subscriber.back = subscriber.back & !UNSETTLED | flag;
            target.unsettled += u32::from(subscriber.is_unsettled());
        }
        true
    }
}

// The index of a shape in `shape_counts`.
fn shape_index(shape: Shape) -> usize {
    usize::from(shape.segments) * 256 + usize::from(shape.stars)
}

// Indices are 31 bits: 2^31 subscriptions do not fit into the memory of any machine.
fn narrow(index: usize) -> u32 {
    u32::try_from(index)
        .ok()
        .filter(|index| index & UNSETTLED == 0)
        .expect("fewer than 2^31 subscriptions")
}

#[cfg(test)]
mod tests;
