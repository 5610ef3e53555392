//! Versions: the numbers of everything that happens to the hub's state, which is events that are kept and evictions.
//!
//! Invariant: all stripes share one sequence, and a version is drawn under the lock of the stripe that it belongs to. Two
//! things follow. A client that was given version n was connected when n was drawn or later. And everything that entered an
//! inbox before its channel was evicted lies there before every event with a higher version than the eviction.
//!
//! If a log numbers the events, their versions are multiples of [`LOG_STEP`]. The hub numbers its evictions in between, so
//! that the hubs of all gateways that follow the log give the same events the same versions.
//!
//! Versions become visible stripe by stripe, not in their order. While a stripe publishes, it tells a version below which
//! nothing of it is missing ([`InFlight`]). The *head* of the hub is the lowest of the newest version and of what the
//! stripes tell.
//!
//! Invariant of the head: every event with a version up to the head is kept and in every interested inbox. A stripe tells
//! its lower bound before it draws, and takes it back after the event is in the inboxes. A reader loads the newest version
//! first. If that includes the draw, then the reader sees the bound, or something that the stripe told later; and by then the
//! event was in the inboxes. The head may go back, because the bound is lower than the version that is drawn. What was
//! true of a head stays true.

use super::Hub;
use crate::sync::{AtomicU64, Ordering};

/// The distance between the versions of two events that follow each other in a log.
pub const LOG_STEP: u64 = 16;

/// Who numbers the events of a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numbering {
    /// The hub, as they are published.
    #[default]
    Own,
    /// A log that several hubs follow; see [`Hub::apply`](super::Hub::apply).
    Log,
}

/// The one sequence of a hub.
#[derive(Debug, Default)]
pub(super) struct Versions {
    numbering: Numbering,
    newest: AtomicU64,
    evictions: AtomicU64,
}

/// The lower bound that a stripe tells while it publishes. Written under the stripe's lock.
#[derive(Debug)]
pub(super) struct InFlight(AtomicU64);

impl Default for InFlight {
    fn default() -> Self {
        Self(AtomicU64::new(u64::MAX))
    }
}

/// A stripe publishes an event until this is dropped.
pub(super) struct Publishing<'s>(&'s InFlight);

impl InFlight {
    /// The stripe is about to draw a version. `last`: the version that it drew last, so that no shared counter is read.
    pub(super) fn begin(&self, last: u64) -> Publishing<'_> {
        // The draw, which comes later, publishes this store.
        self.0.store(last + 1, Ordering::Relaxed);
        Publishing(self)
    }

    /// The version up to which the stripe publishes nothing now.
    pub(super) fn all_before(&self) -> u64 {
        self.0.load(Ordering::Acquire) - 1
    }
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.0.0.store(u64::MAX, Ordering::Release);
    }
}

impl Hub {
    /// A version up to which every event is kept and in every interested inbox; see the module's docs.
    #[must_use]
    pub fn head(&self) -> u64 {
        let newest = self.versions.newest();
        let stripes = self.stripes.iter();
        stripes.fold(newest, |head, stripe| head.min(stripe.in_flight.all_before()))
    }
}

impl Versions {
    pub(super) fn new(numbering: Numbering) -> Self {
        Self {
            numbering,
            ..Self::default()
        }
    }

    /// The version that was drawn last; 0 if none was drawn.
    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::Acquire)
    }

    /// A position of a client as one of this hub. Another hub that follows the same log may have numbered evictions after
    /// the newest event that this hub has applied; the client has missed nothing then.
    pub(super) fn localize(&self, position: u64) -> u64 {
        let newest = self.newest();
        let is_same_event = self.numbering == Numbering::Log && position / LOG_STEP == newest / LOG_STEP;
        if is_same_event { position.min(newest) } else { position }
    }

    /// Draws the version of an event.
    pub(super) fn next(&self) -> u64 {
        self.newest.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Notes the version that a log gave to an event.
    pub(super) fn advance(&self, version: u64) {
        self.newest.fetch_max(version, Ordering::AcqRel);
    }

    /// Draws the version of an eviction. `None`: the hub has numbered as many evictions as fit between two events of the
    /// log.
    pub(super) fn next_of_eviction(&self) -> Option<u64> {
        // Counted before it is drawn: a thread that sees a higher version also sees this eviction counted.
        self.evictions.fetch_add(1, Ordering::Relaxed);
        if self.numbering == Numbering::Own {
            return Some(self.next());
        }
        let next = |newest: u64| (!(newest + 1).is_multiple_of(LOG_STEP)).then_some(newest + 1);
        let drawn = self.newest.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        drawn.ok().map(|before| before + 1)
    }

    /// How many evictions have drawn a version, or are about to.
    pub(super) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::Acquire)
    }

    /// Begins the sequence anew after `newest`, which may be lower than before.
    pub(super) fn reset(&self, newest: u64) {
        self.newest.store(newest, Ordering::Release);
    }

    /// Continues the sequence above `newest`, unless it is there already.
    pub(super) fn restore(&self, newest: u64) {
        self.newest.fetch_max(newest, Ordering::AcqRel);
    }
}
