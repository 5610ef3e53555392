//! Interest and order: which shards want which channels, and the numbering of what they get.
//!
//! Two rules: *no thread waits while it holds a stripe lock; a shard thread waits only in its poll.*
//!
//! ```text
//! publish(event):  credit = take before locking (1 + bytes/1024); an async publisher waits its turn, a shard only tries
//!   lock(stripe): number; store; for each interested shard: inbox.try_send (cannot fail: capacity = all credits)
//!   unlock; encode; wake shards that sleep (flag set, inbox re-checked, then poll; one wake per batch, none to oneself)
//! join(pattern), on the shard's thread: for each stripe it can match, one at a time:
//!   lock: interest += 1;  at[stripe] = popped + inbox.len()
//! deliver: index = popped++;  a connection gets it iff its subscription is settled or index >= at[stripe]
//! ```
//!
//! Invariant: every event of stripe T that was published before shard S joined under T's lock has an inbox index
//! below `at[T]`; every later one is at or above it.

use std::sync::Arc;

use crate::channel::Pattern;
use crate::event::{Encoding, Event, NewEvent};

/// How many stripes; more only spare publishers from waiting for wide snapshots.
pub const STRIPES: usize = 16;

/// The hub's settings.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Credits in all, and so the capacity of every inbox. An event costs `1 + bytes/1024`.
    pub credits: u32,
}

/// The hub. One per process, shared by publishers and shards.
pub struct Hub {}

/// Room for one event in every inbox. Given back when the last interested shard has popped the event.
pub struct Credit {}

/// Shards to be woken after a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakes(pub u64);

/// One shard's end of the hub; owned by its thread.
pub struct Inbox {}

/// Where in its inbox a shard joined a pattern, per stripe.
pub struct JoinAt {}

/// An event popped from an inbox.
pub struct Popped {
    /// Its place in the inbox, counted from the first event ever.
    pub index: u64,
    /// Its channel's stripe.
    pub stripe: u8,
    /// The event.
    pub event: Arc<Event>,
}

impl Hub {
    /// A hub and its `shards` (1 to 64) inboxes.
    pub fn new(settings: Settings, shards: usize) -> (Arc<Self>, Vec<Inbox>) {
        unimplemented!("{settings:?} {shards}")
    }
    /// Waits, in order of arrival, for room for an event with `bytes` of data.
    pub async fn credit(&self, bytes: usize) -> Credit {
        unimplemented!("{bytes}")
    }
    /// Room for an event, or `None`: then this shard's doorbell rings when some has come back.
    pub fn try_credit(&self, shard: u16, bytes: usize) -> Option<Credit> {
        unimplemented!("{shard} {bytes}")
    }
    /// Numbers the event and puts it into the inbox of every interested shard; encodes it in every form that
    /// somebody needs. Adds the shards to wake to `wakes`; the caller calls [`Hub::wake`] once per batch.
    pub fn publish(&self, event: NewEvent, credit: Credit, wakes: &mut Wakes) -> Option<u64> {
        let _ = (event, credit, wakes);
        unimplemented!()
    }
    /// Rings the doorbells of these shards.
    pub fn wake(&self, wakes: Wakes) {
        unimplemented!("{wakes:?}")
    }
    /// Counts connections that need a form (`delta` is 1 or -1).
    pub fn need(&self, encoding: Encoding, delta: i32) {
        unimplemented!("{encoding:?} {delta}")
    }
}

impl Inbox {
    /// Declares interest in a pattern (once per shard and pattern) and says from where on its events are new.
    pub fn join(&mut self, pattern: &Pattern) -> JoinAt {
        unimplemented!("{pattern}")
    }
    /// Takes interest back.
    pub fn leave(&mut self, pattern: &Pattern) {
        unimplemented!("{pattern}")
    }
    /// The next event.
    pub fn pop(&mut self) -> Option<Popped> {
        unimplemented!()
    }
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        unimplemented!()
    }
    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl JoinAt {
    /// Whether an event popped at `index` from `stripe` came after the join.
    #[must_use]
    pub fn includes(&self, stripe: u8, index: u64) -> bool {
        unimplemented!("{stripe} {index}")
    }
    /// Whether everything from `index` on is included, in every stripe: the subscription is settled.
    #[must_use]
    pub fn settled(&self, index: u64) -> bool {
        unimplemented!("{index}")
    }
}

/// What publishing gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Position in the channel's history, on channels that keep one.
    pub offset: Option<u64>,
}

/// What stands between the gateways: the embedded one publishes straight into the hub.
pub trait Broker: Send + Sync {
    /// Publishes in order; resolves when every event is stored and in every interested shard's inbox.
    fn publish(&self, events: Vec<NewEvent>) -> std::pin::Pin<Box<dyn Future<Output = Vec<Receipt>> + Send + '_>>;
    /// Publishes from a shard's thread without waiting, or hands the event back: the shard's doorbell rings when it
    /// may try again.
    fn try_publish(&self, shard: u16, event: NewEvent) -> Result<Receipt, NewEvent>;
    /// Whether it can be reached (`/readyz`).
    fn is_ready(&self) -> bool;
}
