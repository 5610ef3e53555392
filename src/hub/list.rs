//! Listing the channels of which something is kept, for operators.
//!
//! Invariant: a page looks at a bounded number of channels under each lock, as a scan does.

use super::scan::PAGE_STEPS;
use super::state::Prefixes;
use super::{Hub, STRIPES};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Pattern, Tenant};

/// Channels that one page looks at, whether they match or not.
const LOOKED_AT_MAX: usize = 16 * PAGE_STEPS;

/// A channel of which something is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedChannel {
    /// The channel.
    pub channel: Channel,
    /// The estimated size of what is kept, in bytes.
    pub bytes: usize,
    /// Events in its history, and its last value if that is not one of them.
    pub events: usize,
    /// The offset of its newest event; `None`: it keeps no history.
    pub offset: Option<u64>,
    /// Whether nothing was published to it for too long (`fresh_within`).
    pub is_stale: bool,
}

/// Where a page begins: a stripe, and a channel of it behind which to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListPlace {
    /// The stripe.
    pub stripe: u8,
    /// The last channel of the page before.
    pub after: Option<Channel>,
}

impl Hub {
    /// How many channels of a tenant are stale, or of all tenants, and at most `limit` of them.
    pub fn stale(&self, tenant: Option<Tenant>, limit: usize) -> (usize, Vec<Channel>) {
        let (mut count, mut some) = (0, Vec::new());
        for stripe in (0u8..).take(STRIPES) {
            self.with_state(stripe, |state| {
                let stale = state.channels.stale();
                for channel in stale.filter(|channel| tenant.is_none_or(|tenant| channel.tenant() == tenant)) {
                    count += 1;
                    if some.len() < limit {
                        some.push(channel.clone());
                    }
                }
            });
        }
        (count, some)
    }

    /// At most `limit` channels that match `pattern`, or only those of them that are stale, and where the next page begins; `None`: this is the last one. A page
    /// may have fewer channels, even none, when very many do not match.
    pub fn list(
        &self,
        (pattern, only_stale): (&Pattern, bool),
        from: ListPlace,
        limit: usize,
        now: Now,
    ) -> (Vec<ListedChannel>, Option<ListPlace>) {
        let prefixes = Prefixes::of(std::iter::once(pattern));
        let patterns = std::slice::from_ref(pattern);
        let (mut found, mut looked_at) = (Vec::<ListedChannel>::new(), 0);
        let ListPlace { mut stripe, mut after } = from;
        while usize::from(stripe) < STRIPES {
            let before = found.len();
            let mut is_full = false;
            let page = self.with_state(stripe, |state| {
                state
                    .channels
                    .scan((&prefixes, patterns), after.as_ref(), PAGE_STEPS, now, &mut |view| {
                        if only_stale && !view.is_stale {
                            return;
                        }
                        if found.len() == limit {
                            // The next page begins behind the last channel that fits.
                            is_full = true;
                            return;
                        }
                        found.push(ListedChannel {
                            channel: view.channel.clone(),
                            bytes: view.bytes(),
                            events: view.events(),
                            offset: view.class.history.map(|_| view.latest),
                            is_stale: view.is_stale,
                        });
                    })
            });
            if is_full {
                // If nothing of this stripe fits, the last channel found is one of another stripe.
                if let Some(last) = found[before..].last() {
                    after = Some(last.channel.clone());
                }
                return (found, Some(ListPlace { stripe, after }));
            }
            looked_at += page.channels;
            match page.last {
                Some(last) => after = Some(last),
                None => (stripe, after) = (stripe + 1, None),
            }
            if looked_at >= LOOKED_AT_MAX && usize::from(stripe) < STRIPES {
                return (found, Some(ListPlace { stripe, after }));
            }
        }
        (found, None)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::collections::BTreeSet;

    use bytes::Bytes;

    use super::*;
    use crate::event::{NewEvent, PublishOptions};
    use crate::hub::{Settings, Wakes};

    #[test]
    fn pages_list_every_matching_channel_once() {
        let (hub, _inboxes) = Hub::new(Settings::default(), 1, |_, _| Bytes::new());
        let now = Now { mono_ms: 1, unix_ms: 1 };
        let name = |n: usize| format!("grid.g{n}.order");
        for n in 0..100 {
            for channel in [name(n), format!("market.m{n}.price")] {
                let new = NewEvent {
                    channel: Channel::parse(&channel).expect("valid"),
                    name: "e".into(),
                    data: Bytes::from_static(b"1"),
                    timestamp_ms: 1,
                    options: PublishOptions::default(),
                };
                let credit = hub.credit_now(new.channel.tenant(), 1).expect("credit");
                hub.publish(new, now, credit, &mut Wakes::default());
            }
        }
        for limit in [1, 7, 1000] {
            let (mut seen, mut place) = (BTreeSet::new(), Some(ListPlace::default()));
            let pattern = Pattern::parse("grid.*").expect("valid");
            while let Some(from) = place {
                let (page, next) = hub.list((&pattern, false), from, limit, now);
                assert!(page.len() <= limit);
                for listed in page {
                    assert!(listed.bytes > 0 && listed.events == 1, "{listed:?}");
                    assert!(seen.insert(listed.channel.to_string()), "{listed:?} is listed twice");
                }
                place = next;
            }
            assert_eq!(seen, (0..100).map(name).collect());
        }
    }
}
