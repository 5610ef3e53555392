//! A shard's end of the hub: joining, leaving, and taking events out in order.
//!
//! Invariant: every event of a stripe that was published before this shard joined under the stripe's lock has an inbox
//! index below the join's position in that stripe; every later event has an index at or above it. It holds for two
//! reasons. Publishers put events into inboxes under the stripe's lock, and only this shard's thread takes them out.

#[cfg(test)]
use std::cell::RefCell;
use std::sync::Arc;

use bytes::Bytes;

use super::interest::{Stripes, stripe_of};
use super::position::JoinPosition;
use super::probe::PROBE_STRIPE;
#[cfg(test)]
use super::rig::PositionFault;
use super::{ChannelView, Doorbell, Epoch, Hub, Page, PageLimit, STRIPES, Since, StripeState};
use crate::event::Event;
use crate::sync::Receiver;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class, Pattern};
use tickgate_protocol::event::WireFormat;

/// An event in an inbox.
pub(super) struct QueuedEvent {
    pub(super) event: Arc<Event>,
    pub(super) stripe: u8,
}

/// One shard's end of the hub, owned by the shard's thread. Dropping it removes the shard's interest and gives back the
/// credits of the events that are still in it.
pub struct Inbox {
    hub: Arc<Hub>,
    shard: u16,
    queue: Receiver<QueuedEvent>,
    // Taken out of the queue by `peek`, but not yet popped.
    peeked: Option<QueuedEvent>,
    popped: u64,
    #[cfg(test)]
    position_fault: RefCell<Option<PositionFault>>,
}

/// An event popped from an inbox.
pub struct Popped {
    /// Its index in the inbox. The first event that ever entered the inbox has index 0.
    pub index: u64,
    /// The stripe of its channel.
    pub stripe: u8,
    /// The event.
    pub event: Arc<Event>,
}

impl Popped {
    /// Whether it is the synthetic event of [`Hub::probe`], which nobody gets.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.stripe == PROBE_STRIPE
    }
}

impl Inbox {
    pub(super) fn new(hub: Arc<Hub>, shard: u16, queue: Receiver<QueuedEvent>) -> Self {
        Self {
            hub,
            shard,
            queue,
            peeked: None,
            popped: 0,
            #[cfg(test)]
            position_fault: RefCell::default(),
        }
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The shard's number.
    #[must_use]
    pub fn shard(&self) -> u16 {
        self.shard
    }

    /// The shard's doorbell. It rings when an event arrives, and when enough credits for a refused request are free.
    #[must_use]
    pub fn doorbell(&self) -> &Arc<Doorbell> {
        &self.hub.doorbells[usize::from(self.shard)]
    }

    /// Registers the shard's interest in a pattern, and returns the position from which on its events are new.
    ///
    /// Joining a pattern that the shard already holds only gives a new position. One [`Inbox::leave`] ends the interest,
    /// however often the pattern was joined.
    pub fn join(&mut self, pattern: &Pattern) -> JoinPosition {
        self.join_viewing(pattern, |_| ())
    }

    /// Joins one channel and views its state under the same lock.
    ///
    /// `view` is called if the channel has state or if its class has a history. It sees exactly the events that were
    /// published before the returned position.
    pub fn join_and_view(
        &mut self,
        channel: &Channel,
        now: Now,
        view: &mut dyn FnMut(ChannelView<'_>),
    ) -> JoinPosition {
        let hub = Arc::clone(&self.hub);
        let view = |state: &mut StripeState| state.channels.view(channel, |channel| hub.class_of(channel), now, view);
        self.join_viewing(&channel.clone().into(), view)
    }

    /// Views one channel without joining it. `view` is called as by [`Inbox::join_and_view`].
    pub fn view(&self, channel: &Channel, now: Now, view: &mut dyn FnMut(ChannelView<'_>)) {
        self.hub.with_state(stripe_of(channel), |state| {
            state
                .channels
                .view(channel, |channel| self.hub.class_of(channel), now, view);
        });
    }

    /// Reads a page of a channel's state. [`Page::at`] says which live events the page already contains. Reading counts
    /// as a use of the channel.
    pub fn read(&mut self, channel: &Channel, since: Since, limit: PageLimit, now: Now) -> Page {
        let formats = match since {
            Since::Newest { above: 0 } => self.hub.formats_in_use() + self.hub.snapshot_formats_in_use(),
            Since::Newest { .. } | Since::After(_) | Since::Between { .. } => self.hub.formats_in_use(),
        };
        let (mut page, at) = self.with_position(stripe_of(channel), |state| {
            state.channels.read(channel, since, limit, now, formats)
        });
        page.at = at;
        self.hub.enforce_bounds();
        page
    }

    /// The epoch of the hub's store. Offsets compare only within one epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.hub.epoch()
    }

    /// How many tenants the hub was told of, the default one included.
    #[must_use]
    pub fn tenants(&self) -> usize {
        self.hub.credits.tenants()
    }

    /// See [`Hub::locate`].
    #[must_use]
    pub fn locate(&self, position: u64) -> Option<u64> {
        self.hub.locate(position)
    }

    /// The class of a channel.
    #[must_use]
    pub fn class_of(&self, channel: &Channel) -> &Arc<Class> {
        self.hub.class_of(channel)
    }

    /// Joins a pattern. `view` sees the state of each stripe that the pattern can match, in order, at the moment of the
    /// position.
    pub(super) fn join_viewing(&mut self, pattern: &Pattern, mut view: impl FnMut(&mut StripeState)) -> JoinPosition {
        let patterns = std::slice::from_ref(pattern);
        let position = match Stripes::of(pattern) {
            Stripes::One(stripe) => {
                let ((), from) = self.join_stripe(stripe, patterns, &mut view);
                JoinPosition::in_one(stripe, from)
            }
            Stripes::All => {
                let mut each = Box::new([0; STRIPES]);
                for stripe in Stripes::All.iter() {
                    ((), each[usize::from(stripe)]) = self.join_stripe(stripe, patterns, &mut view);
                }
                JoinPosition::in_each(each)
            }
        };
        self.note_join(pattern);
        position
    }

    /// Joins patterns in one stripe. Returns what `view` returns, and the position.
    pub(super) fn join_stripe<T>(
        &self,
        stripe: u8,
        patterns: &[Pattern],
        view: impl FnOnce(&mut StripeState) -> T,
    ) -> (T, u64) {
        self.with_position(stripe, |state| {
            for pattern in patterns {
                state.interest.add(pattern, 1 << self.shard);
            }
            view(state)
        })
    }

    /// Runs `read` under the stripe's lock, and reads the end of the inbox under the same lock: the state that `read` saw
    /// contains exactly the stripe's events below that position.
    fn with_position<T>(&self, stripe: u8, read: impl FnOnce(&mut StripeState) -> T) -> (T, u64) {
        let (result, position) = self.hub.with_state(stripe, |state| (read(state), self.end()));
        #[cfg(test)]
        let position = self.faulty_position(stripe, position);
        (result, position)
    }

    /// Tells the watcher of interest that a pattern is joined in all its stripes.
    pub(super) fn note_join(&self, pattern: &Pattern) {
        self.hub.note(pattern, true);
    }

    /// Changes how many connections of this shard use a wire format; see [`Hub::add_demand`].
    pub fn add_demand(&self, format: WireFormat, delta: i32) {
        self.hub.add_demand(format, delta);
    }

    /// The finished frame of an event in one wire format; see [`Hub::frame`].
    pub fn frame<'e>(&self, format: WireFormat, event: &'e Event) -> &'e Bytes {
        self.hub.frame(format, event)
    }

    /// The finished frame of an event that is sent as a snapshot; see [`Hub::snapshot_frame`].
    pub fn snapshot_frame<'e>(&self, format: WireFormat, event: &'e Event) -> &'e Bytes {
        self.hub.snapshot_frame(format, event)
    }

    /// See [`Hub::deflate_bytes_min`].
    #[must_use]
    pub fn deflate_bytes_min(&self) -> usize {
        self.hub.deflate_bytes_min()
    }

    /// Removes the shard's interest in a pattern. Events that were published before may still be popped.
    pub fn leave(&mut self, pattern: &Pattern) {
        for stripe in Stripes::of(pattern).iter() {
            let mut state = self.hub.stripes[usize::from(stripe)].lock();
            state.interest.remove(pattern, 1 << self.shard);
        }
        self.hub.note(pattern, false);
    }

    /// Takes the next event out.
    pub fn pop(&mut self) -> Option<Popped> {
        let QueuedEvent { event, stripe } = self.peeked.take().or_else(|| self.queue.try_recv().ok())?;
        let index = self.popped;
        self.popped += 1;
        let transit = event.transit();
        if transit.popped() {
            self.hub.credits.give(transit.payer, transit.cost);
        }
        if stripe == PROBE_STRIPE {
            self.hub.probes.note_returned(self.shard, &event);
        }
        Some(Popped { index, stripe, event })
    }

    /// The event that [`Inbox::pop`] returns next.
    pub fn peek(&mut self) -> Option<&Arc<Event>> {
        if self.peeked.is_none() {
            self.peeked = self.queue.try_recv().ok();
        }
        self.peeked.as_ref().map(|queued| &queued.event)
    }

    /// The index of the next event to be popped.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.popped
    }

    /// How many events are waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len() + usize::from(self.peeked.is_some())
    }

    /// Whether no event is waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peeked.is_none() && self.queue.is_empty()
    }

    /// The index that the next event to enter the inbox gets.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.popped + self.len() as u64
    }
}

/// The hook through which tests plant faults into the way positions are read.
#[cfg(test)]
impl Inbox {
    /// From now on `fault` decides every position that this inbox reads.
    pub(super) fn plant(&self, fault: impl FnMut(u8, u64, &dyn Fn() -> u64) -> u64 + Send + 'static) {
        self.position_fault.replace(Some(Box::new(fault)));
    }

    fn faulty_position(&self, stripe: u8, position: u64) -> u64 {
        match &mut *self.position_fault.borrow_mut() {
            Some(fault) => fault(stripe, position, &|| self.end()),
            None => position,
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.hub.probes.note_gone(self.shard);
        for stripe in &self.hub.stripes {
            let left = stripe.lock().interest.remove_all(1 << self.shard);
            for pattern in left {
                self.hub.note(&pattern, false);
            }
        }
        // No event can arrive any more. Popping the rest gives back credits that publishers may be waiting for.
        while self.pop().is_some() {}
    }
}
