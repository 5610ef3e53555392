//! Interest, order and state: which shards want which channels, the numbering of what they get, and what is kept of it.
//!
//! Two rules: *no thread waits while it holds a stripe lock; a shard thread waits only in its poll.*
//!
//! ```text
//! publish(event):  credit = take before locking (1 + bytes/1024); an async publisher waits its turn, a shard only tries
//!   lock(stripe): drop a duplicate, an unchanged one; number; keep; for each interested shard: inbox.try_send (cannot
//!   fail: capacity = all credits)
//!   unlock; encode; evict what is over the bounds; wake shards that sleep (one wake per batch)
//! join(pattern), on the shard's thread: for each stripe it can match, one at a time:
//!   lock: interest += shard;  at[stripe] = popped + inbox.len();  look at the state
//! read(channel): lock: at = popped + inbox.len();  what is kept
//! deliver: index = popped++;  a connection gets it iff its subscription is settled or index >= at[stripe]
//! ```
//!
//! Invariant: every event of stripe T that was published before shard S joined under T's lock has an inbox index
//! below `at[T]`; every later one is at or above it.
//!
//! Per file: `interest` (who wants what), `watch` (who is told when that changes), `credits` (the bound), `inbox` (the
//! shard's end), `scan` (joins of many channels), `evicted` (what a join was too late for), `doorbell` (waking), `publish`
//! (the way in), `state` (what is kept of channels), `versions` (how all that is numbered), `bounds` (how much),
//! `generations` (how long ids).

mod bounds;
mod credits;
mod doorbell;
mod export;
mod generations;
mod inbox;
mod interest;
#[cfg(test)]
#[cfg(shuttle)]
mod interleavings;
mod publish;
#[cfg(test)]
mod rig;
mod scan;
#[cfg(not(shuttle))]
pub mod snapshot;
mod state;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
mod tombstone_scan;
mod versions;
mod watch;

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::event::Event;
use crate::sync::{self, AtomicI64, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, Sender};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class, Classes, Pattern};
use tickgate_protocol::event::{Encoding, EventView, WireFormat};
use tickgate_protocol::wire::deflate;

pub use bounds::StateSettings;
pub use credits::Credit;
pub use doorbell::Doorbell;
pub use export::IDS_RESTORED_MAX;
pub use inbox::{Inbox, JoinPosition, Popped};
pub use publish::Receipt;
pub use scan::{PATTERNS_PER_STEP, Scan};
pub use state::{
    ChannelExport, ChannelView, Epoch, Page, PageLimit, RecordExport, Since, StripeCounters, StripeExport, Tombstone,
};
pub use tombstone_scan::TombstoneScan;
pub use watch::{InterestWatch, Relevant};

use bounds::Held;
use credits::Credits;
use generations::Generations;
use inbox::QueuedEvent;
use interest::{Interest, Stripes, stripe_of};
use state::Channels;
use versions::Versions;

/// How many stripes; more only spare publishers from waiting for wide snapshots.
pub const STRIPES: usize = 16;

/// The most shards a hub can have: a set of shards is a bit mask in one `u64`.
pub const SHARDS_MAX: u16 = 64;

/// Messages shorter than this are not compressed unless it is set otherwise.
pub const DEFLATE_BYTES_MIN: usize = 256;

/// The hub's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Credits in all, and so the capacity of every inbox (24 bytes each). An event costs `1 + bytes/1024`.
    pub credits: u32,
    /// What is kept of which channel.
    pub classes: Arc<Classes>,
    /// How much is kept in all.
    pub state: StateSettings,
    /// The store's name when its state is going to be restored; `None`: a new one.
    pub epoch: Option<Epoch>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            credits: 16 * 1024,
            classes: Arc::default(),
            state: StateSettings::default(),
            epoch: None,
        }
    }
}

/// Makes the finished, uncompressed frame of an event in one encoding: [`tickgate_protocol::dialect::encode_event`].
pub type Encode = fn(Encoding, &EventView<'_>) -> Bytes;

/// The hub. One per process, shared by publishers and shards.
pub struct Hub {
    stripes: [Stripe; STRIPES],
    inboxes: Vec<Sender<QueuedEvent>>,
    doorbells: Vec<Arc<Doorbell>>,
    credits: Credits,
    needs: [AtomicI64; WireFormat::COUNT],
    encode: Encode,
    deflate_bytes_min: AtomicUsize,
    watch: OnceLock<Arc<InterestWatch>>,
    classes: Arc<Classes>,
    epoch: Epoch,
    limits: StateSettings,
    held: Held,
    generations: Generations,
    versions: Arc<Versions>,
}

/// Channels that share a hash of their first two segments, behind one lock on a cache line of its own.
#[repr(align(128))]
struct Stripe {
    state: Mutex<StripeState>,
    // What the search for something to evict goes by; written under the lock.
    oldest_use_ms: AtomicU64,
}

#[derive(Default)]
struct StripeState {
    interest: Interest,
    channels: Channels,
    events: u64,
    unwanted: u64,
}

impl Stripe {
    fn new(channels: Channels) -> Self {
        let state = StripeState {
            channels,
            ..StripeState::default()
        };
        Self {
            state: Mutex::new(state),
            oldest_use_ms: AtomicU64::new(u64::MAX),
        }
    }

    fn lock(&self) -> MutexGuard<'_, StripeState> {
        self.state.lock()
    }
}

/// Shards to be woken after a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakes(pub u64);

/// What the hub has done and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubMetrics {
    /// Events published, wanted or not.
    pub events: u64,
    /// Events that no shard wanted.
    pub unwanted: u64,
    /// Credits lent: what lies in inboxes or is about to.
    pub credits_lent: usize,
    /// Credits in all.
    pub credits: usize,
    /// Channels of which something is kept.
    pub channels: usize,
    /// What is kept of them, in bytes.
    pub state_bytes: usize,
    /// Ids of publishers that are remembered.
    pub ids: usize,
    /// Names of channels with a history that were dropped, for those who come back.
    pub tombstones: usize,
    /// Channels that were dropped, the least recently used first, for want of room.
    pub evicted: u64,
    /// Events that fell out of a history because it was full.
    pub trimmed: u64,
    /// Events that fell out of a history because they were too old.
    pub expired: u64,
    /// Events that were published already.
    pub duplicates: u64,
    /// Events that said what the one before them said.
    pub unchanged: u64,
    /// Reads that found that what they asked for is gone.
    pub overtaken: u64,
}

impl Hub {
    /// A hub and its `shards` inboxes. Panics unless there are 1 to [`SHARDS_MAX`].
    pub fn new(settings: Settings, shards: usize, encode: Encode) -> (Arc<Self>, Vec<Inbox>) {
        Self::with_ids_max(settings, shards, encode, generations::IDS_MAX)
    }

    /// A hub that remembers so many ids at most.
    fn with_ids_max(settings: Settings, shards: usize, encode: Encode, ids_max: u32) -> (Arc<Self>, Vec<Inbox>) {
        assert!(
            (1..=usize::from(SHARDS_MAX)).contains(&shards),
            "1 to {SHARDS_MAX} shards, not {shards}"
        );
        let doorbells: Vec<Arc<Doorbell>> = (0..shards).map(|_| Arc::default()).collect();
        let credits = Credits::new(settings.credits, &doorbells);
        let (inboxes, letters): (Vec<_>, Vec<_>) = (0..shards).map(|_| sync::bounded(credits.total())).unzip();
        let versions = Arc::<Versions>::default();
        let tombstones_most = settings.state.tombstones / STRIPES;
        let stripe = |_| Stripe::new(Channels::new(versions.clone(), tombstones_most));
        let hub = Arc::new(Self {
            stripes: std::array::from_fn(stripe),
            versions: versions.clone(),
            inboxes,
            doorbells,
            credits,
            needs: Default::default(),
            encode,
            deflate_bytes_min: AtomicUsize::new(DEFLATE_BYTES_MIN),
            watch: OnceLock::new(),
            classes: settings.classes,
            epoch: settings.epoch.unwrap_or_else(|| Epoch(rand::random())),
            limits: settings.state,
            held: Held::default(),
            generations: Generations::new(settings.state.dedup_window_ms, ids_max / 2),
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

    /// Rings the doorbells of these shards.
    pub fn wake(&self, wakes: Wakes) {
        for shard in bits(wakes.0) {
            self.doorbells[shard].ring();
        }
    }

    /// The finished frame of an event in one form, encoded now if nobody has done it yet.
    pub fn frame<'e>(&self, form: WireFormat, event: &'e Event) -> &'e Bytes {
        if let Some(frame) = event.frame(form) {
            return frame;
        }
        if !form.deflated {
            return event.offer_frame(form, (self.encode)(form.encoding, &event.view()));
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
    pub fn add_demand(&self, form: WireFormat, delta: i32) {
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
    pub fn metrics(&self) -> HubMetrics {
        let mut metrics = HubMetrics {
            credits: self.credits.total(),
            credits_lent: self.credits.total() - self.credits.free(),
            ..HubMetrics::default()
        };
        for stripe in &self.stripes {
            let state = stripe.lock();
            metrics.events += state.events;
            metrics.unwanted += state.unwanted;
            metrics.tombstones += state.channels.tombstones.len();
            let counts = state.channels.counts;
            metrics.evicted += counts.evicted;
            metrics.trimmed += counts.trimmed;
            metrics.expired += counts.expired;
            metrics.duplicates += counts.duplicates;
            metrics.unchanged += counts.unchanged;
            metrics.overtaken += counts.overtaken;
        }
        (metrics.channels, metrics.state_bytes, metrics.ids) = self.held.now();
        metrics
    }

    /// Names the store: offsets compare within it only.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The class of a channel.
    #[must_use]
    pub fn class_of(&self, channel: &Channel) -> &Arc<Class> {
        self.classes.of(channel)
    }

    /// What is kept of a channel and what `since` asks for, for those who have no inbox: `at` is 0 in the page. `each`
    /// is called as by [`Inbox::view`].
    pub fn read(
        &self,
        channel: &Channel,
        since: Since,
        limit: PageLimit,
        now: Now,
        each: &mut dyn FnMut(ChannelView<'_>),
    ) -> Page {
        let forms = self.forms();
        let page = self.with_state(stripe_of(channel.as_str()), |state| {
            state
                .channels
                .view(channel, |channel| self.class_of(channel), now, each);
            state.channels.read(channel, since, limit, now, forms)
        });
        self.enforce_bounds();
        page
    }

    /// The channel's last value was found to hold still: newcomers get it for so many milliseconds from now.
    pub fn confirm_last(&self, channel: &Channel, fresh_ms: u32, now: Now) {
        let mut state = self.stripes[usize::from(stripe_of(channel.as_str()))].lock();
        state.channels.confirm_last(channel, fresh_ms, now);
    }

    /// Forms that events may be encoded in now.
    fn forms(&self) -> usize {
        let needed = |needed: &&AtomicI64| needed.load(Ordering::Relaxed) > 0;
        self.needs.iter().filter(needed).count()
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
