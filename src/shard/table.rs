//! The subscription table: from a channel to the connections that hold a matching pattern.
//!
//! Invariants: `nodes[h.node].subscribers[h.position]` names the slot in whose list `h` stands, at `h`'s place (the
//! back reference that makes leaving O(1)); a pattern has a node exactly while somebody holds it; only a new node
//! can make a cached match wrong, for a node that went away has no subscribers left.
//!
//! Matching needs no walk over patterns: a channel of `n` segments is matched by a pattern of a given *shape* (its
//! length and which of its segments are `*`) only if that pattern reads exactly as the channel with those segments
//! replaced. So one map lookup for each shape in use, 510 at the very most and a handful in practice; the result
//! is kept per channel.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::slots::Slots;
use crate::hub::JoinPosition;
use tickgate_protocol::channel::{Channel, Pattern, SEGMENTS_MAX, Shape, segments};

/// Names a pattern's node while somebody holds the pattern.
pub(super) type NodeId = u32;

/// Matches are kept for so many channels; then the memory is thrown away and begun anew.
const CACHED_CHANNELS: usize = 65_536;

/// One holder of a pattern: 8 bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subscriber {
    /// The connection's slot.
    pub(super) slot: u32,
    // Place in the connection's list; the highest bit: not settled.
    back: u32,
}

const UNSETTLED: u32 = 1 << 31;

impl Subscriber {
    /// Whether the join position has to be asked: [`Table::includes`].
    pub(super) const fn is_unsettled(self) -> bool {
        self.back & UNSETTLED != 0
    }
    const fn place(self) -> usize {
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
    // How many of them are not settled.
    unsettled: u32,
}

#[derive(Debug)]
struct Resolved {
    epoch: u64,
    nodes: Box<[NodeId]>,
}

/// A subscription that the inbox has not reached yet.
#[derive(Debug)]
struct Unsettled {
    at: JoinPosition,
    // What was held before it and given back since: its channels were covered all the time, so their events that lie
    // in the inbox before `at` are owed, too.
    before: Vec<Left>,
}

/// A pattern that was given back, with those through which it came to be remembered: a channel counts if all match.
#[derive(Clone, Debug)]
struct Left {
    patterns: Vec<Pattern>,
    // `None`: it was settled.
    at: Option<JoinPosition>,
}

impl Unsettled {
    fn includes(&self, channel: &Channel, stripe: u8, index: u64) -> bool {
        let is_owed = |left: &Left| {
            left.at.as_ref().is_none_or(|at| at.includes(channel, stripe, index))
                && left.patterns.iter().all(|pattern| pattern.matches(channel.as_str()))
        };
        self.at.includes(channel, stripe, index) || self.before.iter().any(is_owed)
    }
}

/// What [`Table::insert`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// The connection holds the pattern already.
    Held,
    /// Somebody else of this shard holds it too.
    Joined(NodeId),
    /// Nobody of this shard held it.
    First(NodeId),
}

/// All subscriptions of a shard.
pub(super) struct Table {
    nodes: Vec<Option<Node>>,
    vacant: Vec<NodeId>,
    by_pattern: HashMap<Pattern, NodeId>,
    // How many nodes have each shape, by `length * 256 + stars`; and the shapes that occur.
    shape_counts: Box<[u32]>,
    shapes: Vec<Shape>,
    held: Slots<Vec<HeldPattern>>,
    subscriptions: u64,
    cache: HashMap<Channel, Resolved>,
    epoch: u64,
    unsettled: HashMap<(u32, NodeId), Unsettled>,
    // In the order of the joins, so the front settles first.
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

    /// All subscriptions.
    pub(super) const fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    /// The shard's own instance of a node's pattern.
    pub(super) fn pattern(&self, node: NodeId) -> Option<&Pattern> {
        self.node(node).map(|node| &node.pattern)
    }

    /// The holders of a node's pattern.
    pub(super) fn subscribers(&self, node: NodeId) -> &[Subscriber] {
        self.node(node).map_or(&[], |node| &node.subscribers)
    }

    /// Every pattern with how many connections hold it, in no order.
    pub(super) fn patterns(&self) -> impl Iterator<Item = (&Pattern, usize)> {
        self.nodes
            .iter()
            .flatten()
            .map(|node| (&node.pattern, node.subscribers.len()))
    }

    /// The patterns a connection holds, in no order.
    pub(super) fn held(&self, slot: u32) -> impl Iterator<Item = &Pattern> {
        let held = self.held.get(slot).map_or(&[][..], |held| held);
        held.iter().filter_map(|held| self.pattern(held.node))
    }

    /// Lets a connection hold a pattern; it gets every event from now on, until [`Table::unsettle`] says otherwise.
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

    /// From now on the subscription gets only what `at` includes. To be called again as `at` grows, if it is not whole.
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
                let before = Vec::new();
                vacant.insert(Unsettled { at, before });
            }
        }
    }

    /// Whether an unsettled subscription gets the event of `channel` popped at `index` from `stripe`.
    pub(super) fn includes(&self, slot: u32, node: NodeId, channel: &Channel, stripe: u8, index: u64) -> bool {
        self.unsettled
            .get(&(slot, node))
            .is_none_or(|unsettled| unsettled.includes(channel, stripe, index))
    }

    /// How many subscriptions a node has; `None`: some of them do not get every event from now on.
    pub(super) fn settled_subscribers(&self, node: NodeId) -> Option<usize> {
        let node = self.node(node)?;
        (node.unsettled == 0).then_some(node.subscribers.len())
    }

    /// Settles the subscriptions that include everything from `index` on.
    pub(super) fn settle(&mut self, index: u64) {
        while let Some(&key) = self.settling.front() {
            // One that was left and joined again waits here for its later position; nothing before it is missed.
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

    /// Takes a pattern from a connection. `None`: it did not hold it; else whether nobody of the shard does any more.
    pub(super) fn remove(&mut self, slot: u32, pattern: &Pattern) -> Option<bool> {
        let node = *self.by_pattern.get(pattern)?;
        let place = self.held.get(slot)?.iter().position(|held| held.node == node)?;
        if !self.unsettled.is_empty() {
            self.remember(slot, node, pattern);
        }
        self.remove_at(slot, place);
        Some(self.retire(node).is_some())
    }

    // Hands what a pattern is owed over to those that go on covering its channels and have not settled.
    fn remember(&mut self, slot: u32, node: NodeId, pattern: &Pattern) {
        let own = self.unsettled.get(&(slot, node));
        let mut left = vec![Left {
            patterns: vec![pattern.clone()],
            at: own.map(|own| own.at.clone()),
        }];
        left.extend(own.iter().flat_map(|own| &own.before).cloned().map(|mut earlier| {
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
                unsettled.before.extend(left.iter().cloned());
            }
        }
    }

    /// Takes all patterns from a connection; `gone` is called with each that nobody of the shard holds any more.
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
        self.look_up(channel.as_str(), nodes);
        if self.cache.len() >= CACHED_CHANNELS {
            self.cache = HashMap::new();
        }
        let resolved = Resolved {
            epoch: self.epoch,
            nodes: nodes[first..].into(),
        };
        self.cache.insert(channel.clone(), resolved);
    }

    fn look_up(&mut self, channel: &str, nodes: &mut Vec<NodeId>) {
        let length = segments(channel).count();
        for shape in &self.shapes {
            let wanted = usize::from(shape.segments);
            if length < wanted || (length > wanted && !shape.is_open()) {
                continue;
            }
            shape.write_candidate(channel, &mut self.text);
            if let Some(&node) = self.by_pattern.get(self.text.as_str()) {
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
        let count = &mut self.shape_counts[place_of(shape)];
        *count += 1;
        if *count == 1 {
            self.shapes.push(shape);
        }
        self.epoch += 1;
        id
    }

    // Removes a node without subscribers and gives its pattern back.
    fn retire(&mut self, id: NodeId) -> Option<Pattern> {
        let place = self.nodes.get_mut(id as usize)?;
        if !place.as_ref()?.subscribers.is_empty() {
            return None;
        }
        let node = place.take()?;
        self.by_pattern.remove(&node.pattern);
        self.vacant.push(id);
        let shape = node.pattern.shape();
        let count = &mut self.shape_counts[place_of(shape)];
        *count -= 1;
        if *count == 0 {
            self.shapes.retain(|known| *known != shape);
        }
        Some(node.pattern)
    }

    // Two swap-removes; each moves one entry, whose partner is told its new place.
    fn remove_at(&mut self, slot: u32, place: usize) -> NodeId {
        let list = &mut self.held[slot];
        let HeldPattern { node, position } = list.swap_remove(place);
        if let Some(&moved) = list.get(place)
            && let Some(Some(target)) = self.nodes.get_mut(moved.node as usize)
        {
            let back = &mut target.subscribers[moved.position as usize].back;
            *back = *back & UNSETTLED | narrow(place);
        }
        if let Some(Some(target)) = self.nodes.get_mut(node as usize) {
            let removed = target.subscribers.swap_remove(position as usize);
            if let Some(&moved) = target.subscribers.get(position as usize) {
                self.held[moved.slot][moved.place()].position = position;
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

// The place of a shape among the counts.
fn place_of(shape: Shape) -> usize {
    usize::from(shape.segments) * 256 + usize::from(shape.stars)
}

// Slots, nodes and list positions are 32 bits; 2^31 subscriptions are beyond the memory of any machine.
fn narrow(place: usize) -> u32 {
    u32::try_from(place)
        .ok()
        .filter(|place| place & UNSETTLED == 0)
        .expect("fewer than 2^31 subscriptions")
}

#[cfg(test)]
mod tests;
