//! Publishing: the path of one event from its publisher into the state and the inboxes.
//!
//! Invariant: a receipt says "published" only after the event has its version, is stored, and is in every interested inbox.
//! It says "duplicate" only after all of that is true of the first event with that id. Both are decided under one lock.

use std::sync::Arc;

use super::inbox::QueuedEvent;
use super::interest::stripe_of;
use super::state::{Epoch, Garbage, Given, Owners, Prepared, Stored};
use super::{Credit, Hub, StripeState, Wakes, bits};
use crate::event::{Event, EventMeta, NewEvent, Transit};
use crate::sync::Ordering;
use crate::time::Now;
use tickgate_protocol::channel::Class;
use tickgate_protocol::event::WireFormat;
use tickgate_protocol::json::BookError;

/// The outcome of publishing one event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// The event's position in the channel's history, if the channel keeps one. For a duplicate, the position of the first
    /// event.
    pub offset: Option<u64>,
    /// The epoch of the offset, if the channel keeps a history.
    pub epoch: Option<Epoch>,
    /// Whether an event with this id was accepted before. This event was not published then.
    pub duplicate: bool,
    /// Whether the event was not sent because its value equals the channel's last value (`only_changed`).
    pub unchanged: bool,
    /// Whether the event was not published because its publisher publishes too fast.
    pub limited: bool,
    /// Why the event was not published, if its channel has a book and it is no update of one.
    pub malformed: Option<BookError>,
    /// Whether the event was published while no connection of this gateway held a pattern that matches its channel.
    pub unwanted: bool,
}

impl Receipt {
    /// The receipt of an event that was refused because its publisher publishes too fast.
    #[must_use]
    pub fn of_limited() -> Self {
        Self {
            limited: true,
            ..Self::default()
        }
    }
}

/// What a log that numbers events says about one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The event's version. It must be above those of all events that were applied before. It is ignored if the channel's
    /// class keeps no state.
    pub version: u64,
    /// How long ago the log stored the event, in milliseconds.
    pub age_ms: u64,
    /// Whether the event is read back from the log, which may not contain earlier events of the channel any more.
    pub is_replayed: bool,
}

/// The receipt, and the event if a shard wants it.
type Published = (Receipt, Option<Arc<Event>>);

/// An event that is not published, because its class was replaced.
type Outdated<'c> = Box<(NewEvent, Credit<'c>)>;

impl Hub {
    /// Applies one event of a log that numbers events. It is published as by [`Hub::publish`], under the version that the
    /// log gave it. Its id is remembered, but duplicates are the log's business: every event of the log is applied. The receipt
    /// says "duplicate" if the event is read back and [`Hub::restore_merged`] has restored a value that contains it.
    ///
    /// One thread applies the events of a hub, in the order of the log, and nothing else publishes to it: the hub must
    /// have [`Numbering::Log`](super::Numbering::Log).
    pub fn apply(&self, event: NewEvent, stamp: Stamp, now: Now, credit: Credit<'_>, wakes: &mut Wakes) -> Receipt {
        let given = Given {
            version: stamp.version,
            age_ms: stamp.age_ms,
            is_replayed: stamp.is_replayed,
        };
        self.publish_as(Some(given), event, now, credit, wakes)
    }

    /// Why an event cannot be published: its channel has a book, and it is no update of one.
    #[must_use]
    pub fn malformed(&self, event: &NewEvent) -> Option<BookError> {
        Prepared::check(event, self.class_of(&event.channel)).err()
    }

    /// Publishes one event: gives it a version and stores it as its channel's class says, puts it into the inbox of every
    /// interested shard, and encodes it in every wire format in use.
    ///
    /// Adds the shards to be woken to `wakes`. The caller passes them to [`Hub::wake`] once per batch.
    pub fn publish(&self, event: NewEvent, now: Now, credit: Credit<'_>, wakes: &mut Wakes) -> Receipt {
        self.publish_as(None, event, now, credit, wakes)
    }

    #[inline]
    fn publish_as(
        &self,
        given: Option<Given>,
        mut event: NewEvent,
        now: Now,
        mut credit: Credit<'_>,
        wakes: &mut Wakes,
    ) -> Receipt {
        if event.options.id.is_some() {
            self.rotate_ids(now);
        }
        loop {
            match self.try_publish(given, event, now, credit, wakes) {
                Ok(receipt) => return receipt,
                Err(again) => (event, credit) = *again,
            }
        }
    }

    /// Publishes an event, unless the classes are replaced meanwhile.
    #[inline]
    fn try_publish<'c>(
        &self,
        given: Option<Given>,
        event: NewEvent,
        now: Now,
        credit: Credit<'c>,
        wakes: &mut Wakes,
    ) -> Result<Receipt, Outdated<'c>> {
        let table = self.classes.newest();
        let class = self.classes.table(table).of(&event.channel);
        if event.options.deletes.is_some() && !class.keeps_state() {
            return Ok(Receipt {
                unchanged: true,
                ..Receipt::default()
            });
        }
        let published = if class.keeps_state() {
            let (tenant, publisher) = (event.channel.tenant(), event.options.publisher.as_ref());
            let owners = Owners {
                publisher: publisher.and_then(|name| self.publishers.get(tenant, name)),
                tenant: self.publishers.of_tenant(tenant).cloned(),
            };
            let mut prepared = match Prepared::new(event, Arc::clone(class)) {
                Ok(prepared) => prepared,
                Err(error) => {
                    if let Some(given) = given {
                        // The versions say how much of the log is applied.
                        self.versions.advance(given.version);
                    }
                    return Ok(Receipt {
                        malformed: Some(error),
                        ..Receipt::default()
                    });
                }
            };
            prepared.owners = owners.clone();
            let published = self.publish_stateful(prepared, table, given, now, credit, wakes)?;
            for owner in owners.iter() {
                self.forget_stale_claims(owner);
            }
            published
        } else {
            self.publish_stateless(event, (class, table), given.is_some(), now, credit, wakes)?
        };
        if let Some(event) = &published.1 {
            // After the lock, so that no publisher waits for the encoding. Before the shards are woken, so that they rarely
            // have to encode.
            for format in WireFormat::all() {
                if self.demand[format.index()].load(Ordering::Relaxed) > 0 {
                    self.frame(format, event);
                }
            }
        }
        self.enforce_bounds();
        Ok(published.0)
    }

    /// Publishes an event of a class without state. Only its id is kept, if it has one.
    fn publish_stateless<'c>(
        &self,
        event: NewEvent,
        (class, table): (&Arc<Class>, usize),
        is_given: bool,
        now: Now,
        credit: Credit<'c>,
        wakes: &mut Wakes,
    ) -> Result<Published, Outdated<'c>> {
        let stripe = stripe_of(&event.channel);
        let id = event.options.id;
        let publish = |state: &mut StripeState| {
            if self.classes.newest() != table {
                return Err(Box::new((event, credit)));
            }
            if !is_given && state.channels.duplicate(id.as_ref(), &self.generations).is_some() {
                let duplicate = Receipt {
                    duplicate: true,
                    ..Receipt::default()
                };
                return Ok((duplicate, None));
            }
            if let Some(id) = id {
                state.channels.note_id(id, 0, &self.generations);
            }
            state.count_event(&event.channel, event.data.len(), false, now);
            let shards = state.interest.lookup(&event.channel);
            if shards == 0 {
                state.unwanted += 1;
                let unwanted = Receipt {
                    unwanted: true,
                    ..Receipt::default()
                };
                return Ok((unwanted, None));
            }
            let (payer, cost) = credit.into_debt();
            let meta = EventMeta {
                class: Arc::clone(class),
                ..EventMeta::default()
            };
            let event = Event::in_transit(event, meta, Transit::new(payer, cost, shards.count_ones()));
            let event = Arc::new(event);
            self.post(&event, stripe, shards);
            wakes.0 |= shards;
            Ok((Receipt::default(), Some(event)))
        };
        if id.is_some() {
            self.with_state(stripe, publish)
        } else {
            publish(&mut self.stripes[usize::from(stripe)].lock())
        }
    }

    /// Publishes an event of a class with state, which is one of the table `table`.
    fn publish_stateful<'c>(
        &self,
        mut prepared: Prepared,
        table: usize,
        given: Option<Given>,
        now: Now,
        credit: Credit<'c>,
        wakes: &mut Wakes,
    ) -> Result<Published, Outdated<'c>> {
        let stripe = stripe_of(&prepared.event.channel);
        if prepared.wants_comparison() {
            // Comparing can mean parsing both values, so it happens between two holds of the lock.
            let known = self.stripes[usize::from(stripe)].lock().channels.known(&prepared);
            prepared.compare(&known);
        }
        let has_history = prepared.class.history.is_some();
        let receipt = |version: u64| Receipt {
            offset: has_history.then_some(version),
            epoch: has_history.then(|| self.epoch()),
            ..Receipt::default()
        };
        let formats = self.formats_in_use();
        // Both are dropped at the end of the function, after the lock; the credit is dropped if it is not used.
        let (mut garbage, mut credit) = (Garbage::default(), Some(credit));
        let published = self.with_state(stripe, |state| {
            if self.classes.newest() != table {
                return Err(Box::new(prepared.event));
            }
            let in_flight = &self.stripes[usize::from(stripe)].in_flight;
            // Until the event is in the inboxes.
            let _publishing = in_flight.begin(state.channels.last_version());
            // What is read back from the log is older than any subscription.
            let shards = if given.is_some_and(|given| given.is_replayed) {
                0
            } else {
                state.interest.lookup(&prepared.event.channel)
            };
            let (payer, cost) = credit.as_ref().map(Credit::debt).unwrap_or_default();
            let transit = Transit::new(payer, cost, shards.count_ones());
            let when = (now, given, &self.generations);
            let stored = state.channels.store(prepared, transit, when, formats, &mut garbage);
            match stored {
                Stored::Duplicate(version) => {
                    let duplicate = Receipt {
                        duplicate: true,
                        ..receipt(version)
                    };
                    Ok((duplicate, None))
                }
                Stored::Unchanged => {
                    let unchanged = Receipt {
                        unchanged: true,
                        ..Receipt::default()
                    };
                    Ok((unchanged, None))
                }
                Stored::Event(event) => {
                    let is_replayed = given.is_some_and(|given| given.is_replayed);
                    state.count_event(&event.channel, event.data.len(), is_replayed, now);
                    if shards == 0 {
                        state.unwanted += 1;
                        let unwanted = Receipt {
                            unwanted: true,
                            ..receipt(event.version)
                        };
                        return Ok((unwanted, None));
                    }
                    credit.take().map(Credit::into_debt);
                    self.post(&event, stripe, shards);
                    wakes.0 |= shards;
                    Ok((receipt(event.version), Some(event)))
                }
            }
        });
        published.map_err(|event| {
            let credit = credit.expect("only an event that is posted takes the credit");
            Box::new((*event, credit))
        })
    }

    /// Puts an event into the inboxes of these shards (a bit mask). To be called under the stripe's lock.
    pub(super) fn post(&self, event: &Arc<Event>, stripe: u8, shards: u64) {
        for shard in bits(shards) {
            let event = event.clone();
            // The event holds a credit, so there is room, and a shard that is gone has no interest. If that were ever
            // wrong, the credit would still have to be given back.
            if let Err(refused) = self.inboxes[shard].try_send(QueuedEvent { event, stripe }) {
                debug_assert!(false, "an inbox refused an event with a credit: {refused}");
                let event = refused.into_inner().event;
                let transit = event.transit();
                if transit.popped() {
                    self.credits.give(transit.payer, transit.cost);
                }
            }
        }
    }
}
