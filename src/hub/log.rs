//! A hub that follows a log: which positions of clients the log still means, and how the hub begins anew when the log has
//! lost events that the hub had applied.
//!
//! Invariant: a position that [`Hub::locate`] accepts was given by a hub that had applied exactly the events of the present
//! log up to it, if its epoch is the hub's.

use std::ops::Range;

use super::state::{Garbage, Owners};
use super::{Epoch, Hub, Merged, Receipt, stripe_of};
use crate::event::EventId;
use crate::sync::{AtomicU64, Mutex, Ordering};
use crate::time::Now;
use std::sync::Arc;
use tickgate_protocol::channel::Channel;

/// The epoch, and the numbers that were given to events which the log has lost.
pub(super) struct Terms {
    epoch: AtomicU64,
    lost: Mutex<Vec<Range<u64>>>,
}

impl Terms {
    pub(super) fn new(epoch: Epoch) -> Self {
        Self {
            epoch: AtomicU64::new(epoch.0),
            lost: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Relaxed))
    }
}

impl Hub {
    /// A client's position as one of this hub, if its epoch is the hub's. `None`: the position may stand for events that the
    /// log has lost.
    #[must_use]
    pub fn locate(&self, position: u64) -> Option<u64> {
        let is_lost = self.terms.lost.lock().iter().any(|lost| lost.contains(&position));
        (!is_lost).then(|| self.versions.localize(position))
    }

    /// The version of the newest event that was applied, or of a later eviction.
    #[must_use]
    pub fn newest_version(&self) -> u64 {
        self.versions.newest()
    }

    /// The receipt of an event that was accepted under this id before, if that is remembered.
    pub fn accepted(&self, channel: &Channel, id: &EventId) -> Option<Receipt> {
        let version = self.with_state(stripe_of(channel), |state| {
            state.channels.duplicate(Some(id), &self.generations)
        })?;
        let has_history = self.class_of(channel).history.is_some();
        Some(Receipt {
            offset: has_history.then_some(version),
            epoch: has_history.then(|| self.epoch()),
            duplicate: true,
            ..Receipt::default()
        })
    }

    /// Names the numbers that the log has lost, or may have lost. A position in one of these ranges is not valid.
    pub fn set_lost(&self, lost: Vec<Range<u64>>) {
        *self.terms.lost.lock() = lost;
    }

    /// The merged value of a channel as it is now; `None`: nothing is kept of the channel, or its class merges nothing.
    #[must_use]
    pub fn merged(&self, channel: &Channel) -> Option<Merged> {
        let stripe = &self.stripes[usize::from(stripe_of(channel))];
        stripe.lock().channels.merged(channel)
    }

    /// Restores the merged value of a channel, which was handed over `age_ms` ago, before the log is read back. Returns whether
    /// the value fits to the channel's class. The log must have every event of the channel with a higher version.
    pub fn restore_merged(&self, merged: Merged, now: Now, age_ms: u64) -> bool {
        let class = Arc::clone(self.class_of(&merged.channel));
        let owners = Owners {
            publisher: None,
            tenant: self.publishers.of_tenant(merged.channel.tenant()).cloned(),
        };
        let is_restored = self.with_state(stripe_of(&merged.channel), |state| {
            state.channels.restore_merged(merged, &class, owners, (now, age_ms))
        });
        self.enforce_bounds();
        is_restored
    }

    /// Forgets everything that is kept, and begins anew: the next event has a version above `newest`, and events up to it
    /// may be missing. What connections have got before is not comparable with what follows, so they must be ended.
    pub fn reset(&self, epoch: Epoch, newest: u64) {
        for stripe in (0u8..).take(self.stripes.len()) {
            let mut garbage = Garbage::default();
            self.with_state(stripe, |state| state.channels.reset(newest, &mut garbage));
        }
        self.versions.reset(newest);
        self.terms.epoch.store(epoch.0, Ordering::Relaxed);
    }

    /// Forgets the events up to a version, as if the log had been read back from behind it: some of them left the log before
    /// they could be applied. Merged values stay as they are.
    pub fn forget_up_to(&self, version: u64) {
        for stripe in (0u8..).take(self.stripes.len()) {
            let mut garbage = Garbage::default();
            self.with_state(stripe, |state| state.channels.forget_up_to(version, &mut garbage));
        }
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::super::rig::{self, NO_LIMIT, channel};
    use super::super::{LOG_STEP, Numbering, Settings, Since, Stamp, StateSettings, Wakes};
    use super::*;
    use crate::event::EventId;
    use tickgate_protocol::channel::{Class, Classes, History};

    const TERM: u64 = 1 << 30;

    fn now(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 0 }
    }

    fn follower(channels: usize) -> (Arc<Hub>, Vec<super::super::Inbox>) {
        let history = Class {
            cache_last: true,
            history: Some(History {
                size: 3,
                ttl_ms: 60_000,
            }),
            overflow: tickgate_protocol::channel::Overflow::Disconnect,
            ..Class::default()
        };
        let fresh = Class {
            cache_last: true,
            fresh_within_ms: Some(10_000),
            ..Class::default()
        };
        let settings = Settings {
            numbering: Numbering::Log,
            classes: Arc::new(Classes::new(vec![
                (rig::pattern("kept.*"), history),
                (rig::pattern("fresh.*"), fresh),
            ])),
            state: StateSettings {
                channels,
                ..StateSettings::default()
            },
            ..Settings::default()
        };
        Hub::new(settings, 1, rig::NO_FRAME)
    }

    fn apply(hub: &Hub, name: &str, number: u64, stamp: Stamp, at: Now) -> super::super::Receipt {
        let credit = hub
            .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 8)
            .expect("a credit");
        hub.apply(rig::event(name, number), stamp, at, credit, &mut Wakes::default())
    }

    fn stamp(number: u64) -> Stamp {
        Stamp {
            version: TERM + number * LOG_STEP,
            ..Stamp::default()
        }
    }

    fn offsets(hub: &Hub, name: &str, since: u64, at: Now) -> Option<Vec<u64>> {
        let page = hub.read(&channel(name), Since::After(since), NO_LIMIT, at, &mut |_| {});
        (!page.overtaken).then(|| page.events.iter().map(|event| event.version).collect())
    }

    #[test]
    fn events_have_the_versions_of_the_log_on_every_hub_also_after_evictions() {
        let ((small, _a), (large, _b)) = (follower(2), follower(1000));
        for hub in [&small, &large] {
            for number in 1..=40 {
                let receipt = apply(hub, &format!("kept.{}", number % 5), number, stamp(number), now(number));
                assert_eq!(receipt.offset, Some(TERM + number * LOG_STEP));
            }
        }
        assert!(small.metrics().evicted > 30 && large.metrics().evicted == 0);
        let name = "kept.0";
        let since = TERM + 30 * LOG_STEP;
        let all = offsets(&large, name, since, now(0)).expect("kept");
        assert_eq!(all, [TERM + 35 * LOG_STEP, TERM + 40 * LOG_STEP]);
        // The small hub has evicted the channel in between, and says so.
        assert_eq!(offsets(&small, name, since, now(0)), None);
        // A position that the small hub gave after an eviction is valid on the large one.
        let position = small.newest_version();
        assert!(position > large.newest_version());
        assert_eq!(large.locate(position), Some(large.newest_version()));
        assert_eq!(
            large.locate(position + LOG_STEP),
            Some(position + LOG_STEP),
            "ahead of this hub"
        );
    }

    #[test]
    fn more_evictions_than_fit_between_two_events_are_forgotten_and_told() {
        let (hub, _inboxes) = follower(1000);
        for number in 1..=600 {
            apply(&hub, &format!("kept.a.{number}"), number, stamp(number), now(0));
        }
        let newest = hub.newest_version();
        for _ in 0..500 {
            hub.with_state(super::super::stripe_of(&channel("kept.a.1")), |state| {
                state.channels.evict(false, &mut Garbage::default())
            });
        }
        assert_eq!(hub.newest_version(), newest + LOG_STEP - 1);
        assert!(hub.metrics().tombstones < LOG_STEP as usize);
        assert_eq!(offsets(&hub, "kept.a.1", TERM, now(0)), None);
    }

    #[test]
    fn the_age_of_an_event_is_that_of_the_log() {
        let (hub, _inboxes) = follower(1000);
        let old = Stamp {
            age_ms: 50_000,
            ..stamp(1)
        };
        apply(&hub, "kept.a", 1, old, now(5_000));
        apply(&hub, "kept.a", 2, stamp(2), now(5_000));
        assert_eq!(offsets(&hub, "kept.a", 0, now(14_999)).map(|all| all.len()), Some(2));
        hub.expire(now(15_000));
        assert_eq!(offsets(&hub, "kept.a", 0, now(15_000)), None, "the first is 60 s old");
        assert_eq!(
            offsets(&hub, "kept.a", TERM + LOG_STEP, now(15_000)).map(|all| all.len()),
            Some(1)
        );
    }

    #[test]
    fn a_channel_is_silent_since_the_log_took_its_last_event() {
        let (hub, _inboxes) = follower(1000);
        let old = Stamp {
            age_ms: 50_000,
            is_replayed: true,
            ..stamp(1)
        };
        apply(&hub, "fresh.old", 1, old, now(60_000));
        apply(&hub, "fresh.new", 2, stamp(2), now(60_000));
        let stale = |mono_ms| hub.pass_time(now(mono_ms)).stale;
        assert_eq!(stale(60_000), [channel("fresh.old")]);
        assert_eq!(stale(70_000), [channel("fresh.new")]);
    }

    #[test]
    fn a_log_decides_about_duplicates_and_replayed_events_reach_no_inbox() {
        let (hub, mut inboxes) = follower(1000);
        inboxes[0].join(&rig::pattern("kept.*"));
        for number in 1..=2 {
            let mut event = rig::event("kept.a", number);
            event.options.id = Some(EventId::new(None, &event.channel, b"same"));
            let credit = hub
                .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 8)
                .expect("a credit");
            let receipt = hub.apply(event, stamp(number), now(0), credit, &mut Wakes::default());
            assert!(!receipt.duplicate);
        }
        let replayed = Stamp {
            is_replayed: true,
            ..stamp(3)
        };
        apply(&hub, "kept.a", 3, replayed, now(0));
        let popped: Vec<_> = std::iter::from_fn(|| inboxes[0].pop())
            .map(|popped| popped.event.version)
            .collect();
        assert_eq!(popped, [TERM + LOG_STEP, TERM + 2 * LOG_STEP]);
        assert_eq!(hub.metrics().credits_lent, 0);
    }

    #[test]
    fn what_is_read_back_from_the_log_is_no_present_traffic() {
        for is_replayed in [true, false] {
            let (hub, _inboxes) = follower(1000);
            for number in 1..=100 {
                let event = Stamp {
                    is_replayed,
                    ..stamp(number)
                };
                apply(&hub, "kept.a", number, event, now(0));
            }
            let busiest = hub.busiest(tickgate_protocol::channel::Tenant::DEFAULT, 10, now(1_000));
            assert_eq!(busiest.is_empty(), is_replayed, "{busiest:?}");
        }
    }

    #[test]
    fn what_left_the_log_before_it_was_applied_is_forgotten_with_all_that_is_older() {
        let (hub, _inboxes) = follower(1000);
        for number in [1, 2, 9] {
            apply(&hub, "kept.a", number, stamp(number), now(0));
        }
        apply(&hub, "kept.old", 3, stamp(3), now(0));
        apply(&hub, "fresh.old", 4, stamp(4), now(0));
        apply(&hub, "kept.new", 8, stamp(8), now(0));
        let at = |number| TERM + number * LOG_STEP;
        hub.forget_up_to(at(8) - 1);
        assert_eq!(
            offsets(&hub, "kept.a", at(2), now(0)),
            None,
            "later ones may be missing"
        );
        assert_eq!(offsets(&hub, "kept.a", at(8) - 1, now(0)), Some(vec![at(9)]));
        assert_eq!(offsets(&hub, "kept.new", at(7), now(0)), None);
        assert_eq!(offsets(&hub, "kept.new", at(8) - 1, now(0)), Some(vec![at(8)]));
        assert_eq!(
            offsets(&hub, "kept.old", at(3), now(0)),
            None,
            "a later one may be missing"
        );
        assert_eq!(offsets(&hub, "kept.old", at(8), now(0)), Some(Vec::new()));
        for name in ["kept.old", "fresh.old"] {
            assert_eq!(hub.last(&channel(name), now(0)).map(|last| last.version), None);
        }
        assert_eq!(hub.metrics().channels, 2);
        apply(&hub, "kept.old", 10, stamp(10), now(0));
        assert_eq!(offsets(&hub, "kept.old", at(3), now(0)), None);
        for name in ["kept.a", "kept.old", "kept.new"] {
            hub.with_state(super::super::stripe_of(&channel(name)), |state| {
                while state.channels.evict(false, &mut Garbage::default()) {}
            });
        }
        assert_eq!(hub.metrics().state_bytes, 0, "what was forgotten is not counted");
    }

    #[test]
    fn a_reset_forgets_everything_and_lost_positions_are_not_valid() {
        let (hub, _inboxes) = follower(1000);
        let epoch = hub.epoch();
        for number in 1..=10 {
            apply(&hub, "kept.a", number, stamp(number), now(0));
        }
        hub.set_lost(std::iter::once(TERM + 6 * LOG_STEP..2 * TERM).collect());
        hub.reset(Epoch(epoch.0 ^ 1), TERM - 1);
        assert_ne!(hub.epoch(), epoch);
        assert_eq!((hub.metrics().channels, hub.metrics().state_bytes), (0, 0));
        assert_eq!(offsets(&hub, "kept.a", TERM - 2, now(0)), None, "below the log");
        assert_eq!(hub.locate(TERM + 6 * LOG_STEP), None);
        assert!(hub.locate(TERM + 5 * LOG_STEP).is_some());
        apply(&hub, "kept.a", 1, stamp(1), now(0));
        assert_eq!(offsets(&hub, "kept.a", TERM - 1, now(0)), Some(vec![TERM + LOG_STEP]));
    }
}
