//! Finding the channels that were evicted while a client was away, a page at a time.
//!
//! Invariant: consider a channel with a history that was evicted before the scan began, with a version above the one that
//! its pattern was given. When the scan is complete, the channel has been named, or
//! [`has_forgotten`](TombstoneScan::has_forgotten) is set.
//!
//! Only newer tombstones are visited. There are none as long as everything fits into the hub's bounds.

use super::Inbox;
use super::interest::Stripes;
use super::scan::{PAGE_STEPS, PATTERNS_PER_STEP};
use super::state::Tombstone;
use tickgate_protocol::channel::Pattern;

/// A scan over the tombstones of all stripes. [`Inbox::scan_tombstones`] continues it.
#[derive(Debug)]
pub struct TombstoneScan {
    // Each pattern with the version up to which the client knows the evictions.
    patterns: Vec<(Pattern, u64)>,
    // The stripe that the next page reads, and the version up to which it was read; `None`: from its beginning.
    stripe: u8,
    reached: Option<u64>,
    has_forgotten: bool,
}

impl TombstoneScan {
    /// Starts a scan for evicted channels. A channel is found if one of the patterns matches it and if the version of its
    /// eviction is above the one given with that pattern.
    #[must_use]
    pub fn new(patterns: Vec<(Pattern, u64)>) -> Self {
        Self {
            patterns,
            stripe: 0,
            reached: None,
            has_forgotten: false,
        }
    }

    /// Whether there may be further evicted channels whose names the hub has forgotten.
    #[must_use]
    pub fn has_forgotten(&self) -> bool {
        self.has_forgotten
    }

    // The patterns that can match channels of the current stripe.
    fn current_patterns(&self) -> impl Iterator<Item = &(Pattern, u64)> + Clone {
        let concerns = |pattern: &Pattern| Stripes::of(pattern).iter().contains(&self.stripe);
        self.patterns.iter().filter(move |(pattern, _)| concerns(pattern))
    }
}

impl Inbox {
    /// A version up to which every event is kept, and in this inbox unless it was popped; see [`Hub::head`](super::Hub::head).
    #[must_use]
    pub fn head(&self) -> u64 {
        self.hub().head()
    }

    /// The newest version in the hub.
    #[must_use]
    pub fn newest_version(&self) -> u64 {
        self.hub().versions.newest()
    }

    /// How many channels with a history have been evicted. A thread that has seen some version also sees every eviction
    /// with a lower version counted here.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.hub().versions.evictions()
    }

    /// Continues a scan by at most one page. Returns how many steps the page took, counted as by [`Inbox::scan`], or
    /// `None` if the scan is complete.
    ///
    /// `found` is called under the stripe's lock for each evicted channel that is found, with the version of its eviction.
    pub fn scan_tombstones(
        &self,
        scan: &mut TombstoneScan,
        steps_max: usize,
        found: &mut dyn FnMut(u64, &Tombstone),
    ) -> Option<usize> {
        let stripe = self.hub().stripes.get(usize::from(scan.stripe))?;
        let (mut visited, mut reached, mut has_forgotten) = (0, None, false);
        let steps = 1 + scan.patterns.len() / PATTERNS_PER_STEP;
        if let Some(known) = scan.current_patterns().map(|(_, known)| *known).min() {
            let after = scan.reached.unwrap_or(known);
            let channels_max = (steps_max.min(PAGE_STEPS) / steps).max(1);
            let state = stripe.lock();
            let tombstones = &state.channels.tombstones;
            has_forgotten = tombstones.forgotten() > after;
            for (version, tombstone) in tombstones.after(after).take(channels_max) {
                visited += 1;
                reached = Some(version);
                let name = &tombstone.channel;
                let mut patterns = scan.current_patterns();
                if patterns.any(|(pattern, known)| version > *known && pattern.matches(name)) {
                    found(version, tombstone);
                }
            }
            reached = reached.filter(|_| visited >= channels_max);
        }
        scan.has_forgotten |= has_forgotten;
        scan.reached = reached;
        if reached.is_none() {
            scan.stripe += 1;
        }
        Some(steps * (1 + visited))
    }
}
