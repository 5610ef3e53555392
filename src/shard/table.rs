//! The subscription table: finds the connections that hold a pattern which matches a channel.
//!
//! Invariants:
//! - For each held pattern `h` in the list of a slot, `nodes[h.node].subscribers[h.position]` names that slot and the
//!   index of `h` in its list. This back reference makes removing a subscription O(1).
//! - A pattern has one node for each pace at which a connection holds it, and no other.
//! - Only a new node makes a cached match outdated. A removed node has no subscribers, so a match that names it is
//!   harmless.
//!
//! Matching does not iterate over patterns. A *shape* is the number of segments of a pattern and which of them are `*`.
//! At most one pattern of a given shape matches a channel: the channel's name with those segments replaced by `*`. So a
//! match takes one map lookup for each shape in use, of which there are at most 510 and usually a few. The result is
//! cached by channel.
//!
//! Per file: `settling` (which events of a new subscription count), `paced` (subscriptions with a rate).

mod paced;
mod settling;

use std::collections::VecDeque;

use hashbrown::HashMap;

use super::pace::{Group, Groups, Pace};
use super::slots::Slots;
use settling::Unsettled;
use tickgate_protocol::channel::{Channel, Name, Pattern, SEGMENTS_MAX, Shape, Tenant, segments};

/// The number of a pattern's node, valid while a connection holds the pattern.
pub(super) type NodeId = u32;

/// The number of channels whose matches are cached. When it is reached, the cache is emptied.
const CACHED_CHANNELS: usize = 65_536;

/// So many matches are kept whether they are used or not.
const CACHED_CHANNELS_MIN: usize = 4_096;

/// How long a match is cached without use at least, in milliseconds, and half of how long at most.
const CACHED_MS: u64 = 60_000;

/// One connection that holds a pattern (8 bytes).
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscriber {
    /// The connection's slot.
    pub(super) slot: u32,
    // The index in the connection's list, and the marks.
    back: u32,
}

/// The subscription is not settled: [`Table::includes`] decides about each event.
const UNSETTLED: u32 = 1 << 31;
/// The subscription has a pace and is in its first period: [`Table::includes`] decides about each value.
const FRESH: u32 = 1 << 30;
/// Another pattern of the connection is faster and has channels in common with this one.
const OUTDONE: u32 = 1 << 29;
const MARKS: u32 = UNSETTLED | FRESH | OUTDONE;

impl Subscriber {
    /// Whether [`Table::includes`] decides about each event.
    pub(super) const fn is_unsettled(self) -> bool {
        self.back & UNSETTLED != 0
    }
    const fn index(self) -> usize {
        (self.back & !MARKS) as usize
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
    pace: Pace,
    // The next node of the same pattern.
    next: Option<NodeId>,
    subscribers: Vec<Subscriber>,
    // How many of the subscribers are not settled, and how many have any mark.
    unsettled: u32,
    marked: u32,
}

#[derive(Debug)]
struct Resolved {
    epoch: u64,
    // In this order: those that are live, those without a rate of their own, those with a rate.
    nodes: Box<[NodeId]>,
    live: u32,
    without_rate: u32,
    // The groups of the nodes with a rate; and of those with a pace but without a rate, as if they had the fastest.
    groups: Groups,
    without_rate_groups: Groups,
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
    // The first node of each pattern.
    by_pattern: HashMap<Pattern, NodeId>,
    // How many nodes have each shape, by [`shape_index`], and the shapes that occur.
    shape_counts: Box<[u32]>,
    shapes: Vec<Shape>,
    held: Slots<Vec<HeldPattern>>,
    subscriptions: u64,
    // Those of each tenant.
    tenant_subscriptions: [u64; Tenant::COUNT],
    cache: HashMap<Channel, Resolved>,
    // Matches that were not used since `aged_ms`, in monotonic milliseconds.
    unused: HashMap<Channel, Resolved>,
    aged_ms: u64,
    epoch: u64,
    unsettled: HashMap<(u32, NodeId), Unsettled>,
    // In the order of subscribing, so the front settles first.
    settling: VecDeque<(u32, NodeId)>,
    // The subscriptions with a pace that are in their first period, by group.
    fresh: Box<[Vec<(u32, NodeId)>; Group::COUNT]>,
    // How many nodes have a pace.
    timed_nodes: usize,
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
            tenant_subscriptions: [0; Tenant::COUNT],
            cache: HashMap::new(),
            unused: HashMap::new(),
            aged_ms: 0,
            epoch: 0,
            unsettled: HashMap::new(),
            settling: VecDeque::new(),
            fresh: Box::default(),
            timed_nodes: 0,
            text: String::new(),
        }
    }

    /// The number of subscriptions.
    pub(super) const fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    /// The number of a tenant's subscriptions.
    pub(super) const fn subscriptions_of(&self, tenant: Tenant) -> u64 {
        self.tenant_subscriptions[tenant.index()]
    }

    /// The pattern of a node, as the instance that connections share.
    pub(super) fn pattern(&self, node: NodeId) -> Option<&Pattern> {
        self.node(node).map(|node| &node.pattern)
    }

    /// The connections that hold the pattern of a node.
    pub(super) fn subscribers(&self, node: NodeId) -> &[Subscriber] {
        self.node(node).map_or(&[], |node| &node.subscribers)
    }

    /// Every node's pattern and the connections that hold it, in no particular order. A pattern has a node for each pace.
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
    pub(super) fn insert(&mut self, slot: u32, pattern: &Pattern, pace: Pace) -> Inserted {
        self.held.reserve(slot);
        let first = self.by_pattern.get(pattern).copied();
        if self.find_held(slot, first).is_some() {
            return Inserted::Held;
        }
        let node = self.node_with(pattern, pace, first);
        self.add(slot, node);
        if first.is_some() {
            Inserted::Joined(node)
        } else {
            Inserted::First(node)
        }
    }

    // The index in the connection's list of the node, among those of one pattern, that it holds.
    fn find_held(&self, slot: u32, first: Option<NodeId>) -> Option<usize> {
        let held = self.held.get(slot).map_or(&[][..], |held| held);
        let mut index = None;
        let mut next = first;
        while let Some(node) = next
            && index.is_none()
        {
            index = held.iter().position(|held| held.node == node);
            next = self.node(node).and_then(|node| node.next);
        }
        index
    }

    // The node of a pattern with this pace; a new one if there is none.
    fn node_with(&mut self, pattern: &Pattern, pace: Pace, first: Option<NodeId>) -> NodeId {
        let mut next = first;
        while let Some(id) = next
            && let Some(node) = self.node(id)
        {
            if node.pace == pace {
                return id;
            }
            next = node.next;
        }
        self.new_node(pattern, pace, first)
    }

    fn add(&mut self, slot: u32, node: NodeId) {
        let held = &mut self.held[slot];
        let back = narrow(held.len());
        if let Some(Some(target)) = self.nodes.get_mut(node as usize) {
            held.push(HeldPattern {
                node,
                position: narrow(target.subscribers.len()),
            });
            target.subscribers.push(Subscriber { slot, back });
            self.subscriptions += 1;
            self.tenant_subscriptions[target.pattern.tenant().index()] += 1;
        }
    }

    /// Unsubscribes a connection from a pattern. Returns whether it was the pattern's last subscriber in the shard;
    /// `None`: the connection did not hold the pattern.
    pub(super) fn remove(&mut self, slot: u32, pattern: &Pattern) -> Option<bool> {
        let first = *self.by_pattern.get(pattern)?;
        let index = self.find_held(slot, Some(first))?;
        if !self.unsettled.is_empty() {
            let node = self.held[slot][index].node;
            self.remember(slot, node, pattern);
        }
        let node = self.remove_at(slot, index);
        self.retire(node);
        Some(!self.by_pattern.contains_key(pattern))
    }

    /// Unsubscribes a connection from all patterns. Calls `gone` with each pattern that has no subscriber left.
    pub(super) fn remove_all(&mut self, slot: u32, mut gone: impl FnMut(&Pattern)) {
        while let Some(last) = self.held.get(slot).and_then(|held| held.len().checked_sub(1)) {
            let node = self.remove_at(slot, last);
            if let Some(pattern) = self.retire(node)
                && !self.by_pattern.contains_key(&pattern)
            {
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
        self.resolved(channel, |resolved| nodes.extend_from_slice(&resolved.nodes));
    }

    fn resolved<R>(&mut self, channel: &Channel, view: impl FnOnce(&Resolved) -> R) -> R {
        if let Some(known) = self.cache.get(channel)
            && known.epoch == self.epoch
        {
            return view(known);
        }
        let resolved = match self.unused.remove(channel) {
            Some(known) if known.epoch == self.epoch => known,
            _ => {
                let mut nodes = Vec::new();
                self.look_up(channel.key(), &mut nodes);
                self.sort(nodes)
            }
        };
        let result = view(&resolved);
        if self.cache.len() >= CACHED_CHANNELS {
            self.cache = HashMap::new();
        }
        self.cache.insert(channel.clone(), resolved);
        result
    }

    /// Forgets cached matches that were not used for long, if there are many. To be called in each turn.
    pub(super) fn forget_unused(&mut self, now_ms: u64) {
        if now_ms.saturating_sub(self.aged_ms) < CACHED_MS {
            return;
        }
        self.aged_ms = now_ms;
        if self.cache.len() + self.unused.len() > CACHED_CHANNELS_MIN {
            self.unused = std::mem::take(&mut self.cache);
        }
    }

    /// How many matches are cached.
    #[cfg(test)]
    pub(super) fn cached(&self) -> usize {
        self.cache.len() + self.unused.len()
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
            let mut next = self.by_pattern.get(&candidate).copied();
            while let Some(id) = next {
                nodes.push(id);
                next = self
                    .nodes
                    .get(id as usize)
                    .and_then(Option::as_ref)
                    .and_then(|node| node.next);
            }
        }
    }

    fn node(&self, node: NodeId) -> Option<&Node> {
        self.nodes.get(node as usize).and_then(Option::as_ref)
    }

    // `first`: the first node of the pattern.
    fn new_node(&mut self, pattern: &Pattern, pace: Pace, first: Option<NodeId>) -> NodeId {
        let known = first.and_then(|first| self.node(first));
        let node = Some(Node {
            // The instance that connections share.
            pattern: known.map_or(pattern, |known| &known.pattern).clone(),
            pace,
            next: known.and_then(|known| known.next),
            subscribers: Vec::new(),
            unsettled: 0,
            marked: 0,
        });
        self.timed_nodes += usize::from(pace != Pace::Live);
        let id = if let Some(id) = self.vacant.pop() {
            self.nodes[id as usize] = node;
            id
        } else {
            self.nodes.push(node);
            narrow(self.nodes.len() - 1)
        };
        self.epoch += 1;
        if let Some(Some(first)) = first.and_then(|first| self.nodes.get_mut(first as usize)) {
            first.next = Some(id);
            return id;
        }
        self.by_pattern.insert(pattern.clone(), id);
        let shape = pattern.shape();
        let count = &mut self.shape_counts[shape_index(shape)];
        *count += 1;
        if *count == 1 {
            self.shapes.push(shape);
        }
        id
    }

    // Removes a node if it has no subscribers. Returns its pattern then.
    fn retire(&mut self, id: NodeId) -> Option<Pattern> {
        let vacated = self.nodes.get_mut(id as usize)?;
        if !vacated.as_ref()?.subscribers.is_empty() {
            return None;
        }
        let node = vacated.take()?;
        self.vacant.push(id);
        self.timed_nodes -= usize::from(node.pace != Pace::Live);
        if !self.unlink(id, &node) {
            return Some(node.pattern);
        }
        let shape = node.pattern.shape();
        let count = &mut self.shape_counts[shape_index(shape)];
        *count -= 1;
        if *count == 0 {
            self.shapes.retain(|known| *known != shape);
        }
        Some(node.pattern)
    }

    // Takes a removed node out of the list of its pattern's nodes; returns whether it was the last.
    fn unlink(&mut self, id: NodeId, removed: &Node) -> bool {
        let Some(&first) = self.by_pattern.get(&removed.pattern) else {
            return false;
        };
        if first == id {
            match removed.next {
                None => {
                    self.by_pattern.remove(&removed.pattern);
                    return true;
                }
                Some(next) => {
                    self.by_pattern.insert(removed.pattern.clone(), next);
                }
            }
            return false;
        }
        let mut before = Some(first);
        while let Some(Some(node)) = before.and_then(|id| self.nodes.get_mut(id as usize)) {
            if node.next == Some(id) {
                node.next = removed.next;
                break;
            }
            before = node.next;
        }
        false
    }

    // Two swap-removes. Each moves one entry, whose counterpart gets the new index.
    fn remove_at(&mut self, slot: u32, index: usize) -> NodeId {
        let list = &mut self.held[slot];
        let HeldPattern { node, position } = list.swap_remove(index);
        if let Some(&moved) = list.get(index)
            && let Some(Some(target)) = self.nodes.get_mut(moved.node as usize)
        {
            let back = &mut target.subscribers[moved.position as usize].back;
            *back = *back & MARKS | narrow(index);
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
            if removed.back & MARKS != 0 {
                target.marked -= 1;
                target.unsettled -= u32::from(removed.is_unsettled());
                self.unsettled.remove(&(slot, node));
            }
            self.subscriptions -= 1;
            self.tenant_subscriptions[target.pattern.tenant().index()] -= 1;
        }
        node
    }

    // Sets or clears a mark; returns `None` if the connection does not hold the node, otherwise the marks that it has then.
    fn mark(&mut self, slot: u32, node: NodeId, mark: u32, is_set: bool) -> Option<u32> {
        let held = self.held.get(slot).map_or(&[][..], |held| held);
        let held = held.iter().find(|held| held.node == node)?;
        let target = self.nodes.get_mut(node as usize)?.as_mut()?;
        let subscriber = &mut target.subscribers[held.position as usize];
        target.unsettled -= u32::from(subscriber.is_unsettled());
        target.marked -= u32::from(subscriber.back & MARKS != 0);
        subscriber.back = subscriber.back & !mark | if is_set { mark } else { 0 };
        target.unsettled += u32::from(subscriber.is_unsettled());
        target.marked += u32::from(subscriber.back & MARKS != 0);
        Some(subscriber.back & MARKS)
    }
}

// The index of a shape in `shape_counts`.
fn shape_index(shape: Shape) -> usize {
    usize::from(shape.segments) * 256 + usize::from(shape.stars)
}

// Indices are 29 bits, which is far more subscriptions than a connection may have, or a pattern connections in a shard.
fn narrow(index: usize) -> u32 {
    u32::try_from(index)
        .ok()
        .filter(|index| index & MARKS == 0)
        .expect("fewer than 2^29 subscriptions")
}

#[cfg(test)]
mod tests;
