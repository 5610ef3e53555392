//! A shard's end of the hub: joining, leaving, and taking events out in order.
//!
//! Invariant: every event of stripe T that was published before this shard joined under T's lock has an inbox index
//! below `at[T]`; every later one is at or above it. It holds because publishers put events into inboxes under the
//! stripe's lock, and only this thread takes them out.

use std::sync::Arc;

use bytes::Bytes;

use super::interest::{Stripes, stripe_of};
use super::scan::ScanRanges;
use super::{ChannelView, Doorbell, Hub, Page, PageLimit, STRIPES, Since, StripeState};
use crate::event::Event;
use crate::sync::Receiver;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::event::WireFormat;

/// What lies in an inbox.
pub(super) struct QueuedEvent {
    pub(super) event: Arc<Event>,
    pub(super) stripe: u8,
}

/// One shard's end of the hub; owned by its thread. Dropping it ends the shard's interest and pays its debts.
pub struct Inbox {
    hub: Arc<Hub>,
    shard: u16,
    letters: Receiver<QueuedEvent>,
    // Taken out of the channel to be looked at, but not popped.
    ahead: Option<QueuedEvent>,
    popped: u64,
}

/// Where in its inbox a shard joined a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinPosition(Positions);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Positions {
    One { stripe: u8, at: u64 },
    Each(Box<[u64; STRIPES]>),
    // Of a scan that took more than one page to a stripe, or is not through.
    ScanRanges(Arc<ScanRanges>),
}

/// An event popped from an inbox.
pub struct Popped {
    /// Its place in the inbox, counted from the first event ever.
    pub index: u64,
    /// Its channel's stripe.
    pub stripe: u8,
    /// The event.
    pub event: Arc<Event>,
}

/// What a join sees of a stripe while it holds its lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnderLock {
    /// Where in the inbox the stripe's next event can come at the earliest.
    pub(super) at: u64,
    /// Events ever published in the stripe.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests' model of a stripe's state"))]
    pub(super) events: u64,
}

impl Inbox {
    pub(super) fn new(hub: Arc<Hub>, shard: u16, letters: Receiver<QueuedEvent>) -> Self {
        Self {
            hub,
            shard,
            letters,
            ahead: None,
            popped: 0,
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

    /// The shard's doorbell: rung when an event came, and when a credit it was refused came back.
    #[must_use]
    pub fn doorbell(&self) -> &Arc<Doorbell> {
        &self.hub.doorbells[usize::from(self.shard)]
    }

    /// Declares the shard's interest in a pattern and says from where on its events are new. A pattern already held
    /// gets a new position and nothing else changes; one [`Inbox::leave`] ends it, however often it was joined.
    pub fn join(&mut self, pattern: &Pattern) -> JoinPosition {
        self.join_by(pattern, |_| (), |_, seen, _| seen.at)
    }

    /// A join of one channel that also looks at it: `each` is called, under the stripe's lock, if it has state or is of
    /// a class with history. What it sees is what was published before the position that the join gives.
    pub fn join_and_view(
        &mut self,
        channel: &Channel,
        now: Now,
        each: &mut dyn FnMut(ChannelView<'_>),
    ) -> JoinPosition {
        let hub = Arc::clone(&self.hub);
        let see = |state: &mut StripeState| state.channels.view(channel, |channel| hub.class_of(channel), now, each);
        self.join_by(&channel.clone().into(), see, |_, seen, _| seen.at)
    }

    /// Looks at one channel without joining anything; calls `each` as [`Inbox::join_and_view`] does.
    pub fn view(&self, channel: &Channel, now: Now, each: &mut dyn FnMut(ChannelView<'_>)) {
        self.hub.with_state(stripe_of(channel.as_str()), |state| {
            state
                .channels
                .view(channel, |channel| self.hub.class_of(channel), now, each);
        });
    }

    /// What `since` asks for of a channel's state, and where that lies between its live events. Counts as a use of the
    /// channel.
    pub fn read(&mut self, channel: &Channel, since: Since, limit: PageLimit, now: Now) -> Page {
        self.read_by(channel, (since, limit), now, |at, _| at)
    }

    /// A read whose position `place` decides, from the one under the lock and a way to ask again after it; as
    /// [`Inbox::join_by`].
    pub(super) fn read_by(
        &mut self,
        channel: &Channel,
        (since, limit): (Since, PageLimit),
        now: Now,
        place: impl FnOnce(u64, &dyn Fn() -> u64) -> u64,
    ) -> Page {
        let forms = self.hub.forms();
        let end = || self.end();
        let (mut page, at) = self.hub.with_state(stripe_of(channel.as_str()), |state| {
            (state.channels.read(channel, since, limit, now, forms), end())
        });
        page.at = place(at, &end);
        self.hub.enforce_bounds();
        page
    }

    /// Names the store that offsets belong to.
    #[must_use]
    pub fn epoch(&self) -> super::Epoch {
        self.hub.epoch()
    }

    /// The class of a channel.
    #[must_use]
    pub fn class_of(&self, channel: &Channel) -> &Arc<tickgate_protocol::channel::Class> {
        self.hub.class_of(channel)
    }

    /// A join whose positions `place` decides, from the stripe, what was seen under its lock, and a way to ask for
    /// the position again after the lock: so that tests can plant the two classic faults into this very code.
    pub(super) fn join_by(
        &mut self,
        pattern: &Pattern,
        mut see: impl FnMut(&mut StripeState),
        mut place: impl FnMut(u8, UnderLock, &dyn Fn() -> u64) -> u64,
    ) -> JoinPosition {
        let patterns = std::slice::from_ref(pattern);
        let at = JoinPosition(match Stripes::of(pattern.as_str()) {
            Stripes::One(stripe) => Positions::One {
                stripe,
                at: self.join_stripe(stripe, patterns, &mut see, &mut place),
            },
            Stripes::All => {
                let mut each = Box::new([0; STRIPES]);
                for stripe in Stripes::All.iter() {
                    each[usize::from(stripe)] = self.join_stripe(stripe, patterns, &mut see, &mut place);
                }
                Positions::Each(each)
            }
        });
        self.note_join(pattern);
        at
    }

    /// Joins patterns in one stripe, sees what is there, and has the position decided.
    pub(super) fn join_stripe(
        &self,
        stripe: u8,
        patterns: &[Pattern],
        see: impl FnOnce(&mut StripeState),
        place: &mut impl FnMut(u8, UnderLock, &dyn Fn() -> u64) -> u64,
    ) -> u64 {
        let now = || self.end();
        let seen = self.hub.with_state(stripe, |state| {
            for pattern in patterns {
                state.interest.add(pattern, 1 << self.shard);
            }
            see(state);
            UnderLock {
                at: now(),
                events: state.events,
            }
        });
        place(stripe, seen, &now)
    }

    /// A pattern is joined in all its stripes: tells those who watch for that.
    pub(super) fn note_join(&self, pattern: &Pattern) {
        self.hub.note(pattern, true);
    }

    /// Tells publishers that connections of this shard need a form (`delta` 1) or do not any more (-1).
    pub fn add_demand(&self, form: WireFormat, delta: i32) {
        self.hub.add_demand(form, delta);
    }

    /// The finished frame of an event in one form; see [`Hub::frame`].
    pub fn frame<'e>(&self, form: WireFormat, event: &'e Event) -> &'e Bytes {
        self.hub.frame(form, event)
    }

    /// See [`Hub::deflate_bytes_min`].
    #[must_use]
    pub fn deflate_bytes_min(&self) -> usize {
        self.hub.deflate_bytes_min()
    }

    /// Takes the shard's interest in a pattern back. Events published before may still be popped.
    pub fn leave(&mut self, pattern: &Pattern) {
        for stripe in Stripes::of(pattern.as_str()).iter() {
            let mut state = self.hub.stripes[usize::from(stripe)].lock();
            state.interest.remove(pattern, 1 << self.shard);
        }
        self.hub.note(pattern, false);
    }

    /// The next event.
    pub fn pop(&mut self) -> Option<Popped> {
        let QueuedEvent { event, stripe } = self.ahead.take().or_else(|| self.letters.try_recv().ok())?;
        let index = self.popped;
        self.popped += 1;
        let transit = event.transit();
        if transit.popped() {
            self.hub.credits.give(transit.payer, transit.cost);
        }
        Some(Popped { index, stripe, event })
    }

    /// The event that [`Inbox::pop`] would give.
    pub fn peek(&mut self) -> Option<&Arc<Event>> {
        if self.ahead.is_none() {
            self.ahead = self.letters.try_recv().ok();
        }
        self.ahead.as_ref().map(|letter| &letter.event)
    }

    /// The index of the next event to be popped.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.popped
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.letters.len() + usize::from(self.ahead.is_some())
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ahead.is_none() && self.letters.is_empty()
    }

    /// The index that the next event to come will have.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.popped + self.len() as u64
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        for stripe in &self.hub.stripes {
            let left = stripe.lock().interest.remove_all(1 << self.shard);
            for pattern in left {
                self.hub.note(&pattern, false);
            }
        }
        // Nothing comes any more; what is here goes, and with it the credits others may wait for.
        while self.pop().is_some() {}
    }
}

impl JoinPosition {
    pub(super) fn in_each(each: Box<[u64; STRIPES]>) -> Self {
        Self(Positions::Each(each))
    }

    pub(super) fn in_stretches(stretches: Arc<ScanRanges>) -> Self {
        Self(Positions::ScanRanges(stretches))
    }

    /// Whether an event of `channel` popped at `index` from `stripe` came after the join.
    #[must_use]
    pub fn includes(&self, channel: &Channel, stripe: u8, index: u64) -> bool {
        match &self.0 {
            Positions::One { stripe: joined, at } => *joined == stripe && index >= *at,
            Positions::Each(each) => each.get(usize::from(stripe)).is_some_and(|at| index >= *at),
            Positions::ScanRanges(stretches) => stretches.includes(channel, stripe, index),
        }
    }

    /// Whether it is whole: nothing is left to be joined.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.0 {
            Positions::One { .. } | Positions::Each(_) => true,
            Positions::ScanRanges(stretches) => stretches.is_complete(),
        }
    }

    /// Whether everything from `index` on is included, in every stripe: the subscription is settled.
    #[must_use]
    pub fn is_settled(&self, index: u64) -> bool {
        match &self.0 {
            Positions::One { at, .. } => index >= *at,
            Positions::Each(each) => each.iter().all(|at| index >= *at),
            Positions::ScanRanges(stretches) => stretches.is_settled(index),
        }
    }
}
