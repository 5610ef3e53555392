//! The way in: one event, from its publisher into the state and the inboxes.
//!
//! Invariant: an event is answered as published only when it is numbered, kept and in every interested inbox, and as a
//! duplicate only when that is true of the first one of its id: both are decided under the same lock.

use std::sync::Arc;

use super::inbox::QueuedEvent;
use super::interest::stripe_of;
use super::state::{Epoch, Garbage, Prepared, Stored};
use super::{Credit, Hub, Wakes, bits};
use crate::event::{Event, EventMeta, NewEvent, Transit};
use crate::sync::Ordering;
use crate::time::Now;
use tickgate_protocol::channel::Class;
use tickgate_protocol::event::WireFormat;

/// What publishing gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Position in the channel's history, on channels that keep one; of a duplicate that of the first.
    pub offset: Option<u64>,
    /// The store that the offset belongs to, on channels with history.
    pub epoch: Option<Epoch>,
    /// An event of this id was published already, and this one was not.
    pub duplicate: bool,
    /// It says what the channel's last one said, and was not sent (`only_changed`).
    pub unchanged: bool,
}

impl Hub {
    /// Numbers the event, keeps what its channel's class keeps, and puts it into the inbox of every interested shard;
    /// encodes it in every form that somebody needs. Adds the shards to wake to `wakes`; the caller calls
    /// [`Hub::wake`] once per batch.
    pub fn publish(&self, event: NewEvent, now: Now, credit: Credit<'_>, wakes: &mut Wakes) -> Receipt {
        if event.options.id.is_some() {
            self.turn_ids(now);
        }
        let class = self.classes.of(&event.channel);
        let published = if class.keeps_state() {
            self.publish_kept(Prepared::new(event, Arc::clone(class)), now, credit, wakes)
        } else {
            self.publish_plain(event, class, credit, wakes)
        };
        if let Some(event) = &published.1 {
            // After unlocking, so that nobody waits for it; before waking, so that hardly a shard does it itself.
            for form in WireFormat::all() {
                if self.needs[form.index()].load(Ordering::Relaxed) > 0 {
                    self.frame(form, event);
                }
            }
        }
        self.enforce_bounds();
        published.0
    }

    /// Nothing is kept but perhaps its id.
    fn publish_plain(
        &self,
        event: NewEvent,
        class: &Arc<Class>,
        credit: Credit<'_>,
        wakes: &mut Wakes,
    ) -> (Receipt, Option<Arc<Event>>) {
        let stripe = stripe_of(event.channel.as_str());
        let id = event.options.id;
        let publish = |state: &mut super::StripeState| {
            if state.channels.duplicate(id.as_ref(), &self.generations).is_some() {
                let duplicate = Receipt {
                    duplicate: true,
                    ..Receipt::default()
                };
                return (duplicate, None);
            }
            if let Some(id) = id {
                state.channels.note_id(id, 0, &self.generations);
            }
            state.events += 1;
            let shards = state.interest.lookup(event.channel.as_str());
            if shards == 0 {
                state.unwanted += 1;
                return (Receipt::default(), None);
            }
            let (payer, cost) = credit.into_debt();
            let numbered = EventMeta {
                class: Arc::clone(class),
                ..EventMeta::default()
            };
            let event = Event::in_transit(event, numbered, Transit::new(payer, cost, shards.count_ones()));
            let event = Arc::new(event);
            self.post(&event, stripe, shards);
            wakes.0 |= shards;
            (Receipt::default(), Some(event))
        };
        if id.is_some() {
            self.with_state(stripe, publish)
        } else {
            publish(&mut self.stripes[usize::from(stripe)].lock())
        }
    }

    fn publish_kept(
        &self,
        mut prepared: Prepared,
        now: Now,
        credit: Credit<'_>,
        wakes: &mut Wakes,
    ) -> (Receipt, Option<Arc<Event>>) {
        let stripe = stripe_of(prepared.event.channel.as_str());
        if prepared.wants_comparison() {
            let known = self.stripes[usize::from(stripe)].lock().channels.known(&prepared);
            prepared.compare(&known);
        }
        let has_history = prepared.class.history.is_some();
        let receipt = |version: u64| Receipt {
            offset: has_history.then_some(version),
            epoch: has_history.then_some(self.epoch),
            ..Receipt::default()
        };
        let forms = self.forms();
        // Dropped at the end, when nothing is locked; so is a credit that is not used.
        let (mut garbage, mut credit) = (Garbage::default(), Some(credit));
        self.with_state(stripe, |state| {
            let shards = state.interest.lookup(prepared.event.channel.as_str());
            let (payer, cost) = credit.as_ref().map(Credit::debt).unwrap_or_default();
            let transit = Transit::new(payer, cost, shards.count_ones());
            let stored = state
                .channels
                .store(prepared, transit, (now, &self.generations), forms, &mut garbage);
            match stored {
                Stored::Duplicate(version) => {
                    let duplicate = Receipt {
                        duplicate: true,
                        ..receipt(version)
                    };
                    (duplicate, None)
                }
                Stored::Unchanged => {
                    let unchanged = Receipt {
                        unchanged: true,
                        ..Receipt::default()
                    };
                    (unchanged, None)
                }
                Stored::Event(event) => {
                    state.events += 1;
                    if shards == 0 {
                        state.unwanted += 1;
                        return (receipt(event.version), None);
                    }
                    credit.take().map(Credit::into_debt);
                    self.post(&event, stripe, shards);
                    wakes.0 |= shards;
                    (receipt(event.version), Some(event))
                }
            }
        })
    }

    /// Puts an event into these shards' inboxes, under its stripe's lock.
    fn post(&self, event: &Arc<Event>, stripe: u8, shards: u64) {
        for shard in bits(shards) {
            let event = event.clone();
            // A credit is held, so there is room; a shard that is gone has no interest. Were either untrue the
            // debt would still have to be paid.
            if let Err(refused) = self.inboxes[shard].try_send(QueuedEvent { event, stripe }) {
                debug_assert!(false, "an inbox refused an event with a credit: {refused}");
                let transit = refused.into_inner().event;
                if transit.transit().popped() {
                    self.credits.give(transit.transit().payer, transit.transit().cost);
                }
            }
        }
    }
}
