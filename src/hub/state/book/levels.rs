//! The levels of a book, by side and price.
//!
//! Invariant: a side has at most [`LEVELS_MAX`] levels after [`Levels::keep_bounds`], and there are at most as many removed
//! levels as others (or [`REMOVED_MIN`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use tickgate_protocol::json::Decimal;

/// Most levels of a side. Beyond that, the worst are dropped.
pub(in crate::hub::state) const LEVELS_MAX: usize = 10_000;

/// How many removed levels are kept, even if there are fewer others.
const REMOVED_MIN: usize = 512;

/// The bytes of a level beside its text: its entry in the tree, the digits of its price, and two allocations.
const LEVEL_OVERHEAD: usize = 144;

#[derive(Debug)]
struct Level {
    raw: Arc<str>,
    version: u64,
    is_removed: bool,
}

/// The levels of both sides: bids, then asks.
#[derive(Debug, Default)]
pub(super) struct Levels {
    sides: [BTreeMap<Decimal, Level>; 2],
    // How many levels of each side are removed.
    removed: [usize; 2],
    bytes: usize,
}

/// What was given up to stay within the bounds.
#[derive(Debug, Default)]
pub(super) struct Bounded {
    /// The newest version of a removed level that was forgotten.
    pub(super) forgotten: Option<u64>,
    /// How many levels were dropped.
    pub(super) dropped: u64,
}

impl Levels {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether there never was a level.
    pub(super) fn is_unused(&self) -> bool {
        self.sides.iter().all(BTreeMap::is_empty)
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Replaces the level of a price.
    pub(super) fn put(&mut self, side: usize, price: Decimal, raw: Arc<str>, is_removed: bool, version: u64) {
        self.bytes += LEVEL_OVERHEAD + raw.len();
        self.removed[side] += usize::from(is_removed);
        let level = Level {
            raw,
            version,
            is_removed,
        };
        if let Some(before) = self.sides[side].insert(price, level) {
            self.forget(side, &before);
        }
    }

    fn forget(&mut self, side: usize, level: &Level) {
        self.bytes -= LEVEL_OVERHEAD + level.raw.len();
        self.removed[side] -= usize::from(level.is_removed);
    }

    /// The text of the level of a price, unless it is removed.
    pub(super) fn get(&self, side: usize, price: &Decimal) -> Option<&Arc<str>> {
        let level = self.sides[side].get(price)?;
        (!level.is_removed).then_some(&level.raw)
    }

    /// The text that removed the level of a price.
    pub(super) fn removed(&self, side: usize, price: &Decimal) -> Option<&Arc<str>> {
        let level = self.sides[side].get(price)?;
        level.is_removed.then_some(&level.raw)
    }

    // All levels of a side, the best first: the highest bid, the lowest ask.
    fn in_order(&self, side: usize) -> impl Iterator<Item = (&Decimal, &Level)> {
        let levels = &self.sides[side];
        let (bids, asks) = match side {
            0 => (Some(levels.iter().rev()), None),
            _ => (None, Some(levels.iter())),
        };
        bids.into_iter().flatten().chain(asks.into_iter().flatten())
    }

    /// The levels of a side that are not removed, the best first.
    pub(super) fn best(&self, side: usize) -> impl Iterator<Item = (&Decimal, &Arc<str>)> {
        let present = self.in_order(side).filter(|(_, level)| !level.is_removed);
        present.map(|(price, level)| (price, &level.raw))
    }

    /// The levels of a side that changed after a version, the best first; 0: all that are not removed.
    pub(super) fn changed_after(&self, side: usize, version: u64) -> impl Iterator<Item = &Arc<str>> {
        let changed = move |level: &Level| level.version > version && !(version == 0 && level.is_removed);
        self.in_order(side)
            .filter(move |(_, level)| changed(level))
            .map(|(_, level)| &level.raw)
    }

    /// All levels of a side with their versions, also those that are removed.
    pub(super) fn iter(&self, side: usize) -> impl Iterator<Item = (&Decimal, &Arc<str>, u64)> {
        self.in_order(side)
            .map(|(price, level)| (price, &level.raw, level.version))
    }

    /// Drops the worst levels of a side that has too many, and forgets the oldest removed ones if there are too many.
    pub(super) fn keep_bounds(&mut self) -> Bounded {
        let mut bounded = Bounded::default();
        for side in [0, 1] {
            while self.sides[side].len() - self.removed[side] > LEVELS_MAX {
                let worst = match side {
                    0 => self.sides[side].pop_first(),
                    _ => self.sides[side].pop_last(),
                };
                let Some((_, level)) = worst else { break };
                bounded.dropped += u64::from(!level.is_removed);
                if level.is_removed {
                    bounded.forgotten = bounded.forgotten.max(Some(level.version));
                }
                self.forget(side, &level);
            }
            bounded.forgotten = bounded.forgotten.max(self.forget_removed(side));
        }
        bounded
    }

    // Forgets many at once, because finding the oldest means visiting all. Returns the newest version among them.
    fn forget_removed(&mut self, side: usize) -> Option<u64> {
        let removed_max = REMOVED_MIN.max(self.sides[side].len() - self.removed[side]);
        let count = self.removed[side].checked_sub(removed_max).filter(|count| *count > 0)? + removed_max / 4;
        let removed = self.sides[side].values().filter(|level| level.is_removed);
        let mut versions: Vec<u64> = removed.map(|level| level.version).collect();
        let (_, last, _) = versions.select_nth_unstable(count - 1);
        let last = *last;
        let (mut bytes, mut forgotten) = (0, 0);
        self.sides[side].retain(|_, level| {
            let goes = level.is_removed && level.version <= last;
            if goes {
                bytes += LEVEL_OVERHEAD + level.raw.len();
                forgotten += 1;
            }
            !goes
        });
        self.bytes -= bytes;
        self.removed[side] -= forgotten;
        Some(last)
    }
}
