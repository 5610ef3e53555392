//! Joining wide patterns: patterns that can match many channels are joined a page at a time, so that no stripe is locked
//! for long.
//!
//! A scan goes through the stripes one by one. In each stripe it first registers the shard's interest. Then it reads the
//! channels that have state, in the order of their names. A page that does not reach the end of the stripe remembers its
//! last name, and the next page continues after it. Publishers go on between two pages, on both sides of that name.
//! Therefore each page reads a position of its own.
//!
//! A scan can also report given channels that have no state yet. Each belongs to the page whose range contains its name.
//!
//! Invariant: the view of a channel contains an event if and only if the event's inbox index is below the position of the
//! page whose range contains the channel's name, whether or not the channel existed when the page was read. An event
//! whose channel is in no page yet belongs to a page that is still to come.

use super::interest::{Stripes, stripe_of};
use super::position::{JoinPosition, ScanRanges};
use super::state::Prefixes;
use super::{ChannelView, Inbox, STRIPES, StripeState};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};

/// Most steps of one page, and so a bound on how long a stripe is locked: about 0.1 ms.
pub(super) const PAGE_STEPS: usize = 1024;

/// How many patterns a name is compared with in one step. A step is meant to take about 0.1 µs.
pub const PATTERNS_PER_STEP: usize = 4;

/// A join of wide patterns that is under way. [`Inbox::scan`] continues it.
#[derive(Debug, Default)]
pub struct Scan {
    patterns: Vec<Pattern>,
    // Sorted.
    names: Vec<Channel>,
    // The stripe that the next page reads, and what it reads there; `None` when the scan is complete.
    stripe: u8,
    current: Option<StripeScan>,
    ranges: ScanRanges,
    pages: usize,
}

/// What a scan reads in one stripe.
#[derive(Debug)]
struct StripeScan {
    // The scan's patterns that can match channels of this stripe.
    patterns: Vec<Pattern>,
    prefixes: Prefixes,
    // The scan's names in this stripe, sorted.
    names: Vec<Channel>,
    // The last channel of the previous page; `None` before the first page.
    after: Option<Channel>,
}

impl Scan {
    /// Starts a scan for patterns that contain a `*`. `names` are channels that the patterns match and that are reported
    /// even if they have no state, as by [`Inbox::join_and_view`].
    #[must_use]
    pub fn new(patterns: Vec<Pattern>, mut names: Vec<Channel>) -> Self {
        names.sort_unstable();
        let mut scan = Self {
            patterns,
            names,
            ..Self::default()
        };
        scan.enter(0);
        scan
    }

    /// Whether every stripe has been read to its end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.ranges.is_complete()
    }

    /// How many pages have been read.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The position of the pages that have been read.
    #[must_use]
    pub fn position(&self) -> JoinPosition {
        self.ranges.position()
    }

    /// The newest version in the hub when the page that contains the channel's name was read. The page saw no newer event
    /// of the channel, and every event that is delivered later is newer. 0 if that page has not been read.
    #[must_use]
    pub fn version_at(&self, channel: &Channel) -> u64 {
        self.ranges.newest_at(channel)
    }

    // Moves to the first stripe, from `first` on, that one of the patterns can match.
    fn enter(&mut self, first: usize) {
        for stripe in (0u8..).take(STRIPES).skip(first) {
            let concerns = |pattern: &&Pattern| Stripes::of(pattern).iter().contains(&stripe);
            let count = self.patterns.iter().filter(concerns).count();
            if count == 0 {
                continue;
            }
            self.stripe = stripe;
            let names = self.names.iter().filter(|name| stripe_of(name) == stripe).cloned();
            // If all patterns concern both this stripe and the last one, only the names differ.
            match &mut self.current {
                Some(current) if current.patterns.len() == count && count == self.patterns.len() => {
                    current.names.clear();
                    current.names.extend(names);
                    current.after = None;
                }
                _ => {
                    let patterns: Vec<Pattern> = self.patterns.iter().filter(concerns).cloned().collect();
                    self.current = Some(StripeScan {
                        prefixes: Prefixes::of(patterns.iter()),
                        patterns,
                        names: names.collect(),
                        after: None,
                    });
                }
            }
            return;
        }
        self.current = None;
        self.ranges.complete();
    }

    // Records a page that ends with `last` (`None`: at the end of the stripe), and prepares the next one.
    fn finish_page(&mut self, last: Option<Channel>, position: u64, newest: u64) {
        self.pages += 1;
        self.ranges.add_page(self.stripe, last.clone(), position, newest);
        match (&mut self.current, last) {
            (Some(current), last @ Some(_)) => current.after = last,
            _ => self.enter(usize::from(self.stripe) + 1),
        }
    }
}

impl StripeScan {
    // The steps that one channel takes: one to find it, and more to compare it with many patterns.
    fn steps_per_channel(&self) -> usize {
        1 + self.patterns.len() / PATTERNS_PER_STEP
    }

    // The names that belong to a page that ends with `last`.
    fn names_up_to(&self, last: Option<&Channel>) -> &[Channel] {
        let up_to = |end: Option<&Channel>| self.names.partition_point(|name| end.is_some_and(|end| name <= end));
        let end = if last.is_some() { up_to(last) } else { self.names.len() };
        &self.names[up_to(self.after.as_ref())..end]
    }
}

impl Inbox {
    /// Continues a scan by one page, and returns how many steps the page took.
    ///
    /// A page takes at most `steps_max` steps, but visits at least one channel. `view` is called under the stripe's lock
    /// for every channel with state that one of the patterns matches. Each visited channel takes one step, whether it
    /// matches or not, and one more for every [`PATTERNS_PER_STEP`] patterns that it is compared with.
    pub fn scan(
        &mut self,
        scan: &mut Scan,
        steps_max: usize,
        now: Now,
        view: &mut dyn FnMut(ChannelView<'_>),
    ) -> usize {
        let Some(current) = &scan.current else { return 0 };
        let steps = current.steps_per_channel();
        let channels_max = (steps_max.min(PAGE_STEPS) / steps).max(1);
        let is_first_page = current.after.is_none();
        let to_join: &[Pattern] = if is_first_page { &current.patterns } else { &[] };
        let read = |state: &mut StripeState| {
            let matching = (&current.prefixes, &*current.patterns);
            let page = state
                .channels
                .scan(matching, current.after.as_ref(), channels_max, now, view);
            let names = current.names_up_to(page.last.as_ref());
            for name in names {
                state.channels.view_absent(name, |name| self.class_of(name), view);
            }
            (page.channels + names.len(), page.last, self.newest_version())
        };
        let ((visited, last, newest), position) = self.join_stripe(scan.stripe, to_join, read);
        scan.finish_page(last, position, newest);
        if scan.is_complete() {
            for pattern in &scan.patterns {
                self.note_join(pattern);
            }
        }
        steps * (1 + visited)
    }
}
