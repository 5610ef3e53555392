//! The hub: which shards want which channels, the order of events, and the state that is kept of channels.
//!
//! Two rules hold everywhere: *no thread waits while it holds a stripe lock, and a shard's thread waits only in its poll.*
//!
//! ```text
//! publish(event): take a credit before locking (it costs 1 + bytes/1024); an asynchronous publisher waits for it, a
//!     shard only tries
//!   lock(stripe): drop a duplicate or unchanged event; draw its version; store it; for each interested shard:
//!     inbox.try_send (cannot fail: an inbox has room for all credits)
//!   unlock; encode; evict what exceeds the bounds; wake the sleeping shards (once per batch)
//! join(pattern), on the shard's thread, for each stripe that the pattern can match, one at a time:
//!   lock: interest += shard;  position[stripe] = popped + inbox.len();  view the state
//! read(channel), on the shard's thread:
//!   lock: position = popped + inbox.len();  read a page of the state
//! deliver: index = popped++;  a connection gets the event iff its subscription is settled or index >= position[stripe]
//! ```
//!
//! Invariant: every event of a stripe that was published before a shard joined under the stripe's lock has an inbox index
//! below the position of the join; every later event of the stripe has an index at or above it.
//!
//! | module | contents |
//! |---|---|
//! | `interest` | which shards want which patterns |
//! | `watch` | the notes about changes of interest |
//! | `publish` | the path of an event into the state and the inboxes |
//! | `probe` | the synthetic event that shows that events pass |
//! | `busy` | which channels get the most events |
//! | `credits` | the bound on events in inboxes |
//! | `inbox`, `position` | a shard's end of the hub, and from where on the events of a join count |
//! | `scan` | joining wide patterns in pages |
//! | `tombstone_scan` | finding channels that were evicted while a client was away |
//! | `doorbell` | waking shards |
//! | `state` | what is kept of channels |
//! | `log` | what follows from a log that numbers the events |
//! | `versions`, `generations` | the numbers of events and evictions, and how long ids are remembered |
//! | `classes` | the classes of channels, and replacing them |
//! | `bounds` | the bounds on the state, and eviction |
//! | `publishers` | how much of the state each publisher has |
//! | `metrics` | what the hub counts |
//! | `export`, `snapshot` | writing the state to disk and restoring it |

mod bounds;
mod busy;
mod classes;
mod credits;
mod doorbell;
mod export;
mod generations;
mod inbox;
mod interest;
#[cfg(test)]
#[cfg(shuttle)]
mod interleavings;
mod list;
mod log;
mod metrics;
mod position;
mod probe;
mod publish;
mod publishers;
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
use tickgate_protocol::channel::{Channel, Class, Classes, Pattern, Tenant};
use tickgate_protocol::event::{Encoding, EventView, WireFormat};
use tickgate_protocol::wire::deflate;

pub use bounds::StateSettings;
pub use busy::BusyChannel;
pub use classes::ClassesKept;
pub use credits::Credit;
pub use doorbell::Doorbell;
pub use export::IDS_RESTORED_MAX;
pub use inbox::{Inbox, Popped};
pub use interest::stripe_of;
pub use list::{ListPlace, ListedChannel};
pub use metrics::HubMetrics;
pub use position::JoinPosition;
pub use publish::{Receipt, Stamp};
pub use publishers::{Holding, Quota};
pub use scan::{PATTERNS_PER_STEP, Scan};
pub use state::Passed;
pub use state::{
    ChannelExport, ChannelView, Epoch, Merged, Newest, Page, PageLimit, RecordExport, Since, StripeCounters,
    StripeExport, Tombstone,
};
pub use tombstone_scan::TombstoneScan;
pub use versions::{LOG_STEP, Numbering};
pub use watch::{InterestWatch, PatternFilter};

use bounds::Totals;
use busy::Notes;
use classes::Tables;
use credits::Credits;
use generations::Generations;
use inbox::QueuedEvent;
use interest::{Interest, Stripes};
use log::Terms;
use probe::Probes;
use publishers::Publishers;
use state::Channels;
use versions::{InFlight, Versions};

/// The number of stripes. More stripes would only shorten the time that publishers wait for wide scans.
pub const STRIPES: usize = 16;

/// The most shards a hub can have: a set of shards is a bit mask in one `u64`.
pub const SHARDS_MAX: u16 = 64;

/// The default of [`Hub::deflate_bytes_min`], in bytes of payload.
pub const DEFLATE_BYTES_MIN: usize = 256;

/// The hub's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Credits of all pools together, which is also the capacity of every inbox (24 bytes per credit). An event costs
    /// `1 + bytes/1024` credits.
    pub credits: u32,
    /// The classes of channels, which say what is kept.
    pub classes: Arc<Classes>,
    /// The bounds on the state.
    pub state: StateSettings,
    /// What each tenant but the default one may have of the state, in the order of their numbers; 0: as much as there is.
    pub tenants: Vec<Quota>,
    /// The epoch of the state that is going to be restored; `None` for a new, random one.
    pub epoch: Option<Epoch>,
    /// Who numbers the events.
    pub numbering: Numbering,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            credits: 16 * 1024,
            classes: Arc::default(),
            state: StateSettings::default(),
            tenants: Vec::new(),
            epoch: None,
            numbering: Numbering::Own,
        }
    }
}

/// Makes the finished, uncompressed frame of an event in one encoding. The gateway uses
/// [`tickgate_protocol::dialect::encode_event`].
pub type Encode = fn(Encoding, &EventView<'_>) -> Bytes;

/// The hub. There is one per process, shared by publishers and shards.
pub struct Hub {
    stripes: [Stripe; STRIPES],
    inboxes: Vec<Sender<QueuedEvent>>,
    doorbells: Vec<Arc<Doorbell>>,
    credits: Credits,
    // How many connections use each wire format.
    demand: [AtomicI64; WireFormat::COUNT],
    encode: Encode,
    deflate_bytes_min: AtomicUsize,
    watch: OnceLock<Arc<InterestWatch>>,
    classes: Tables,
    terms: Terms,
    limits: StateSettings,
    totals: Totals,
    publishers: Publishers,
    // Events that brokers refused because their publisher was too fast.
    limited: AtomicU64,
    generations: Generations,
    versions: Arc<Versions>,
    probes: Probes,
}

/// The channels whose first two segments have the same hash, behind one lock. Aligned so that stripes do not share cache
/// lines.
#[repr(align(128))]
struct Stripe {
    state: Mutex<StripeState>,
    // When the stripe's least recently used channel was used, for evictions. Written under the lock.
    oldest_use_ms: AtomicU64,
    in_flight: InFlight,
}

#[derive(Default)]
struct StripeState {
    interest: Interest,
    channels: Channels,
    notes: Notes,
    events: u64,
    unwanted: u64,
    // By the number of the tenant, without those of the default one.
    tenant_events: [u64; Tenant::COUNT],
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
            in_flight: InFlight::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, StripeState> {
        self.state.lock()
    }
}

/// The shards to be woken after a batch, as a bit mask: bit `n` stands for shard `n`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakes(pub u64);

impl Hub {
    /// Makes a hub and the inboxes of its shards, in the order of the shards' numbers.
    ///
    /// # Panics
    ///
    /// If `shards` is not between 1 and [`SHARDS_MAX`].
    pub fn new(settings: Settings, shards: usize, encode: Encode) -> (Arc<Self>, Vec<Inbox>) {
        Self::with_ids_max(settings, shards, encode, generations::IDS_MAX)
    }

    /// Makes a hub that remembers at most `ids_max` ids.
    fn with_ids_max(settings: Settings, shards: usize, encode: Encode, ids_max: u32) -> (Arc<Self>, Vec<Inbox>) {
        assert!(
            (1..=usize::from(SHARDS_MAX)).contains(&shards),
            "1 to {SHARDS_MAX} shards, not {shards}"
        );
        let doorbells: Vec<Arc<Doorbell>> = (0..shards).map(|_| Arc::default()).collect();
        let credits = Credits::new(settings.credits, &doorbells, settings.tenants.len() + 1);
        let (inboxes, queues): (Vec<_>, Vec<_>) = (0..shards).map(|_| sync::bounded(credits.total())).unzip();
        let versions = Arc::new(Versions::new(settings.numbering));
        let tombstones_max = settings.state.tombstones / STRIPES;
        let stripe = |number| Stripe::new(Channels::new(versions.clone(), tombstones_max, number));
        let hub = Arc::new(Self {
            stripes: std::array::from_fn(|number| stripe(u8::try_from(number).expect("16 stripes"))),
            versions: versions.clone(),
            inboxes,
            doorbells,
            credits,
            demand: Default::default(),
            encode,
            deflate_bytes_min: AtomicUsize::new(DEFLATE_BYTES_MIN),
            watch: OnceLock::new(),
            classes: Tables::new(settings.classes),
            terms: Terms::new(settings.epoch.unwrap_or_else(|| Epoch(rand::random()))),
            publishers: Publishers::new(settings.state.per_publisher, &settings.tenants),
            limited: AtomicU64::new(0),
            probes: Probes::new(shards),
            limits: settings.state,
            totals: Totals::default(),
            generations: Generations::new(settings.state.dedup_window_ms, ids_max / 2),
        });
        let inbox = |(shard, queue)| Inbox::new(hub.clone(), shard, queue);
        let inboxes = (0u16..).zip(queues).map(inbox).collect();
        (hub, inboxes)
    }

    /// Waits, in order of arrival, for a credit for an event of a tenant with `bytes` of data. A caller that holds [`Wakes`] must wake
    /// these shards first: the credits may be in events that they have not popped.
    pub async fn credit(&self, tenant: Tenant, bytes: usize) -> Credit<'_> {
        self.credits.publisher(tenant, bytes).await
    }

    /// A credit from the same pool as [`Hub::credit`], if one is free and no publisher waits.
    #[must_use]
    pub fn credit_now(&self, tenant: Tenant, bytes: usize) -> Option<Credit<'_>> {
        self.credits.publisher_now(tenant, bytes)
    }

    /// A credit from the pool of a shard, for an event of a tenant with `bytes` of data. After `None`, the shard's doorbell rings when
    /// enough credits are free.
    #[must_use]
    pub fn try_credit(&self, shard: u16, tenant: Tenant, bytes: usize) -> Option<Credit<'_>> {
        self.credits.shard(shard, tenant, bytes)
    }

    /// Rings the doorbells of these shards.
    pub fn wake(&self, wakes: Wakes) {
        for shard in bits(wakes.0) {
            self.doorbells[shard].ring();
        }
    }

    /// The finished frame of an event in one wire format. It is encoded now if that has not happened yet.
    pub fn frame<'e>(&self, format: WireFormat, event: &'e Event) -> &'e Bytes {
        if let Some(frame) = event.frame(format) {
            return frame;
        }
        if !format.deflated {
            return event.offer_frame(format, (self.encode)(format.encoding, &event.view()));
        }
        let plain = self.frame(format.encoding.plain(), event);
        let deflated = deflate::frame(plain, self.deflate_bytes_min());
        event.offer_frame(format, deflated.map_or_else(|| plain.clone(), Bytes::from))
    }

    /// The finished frame of an event that is sent as a snapshot: the state that the gateway keeps. Only native frames
    /// differ from those of live events.
    pub fn snapshot_frame<'e>(&self, format: WireFormat, event: &'e Event) -> &'e Bytes {
        if format.encoding != Encoding::Native {
            return self.frame(format, event);
        }
        if let Some(frame) = event.snapshot_frame(format.deflated) {
            return frame;
        }
        if !format.deflated {
            let mut view = event.view();
            view.is_snapshot = true;
            return event.offer_snapshot_frame(false, (self.encode)(format.encoding, &view));
        }
        let plain = self.snapshot_frame(format.encoding.plain(), event);
        let deflated = deflate::frame(plain, self.deflate_bytes_min());
        event.offer_snapshot_frame(true, deflated.map_or_else(|| plain.clone(), Bytes::from))
    }

    /// Events with a shorter message are not compressed, in bytes of payload.
    #[must_use]
    pub fn deflate_bytes_min(&self) -> usize {
        self.deflate_bytes_min.load(Ordering::Relaxed)
    }

    /// Sets [`Hub::deflate_bytes_min`]. Allowed at any time.
    pub fn set_deflate_bytes_min(&self, bytes: usize) {
        self.deflate_bytes_min.store(bytes, Ordering::Relaxed);
    }

    /// Changes how many connections use a wire format (`delta` is 1 or -1). Publishers encode events in the formats in use.
    pub fn add_demand(&self, format: WireFormat, delta: i32) {
        self.demand[format.index()].fetch_add(delta.into(), Ordering::Relaxed);
    }

    /// Notes every join and leave of `relevant` patterns from now on. There is one watcher per hub: later calls return
    /// `None`.
    pub fn watch(&self, relevant: Box<PatternFilter>) -> Option<Arc<InterestWatch>> {
        let watch = Arc::new(InterestWatch::new(relevant));
        self.watch.set(Arc::clone(&watch)).is_ok().then_some(watch)
    }

    /// Notes a change of interest. To be called after it took effect, without any lock.
    fn note(&self, pattern: &Pattern, joined: bool) {
        if let Some(watch) = self.watch.get() {
            watch.note(pattern, joined);
        }
    }

    /// Notes the patterns that are held and relevant, as if they were left and joined by nobody. To be called after other
    /// patterns became relevant.
    pub fn note_held(&self) {
        let Some(watch) = self.watch.get() else { return };
        for stripe in &self.stripes {
            let held: Vec<Pattern> = {
                let state = stripe.lock();
                let relevant = state.interest.patterns().filter(|pattern| watch.is_relevant(pattern));
                relevant.cloned().collect()
            };
            for pattern in &held {
                watch.note(pattern, false);
            }
        }
    }

    /// Whether a shard holds a pattern that matches the channel.
    #[must_use]
    pub fn is_wanted(&self, channel: &Channel) -> bool {
        let mut state = self.stripes[usize::from(stripe_of(channel))].lock();
        state.interest.lookup(channel) != 0
    }

    /// Whether a shard holds exactly this pattern.
    #[must_use]
    pub fn holds(&self, pattern: &Pattern) -> bool {
        // A pattern that concerns all stripes is joined and left in each of them, so one of them suffices.
        let stripe = *Stripes::of(pattern).iter().start();
        self.stripes[usize::from(stripe)].lock().interest.holds(pattern)
    }

    /// Counts an event that a broker refused because its publisher was too fast.
    pub fn count_limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    /// The publishers that have more of the state than their quota.
    #[must_use]
    pub fn over_quota(&self) -> Vec<Holding> {
        self.publishers.holdings_over_quota()
    }

    /// The epoch of the store. Offsets compare only within one epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.terms.epoch()
    }

    /// The class of a channel.
    #[must_use]
    pub fn class_of(&self, channel: &Channel) -> &Arc<Class> {
        self.classes().of(channel)
    }

    /// Views a channel and reads a page of its state at the same instant, for callers that have no inbox. [`Page::at`] is
    /// 0. `view` is called as by [`Inbox::view`].
    pub fn read(
        &self,
        channel: &Channel,
        since: Since,
        limit: PageLimit,
        now: Now,
        view: &mut dyn FnMut(ChannelView<'_>),
    ) -> Page {
        let formats = self.formats_in_use();
        let page = self.with_state(stripe_of(channel), |state| {
            state
                .channels
                .view(channel, |channel| self.class_of(channel), now, view);
            state.channels.read(channel, since, limit, now, formats)
        });
        self.enforce_bounds();
        page
    }

    /// The event that a newcomer to the channel gets now; `None`: it gets nothing.
    pub fn last(&self, channel: &Channel, now: Now) -> Option<Arc<Event>> {
        let limit = PageLimit { events: 1, bytes: 0 };
        let mut page = self.read(channel, Since::Newest { above: 0 }, limit, now, &mut |_| {});
        page.events.pop()
    }

    /// Confirms the channel's last value without an event, which is then kept for its `last_ttl` from now. If it was
    /// published with [`fresh_ms`](crate::event::PublishOptions::fresh_ms), newcomers get it for `fresh_ms` milliseconds
    /// from now.
    pub fn confirm_last(&self, channel: &Channel, fresh_ms: u32, now: Now) {
        let mut state = self.stripes[usize::from(stripe_of(channel))].lock();
        state.channels.renew(channel, Some(fresh_ms), now);
    }

    /// In how many wire formats events may be encoded now.
    fn formats_in_use(&self) -> usize {
        let is_used = |count: &&AtomicI64| count.load(Ordering::Relaxed) > 0;
        self.demand.iter().filter(is_used).count()
    }

    /// In how many of them a snapshot has frames of its own; see [`Hub::snapshot_frame`].
    fn snapshot_formats_in_use(&self) -> usize {
        let is_used = |format: &WireFormat| {
            format.encoding == Encoding::Native && self.demand[format.index()].load(Ordering::Relaxed) > 0
        };
        WireFormat::all().filter(is_used).count()
    }
}

/// The indices of the bits that are set in a mask, in increasing order.
fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let index = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (index < u64::BITS).then_some(index as usize)
    })
}
