//! Values of conflating channels for subscriptions with a rate.
//!
//! Invariants: a connection gets a value of a channel in one group, that of its fastest pattern ([`Table::gets_value`]).
//! Before the patterns or rates of a connection change, it gets what waits for it ([`Fanout::release`]), so a change neither
//! loses a value nor repeats one.

use super::overflow::set_aside;
use super::runs::{DATA_BYTES, RunBounds, SUBSCRIBERS_MIN, longest_frame};
use super::{DELIVERIES, Delivery, Fanout, RunFrames, Target, queue_to};
use crate::auth;
use crate::hub::{JoinPosition, PageLimit, Popped, Since};
use crate::shard::connection::{Cold, Flags};
use crate::shard::core::connections::{Connections, Recipient};
use crate::shard::frame::FramedEvent;
use crate::shard::pace::{Group, Groups, Pace};
use crate::shard::paced::{Due, Step};
use crate::shard::table::{NodeId, Table};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};

/// The bounds of a read of merged records. They are read as one event, so it is one event of any length.
const MERGED: PageLimit = PageLimit { events: 1, bytes: 0 };

/// Which subscribers of a group get a value, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Update {
    /// All, except those whose first period ends with that of the group. To these it is owed.
    AtOnce(Group),
    /// All of them.
    ToAll,
    /// Those in their first period.
    ToFresh,
}

impl Fanout {
    /// The time of the turn.
    pub(in crate::shard::core) fn begin_turn(&mut self, now: Now) {
        self.now = now;
        self.table.forget_unused(now.mono_ms);
    }

    /// When the next period ends, in monotonic milliseconds.
    pub(in crate::shard::core) fn next_period_end_ms(&self) -> Option<u64> {
        self.paced.next_end_ms()
    }

    /// Whether values are due that are not queued yet.
    pub(in crate::shard::core) fn has_due_values(&self) -> bool {
        self.paced.is_ending()
    }

    /// Notes the last event of the run for the groups that want it.
    pub(super) fn note_paced(&mut self, groups: Groups) {
        let Some(event) = self.run.last().filter(|_| !groups.is_empty()) else {
            return;
        };
        let noted = self.paced.note(event, groups, self.now.mono_ms);
        let (channel, class) = (&event.event.channel, &event.event.class);
        self.next_nodes.clear();
        self.table.resolve(channel, &mut self.next_nodes);
        let count = |groups| self.table.count_in_groups(&self.next_nodes, class, groups);
        let (offered, replaced) = (count(groups), count(noted.replaced));
        self.metrics.rate_offered.bump(offered);
        self.metrics.rate_conflated.bump(replaced);
        if !noted.at_once.is_empty() {
            self.at_once.push((self.run.len() - 1, noted.at_once));
        }
    }

    /// Queues the events of the run that some groups get at once.
    pub(super) fn queue_at_once(&mut self, connections: &mut Connections) -> u64 {
        let mut deliveries = 0;
        for (index, groups) in std::mem::take(&mut self.at_once) {
            for group in groups.iter() {
                let event = &self.run[index];
                let (channel, class) = (&event.event.channel, &event.event.class);
                self.nodes.clear();
                self.table.resolve_group(channel, class, group, &mut self.nodes);
                let (sent, owed) = self.queue_values(index..index + 1, Update::AtOnce(group), connections);
                deliveries += sent;
                if owed {
                    self.paced.owe(&self.run[index].event.channel, group);
                }
            }
        }
        deliveries
    }

    /// Ends the periods whose time has come, and queues the values that are due.
    pub(in crate::shard::core) fn end_periods(&mut self, delivery: &mut Delivery, connections: &mut Connections) {
        self.paced.end_periods(self.now.mono_ms);
        while delivery.deliveries < DELIVERIES
            && !self.outgoing.is_pressed()
            && let Some(step) = self.paced.next()
        {
            match step {
                Step::Ended(group) => {
                    if self.table.end_period(group) {
                        self.paced.begin(group, self.now.mono_ms);
                    }
                }
                Step::Due(due) => delivery.deliveries += self.queue_due(due, &delivery.bounds, connections),
            }
        }
    }

    // Queues a value that is due, and those behind it that go to the same subscribers.
    fn queue_due(&mut self, due: Due, bounds: &RunBounds, connections: &mut Connections) -> u64 {
        let update = if due.is_for_all { Update::ToAll } else { Update::ToFresh };
        let class = due.newest.event.class.clone();
        self.nodes.clear();
        (self.table).resolve_group(&due.newest.event.channel, &class, due.group, &mut self.nodes);
        if let Some(above) = due.above {
            return self.queue_merged(due, above, update, connections);
        }
        let unmarked = self.nodes.iter().map(|&node| self.table.unmarked_subscribers(node));
        let subscribers: Option<usize> = unmarked.sum();
        let most = match subscribers {
            Some(subscribers @ SUBSCRIBERS_MIN..) => bounds.events.min(DELIVERIES as usize / subscribers),
            _ => 1,
        };
        let endpoints = connections.endpoints();
        let mut data_bytes = due.newest.event.data.len();
        let mut frame_bytes = longest_frame(&due.newest.event, endpoints);
        self.run.push(due.newest);
        while self.run.len() < most {
            let (table, nodes, next_nodes) = (&mut self.table, &self.nodes, &mut self.next_nodes);
            let next = self.paced.next_due_if(|event, is_for_all| {
                data_bytes += event.data.len();
                frame_bytes += longest_frame(event, endpoints);
                if is_for_all != due.is_for_all
                    || event.class.merges()
                    || data_bytes > DATA_BYTES
                    || frame_bytes > bounds.bytes
                    || auth::is_admin_only(event.channel.as_str())
                {
                    return false;
                }
                next_nodes.clear();
                table.resolve_group(&event.channel, &event.class, due.group, next_nodes);
                next_nodes == nodes
            });
            let Some(next) = next else { break };
            self.run.push(next.newest);
        }
        let (deliveries, _) = self.queue_values(0..self.run.len(), update, connections);
        self.run.clear();
        deliveries
    }

    // Queues the records that have changed since the version `above`. If the hub cannot give them any more, each connection
    // reads the channel by itself, and its client is told of the loss.
    fn queue_merged(&mut self, due: Due, above: u64, update: Update, connections: &mut Connections) -> u64 {
        let channel = due.newest.event.channel.clone();
        let page = self.inbox.read(&channel, Since::Newest { above }, MERGED, self.now);
        self.paced.note_read(&channel, due.group, page.at);
        let is_whole = !page.overtaken && !page.more;
        let mut events = page.events.into_iter();
        let deliveries = match (events.next(), events.next()) {
            (Some(event), None) if is_whole => {
                // What was read may hold events that are still in the inbox. Then those who began after the newest event
                // that was taken out get it, too, with records that they have.
                let is_newest = self.inbox.position() == page.at;
                self.run.push(Popped {
                    index: if is_newest { due.newest.index } else { page.at - 1 },
                    stripe: due.newest.stripe,
                    event,
                });
                self.queue_values(0..1, update, connections).0
            }
            _ => {
                self.run.push(due.newest);
                self.set_values_aside(above + 1, update, connections)
            }
        };
        self.run.clear();
        deliveries
    }

    // Queues events of the run to the subscribers of the nodes. Returns the number of deliveries, and whether the value is
    // owed to a subscriber. A subscriber that is marked implies a single event.
    fn queue_values(
        &mut self,
        range: std::ops::Range<usize>,
        update: Update,
        connections: &mut Connections,
    ) -> (u64, bool) {
        let run = &self.run[range];
        let Some(first) = run.first() else { return (0, false) };
        let mut frames = RunFrames::of(run);
        let mut deliveries = 0;
        let position = self.inbox.position();
        let owed = visit(
            &self.table,
            &self.nodes,
            first,
            position,
            update,
            connections,
            |recipient, slot| {
                let target = Target {
                    outgoing: &mut self.outgoing,
                    inbox: &self.inbox,
                    metrics: &self.metrics,
                    position: Some(position),
                };
                deliveries += queue_to(target, slot, recipient, run, &mut frames);
            },
        );
        frames.count(&self.metrics);
        self.metrics.rate_sent.bump(deliveries);
        self.count_for_tenant(&first.event.channel, deliveries);
        (deliveries, owed)
    }

    // Lets the subscribers read the channel of the run's event from the hub, from the version `version` on.
    fn set_values_aside(&mut self, version: u64, update: Update, connections: &mut Connections) -> u64 {
        let Some(first) = self.run.first() else { return 0 };
        let event = FramedEvent {
            channel: first.event.channel.clone(),
            class: first.event.class.clone(),
            version,
        };
        let mut count = 0;
        let position = self.inbox.position();
        visit(
            &self.table,
            &self.nodes,
            first,
            position,
            update,
            connections,
            |recipient, slot| {
                count += 1;
                set_aside(&mut self.outgoing, slot, recipient, &event, &self.metrics);
            },
        );
        count
    }

    /// Begins a subscription at `at`.
    pub(in crate::shard::core) fn start(&mut self, slot: u32, node: NodeId, at: JoinPosition) {
        let is_paced = self.table.pace(node) != Pace::Live;
        if is_paced || !at.is_settled(self.inbox.position()) {
            self.table.unsettle(slot, node, at);
        }
        if is_paced && let Some(group) = self.table.freshen(slot, node, 0) {
            self.paced.begin(group, self.now.mono_ms);
        }
    }

    /// Before the patterns or rates of a connection change: queues what waits for it, and begins a period. Returns how many
    /// channels were looked at.
    pub(in crate::shard::core) fn release(&mut self, slot: u32, connections: &mut Connections) -> usize {
        if !self.table.is_paced(slot) {
            return 0;
        }
        let (waiting, looked) = self.paced.waiting(Groups::of_slot(slot));
        for value in waiting {
            let Popped { index, stripe, event } = &value.newest;
            let own = (self.table).group_of(slot, &event.channel, &event.class, *stripe, *index);
            let is_owed = own.is_some_and(|(group, is_fresh)| group == value.group && (value.is_for_all || is_fresh));
            let stamp = connections.next_stamp();
            let Some(recipient) = connections.stamp(slot, stamp).filter(|_| is_owed) else {
                continue;
            };
            if auth::is_admin_only(event.channel.as_str()) && !is_admin(&recipient, slot) {
                continue;
            }
            if let Some(above) = value.above {
                let event = FramedEvent {
                    channel: event.channel.clone(),
                    class: event.class.clone(),
                    version: above + 1,
                };
                set_aside(&mut self.outgoing, slot, recipient, &event, &self.metrics);
                continue;
            }
            let run = std::slice::from_ref(&value.newest);
            let mut frames = RunFrames::of(run);
            let target = Target {
                outgoing: &mut self.outgoing,
                inbox: &self.inbox,
                metrics: &self.metrics,
                position: Some(self.inbox.position()),
            };
            let deliveries = queue_to(target, slot, recipient, run, &mut frames);
            frames.count(&self.metrics);
            self.metrics.rate_sent.bump(deliveries);
            self.metrics.deliveries.bump(deliveries);
            self.count_for_tenant(&event.channel, deliveries);
        }
        for group in self.table.freshen_all(slot, self.inbox.position()).iter() {
            self.paced.begin(group, self.now.mono_ms);
        }
        looked
    }

    /// Gives patterns that a connection holds another pace. [`Fanout::release`] was called before.
    pub(in crate::shard::core) fn set_paces(&mut self, slot: u32, patterns: &[Pattern], pace: Pace) {
        for pattern in patterns {
            if let Some(node) = self.table.set_pace(slot, pattern, pace)
                && let Some(group) = self.table.freshen(slot, node, self.inbox.position())
            {
                self.paced.begin(group, self.now.mono_ms);
            }
        }
        self.table.compare_paces(slot);
    }

    /// Whether a value of the channel waits for a connection.
    pub(in crate::shard::core) fn awaits_value(&self, slot: u32, channel: &Channel) -> bool {
        let Some(Popped { index, stripe, event }) = self.paced.newest(channel) else {
            return false;
        };
        let own = (self.table).group_of(slot, channel, &event.class, *stripe, *index);
        own.is_some_and(|(group, is_fresh)| self.paced.waits(channel, group, is_fresh))
    }
}

// Visits the subscribers of the nodes that get a value. Returns whether it is owed to another one.
fn visit(
    table: &Table,
    nodes: &[NodeId],
    value: &Popped,
    position: u64,
    update: Update,
    connections: &mut Connections,
    mut each: impl FnMut(Recipient<'_>, u32),
) -> bool {
    let stamp = connections.next_stamp();
    let channel = &value.event.channel;
    let admins_only = auth::is_admin_only(channel.as_str());
    let mut is_owed = false;
    for &node in nodes {
        for &subscriber in table.subscribers(node) {
            let slot = subscriber.slot;
            if subscriber.is_marked() {
                if !table.gets_value(subscriber, node, channel, value.stripe, value.index) {
                    if connections.hot(slot).flags.has(Flags::CATCH_UP)
                        && let Some(catch_up) = connections.catch_up(slot)
                    {
                        // The channel may have been kept for this value.
                        catch_up.settle(channel, position);
                    }
                    continue;
                }
                if let Update::AtOnce(group) = update
                    && subscriber.is_fresh()
                    && table.pace(node).first_group() == Some(group)
                {
                    is_owed = true;
                    continue;
                }
            }
            if update == Update::ToFresh && !subscriber.is_fresh() {
                continue;
            }
            let Some(recipient) = connections.stamp(slot, stamp) else {
                continue;
            };
            if admins_only && !is_admin(&recipient, slot) {
                continue;
            }
            each(recipient, slot);
        }
    }
    is_owed
}

fn is_admin(recipient: &Recipient<'_>, slot: u32) -> bool {
    recipient.cold[slot].as_ref().is_some_and(Cold::is_admin)
}
