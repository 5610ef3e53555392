//! Joining patterns that match many channels, a page at a time, so that no stripe is locked for long.
//!
//! Stripe by stripe the shard's interest is declared and the channels with state are looked at, in the order of names.
//! A page that does not reach the stripe's end leaves a place to go on from. Publishers go on meanwhile, before and
//! behind that place; so each page has a position of its own. Channels of which something is to be said even if nothing
//! is kept of them belong to a page by their names, too.
//!
//! Invariant: an event belongs behind what was seen of its channel iff its inbox index is at or above the position of
//! the page in which its channel has its place, whether the channel was there then or not. What lies in no page yet
//! belongs to the one that is to come.

use std::sync::Arc;

use super::inbox::{JoinPosition, UnderLock};
use super::interest::{Stripes, stripe_of};
use super::state::Beginnings;
use super::{ChannelView, Inbox, STRIPES};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern};

/// Steps that one page takes at most, which is what a stripe is locked for: about 0.1 ms.
pub(super) const PAGE_STEPS: usize = 1024;

/// Patterns that a name is compared with in one step, which is meant to be 0.1 µs.
pub const PATTERNS_PER_STEP: usize = 4;

/// A join of patterns on its way through the stripes.
#[derive(Debug, Default)]
pub struct Scan {
    patterns: Vec<Pattern>,
    // In order.
    names: Vec<Channel>,
    // The stripe to be looked at next, and what is to be looked at there; `None`: there is none.
    stripe: u8,
    here: Option<Here>,
    seen: ScanRanges,
    pages: usize,
}

#[derive(Debug)]
struct Here {
    // Those of the patterns that concern the stripe.
    patterns: Vec<Pattern>,
    beginnings: Beginnings,
    names: Vec<Channel>,
    // The last channel that was looked at; `None`: the stripe was not begun.
    after: Option<Channel>,
}

/// Of each stripe, what was seen of it at which position, in the order of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanRanges {
    of: [Vec<Stretch>; STRIPES],
    is_complete: bool,
}

/// The channels behind the stretch before it, up to a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    // `None`: all that are left.
    to: Option<Channel>,
    at: u64,
    // The newest version there was.
    newest: u64,
}

impl Scan {
    /// Of patterns that the shard holds or is about to hold, each with a `*` in it. `names`: channels that they match
    /// and that are told of even if nothing is kept of them, as by [`Inbox::join_and_view`].
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

    /// Whether there is nothing left to look at.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.seen.is_complete
    }

    /// How many pages were looked at.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// From where on events are new, as far as the scan has come.
    #[must_use]
    pub fn position(&self) -> JoinPosition {
        let is_plain = self.is_complete() && self.seen.of.iter().all(|stretches| stretches.len() <= 1);
        if !is_plain {
            return JoinPosition::in_stretches(Arc::new(self.seen.clone()));
        }
        let at = |stretches: &Vec<Stretch>| stretches.first().map_or(0, |stretch| stretch.at);
        JoinPosition::in_each(Box::new(self.seen.of.each_ref().map(at)))
    }

    /// The newest version that there was when the channel's place was looked at: what is delivered of it is newer, and
    /// nothing newer was seen of it.
    #[must_use]
    pub fn version_at(&self, channel: &Channel) -> u64 {
        let stretches = &self.seen.of[usize::from(stripe_of(channel.as_str()))];
        let stretch = stretches.get(Stretch::place(stretches, channel));
        stretch.map_or(0, |stretch| stretch.newest)
    }

    // What a channel costs that is looked at: being found, and being compared.
    fn channel_steps(here: &Here) -> usize {
        1 + here.patterns.len() / PATTERNS_PER_STEP
    }

    // On to the first stripe, from this one on, that concerns one of the patterns.
    fn enter(&mut self, first: usize) {
        for stripe in (0u8..).take(STRIPES).skip(first) {
            let concerns = |pattern: &&Pattern| Stripes::of(pattern.as_str()).iter().contains(&stripe);
            let count = self.patterns.iter().filter(concerns).count();
            if count == 0 {
                continue;
            }
            self.stripe = stripe;
            let names = self
                .names
                .iter()
                .filter(|name| stripe_of(name.as_str()) == stripe)
                .cloned();
            // What concerns all stripes is the same in each of them.
            match &mut self.here {
                Some(here) if here.patterns.len() == count && count == self.patterns.len() => {
                    here.names.clear();
                    here.names.extend(names);
                    here.after = None;
                }
                _ => {
                    let patterns: Vec<Pattern> = self.patterns.iter().filter(concerns).cloned().collect();
                    self.here = Some(Here {
                        beginnings: Beginnings::of(patterns.iter()),
                        patterns,
                        names: names.collect(),
                        after: None,
                    });
                }
            }
            return;
        }
        self.here = None;
        self.seen.is_complete = true;
    }

    // What was looked at up to `to` was seen at this position.
    fn note(&mut self, to: Option<Channel>, at: u64, newest: u64) {
        self.pages += 1;
        let stretches = &mut self.seen.of[usize::from(self.stripe)];
        match stretches.last_mut() {
            // Nothing of this shard came between.
            Some(last) if last.at == at => {
                last.to.clone_from(&to);
                last.newest = newest;
            }
            _ => {
                let to = to.clone();
                stretches.push(Stretch { to, at, newest });
            }
        }
        match (&mut self.here, to) {
            (Some(here), to @ Some(_)) => here.after = to,
            _ => self.enter(usize::from(self.stripe) + 1),
        }
    }
}

impl Here {
    // The names that belong to a page that ends with `last`.
    fn names_up_to(&self, last: Option<&Channel>) -> &[Channel] {
        let up_to = |end: Option<&Channel>| self.names.partition_point(|name| end.is_some_and(|end| name <= end));
        let end = if last.is_some() { up_to(last) } else { self.names.len() };
        &self.names[up_to(self.after.as_ref())..end]
    }
}

impl Stretch {
    // Which of a stripe's the channel's name lies in.
    fn place(stretches: &[Self], channel: &Channel) -> usize {
        let is_before = |stretch: &Self| stretch.to.as_ref().is_some_and(|to| to < channel);
        stretches.partition_point(is_before)
    }
}

impl ScanRanges {
    /// See [`JoinPosition::includes`].
    pub(super) fn includes(&self, channel: &Channel, stripe: u8, index: u64) -> bool {
        let stretches = self.of.get(usize::from(stripe)).map_or(&[][..], |stretches| stretches);
        let place = Stretch::place(stretches, channel);
        stretches.get(place).is_some_and(|stretch| index >= stretch.at)
    }

    /// See [`JoinPosition::is_complete`].
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// See [`JoinPosition::is_settled`].
    pub(super) fn is_settled(&self, index: u64) -> bool {
        self.is_complete && self.of.iter().flatten().all(|stretch| index >= stretch.at)
    }
}

impl Inbox {
    /// Goes on with a scan by one page of no more than `most` steps, or a single channel; `each` is called, under the
    /// lock of its stripe, for every channel with state in it that one of the patterns matches. Returns how many steps
    /// that took: one for a channel looked at, whether it matches or not, and one more for every four patterns that it
    /// is compared with.
    pub fn scan(&mut self, scan: &mut Scan, most: usize, now: Now, each: &mut dyn FnMut(ChannelView<'_>)) -> usize {
        self.scan_by(scan, most, now, each, |_, seen, _| seen.at)
    }

    /// A scan whose positions `place` decides, as in [`Inbox::join_by`].
    pub(super) fn scan_by(
        &mut self,
        scan: &mut Scan,
        most: usize,
        now: Now,
        each: &mut dyn FnMut(ChannelView<'_>),
        mut place: impl FnMut(u8, UnderLock, &dyn Fn() -> u64) -> u64,
    ) -> usize {
        let Some(here) = &scan.here else { return 0 };
        let (stripe, steps) = (scan.stripe, Scan::channel_steps(here));
        let channels = (most.min(PAGE_STEPS) / steps).max(1);
        let is_first = here.after.is_none();
        let joined: &[Pattern] = if is_first { &here.patterns } else { &[] };
        let (mut looked_at, mut last, mut newest) = (0, None, 0);
        let look = |state: &mut super::StripeState| {
            let of = (&here.beginnings, &*here.patterns);
            let looked = state.channels.scan(of, here.after.as_ref(), channels, now, each);
            let names = here.names_up_to(looked.last.as_ref());
            for name in names {
                state.channels.view_absent(name, |name| self.class_of(name), each);
            }
            (looked_at, last) = (looked.channels + names.len(), looked.last);
            newest = self.newest_version();
        };
        let at = self.join_stripe(stripe, joined, look, &mut place);
        scan.note(last, at, newest);
        if scan.is_complete() {
            for pattern in &scan.patterns {
                self.note_join(pattern);
            }
        }
        steps * (1 + looked_at)
    }
}
