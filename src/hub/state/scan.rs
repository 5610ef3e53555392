//! Viewing the channels of one stripe, for joins: a single channel, or a page of all that some patterns match.
//!
//! Invariant: when each page continues after the last channel of the previous one, the pages visit in the order of names,
//! and exactly once, every channel that one of the patterns can match and that exists all the time. Publishing between
//! the pages does not change that. The cost of a page is bounded, whether its channels match or not.

use std::ops::Bound;
use std::sync::Arc;

use super::{ChannelState, Channels, expire, mono};
use crate::hub::ChannelView;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class, Pattern, Tenant};

/// The literal prefixes of some patterns with their tenants, sorted. None is a prefix of another one of its tenant, so a
/// channel has at most one of them.
#[derive(Debug, Default)]
pub(in crate::hub) struct Prefixes(Vec<(Tenant, Box<str>)>);

impl Prefixes {
    pub(in crate::hub) fn of<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Self {
        let literal = |pattern: &'p Pattern| {
            let text = pattern.as_str().split('*').next().unwrap_or_default();
            (pattern.tenant(), text)
        };
        let mut all: Vec<(Tenant, &str)> = patterns.map(literal).collect();
        all.sort_unstable();
        // In sorted order, the strings with a given prefix directly follow it.
        all.dedup_by(|next, kept| next.0 == kept.0 && next.1.starts_with(kept.1));
        Self(all.into_iter().map(|(tenant, text)| (tenant, text.into())).collect())
    }
}

/// How far a page got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub) struct ScannedPage {
    /// How many channels it visited, whether they match or not.
    pub(in crate::hub) channels: usize,
    /// The last channel, if there may be more after it.
    pub(in crate::hub) last: Option<Channel>,
}

/// A channel's place in the order of names.
pub(super) fn place(channel: &Channel) -> (Tenant, Arc<str>) {
    (channel.tenant(), Arc::clone(channel.shared_name()))
}

impl Channels {
    /// Visits at most `channels_max` of the channels that have one of the prefixes and come after `after`. Calls `view`
    /// for those that one of the patterns matches.
    pub(in crate::hub) fn scan(
        &mut self,
        (prefixes, patterns): (&Prefixes, &[Pattern]),
        after: Option<&Channel>,
        channels_max: usize,
        now: Now,
        view: &mut dyn FnMut(ChannelView<'_>),
    ) -> ScannedPage {
        let mut channels = 0;
        for (tenant, prefix) in &prefixes.0 {
            let from = match after {
                Some(after) if (after.tenant(), after.as_str()) >= (*tenant, prefix) => {
                    if after.tenant() != *tenant || !after.as_str().starts_with(&**prefix) {
                        continue;
                    }
                    Bound::Excluded(place(after))
                }
                _ => Bound::Included((*tenant, Arc::from(&**prefix))),
            };
            for ((of, name), slot) in self.in_order.range((from, Bound::Unbounded)) {
                if of != tenant || !name.starts_with(&**prefix) {
                    break;
                }
                channels += 1;
                let matches = |pattern: &Pattern| pattern.tenant() == *of && pattern.matches_name(name);
                if patterns.iter().any(matches) {
                    let state = &mut self.slots[*slot as usize];
                    expire(state, &mut self.bytes, &mut self.counts, now);
                    view(state.view(self.versions.newest(), now));
                }
                if channels >= channels_max {
                    let last = Some(self.slots[*slot as usize].channel.clone());
                    return ScannedPage { channels, last };
                }
            }
        }
        ScannedPage { channels, last: None }
    }

    /// Calls `view` for one channel, if it has state or if its class has a history. In the second case "no event yet" is
    /// a position as well.
    pub(in crate::hub) fn view<'c>(
        &mut self,
        channel: &Channel,
        class: impl FnOnce(&Channel) -> &'c Arc<Class>,
        now: Now,
        view: &mut dyn FnMut(ChannelView<'_>),
    ) {
        if let Some(slot) = self.by_name.get(channel) {
            let state = &mut self.slots[*slot as usize];
            expire(state, &mut self.bytes, &mut self.counts, now);
            return view(state.view(self.versions.newest(), now));
        }
        self.view_absent(channel, class, view);
    }

    /// Calls `view` for a channel that has no state, if its class has a history.
    pub(in crate::hub) fn view_absent<'c>(
        &self,
        channel: &Channel,
        class: impl FnOnce(&Channel) -> &'c Arc<Class>,
        view: &mut dyn FnMut(ChannelView<'_>),
    ) {
        let class = class(channel);
        if class.history.is_some() && !self.by_name.contains_key(channel) {
            let head = self.versions.newest();
            view(ChannelView {
                channel,
                class,
                latest: head,
                floor: self.tombstones.floor(channel),
                head,
                is_kept: false,
                is_deleted: false,
                is_stale: false,
                has_last: false,
                state: None,
            });
        }
    }
}

impl ChannelState {
    fn view(&self, head: u64, now: Now) -> ChannelView<'_> {
        ChannelView {
            channel: &self.channel,
            class: &self.class,
            latest: self.latest,
            floor: self.floor,
            head,
            is_kept: true,
            is_deleted: self.deleted_at_ms.is_some(),
            is_stale: self.is_stale,
            has_last: self.has_last(mono(now)),
            state: Some(self),
        }
    }
}
