//! The synthetic event that shows that events pass: it takes a credit, the lock of a stripe and a place in every inbox, like
//! any other, and each shard that takes it out is known to work. No client gets it.
//!
//! Invariant: a shard whose inbox is gone gets no probe. So a probe that does not come back is one that a shard has not
//! taken out.

use std::sync::Arc;

use bytes::Bytes;

use super::{Credit, Hub, STRIPES, Wakes, bits};
use crate::event::{Event, EventMeta, NewEvent, PublishOptions, Transit};
use crate::sync::{AtomicU8, AtomicU64, Ordering};
use tickgate_protocol::channel::Channel;

/// The number of a stripe that does not exist, by which a probe is known.
pub(super) const PROBE_STRIPE: u8 = u8::MAX;

/// A probe that was sent so many probes ago, or earlier, should have come back.
const OUTSTANDING_MAX: u64 = 2;

/// The probes that were sent, and those that came back.
#[derive(Debug)]
pub(super) struct Probes {
    sent: AtomicU64,
    // By shard: the newest that came back.
    returned: Box<[AtomicU64]>,
    // The shards that have an inbox, as a bit mask. Read and changed under the lock of a stripe.
    alive: AtomicU64,
    // No credit was free for too long.
    is_refused: AtomicU8,
}

impl Probes {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            sent: AtomicU64::new(0),
            returned: (0..shards).map(|_| AtomicU64::new(0)).collect(),
            alive: AtomicU64::new(
                u64::MAX
                    .checked_shr(64 - u32::try_from(shards).unwrap_or(64))
                    .unwrap_or(0),
            ),
            is_refused: AtomicU8::new(0),
        }
    }

    /// A shard has taken a probe out of its inbox.
    pub(super) fn note_returned(&self, shard: u16, event: &Event) {
        self.returned[usize::from(shard)].store(event.timestamp_ms, Ordering::Relaxed);
    }

    /// The inbox of a shard ends. To be called before the locks of all stripes are taken once more.
    pub(super) fn note_gone(&self, shard: u16) {
        self.alive.fetch_and(!(1 << shard), Ordering::Relaxed);
    }
}

impl Hub {
    /// Sends a probe to all shards.
    ///
    /// # Panics
    ///
    /// Never: the name of the channel is valid.
    pub fn probe(&self, credit: Credit<'_>) {
        self.probes.is_refused.store(0, Ordering::Relaxed);
        let number = self.probes.sent.fetch_add(1, Ordering::Relaxed) + 1;
        // The number is that of the event's time, which nobody sees.
        let new = NewEvent {
            channel: Channel::parse("system.gateway.probe").expect("a valid name"),
            name: "probe".into(),
            data: Bytes::from_static(b"null"),
            timestamp_ms: number,
            options: PublishOptions::default(),
        };
        // Each probe passes another stripe.
        let stripe = usize::try_from(number % STRIPES as u64).unwrap_or(0);
        let locked = self.stripes[stripe].lock();
        let shards = self.probes.alive.load(Ordering::Relaxed);
        if shards == 0 {
            return;
        }
        let (payer, cost) = credit.into_debt();
        let event = Event::in_transit(
            new,
            EventMeta::default(),
            Transit::new(payer, cost, shards.count_ones()),
        );
        self.post(&Arc::new(event), PROBE_STRIPE, shards);
        drop(locked);
        self.wake(Wakes(shards));
    }

    /// No credit was free for a probe for too long.
    pub fn note_probe_refused(&self) {
        self.probes.is_refused.store(1, Ordering::Relaxed);
    }

    /// How many probes have not come back from each shard, in the order of their numbers.
    pub fn probes_outstanding(&self) -> impl Iterator<Item = u64> {
        let sent = self.probes.sent.load(Ordering::Relaxed);
        let returned = self.probes.returned.iter();
        returned.map(move |returned| sent.saturating_sub(returned.load(Ordering::Relaxed)))
    }

    /// Why events do not pass, as a word for `/readyz`: `publishing_stuck` or `shard_stuck`; `None` when they do.
    #[must_use]
    pub fn stuck(&self) -> Option<&'static str> {
        if self.probes.is_refused.load(Ordering::Relaxed) != 0 {
            return Some("publishing_stuck");
        }
        let alive = self.probes.alive.load(Ordering::Relaxed);
        let outstanding: Vec<u64> = self.probes_outstanding().collect();
        let is_stuck = |shard: usize| outstanding.get(shard).is_some_and(|count| *count > OUTSTANDING_MAX);
        bits(alive).any(is_stuck).then_some("shard_stuck")
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use super::super::rig::{NO_FRAME, hub, pattern};
    use tickgate_protocol::channel::Tenant;

    #[test]
    fn a_probe_that_does_not_come_back_is_noticed() {
        let (hub, mut inboxes) = hub(64, 2, NO_FRAME);
        inboxes[0].join(&pattern("*"));
        let probe = || hub.probe(hub.credit_now(Tenant::DEFAULT, 0).expect("a credit"));
        for _ in 0..20 {
            probe();
            for inbox in &mut inboxes {
                assert!(inbox.pop().expect("the probe").is_probe());
            }
            assert_eq!(hub.stuck(), None);
        }
        for count in 1..=3 {
            probe();
            assert!(inboxes[0].pop().is_some());
            assert_eq!(hub.stuck(), (count > 2).then_some("shard_stuck"));
        }
        assert_eq!(hub.probes_outstanding().collect::<Vec<_>>(), [0, 3]);
        // The second shard goes on.
        while inboxes[1].pop().is_some() {}
        assert_eq!(hub.stuck(), None);
        // A shard that has ended is not waited for.
        drop(inboxes.pop());
        for _ in 0..5 {
            probe();
            assert!(inboxes[0].pop().is_some());
        }
        assert_eq!((hub.stuck(), hub.metrics().credits_lent), (None, 0));
        hub.note_probe_refused();
        assert_eq!(hub.stuck(), Some("publishing_stuck"));
        probe();
        assert_eq!(hub.stuck(), None);
    }
}
