//! Interest and order: which shards want which channels, and the numbering of what they get.
//!
//! Two rules: *no thread waits while it holds a stripe lock; a shard thread waits only in its poll.*
//!
//! ```text
//! publish(event):  credit = take before locking (1 + bytes/1024); an async publisher waits its turn, a shard only tries
//!   lock(stripe): number; for each interested shard: inbox.try_send (cannot fail: capacity = all credits)
//!   unlock; encode; wake shards that sleep (one wake per batch)
//! join(pattern), on the shard's thread: for each stripe it can match, one at a time:
//!   lock: interest += shard;  at[stripe] = popped + inbox.len()
//! deliver: index = popped++;  a connection gets it iff its subscription is settled or index >= at[stripe]
//! ```
//!
//! Invariant: every event of stripe T that was published before shard S joined under T's lock has an inbox index
//! below `at[T]`; every later one is at or above it.
//!
//! Per file: `interest` (who wants what), `watch` (who is told when that changes), `credits` (the bound), `inbox` (the
//! shard's end), `doorbell` (waking).

mod credits;
mod doorbell;
mod inbox;
mod interest;
#[cfg(test)]
mod tests;
mod watch;

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use crossbeam_channel::Sender;
use parking_lot::Mutex;

use crate::channel::Pattern;
use crate::event::{Encoding, Event, Form, NewEvent, Transit};
use crate::wire::deflate;

pub use credits::Credit;
pub use doorbell::Doorbell;
pub use inbox::{Inbox, JoinAt, Popped};
pub use watch::{InterestWatch, Relevant};

use credits::Credits;
use inbox::Letter;
use interest::{Interest, Stripes, stripe_of};

/// How many stripes; more only spare publishers from waiting for wide snapshots.
pub const STRIPES: usize = 16;

/// The most shards a hub can have: they are bits of a word.
pub const SHARDS_MAX: usize = 64;

/// Messages shorter than this are not compressed unless it is set otherwise.
pub const DEFLATE_BYTES_MIN: usize = 256;

/// The hub's settings.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Credits in all, and so the capacity of every inbox (24 bytes each). An event costs `1 + bytes/1024`.
    pub credits: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { credits: 16 * 1024 }
    }
}

/// Makes the finished, uncompressed frame of an event in one encoding: [`crate::dialect::encode_event`].
pub type Encode = fn(Encoding, &Event) -> Bytes;

/// The hub. One per process, shared by publishers and shards.
pub struct Hub {
    stripes: [Stripe; STRIPES],
    inboxes: Vec<Sender<Letter>>,
    doorbells: Vec<Arc<Doorbell>>,
    credits: Credits,
    needs: [AtomicI64; Form::COUNT],
    encode: Encode,
    deflate_bytes_min: AtomicUsize,
    watch: OnceLock<Arc<InterestWatch>>,
}

/// Channels that share a hash of their first two segments, behind one lock on a cache line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Stripe(Mutex<StripeState>);

#[derive(Default)]
struct StripeState {
    interest: Interest,
    events: u64,
    unwanted: u64,
}

impl Stripe {
    fn lock(&self) -> parking_lot::MutexGuard<'_, StripeState> {
        self.0.lock()
    }
}

/// Shards to be woken after a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakes(pub u64);

/// What the hub has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Events published, wanted or not.
    pub events: u64,
    /// Events that no shard wanted.
    pub unwanted: u64,
    /// Credits lent: what lies in inboxes or is about to.
    pub credits_lent: usize,
    /// Credits in all.
    pub credits: usize,
}

impl Hub {
    /// A hub and its `shards` inboxes. Panics unless there are 1 to [`SHARDS_MAX`].
    pub fn new(settings: Settings, shards: usize, encode: Encode) -> (Arc<Self>, Vec<Inbox>) {
        assert!(
            (1..=SHARDS_MAX).contains(&shards),
            "1 to {SHARDS_MAX} shards, not {shards}"
        );
        let doorbells: Vec<Arc<Doorbell>> = (0..shards).map(|_| Arc::default()).collect();
        let credits = Credits::new(settings.credits, &doorbells);
        let (inboxes, letters): (Vec<_>, Vec<_>) =
            (0..shards).map(|_| crossbeam_channel::bounded(credits.total())).unzip();
        let hub = Arc::new(Self {
            stripes: Default::default(),
            inboxes,
            doorbells,
            credits,
            needs: Default::default(),
            encode,
            deflate_bytes_min: AtomicUsize::new(DEFLATE_BYTES_MIN),
            watch: OnceLock::new(),
        });
        let inbox = |(shard, letters)| Inbox::new(hub.clone(), shard, letters);
        let inboxes = (0u16..).zip(letters).map(inbox).collect();
        (hub, inboxes)
    }

    /// Waits, in order of arrival, for room for an event with `bytes` of data. Whoever holds [`Wakes`] wakes them
    /// before it waits here: the room it waits for may be theirs to give.
    pub async fn credit(&self, bytes: usize) -> Credit<'_> {
        self.credits.publisher(bytes).await
    }

    /// Room for an event when there is some and nobody waits for it, for a publisher that could also wait.
    #[must_use]
    pub fn credit_now(&self, bytes: usize) -> Option<Credit<'_>> {
        self.credits.publisher_now(bytes)
    }

    /// Room for an event, or `None`: then this shard's doorbell rings when some has come back.
    #[must_use]
    pub fn try_credit(&self, shard: u16, bytes: usize) -> Option<Credit<'_>> {
        self.credits.shard(shard, bytes)
    }

    /// Numbers the event and puts it into the inbox of every interested shard; encodes it in every form that
    /// somebody needs. Adds the shards to wake to `wakes`; the caller calls [`Hub::wake`] once per batch.
    /// Gives the position in the channel's history, on channels that keep one.
    pub fn publish(&self, event: NewEvent, credit: Credit<'_>, wakes: &mut Wakes) -> Option<u64> {
        let stripe = stripe_of(event.channel.as_str());
        let event = {
            let mut state = self.stripes[usize::from(stripe)].lock();
            state.events += 1;
            let shards = state.interest.lookup(event.channel.as_str());
            if shards == 0 {
                state.unwanted += 1;
                return None;
            }
            let (payer, cost) = credit.into_debt();
            let transit = Transit::new(payer, cost, shards.count_ones());
            let event = Arc::new(Event::in_transit(event, None, transit));
            self.post(&event, stripe, shards);
            wakes.0 |= shards;
            event
        };
        // After unlocking, so that nobody waits for it; before waking, so that hardly a shard does it itself.
        for form in Form::all() {
            if self.needs[form.index()].load(Ordering::Relaxed) > 0 {
                self.frame(form, &event);
            }
        }
        event.offset
    }

    /// Puts an event into these shards' inboxes, under its stripe's lock.
    fn post(&self, event: &Arc<Event>, stripe: u8, shards: u64) {
        for shard in bits(shards) {
            let event = event.clone();
            // A credit is held, so there is room; a shard that is gone has no interest. Were either untrue the
            // debt would still have to be paid.
            if let Err(refused) = self.inboxes[shard].try_send(Letter { event, stripe }) {
                debug_assert!(false, "an inbox refused an event with a credit: {refused}");
                let transit = refused.into_inner().event;
                if transit.transit().popped() {
                    self.credits.give(transit.transit().payer, transit.transit().cost);
                }
            }
        }
    }

    /// Rings the doorbells of these shards.
    pub fn wake(&self, wakes: Wakes) {
        for shard in bits(wakes.0) {
            self.doorbells[shard].ring();
        }
    }

    /// The finished frame of an event in one form, encoded now if nobody has done it yet.
    pub fn frame<'e>(&self, form: Form, event: &'e Event) -> &'e Bytes {
        if let Some(frame) = event.frame(form) {
            return frame;
        }
        if !form.deflated {
            return event.offer_frame(form, (self.encode)(form.encoding, event));
        }
        let plain = self.frame(form.encoding.plain(), event);
        let deflated = deflate::frame(plain, self.deflate_bytes_min());
        event.offer_frame(form, deflated.map_or_else(|| plain.clone(), Bytes::from))
    }

    /// Messages shorter than this are not compressed, in bytes of payload.
    #[must_use]
    pub fn deflate_bytes_min(&self) -> usize {
        self.deflate_bytes_min.load(Ordering::Relaxed)
    }

    /// Sets [`Hub::deflate_bytes_min`], at any time.
    pub fn set_deflate_bytes_min(&self, bytes: usize) {
        self.deflate_bytes_min.store(bytes, Ordering::Relaxed);
    }

    /// Counts connections that need a form (`delta` is 1 or -1).
    pub fn need(&self, form: Form, delta: i32) {
        self.needs[form.index()].fetch_add(delta.into(), Ordering::Relaxed);
    }

    /// Has every join and leave from now on of patterns that are `relevant` noted; `None` when somebody else watches.
    pub fn watch(&self, relevant: Box<Relevant>) -> Option<Arc<InterestWatch>> {
        let watch = Arc::new(InterestWatch::new(relevant));
        self.watch.set(Arc::clone(&watch)).is_ok().then_some(watch)
    }

    /// Notes a change that has taken effect, without any lock held.
    fn note(&self, pattern: &Pattern, joined: bool) {
        if let Some(watch) = self.watch.get() {
            watch.note(pattern, joined);
        }
    }

    /// Whether some shard holds a pattern that matches the (valid) channel.
    #[must_use]
    pub fn is_wanted(&self, channel: &str) -> bool {
        let mut state = self.stripes[usize::from(stripe_of(channel))].lock();
        state.interest.lookup(channel) != 0
    }

    /// Whether some shard holds exactly this pattern.
    #[must_use]
    pub fn holds(&self, pattern: &Pattern) -> bool {
        // A pattern of all stripes is joined and left in each of them.
        let stripe = *Stripes::of(pattern.as_str()).iter().start();
        self.stripes[usize::from(stripe)].lock().interest.holds(pattern)
    }

    /// What the hub has done and holds; each stripe at its own instant.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        let mut stats = HubStats {
            credits: self.credits.total(),
            credits_lent: self.credits.total() - self.credits.free(),
            ..HubStats::default()
        };
        for stripe in &self.stripes {
            let state = stripe.lock();
            stats.events += state.events;
            stats.unwanted += state.unwanted;
        }
        stats
    }
}

/// The places of the bits of a mask.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (place < u64::BITS).then_some(place as usize)
    })
}

/// What publishing gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Position in the channel's history, on channels that keep one.
    pub offset: Option<u64>,
}

/// What stands between the gateways: the embedded one publishes straight into the hub.
pub trait Broker: Send + Sync {
    /// Publishes in order; resolves when every event is stored and in every interested shard's inbox. Dropped before
    /// that, it has published the first few of them.
    fn publish(&self, events: Vec<NewEvent>) -> std::pin::Pin<Box<dyn Future<Output = Vec<Receipt>> + Send + '_>>;
    /// Publishes from a shard's thread without waiting, or hands the event back: the shard's doorbell rings when it
    /// may try again.
    fn try_publish(&self, shard: u16, event: NewEvent) -> Result<Receipt, NewEvent>;
    /// Whether it can be reached (`/readyz`).
    fn is_ready(&self) -> bool;
}
