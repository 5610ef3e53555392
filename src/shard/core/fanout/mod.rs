//! From the inbox into the outboxes of all subscribers.
//!
//! Invariants: the shard's interest in the hub is exactly the patterns of the subscription table. [`Fanout::progress`] never
//! claims that an event has left the inbox that is still in it.
//!
//! Per file: `outgoing` (what all outboxes share), `overflow` (an event that does not fit), `runs` (events that are delivered
//! together), `frames` (the bytes of an event, made once per shard), `freshness` (silent channels), `head` (up to which version
//! the inbox has been popped), `paced` (subscriptions with a rate), `replies` (everything that is not an event), `tenants` (what
//! is counted for each tenant).

mod frames;
mod freshness;
mod head;
mod outgoing;
mod overflow;
mod paced;
mod replies;
mod runs;
mod tenants;

use std::sync::Arc;

use super::connections::{Connections, Recipient};
use crate::auth;
use crate::event::Event;
use crate::hub::{Inbox, Popped, STRIPES, stripe_of};
use crate::metrics::ShardMetrics;
use crate::shard::catch_up::Progress;
use crate::shard::connection::{Cold, Flags, Hot};
use crate::shard::numbers::Numbers;
use crate::shard::pace::Groups;
use crate::shard::paced::Paced;
use crate::shard::table::{NodeId, Table};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};

pub(super) use frames::Frames;
use frames::RunFrames;
use head::Head;
pub(super) use outgoing::Outgoing;
pub(super) use overflow::note_loss;
use overflow::{Queued, queue_event};
use runs::RunBounds;

/// After this many deliveries no further run is begun. They take some milliseconds, like the other bounds of a turn.
const DELIVERIES: u64 = 256 * 1024;

/// The inbox, the subscriptions and the outboxes of a shard; see the module's docs.
pub(super) struct Fanout {
    inbox: Inbox,
    table: Table,
    outgoing: Outgoing,
    progress: Progress,
    head: Head,
    // The run that is being delivered, and the nodes of its subscribers.
    run: Vec<Popped>,
    nodes: Vec<NodeId>,
    // Reused by `take_run`.
    next_nodes: Vec<NodeId>,
    // When the first measured event of this turn was published; 0: there is none.
    measured_us: u32,
    paced: Paced,
    // Events of the run, by index, that these groups get at once.
    at_once: Vec<(usize, Groups)>,
    now: Now,
    metrics: Arc<ShardMetrics>,
}

/// The bounds and counts of one call of [`ShardCore::deliver`](super::ShardCore::deliver).
pub(super) struct Delivery {
    limit: usize,
    bounds: RunBounds,
    // Events taken out of the inbox.
    count: usize,
    deliveries: u64,
    // As they were before the first event was taken.
    evictions: u64,
    newest: u64,
    // Some connection needs frames with offsets, which are made for each shard.
    tells_offsets: bool,
}

impl Fanout {
    /// A shard without subscriptions.
    pub(super) fn new(inbox: Inbox, metrics: Arc<ShardMetrics>, now: Now) -> Self {
        Self {
            inbox,
            table: Table::new(),
            outgoing: Outgoing::default(),
            progress: Progress::default(),
            head: Head::default(),
            run: Vec::new(),
            nodes: Vec::new(),
            next_nodes: Vec::new(),
            measured_us: 0,
            paced: Paced::default(),
            at_once: Vec::new(),
            now,
            metrics,
        }
    }

    /// The shard's end of the hub.
    pub(super) const fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// The shard's end of the hub, to read and to join.
    pub(super) const fn inbox_mut(&mut self) -> &mut Inbox {
        &mut self.inbox
    }

    /// The subscriptions.
    pub(super) const fn table(&self) -> &Table {
        &self.table
    }

    /// The subscriptions, to be changed. A pattern that is inserted must be joined in the inbox, too.
    pub(super) const fn table_mut(&mut self) -> &mut Table {
        &mut self.table
    }

    /// What the outboxes share.
    pub(super) const fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    /// What the outboxes share, to be changed.
    pub(super) const fn outgoing_mut(&mut self) -> &mut Outgoing {
        &mut self.outgoing
    }

    /// How far the shard has come with its inbox.
    pub(super) const fn progress(&self) -> Progress {
        Progress {
            head: self.head.reached,
            ..self.progress
        }
    }

    /// Forgets how far the shard has come: the hub begins anew.
    pub(super) fn forget_progress(&mut self) {
        self.progress = Progress::default();
        self.head = Head::default();
    }

    /// The version up to which every event has left the inbox.
    pub(super) const fn head(&self) -> u64 {
        self.head.reached
    }

    /// By stripe of the hub: the newest version that was delivered, as far as offsets are asked for.
    pub(super) const fn delivered(&self) -> &[u64; STRIPES] {
        &self.head.newest
    }

    /// A page of a channel was read from the hub, with events up to `version`, while the inbox ended at `at`.
    pub(super) fn note_page(&mut self, channel: &Channel, version: u64, at: u64) {
        self.head.note_page(stripe_of(channel), version, at, &self.inbox);
    }

    /// Reads the hub's head, at most once in a millisecond.
    pub(super) fn read_head(&mut self, now: Now) {
        self.head.read(&self.inbox, now);
    }

    /// Begins to take at most `limit` events out of the inbox.
    pub(super) fn begin(&mut self, connections: &Connections, limit: usize) -> Delivery {
        self.outgoing.reset_pressed();
        Delivery {
            limit,
            bounds: RunBounds::of(connections.endpoints()),
            count: 0,
            deliveries: 0,
            evictions: self.inbox.evictions(),
            newest: self.inbox.newest_version(),
            tells_offsets: connections.endpoints().in_use().any(|endpoint| endpoint.recovers),
        }
    }

    /// Takes the next run out of the inbox; returns the inbox index of its first event. `None`: a bound is reached, or the
    /// inbox is empty.
    pub(super) fn take_run(&mut self, delivery: &Delivery, connections: &Connections) -> Option<u64> {
        let may_go_on =
            delivery.count < delivery.limit && delivery.deliveries < DELIVERIES && !self.outgoing.is_pressed();
        if !may_go_on {
            return None;
        }
        let left = delivery.limit - delivery.count;
        let index = self.fill_run(left, &delivery.bounds, connections.endpoints())?;
        if delivery.tells_offsets {
            self.head.pass(index);
        }
        Some(index)
    }

    /// The run that was taken.
    pub(super) fn run(&self) -> &[Popped] {
        &self.run
    }

    /// Queues the run that was taken to all subscribers.
    pub(super) fn deliver_run(&mut self, delivery: &mut Delivery, connections: &mut Connections) {
        let version = |popped: &Popped| popped.event.version;
        // Until the run is queued only its first event counts: when an event in its middle steps aside, the rest of the
        // run is queued behind it.
        self.progress.version = self.progress.version.max(self.run.first().map_or(0, version));
        delivery.deliveries += self.queue_run(delivery.tells_offsets, connections);
        if !self.at_once.is_empty() {
            delivery.deliveries += self.queue_at_once(connections);
        }
        self.progress.version = self.run.iter().map(version).fold(self.progress.version, u64::max);
        if self.measured_us == 0 {
            let mut published = self.run.iter().map(|popped| popped.event.published_us());
            self.measured_us = published.find(|us| *us != 0).unwrap_or(0);
        }
        delivery.count += self.run.len();
        self.run.clear();
    }

    /// When the first measured event was published that was delivered since the last call, by
    /// [`monotonic_us`](crate::time::monotonic_us).
    pub(super) fn take_measured_us(&mut self) -> Option<u32> {
        Some(std::mem::take(&mut self.measured_us)).filter(|us| *us != 0)
    }

    /// Ends a delivery; returns how many events were taken out of the inbox.
    pub(super) fn finish(&mut self, delivery: Delivery) -> usize {
        if self.inbox.is_empty() {
            // Both were read before the first event was taken: everything that they cover has left the inbox.
            self.progress = Progress {
                version: self.progress.version.max(delivery.newest),
                evictions: delivery.evictions,
                head: 0,
            };
        }
        self.head.pass(self.inbox.position());
        self.metrics.deliveries.bump(delivery.deliveries);
        delivery.count
    }

    // Visits every subscriber once with all events of the run.
    fn queue_run(&mut self, tells_offsets: bool, connections: &mut Connections) -> u64 {
        let run = &self.run[..];
        let Some(first) = run.first() else { return 0 };
        let stamp = connections.next_stamp();
        let (head, epoch) = (&mut self.head, self.inbox.epoch());
        let mut frames = RunFrames::live(run, |popped| tells_offsets.then(|| head.offset(epoch, popped)));
        let mut deliveries = 0;
        // Any client may hold a wide pattern that matches `system.*`. The events of such a channel are for admins only.
        let admins_only = auth::is_admin_only(first.event.channel.as_str());
        for &node in &self.nodes {
            for subscriber in self.table.subscribers(node) {
                let slot = subscriber.slot;
                // An unsettled subscriber, or a channel for admins, implies a run of one event: see `fill_run`.
                if subscriber.is_unsettled()
                    && !(self.table).includes(slot, node, &first.event.channel, first.stripe, first.index)
                {
                    continue;
                }
                let Some(recipient) = connections.stamp(slot, stamp) else {
                    continue;
                };
                if admins_only && !recipient.cold[slot].as_ref().is_some_and(Cold::is_admin) {
                    continue;
                }
                let target = Target {
                    outgoing: &mut self.outgoing,
                    inbox: &self.inbox,
                    metrics: &self.metrics,
                    position: None,
                };
                deliveries += queue_to(target, slot, recipient, run, &mut frames);
            }
        }
        frames.count(&self.metrics);
        // All events of a run have the same patterns, and so the same tenant.
        self.count_for_tenant(&first.event.channel, deliveries);
        deliveries
    }

    /// Queues an event to every authenticated connection of its channel's tenant; returns their number.
    pub(super) fn broadcast(&mut self, connections: &mut Connections, event: &Arc<Event>) -> usize {
        let mut frames = Frames::of(event);
        let mut count = 0;
        for slot in connections.slots() {
            let Some(Recipient { hot, endpoint, cold }) = connections.authenticated(slot) else {
                continue;
            };
            let Some(format) = endpoint.format else { continue };
            if endpoint.settings.tenant != event.channel.tenant() {
                continue;
            }
            count += 1;
            let frame = frames.get(format, endpoint, &self.inbox);
            let queued = queue_event(&mut self.outgoing, slot, hot, cold, frame, endpoint, &self.metrics);
            if queued == Queued::TooSlow {
                self.outgoing.note_too_slow(hot.id(self.inbox.shard(), slot));
            }
        }
        frames.count(&self.metrics);
        self.metrics.deliveries.bump(count as u64);
        count
    }

    /// Takes out what was written to a connection's socket: `bytes` from the front of its outbox.
    pub(super) fn advance(&mut self, hot: &mut Hot, bytes: usize) {
        let messages = self.outgoing.advance(hot, bytes);
        self.metrics.messages_out.bump(messages.into());
    }

    /// Takes patterns from a connection.
    pub(super) fn unsubscribe(&mut self, slot: u32, patterns: &[Pattern]) {
        for pattern in patterns {
            if self.table.remove(slot, pattern) == Some(true) {
                self.inbox.leave(pattern);
            }
        }
    }

    /// Takes all patterns from a connection.
    pub(super) fn unsubscribe_all(&mut self, slot: u32) {
        let inbox = &mut self.inbox;
        self.table.remove_all(slot, |pattern| inbox.leave(pattern));
    }

    /// Whether a message queued now may overtake an event that is still in the inbox and whose channel has been evicted
    /// since, and that matches one of the connection's patterns for which `is_older` is true.
    pub(super) fn overtakes_evicted(&self, slot: u32, is_older: impl Fn(&Pattern) -> bool) -> bool {
        !self.inbox.is_empty()
            && self.inbox.evictions() != self.progress.evictions
            && self.table.held(slot).any(is_older)
    }

    /// The number of connections that hold a pattern which matches the channel.
    pub(super) fn count_subscribers(&mut self, connections: &mut Connections, channel: &Channel) -> u64 {
        let stamp = connections.next_stamp();
        self.nodes.clear();
        self.table.resolve(channel, &mut self.nodes);
        let subscribers = self.nodes.iter().flat_map(|&node| self.table.subscribers(node));
        let is_first = |slot| u64::from(connections.stamp(slot, stamp).is_some());
        subscribers.map(|subscriber| subscriber.slot).map(is_first).sum()
    }

    /// Writes the gauges that need not be exact within a turn.
    pub(super) fn update_gauges(&self) {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.subscriptions.set(signed(self.table.subscriptions()));
        self.update_tenant_gauges();
        self.metrics.inbox.set(signed(self.inbox.len() as u64));
        self.outgoing.update_gauges(&self.metrics);
    }
}

/// Where an event goes.
struct Target<'f> {
    outgoing: &'f mut Outgoing,
    inbox: &'f Inbox,
    metrics: &'f ShardMetrics,
    /// For a value that has waited: the position of the inbox.
    position: Option<u64>,
}

/// Queues all events of a run to one connection; returns how many were not withheld.
#[expect(
    clippy::inline_always,
    reason = "what has more than one caller is not inlined otherwise: 40 instructions a visit"
)]
#[inline(always)]
fn queue_to(
    target: Target<'_>,
    slot: u32,
    Recipient { hot, endpoint, cold }: Recipient<'_>,
    run: &[Popped],
    frames: &mut RunFrames<'_>,
) -> u64 {
    let Some(format) = endpoint.format else { return 0 };
    let Target {
        outgoing,
        inbox,
        metrics,
        position,
    } = target;
    let tells = endpoint.recovers && !hot.flags.has(Flags::CATCH_UP | Flags::GAP);
    if !hot.flags.has(Flags::CATCH_UP) {
        let whole = if tells {
            frames.whole_told(format, endpoint, inbox)
        } else {
            frames.whole(format, endpoint, inbox)
        };
        if let Some(whole) = whole
            && outgoing.queue_fitting(slot, hot, whole, endpoint)
        {
            if !tells {
                frames.note_whole(format);
            }
            return run.len() as u64;
        }
    }
    let mut deliveries = 0;
    for (popped, frames) in run.iter().zip(frames.each()) {
        if hot.flags.has(Flags::CATCH_UP)
            && is_withheld(
                cold[slot].as_mut(),
                popped,
                frames,
                outgoing.numbers_mut(),
                metrics,
                position,
            )
        {
            continue;
        }
        deliveries += 1;
        let tells = endpoint.recovers && has_everything(hot, cold[slot].as_mut());
        let frame = frames.get_told(tells, format, endpoint, inbox);
        if queue_event(outgoing, slot, hot, cold, frame, endpoint, metrics) == Queued::TooSlow {
            outgoing.note_too_slow(hot.id(inbox.shard(), slot));
            break;
        }
    }
    deliveries
}

// Whether a connection has everything that comes before the next event. Otherwise the offset of that event would claim too
// much. Values of channels without history do not count, since they are sent at each return.
fn has_everything(hot: &Hot, cold: Option<&mut Cold>) -> bool {
    let is_behind = |cold: &mut Cold| cold.catch_up().is_some_and(|catch_up| catch_up.misses_events());
    !hot.flags.has(Flags::GAP) && (!hot.flags.has(Flags::CATCH_UP) || !cold.is_some_and(is_behind))
}

// Whether an event must not be queued, since the connection reads its channel from the hub. `position`: the event is a value
// that has waited, with the inbox at this position now.
fn is_withheld(
    cold: Option<&mut Cold>,
    popped: &Popped,
    frames: &mut Frames<'_>,
    numbers: &mut Numbers,
    metrics: &ShardMetrics,
    position: Option<u64>,
) -> bool {
    let Some(catch_up) = cold.and_then(Cold::catch_up) else {
        return false;
    };
    let channel = &popped.event.channel;
    if catch_up.is_newly_covered(channel) {
        metrics.catch_ups.bump(catch_up.owe(numbers, &popped.event).into());
        return true;
    }
    let withholds = catch_up.withholds(frames.number(numbers), channel, popped.index);
    if withholds && let Some(position) = position {
        // The channel may have been kept for this value.
        catch_up.settle(channel, position);
    }
    withholds
}
