//! What was evicted while somebody was away, a page at a time.
//!
//! Invariant: once a search is through, every channel with a history that was evicted before it began, with a number
//! above the one that its pattern's holder knows of, was named or its name is [forgotten](TombstoneScan::has_forgotten). Only
//! what was evicted since is looked at: nothing, as long as the bounds hold all that there is.

use super::Inbox;
use super::interest::Stripes;
use super::scan::{PAGE_STEPS, PATTERNS_PER_STEP};
use tickgate_protocol::channel::{Channel, Pattern};

/// A search on its way through the stripes.
#[derive(Debug)]
pub struct TombstoneScan {
    // Each with the number up to which its holder knows what was evicted.
    patterns: Vec<(Pattern, u64)>,
    // The stripe to be searched next, and up to which number it was; `None`: it was not begun.
    stripe: u8,
    reached: Option<u64>,
    has_forgotten: bool,
}

impl TombstoneScan {
    /// For channels that match one of these patterns and were evicted after the number that stands with it.
    #[must_use]
    pub fn new(patterns: Vec<(Pattern, u64)>) -> Self {
        Self {
            patterns,
            stripe: 0,
            reached: None,
            has_forgotten: false,
        }
    }

    /// Whether there may have been channels that are not known by name any more.
    #[must_use]
    pub fn has_forgotten(&self) -> bool {
        self.has_forgotten
    }

    // Those of the patterns that concern the stripe.
    fn here(&self) -> impl Iterator<Item = &(Pattern, u64)> + Clone {
        let concerns = |pattern: &Pattern| Stripes::of(pattern.as_str()).iter().contains(&self.stripe);
        self.patterns.iter().filter(move |(pattern, _)| concerns(pattern))
    }
}

impl Inbox {
    /// The newest number that anything in the hub has.
    #[must_use]
    pub fn newest_version(&self) -> u64 {
        self.hub().versions.newest()
    }

    /// How many channels with a history were evicted. Who knows of a number knows of every eviction with a lower one.
    #[must_use]
    pub fn evictions(&self) -> u64 {
        self.hub().versions.evictions()
    }

    /// Goes on with a search by no more than a page; `each` is called, under the lock of its stripe, for every channel
    /// that is found. Returns how many steps that took, as [`Inbox::scan`] counts them, or `None` when there is nothing
    /// left to search.
    pub fn scan_tombstones(
        &self,
        search: &mut TombstoneScan,
        most: usize,
        each: &mut dyn FnMut(&Channel),
    ) -> Option<usize> {
        let stripe = self.hub().stripes.get(usize::from(search.stripe))?;
        let (mut looked_at, mut reached, mut has_forgotten) = (0, None, false);
        let steps = 1 + search.patterns.len() / PATTERNS_PER_STEP;
        if let Some(known) = search.here().map(|(_, known)| *known).min() {
            let after = search.reached.unwrap_or(known);
            let channels = (most.min(PAGE_STEPS) / steps).max(1);
            let state = stripe.lock();
            let tombstones = &state.channels.tombstones;
            has_forgotten = tombstones.forgotten() > after;
            for (number, tombstone) in tombstones.after(after).take(channels) {
                looked_at += 1;
                reached = Some(number);
                let name = tombstone.channel.as_str();
                let mut here = search.here();
                if here.any(|(pattern, known)| number > *known && pattern.matches(name)) {
                    each(&tombstone.channel);
                }
            }
            reached = reached.filter(|_| looked_at >= channels);
        }
        search.has_forgotten |= has_forgotten;
        search.reached = reached;
        if reached.is_none() {
            search.stripe += 1;
        }
        Some(steps * (1 + looked_at))
    }
}
