//! The hub of a gateway that follows a log, as one of several: what all brokers of several gateways have in common.
//!
//! Invariants: an event is applied once, in the order of the log, and the position moves with it without a wait in between.
//! So a session can end at any time, and the next one goes on behind the last event that was applied. The publisher gets its
//! receipt when this gateway has applied the event.
//!
//! | module | contents |
//! |---|---|
//! | `publish` | from a publisher to the session, and duplicates |
//! | `attach` | notices, and the place of the hub in the log |
//! | `apply` | from the log into the hub |
//! | `read_back` | reading the log back into a hub that began empty |
//! | `merged` | merged values for gateways that read the log back later |
//! | `sessions` | Socket.IO sessions that ended |

mod apply;
mod attach;
mod merged;
#[cfg(test)]
#[cfg(not(shuttle))]
mod model;
mod publish;
mod read_back;
mod sessions;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::lease::Fence;
use super::link::End;
use super::message::Decoder;
use super::metrics::BrokerMetrics;
use super::pending::Pending;
use super::rates::PublishRates;
use super::requests::Learn;
use super::terms::Table;
use super::{ClassTable, Link, Readiness, Trouble};
use crate::hub::{Hub, LOG_STEP};
use crate::shard::mailbox::ShardHandle;
use crate::time::{Clock, Now};
use tickgate_protocol::channel::{Channel, TenantNames};

pub(super) use apply::Place;
pub(super) use attach::{Extent, Newest};
pub(super) use merged::Value;
pub(super) use read_back::Reader;
pub(super) use sessions::{PATIENCE, session_token};

use apply::OnceAMinute;
use merged::Merging;
use read_back::ReadBack;

/// Is told the channel of every event that was applied, except those that a gateway has published as one of its duties.
pub type Applied = Box<dyn Fn(&Channel) + Send + Sync>;

/// Who is told what comes from the broker.
pub struct Listeners {
    /// See [`Applied`].
    pub applied: Applied,
    /// See [`Learn`].
    pub learn: Learn,
}

/// What a gateway is to the others.
#[derive(Clone, Debug)]
pub(in crate::broker) struct Membership {
    /// The name of this gateway.
    pub(in crate::broker) node: Box<str>,
    /// The classes of channels, which must be the same on all gateways.
    pub(in crate::broker) classes: ClassTable,
    /// The events that the log keeps of a channel whose events are merged.
    pub(in crate::broker) events_per_channel: u64,
    /// The names of the tenants, from number 1 on.
    pub(in crate::broker) tenants: Vec<Box<str>>,
    /// Events per second of one publisher of each tenant through this gateway, the default tenant's first; 0 or missing: no
    /// limit.
    pub(in crate::broker) publish_per_second: Vec<u32>,
}

/// See the module's docs.
pub(in crate::broker) struct Replica {
    pub(in crate::broker) hub: Arc<Hub>,
    pub(in crate::broker) clock: Clock,
    // Tells this gateway's events from those of others, and of an earlier run.
    pub(in crate::broker) gateway: u64,
    pub(in crate::broker) membership: Membership,
    pub(in crate::broker) decoder: Decoder,
    pub(in crate::broker) tenants: TenantNames,
    rates: PublishRates,
    pub(in crate::broker) pending: Pending,
    pub(in crate::broker) is_up: AtomicBool,
    // Why the link is down, or was down last.
    trouble: Mutex<Trouble>,
    pub(in crate::broker) position: Mutex<Position>,
    merging: Mutex<Merging>,
    pub(in crate::broker) metrics: Arc<BrokerMetrics>,
    late_logged: Mutex<OnceAMinute>,
    skipped_logged: Mutex<OnceAMinute>,
    refused_logged: Mutex<OnceAMinute>,
    applied: Applied,
    pub(in crate::broker) learn: Learn,
}

/// How far the gateway has come.
#[derive(Debug, Default)]
pub(in crate::broker) struct Position {
    /// The terms of the log; `None`: the gateway has never attached, or begins anew.
    pub(in crate::broker) table: Option<Table>,
    /// The number of the last message of the log that was applied.
    pub(in crate::broker) applied: u64,
    /// The broker that the gateway is connected to; see [`Notice::incarnation`].
    pub(in crate::broker) incarnation: String,
    /// The number of the newest notice that was seen.
    pub(in crate::broker) notice: u64,
    /// When a notice was read last.
    pub(in crate::broker) heard: Option<Instant>,
    // Whether the log is still read back into a hub that began empty.
    read_back: Option<ReadBack>,
    /// Whether clients may have got events since the hub began anew.
    was_up: bool,
    // The same instant on the broker's clock, in Unix milliseconds, and on the gateway's, in monotonic ones.
    time: Option<(u64, u64)>,
    // The highest fence of an event of channels that keep state, and of all others.
    fences: [u64; 2],
}

impl Position {
    /// The broker has just stored something at `stored_ms`.
    pub(in crate::broker) fn note_time(&mut self, stored_ms: u64, now: Now) {
        self.time = Some((stored_ms, now.mono_ms));
    }

    /// Notes the fence of an event of a channel that keeps state (0) or of another one (1). Returns whether one with a higher
    /// fence came before. All gateways read the same order, so they all drop the same events.
    fn is_fenced_off(&mut self, lane: usize, fence: Option<u64>) -> bool {
        let Some(fence) = fence else { return false };
        let highest = &mut self.fences[lane];
        let is_fenced_off = fence < *highest;
        *highest = fence.max(*highest);
        is_fenced_off
    }

    /// How long ago the broker stored something, by its own clock.
    pub(in crate::broker) fn age_ms(&self, stored_ms: u64, now: Now) -> u64 {
        self.time.map_or(0, |(broker_ms, mono_ms)| {
            let broker_now_ms = broker_ms + now.mono_ms.saturating_sub(mono_ms);
            broker_now_ms.saturating_sub(stored_ms)
        })
    }
}

impl Replica {
    pub(in crate::broker) fn new(
        membership: Membership,
        (hub, shards): (Arc<Hub>, Vec<ShardHandle>),
        clock: Clock,
        Listeners { applied, learn }: Listeners,
    ) -> Self {
        let metrics = Arc::<BrokerMetrics>::default();
        Self {
            hub,
            clock,
            gateway: rand::random(),
            decoder: Decoder::new(&membership.tenants),
            tenants: TenantNames::new(membership.tenants.clone()),
            rates: PublishRates::new(membership.publish_per_second.clone()),
            membership,
            pending: Pending::new(shards, Arc::clone(&metrics)),
            is_up: AtomicBool::new(false),
            trouble: Mutex::new(Trouble {
                is_unfit: false,
                reason: "the gateway has just started and is not current yet".into(),
            }),
            position: Mutex::default(),
            merging: Mutex::default(),
            metrics,
            late_logged: Mutex::default(),
            skipped_logged: Mutex::default(),
            refused_logged: Mutex::default(),
            applied,
            learn,
        }
    }

    pub(in crate::broker) fn is_up(&self) -> bool {
        self.is_up.load(Ordering::Acquire)
    }

    pub(in crate::broker) fn link(&self) -> Link {
        if self.is_up() { Link::Up } else { Link::Down }
    }

    /// See [`super::Broker::trouble`].
    pub(in crate::broker) fn trouble(&self) -> Option<Trouble> {
        (!self.is_up()).then(|| self.trouble.lock().clone())
    }

    /// See [`super::Broker::prepare`].
    pub(in crate::broker) fn prepare(&self, version: u64) -> Readiness {
        if !self.is_up() {
            Readiness::Unavailable
        } else if version / LOG_STEP <= self.hub.newest_version() / LOG_STEP {
            Readiness::Ready
        } else {
            Readiness::Behind
        }
    }

    /// The fence of a lease whose record has this number. A broker that has lost the end of its records gives numbers again.
    pub(in crate::broker) fn fence(&self, number: u64) -> Fence {
        let position = self.position.lock();
        let highest = position.fences.iter().copied().max().unwrap_or(0);
        Fence(number.max(highest + 1))
    }

    /// The hub holds what the log had when the gateway attached.
    pub(in crate::broker) fn go_up(&self) {
        let mut position = self.position.lock();
        position.was_up = true;
        position.heard = Some(Instant::now());
        let applied = position.applied;
        drop(position);
        if !self.is_up.swap(true, Ordering::AcqRel) {
            tracing::info!(applied, epoch = %self.hub.epoch(), "the link to the broker is up");
        }
    }

    /// The session has ended. Returns whether the link was up.
    pub(in crate::broker) fn go_down(&self, end: &End) -> bool {
        self.values_lost();
        if let End::Gap(_) = end {
            // The next session reads the log from its beginning.
            self.position.lock().table = None;
        }
        *self.trouble.lock() = Trouble {
            is_unfit: matches!(end, End::Unfit(_)),
            reason: end.reason().into(),
        };
        self.is_up.swap(false, Ordering::AcqRel)
    }

    /// Ends all connections of this gateway, since events may be missing from what they got.
    pub(in crate::broker) fn end_connections(&self, reason: &str) {
        self.metrics.resyncs.add(1);
        tracing::warn!(
            reason,
            "all connections end, so that their clients come back and recover"
        );
        self.pending.resync();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_behind_a_higher_fence_is_dropped_in_its_lane() {
        let mut position = Position::default();
        let mut is_dropped = |lane, fence| position.is_fenced_off(lane, fence);
        let seen: Vec<_> = [Some(5), None, Some(5), Some(7), Some(5), Some(7)]
            .map(|fence| is_dropped(0, fence))
            .into();
        assert_eq!(seen, [false, false, false, false, true, false]);
        assert!(!is_dropped(1, Some(5)), "another order");
    }

    #[test]
    fn ages_are_those_of_the_broker_s_clock() {
        let now = |mono_ms| Now { mono_ms, unix_ms: 0 };
        let mut position = Position::default();
        assert_eq!(position.age_ms(5, now(100)), 0);
        position.note_time(1_000_000, now(100));
        assert_eq!(position.age_ms(999_000, now(100)), 1000);
        assert_eq!(position.age_ms(999_000, now(350)), 1250);
        assert_eq!(position.age_ms(1_000_600, now(350)), 0, "in the future");
    }
}
