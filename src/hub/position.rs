//! Inbox positions: from which inbox index on the events of a join count.
//!
//! Invariant: an event is newer than a join if and only if its inbox index is at or above the position that the join read
//! under the lock of the event's stripe. A scan reads one position for each page. An event then belongs to the page whose
//! range of names contains the name of its channel, whether or not the channel existed when the page was read.

use std::sync::Arc;

use super::STRIPES;
use super::interest::stripe_of;
use tickgate_protocol::channel::Channel;

/// The inbox index from which on the events of a joined pattern are new, for each stripe that the pattern can match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinPosition(Positions);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Positions {
    OneStripe { stripe: u8, from: u64 },
    EachStripe(Box<[u64; STRIPES]>),
    // A scan that is not complete, or that took more than one page for some stripe.
    Scan(Arc<ScanRanges>),
}

impl JoinPosition {
    pub(super) fn in_one(stripe: u8, from: u64) -> Self {
        Self(Positions::OneStripe { stripe, from })
    }

    pub(super) fn in_each(from: Box<[u64; STRIPES]>) -> Self {
        Self(Positions::EachStripe(from))
    }

    /// Whether an event of `channel`, popped at `index` from `stripe`, was published after the join.
    #[must_use]
    pub fn includes(&self, channel: &Channel, stripe: u8, index: u64) -> bool {
        match &self.0 {
            Positions::OneStripe { stripe: joined, from } => *joined == stripe && index >= *from,
            Positions::EachStripe(from) => from.get(usize::from(stripe)).is_some_and(|from| index >= *from),
            Positions::Scan(ranges) => ranges.includes(channel, stripe, index),
        }
    }

    /// The inbox index of a pattern whose channels are all in one stripe.
    #[must_use]
    pub fn of_one_stripe(&self) -> Option<u64> {
        match self.0 {
            Positions::OneStripe { from, .. } => Some(from),
            Positions::EachStripe(_) | Positions::Scan(_) => None,
        }
    }

    /// Whether every stripe has been joined.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        match &self.0 {
            Positions::OneStripe { .. } | Positions::EachStripe(_) => true,
            Positions::Scan(ranges) => ranges.is_complete,
        }
    }

    /// Whether every event with an inbox index of at least `index` is included, in every stripe. The subscription is
    /// settled then, and its position can be forgotten.
    #[must_use]
    pub fn is_settled(&self, index: u64) -> bool {
        match &self.0 {
            Positions::OneStripe { from, .. } => index >= *from,
            Positions::EachStripe(from) => from.iter().all(|from| index >= *from),
            Positions::Scan(ranges) => ranges.is_settled(index),
        }
    }
}

/// The pages that a scan has read of each stripe, in the order of channel names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ScanRanges {
    stripes: [Vec<ScanRange>; STRIPES],
    is_complete: bool,
}

/// One or more pages with the same position: the channel names after the previous range, up to and including `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ScanRange {
    // `None`: all remaining names.
    to: Option<Channel>,
    from: u64,
    // The newest version in the hub when the last page was read.
    newest: u64,
}

impl ScanRange {
    /// The index of the range that contains the channel's name.
    fn index_of(ranges: &[Self], channel: &Channel) -> usize {
        let is_before = |range: &Self| range.to.as_ref().is_some_and(|to| to < channel);
        ranges.partition_point(is_before)
    }
}

impl ScanRanges {
    /// Adds a page that ends with the name `to` (`None`: at the end of the stripe) and was read at position `from`.
    pub(super) fn add_page(&mut self, stripe: u8, to: Option<Channel>, from: u64, newest: u64) {
        let ranges = &mut self.stripes[usize::from(stripe)];
        match ranges.last_mut() {
            // The inbox received nothing between the two pages, so they can share a range.
            Some(last) if last.from == from => {
                last.to = to;
                last.newest = newest;
            }
            _ => ranges.push(ScanRange { to, from, newest }),
        }
    }

    /// Marks that every stripe has been read to its end.
    pub(super) fn complete(&mut self) {
        self.is_complete = true;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The position so far, in its smallest form.
    pub(super) fn position(&self) -> JoinPosition {
        let has_one_range_each = self.is_complete && self.stripes.iter().all(|ranges| ranges.len() <= 1);
        if !has_one_range_each {
            return JoinPosition(Positions::Scan(Arc::new(self.clone())));
        }
        let from = |ranges: &Vec<ScanRange>| ranges.first().map_or(0, |range| range.from);
        JoinPosition::in_each(Box::new(self.stripes.each_ref().map(from)))
    }

    /// The newest version in the hub when the page that contains the channel's name was read; 0 if there is no such page.
    pub(super) fn newest_at(&self, channel: &Channel) -> u64 {
        let ranges = &self.stripes[usize::from(stripe_of(channel))];
        let range = ranges.get(ScanRange::index_of(ranges, channel));
        range.map_or(0, |range| range.newest)
    }

    fn includes(&self, channel: &Channel, stripe: u8, index: u64) -> bool {
        let ranges = self.stripes.get(usize::from(stripe)).map_or(&[][..], Vec::as_slice);
        let range = ranges.get(ScanRange::index_of(ranges, channel));
        range.is_some_and(|range| index >= range.from)
    }

    fn is_settled(&self, index: u64) -> bool {
        self.is_complete && self.stripes.iter().flatten().all(|range| index >= range.from)
    }
}
