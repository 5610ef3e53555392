//! What a join sees of the channels of one stripe, a page at a time.
//!
//! Invariant: pages, each beginning behind the last channel that the one before looked at, look at every channel once
//! that is there all the while and that one of the patterns can match, in the order of names, whatever is published
//! between them. What a page costs is bounded, whether its channels match or not.

use std::ops::Bound;
use std::sync::Arc;

use super::{Channels, Kept, expire, mono};
use crate::hub::ChannelView;
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class, Pattern};

/// The literal beginnings of some patterns, in order; none is the beginning of another, so no channel has two of them.
#[derive(Debug, Default)]
pub(in crate::hub) struct Beginnings(Vec<Box<str>>);

impl Beginnings {
    pub(in crate::hub) fn of<'p>(patterns: impl Iterator<Item = &'p Pattern>) -> Self {
        let literal = |pattern: &'p Pattern| pattern.as_str().split('*').next().unwrap_or_default();
        let mut all: Vec<&str> = patterns.map(literal).collect();
        all.sort_unstable();
        // What begins with another follows it, with nothing between them but more of the same.
        all.dedup_by(|next, kept| next.starts_with(*kept));
        Self(all.into_iter().map(Into::into).collect())
    }
}

/// How far one page got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::hub) struct Looked {
    /// Channels looked at, whether they match or not.
    pub(in crate::hub) channels: usize,
    /// The last one, when there may be more behind it.
    pub(in crate::hub) last: Option<Channel>,
}

impl Channels {
    /// Looks at no more than `most` of the channels with state that begin as `beginnings` say, and of those behind
    /// `after` only; calls `each` for those that one of the patterns matches.
    pub(in crate::hub) fn scan(
        &mut self,
        (beginnings, patterns): (&Beginnings, &[Pattern]),
        after: Option<&Channel>,
        most: usize,
        now: Now,
        each: &mut dyn FnMut(ChannelView<'_>),
    ) -> Looked {
        let after = after.map_or("", Channel::as_str);
        let mut channels = 0;
        for beginning in &beginnings.0 {
            let from = if after < &**beginning {
                Bound::Included(&**beginning)
            } else if after.starts_with(&**beginning) {
                Bound::Excluded(after)
            } else {
                continue;
            };
            for (channel, slot) in self.in_order.range::<str, _>((from, Bound::Unbounded)) {
                if !channel.as_str().starts_with(&**beginning) {
                    break;
                }
                channels += 1;
                if patterns.iter().any(|pattern| pattern.matches(channel.as_str())) {
                    let kept = &mut self.slots[*slot as usize];
                    expire(kept, &mut self.bytes, &mut self.counts, now);
                    each(kept.view(self.versions.newest(), now));
                }
                if channels >= most {
                    let last = Some(channel.clone());
                    return Looked { channels, last };
                }
            }
        }
        Looked { channels, last: None }
    }

    /// Calls `each` for one channel. One of a class with history is told of even if nothing is kept of it: "nothing
    /// yet" is a position, too.
    pub(in crate::hub) fn view<'c>(
        &mut self,
        channel: &Channel,
        class: impl FnOnce(&Channel) -> &'c Arc<Class>,
        now: Now,
        each: &mut dyn FnMut(ChannelView<'_>),
    ) {
        if let Some(slot) = self.by_name.get(channel) {
            let kept = &mut self.slots[*slot as usize];
            expire(kept, &mut self.bytes, &mut self.counts, now);
            return each(kept.view(self.versions.newest(), now));
        }
        self.view_absent(channel, class, each);
    }

    /// Calls `each` for a channel of a class with history of which nothing is kept.
    pub(in crate::hub) fn view_absent<'c>(
        &self,
        channel: &Channel,
        class: impl FnOnce(&Channel) -> &'c Arc<Class>,
        each: &mut dyn FnMut(ChannelView<'_>),
    ) {
        let class = class(channel);
        if class.history.is_some() && !self.by_name.contains_key(channel) {
            let head = self.versions.newest();
            each(ChannelView {
                channel,
                class,
                latest: head,
                floor: self.tombstones.floor(channel),
                head,
                is_kept: false,
                has_last: false,
            });
        }
    }
}

impl Kept {
    fn view(&self, head: u64, now: Now) -> ChannelView<'_> {
        ChannelView {
            channel: &self.channel,
            class: &self.class,
            latest: self.latest,
            floor: self.floor,
            head,
            is_kept: true,
            has_last: self.has_last(mono(now)),
        }
    }
}
