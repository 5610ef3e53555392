//! The classes of channels, which may be replaced while the hub runs.
//!
//! Invariant: under a stripe's lock, a publisher has the class of the newest table; one that looked it up before a
//! replacement begins again. A replacement holds all stripes, so no channel gets state of an earlier class after it. Tables
//! stay until the hub ends, so a reader needs neither a lock nor a count.

use std::sync::Arc;

use super::state::Garbage;
use super::{Hub, STRIPES};
use crate::sync::{AtomicUsize, OnceLock, Ordering};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Classes};

/// Most tables that a hub can have one after the other.
const TABLES_MAX: usize = 1024;

/// Why classes are not replaced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClassesKept {
    /// A channel with state would leave its lane.
    #[error("`{key}` changes for the channel {channel}, of which something is kept")]
    Lane {
        /// The channel.
        channel: Channel,
        /// The key of `[[channel]]`.
        key: &'static str,
    },
    /// Connections know the slowest rate from their start.
    #[error("the slowest `max_rate` changes")]
    SlowestRate,
    /// Every earlier table is kept, and there are too many.
    #[error("the classes changed {} times already", TABLES_MAX - 1)]
    TooOften,
}

/// All tables, the oldest first.
pub(super) struct Tables {
    first: Arc<Classes>,
    later: Box<[OnceLock<Arc<Classes>>]>,
    newest: AtomicUsize,
}

impl Tables {
    pub(super) fn new(first: Arc<Classes>) -> Self {
        Self {
            first,
            later: (1..TABLES_MAX).map(|_| OnceLock::new()).collect(),
            newest: AtomicUsize::new(0),
        }
    }

    /// The number of the newest table.
    pub(super) fn newest(&self) -> usize {
        self.newest.load(Ordering::Acquire)
    }

    /// The table with this number.
    pub(super) fn table(&self, number: usize) -> &Arc<Classes> {
        let later = number.checked_sub(1).and_then(|index| self.later.get(index)?.get());
        later.unwrap_or(&self.first)
    }

    // One thread at a time adds a table: it holds all stripes.
    pub(super) fn add(&self, classes: Arc<Classes>) -> Result<(), ClassesKept> {
        let index = self.newest();
        let place = self.later.get(index).ok_or(ClassesKept::TooOften)?;
        place.set(classes).map_err(|_| ClassesKept::TooOften)?;
        self.newest.store(index + 1, Ordering::Release);
        Ok(())
    }
}

impl Hub {
    /// The classes of all channels.
    #[must_use]
    pub fn classes(&self) -> &Arc<Classes> {
        self.classes.table(self.classes.newest())
    }

    /// Replaces the classes of all channels. What is kept is shortened to the new bounds. Events that are published later
    /// carry the new class. Publishing waits while all channels are looked at, about 10 ms for 100,000.
    ///
    /// # Errors
    ///
    /// When the classes cannot take the place of the running ones. Nothing is replaced then.
    pub fn replace_classes(&self, classes: Arc<Classes>, now: Now) -> Result<(), ClassesKept> {
        if classes.slowest_rate() != self.classes().slowest_rate() {
            return Err(ClassesKept::SlowestRate);
        }
        {
            // Nobody else takes more than one of them at a time.
            let stripes: Vec<_> = self.stripes.iter().map(|stripe| stripe.lock()).collect();
            for state in &stripes {
                if let Some((channel, key)) = state.channels.leaving_lane(&classes) {
                    return Err(ClassesKept::Lane { channel, key });
                }
            }
            self.classes.add(classes)?;
        }
        for stripe in (0u8..).take(STRIPES) {
            let mut from = Some(0);
            while let Some(slot) = from {
                let mut garbage = Garbage::default();
                let classes = self.classes();
                from = self.with_state(stripe, |state| {
                    state.channels.adopt_classes(slot, classes, now, &mut garbage)
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::event::{NewEvent, PublishOptions};
    use crate::hub::{PageLimit, Settings, Since, Wakes};
    use tickgate_protocol::channel::{Class, History, Overflow, Pattern};

    const ALL: PageLimit = PageLimit {
        events: 100,
        bytes: usize::MAX,
    };

    fn now(mono_ms: u64) -> Now {
        Now {
            mono_ms,
            unix_ms: 1_000_000 + mono_ms,
        }
    }

    fn classes(entries: &[(&str, Class)]) -> Arc<Classes> {
        let entry = |(pattern, class): &(&str, Class)| (Pattern::parse(pattern).expect("valid"), class.clone());
        Arc::new(Classes::new(entries.iter().map(entry).collect()))
    }

    fn history(size: u32) -> Class {
        Class {
            history: Some(History { size, ttl_ms: 60_000 }),
            overflow: Overflow::Disconnect,
            ..Class::default()
        }
    }

    fn last(last_ttl_ms: Option<u64>, fresh_within_ms: Option<u64>) -> Class {
        Class {
            cache_last: true,
            overflow: Overflow::Conflate,
            last_ttl_ms,
            fresh_within_ms,
            ..Class::default()
        }
    }

    fn hub(first: Arc<Classes>) -> Arc<Hub> {
        let settings = Settings {
            classes: first,
            ..Settings::default()
        };
        Hub::new(settings, 1, |_, _| Bytes::new()).0
    }

    fn publish(hub: &Hub, channel: &str, at: Now) {
        let event = NewEvent {
            channel: Channel::parse(channel).expect("valid"),
            name: "e".into(),
            data: Bytes::from_static(b"1"),
            timestamp_ms: 1,
            options: PublishOptions::default(),
        };
        let credit = hub.credit_now(event.channel.tenant(), 1).expect("a credit");
        hub.publish(event, at, credit, &mut Wakes::default());
    }

    fn kept(hub: &Hub, channel: &str) -> usize {
        let channel = Channel::parse(channel).expect("valid");
        let mut floor = 0;
        hub.read(&channel, Since::After(0), ALL, now(0), &mut |view| floor = view.floor);
        let page = hub.read(&channel, Since::After(floor), ALL, now(0), &mut |_| {});
        page.events.len()
    }

    #[test]
    fn a_shorter_history_sheds_at_once_and_a_longer_one_grows() {
        let hub = hub(classes(&[("x.*", history(10))]));
        for _ in 0..10 {
            publish(&hub, "x.a", now(0));
        }
        let bytes = hub.totals.read().1;
        hub.replace_classes(classes(&[("x.*", history(4))]), now(0))
            .expect("fits");
        assert_eq!(kept(&hub, "x.a"), 4);
        assert!(hub.totals.read().1 < bytes, "the size of the state is counted");
        hub.replace_classes(classes(&[("x.*", history(6))]), now(0))
            .expect("fits");
        for _ in 0..10 {
            publish(&hub, "x.a", now(0));
        }
        assert_eq!(kept(&hub, "x.a"), 6);
    }

    #[test]
    fn the_age_of_a_value_counts_from_its_publication() {
        let hub = hub(classes(&[("x.*", last(None, None))]));
        publish(&hub, "x.a", now(0));
        let both = last(Some(10_000), Some(5_000));
        hub.replace_classes(classes(&[("x.*", both)]), now(4_000))
            .expect("fits");
        assert_eq!(hub.pass_time(now(4_999)).stale.len(), 0);
        assert_eq!(hub.pass_time(now(5_000)).stale.len(), 1);
        assert_eq!(hub.pass_time(now(10_000)).ended.len(), 1);
        // A channel that is told to be stale is told to be fresh when nobody waits for it any more.
        hub.replace_classes(classes(&[("x.*", last(None, None))]), now(11_000))
            .expect("fits");
        let passed = hub.pass_time(now(100_000));
        assert_eq!((passed.fresh.len(), passed.ended.len(), passed.stale.len()), (1, 0, 0));
    }

    #[test]
    fn a_channel_without_state_begins_to_have_some_and_a_refused_table_changes_nothing() {
        let hub = hub(classes(&[]));
        publish(&hub, "x.a", now(0));
        assert_eq!(kept(&hub, "x.a"), 0);
        hub.replace_classes(classes(&[("x.*", history(5))]), now(0))
            .expect("fits");
        publish(&hub, "x.a", now(0));
        assert_eq!(kept(&hub, "x.a"), 1);
        let kept_classes = hub.replace_classes(classes(&[("x.*", last(None, None))]), now(0));
        assert_eq!(
            kept_classes.expect_err("another lane").to_string(),
            "`cache` changes for the channel x.a, of which something is kept"
        );
        publish(&hub, "x.a", now(0));
        assert_eq!(kept(&hub, "x.a"), 2);
        // `y.*` has no channel with state yet, so it may get any class.
        let more = [("x.*", history(5)), ("y.*", last(None, None))];
        hub.replace_classes(classes(&more), now(0)).expect("fits");
        let other = [("x.*", history(5)), ("y.*", history(5))];
        hub.replace_classes(classes(&other), now(0)).expect("fits");
    }

    #[test]
    fn a_table_after_the_last_one_is_refused() {
        let hub = hub(classes(&[]));
        for _ in 1..TABLES_MAX {
            hub.replace_classes(classes(&[]), now(0)).expect("room");
        }
        assert_eq!(hub.replace_classes(classes(&[]), now(0)), Err(ClassesKept::TooOften));
    }
}
