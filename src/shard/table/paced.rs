//! Subscriptions with a rate.
//!
//! Invariants: a value of a channel that conflates reaches a connection by its fastest pattern that includes the value, and
//! by no other. A subscription is fresh until the period ends in which it began; values from before that are not its own.

use super::{FRESH, HeldPattern, MARKS, NodeId, OUTDONE, Resolved, Subscriber, Table, UNSETTLED};
use crate::shard::pace::{Group, Groups, Pace};
use crate::shard::table::settling::Unsettled;
use tickgate_protocol::channel::{Channel, Class, Overflow, Pattern};
use tickgate_protocol::rate::Rate;

/// Memory for this many positions is kept when there are fewer.
const UNSETTLED_KEPT: usize = 1024;

impl Subscriber {
    /// Whether [`Table::gets_value`] decides about each value.
    pub(in crate::shard) const fn is_marked(self) -> bool {
        self.back & MARKS != 0
    }

    /// Whether the subscription gets no value before the end of the period.
    pub(in crate::shard) const fn is_fresh(self) -> bool {
        self.back & (FRESH | UNSETTLED) != 0
    }
}

impl Table {
    /// Appends the nodes whose subscribers get each event of the channel, and returns the groups of those that get its
    /// newest value.
    #[inline]
    pub(in crate::shard) fn resolve_event(
        &mut self,
        channel: &Channel,
        class: &Class,
        nodes: &mut Vec<NodeId>,
    ) -> Groups {
        self.resolved(channel, |resolved| {
            if class.overflow != Overflow::Conflate || resolved.live as usize == resolved.nodes.len() {
                nodes.extend_from_slice(&resolved.nodes);
                return Groups::NONE;
            }
            let Some(limit) = class.max_rate else {
                nodes.extend_from_slice(&resolved.nodes[..resolved.without_rate as usize]);
                return resolved.groups;
            };
            nodes.extend_from_slice(&resolved.nodes[..resolved.live as usize]);
            resolved.groups.or(resolved.without_rate_groups).limited_to(limit)
        })
    }

    /// Appends the nodes whose subscribers get the values of the channel in this group.
    pub(in crate::shard) fn resolve_group(
        &mut self,
        channel: &Channel,
        class: &Class,
        group: Group,
        nodes: &mut Vec<NodeId>,
    ) {
        let first = nodes.len();
        self.resolve(channel, nodes);
        let mut kept = first;
        for index in first..nodes.len() {
            let is_own = |node: NodeId| self.node(node).and_then(|node| node.pace.group(class.max_rate)) == Some(group);
            if is_own(nodes[index]) {
                nodes.swap(kept, index);
                kept += 1;
            }
        }
        nodes.truncate(kept);
    }

    // Puts the nodes of a channel in order.
    pub(super) fn sort(&self, mut nodes: Vec<NodeId>) -> Resolved {
        let pace = |node: &NodeId| self.node(*node).map_or(Pace::Live, |node| node.pace);
        let rank = |node: &NodeId| match pace(node) {
            Pace::Live => 0,
            Pace::Timed { rate: None, .. } => 1,
            Pace::Timed { .. } => 2,
        };
        nodes.sort_by_key(rank);
        let live = nodes.partition_point(|node| rank(node) < 1);
        let without_rate = nodes.partition_point(|node| rank(node) < 2);
        let [.., fastest] = Rate::ALL;
        let groups = |nodes: &[NodeId]| {
            nodes
                .iter()
                .filter_map(|node| pace(node).group(Some(fastest)))
                .collect()
        };
        let narrow = |count| u32::try_from(count).unwrap_or(u32::MAX);
        Resolved {
            epoch: self.epoch,
            live: narrow(live),
            without_rate: narrow(without_rate),
            groups: groups(&nodes[without_rate..]),
            without_rate_groups: groups(&nodes[live..without_rate]),
            nodes: nodes.into(),
        }
    }

    /// The subscribers of a node, unless some of them are [marked](Subscriber::is_marked).
    pub(in crate::shard) fn unmarked_subscribers(&self, node: NodeId) -> Option<usize> {
        let node = self.node(node)?;
        (node.marked == 0).then_some(node.subscribers.len())
    }

    /// How many subscribers of these nodes are in one of the groups, for a class.
    pub(in crate::shard) fn count_in_groups(&self, nodes: &[NodeId], class: &Class, groups: Groups) -> u64 {
        if groups.is_empty() {
            return 0;
        }
        let nodes = nodes.iter().filter_map(|node| self.node(*node));
        let own = nodes.filter(|node| {
            node.pace
                .group(class.max_rate)
                .is_some_and(|group| groups.contains(group))
        });
        own.map(|node| node.subscribers.len() as u64).sum()
    }

    /// The pace of a node.
    pub(in crate::shard) fn pace(&self, node: NodeId) -> Pace {
        self.node(node).map_or(Pace::Live, |node| node.pace)
    }

    /// Whether some connection has a pace.
    pub(in crate::shard) const fn has_pace(&self) -> bool {
        self.timed_nodes > 0
    }

    /// Whether a connection holds a pattern with a pace.
    pub(in crate::shard) fn is_paced(&self, slot: u32) -> bool {
        self.has_pace() && self.held_nodes(slot).any(|(_, pace)| pace != Pace::Live)
    }

    fn held_nodes(&self, slot: u32) -> impl Iterator<Item = (NodeId, Pace)> {
        let nodes = self.held_list(slot).iter().map(|held| held.node);
        nodes.filter_map(|id| Some((id, self.node(id)?.pace)))
    }

    fn held_list(&self, slot: u32) -> &[HeldPattern] {
        self.held.get(slot).map_or(&[], |held| held)
    }

    /// Gives a pattern that the connection holds another pace; returns the new node if that changes anything. Its position
    /// stays.
    pub(in crate::shard) fn set_pace(&mut self, slot: u32, pattern: &Pattern, pace: Pace) -> Option<NodeId> {
        let first = self.by_pattern.get(pattern).copied();
        let index = self.find_held(slot, first)?;
        let old = self.held[slot][index].node;
        if self.node(old)?.pace == pace {
            return None;
        }
        let new = self.node_with(pattern, pace, first);
        let unsettled = self.unsettled.remove(&(slot, old));
        self.add(slot, new);
        self.remove_at(slot, index);
        self.retire(old);
        if let Some(unsettled) = unsettled.filter(Unsettled::has_position) {
            self.mark(slot, new, UNSETTLED, true);
            self.settling.push_back((slot, new));
            self.unsettled.insert((slot, new), unsettled);
        }
        Some(new)
    }

    /// Begins the first period of a subscription that has a pace: it gets no value from before the inbox index `from`.
    /// Returns the group whose period it waits for.
    pub(in crate::shard) fn freshen(&mut self, slot: u32, node: NodeId, from: u64) -> Option<Group> {
        let pace = self.node(node)?.pace;
        let (group, ends) = (pace.first_group()?, if pace.has_one_group() { 1 } else { 2 });
        self.mark(slot, node, FRESH, true)?;
        let key = (slot, node);
        let unsettled = self.unsettled.entry(key).or_insert_with(Unsettled::new);
        unsettled.from = unsettled.from.max(from);
        unsettled.ends_left = ends;
        self.fresh[group.index()].push(key);
        Some(group)
    }

    /// Begins the first period of all subscriptions of a connection that have a pace, as by [`Table::freshen`].
    pub(in crate::shard) fn freshen_all(&mut self, slot: u32, from: u64) -> Groups {
        let nodes: Vec<NodeId> = self.held_nodes(slot).map(|(node, _)| node).collect();
        let groups = nodes.into_iter().filter_map(|node| self.freshen(slot, node, from));
        groups.collect()
    }

    /// A period of the group ends: the subscriptions that began in it are fresh no longer. Those that are in faster groups,
    /// too, stay fresh for another period, in which a period of each of these groups ends. Returns whether there are such.
    pub(in crate::shard) fn end_period(&mut self, group: Group) -> bool {
        let mut ended = std::mem::take(&mut self.fresh[group.index()]);
        ended.sort_unstable();
        ended.dedup();
        for key in ended {
            // The number may be that of another node by now.
            if self.pace(key.1).first_group() != Some(group) {
                continue;
            }
            match self.unsettled.get_mut(&key) {
                Some(unsettled) if unsettled.ends_left > 1 => {
                    unsettled.ends_left -= 1;
                    self.fresh[group.index()].push(key);
                }
                _ => self.unmark(key, FRESH),
            }
        }
        // Many subscriptions may have begun at once.
        if self.unsettled.capacity() / 8 > self.unsettled.len().max(UNSETTLED_KEPT / 8) {
            self.unsettled.shrink_to(UNSETTLED_KEPT.max(2 * self.unsettled.len()));
            self.settling.shrink_to(UNSETTLED_KEPT);
        }
        !self.fresh[group.index()].is_empty()
    }

    /// Notes which patterns of a connection are outdone by a faster one. To be called when its patterns have changed.
    pub(in crate::shard) fn compare_paces(&mut self, slot: u32) {
        let held: Vec<(NodeId, Pace)> = self.held_nodes(slot).collect();
        let Some((_, first)) = held.first() else { return };
        if held.iter().all(|(_, pace)| pace.rate() == first.rate()) && first.rate().is_none() {
            return;
        }
        for (node, pace) in &held {
            let outdoes = |other: NodeId| match (self.node(other), self.node(*node)) {
                (Some(other), Some(node)) => other.pattern.intersects(&node.pattern),
                _ => false,
            };
            let mut faster = held.iter().filter(|(_, other)| other.is_faster_than(*pace));
            let is_outdone = faster.any(|(other, _)| outdoes(*other));
            self.mark(slot, *node, OUTDONE, is_outdone);
        }
    }

    /// Whether a [marked](Subscriber::is_marked) subscription is the one by which its connection gets this value.
    pub(in crate::shard) fn gets_value(
        &self,
        subscriber: Subscriber,
        node: NodeId,
        channel: &Channel,
        stripe: u8,
        index: u64,
    ) -> bool {
        let slot = subscriber.slot;
        if subscriber.is_fresh() && !self.includes(slot, node, channel, stripe, index) {
            return false;
        }
        if subscriber.back & OUTDONE == 0 {
            return true;
        }
        let Some(own) = self.node(node) else { return false };
        let mut held = self
            .held_list(slot)
            .iter()
            .filter_map(|held| Some((held.node, self.node(held.node)?)));
        !held.any(|(id, other)| {
            other.pace.is_faster_than(own.pace)
                && other.pattern.matches(channel)
                && self.includes(slot, id, channel, stripe, index)
        })
    }

    /// The group in which a connection gets this value of a channel; `None`: it gets none, or gets it as it comes. The second
    /// item says whether the subscription is fresh.
    pub(in crate::shard) fn group_of(
        &self,
        slot: u32,
        channel: &Channel,
        class: &Class,
        stripe: u8,
        index: u64,
    ) -> Option<(Group, bool)> {
        let nodes = self
            .held_list(slot)
            .iter()
            .filter_map(|held| Some((*held, self.node(held.node)?)));
        let matching = nodes.filter(|(held, node)| {
            node.pattern.matches(channel) && self.includes(slot, held.node, channel, stripe, index)
        });
        let (held, node) = matching.reduce(|best, next| {
            if next.1.pace.is_faster_than(best.1.pace) {
                next
            } else {
                best
            }
        })?;
        let is_fresh = node.subscribers[held.position as usize].is_fresh();
        Some((node.pace.group(class.max_rate)?, is_fresh))
    }
}
