//! Decides when the shard takes the next events out of the inbox.
//!
//! Most of the cost of fan-out is the kernel's send path, and a send with two frames costs hardly more than one with a
//! single frame. So a busy shard waits a little after a tick, and the events that arrive meanwhile share the sends of
//! the next tick. The wait adds at most its own length to the latency, and less where it makes queues shorter.
//! `benches/coalesce.sh` measures the effect; `docs/performance.md` has the curves.
//!
//! A tick takes, delivers and flushes events. After a tick of less than 0.25 ms there is no wait, after one of less
//! than 1 ms the shard waits 1 ms, and after any other 2 ms. If a connection would get fewer than [`FRAMES_ENOUGH`] frames
//! then, each of them would be expensive, so the shard waits longer: as long as the tick took, and at most
//! `server.coalesce_max`. So an idle shard delivers at once, and a busy one never waits longer than it works. The wait
//! follows from the machine and the subscribers; no constant needs to fit all of them.
//!
//! How many frames a connection would get follows from the events that wait and from the company of an event: the
//! probability that a connection that gets one event gets another one, too. It is 1 if all events go to all connections, and
//! small where each connection has a few of many channels. Each tick shows it.

use std::time::Duration;

use super::CoalescePolicy;

const CHEAP: Duration = Duration::from_micros(250);
const EXPENSIVE: Duration = Duration::from_millis(1);

/// With this many frames, their share in the cost of a send is small enough. A send costs 7 µs and each further frame
/// 0.2 µs, so with 16 frames the send costs each of them less than 0.5 µs.
const FRAMES_ENOUGH: f64 = 16.0;

/// The usual wait after an expensive tick, in milliseconds.
const WAIT_MS: u64 = 2;

/// How much of the company is that of the last tick.
const NEWEST: f64 = 0.25;

/// What one tick did.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tick {
    /// When it began, in monotonic milliseconds.
    pub(super) start_ms: u64,
    /// When it ended, in monotonic milliseconds.
    pub(super) end_ms: u64,
    pub(super) cost: Duration,
    /// Events that it took out of the inbox.
    pub(super) events: usize,
    /// Events that it put into outboxes, counted once for each of them.
    pub(super) deliveries: u64,
    /// Connections that had something to write.
    pub(super) connections: usize,
}

/// Decides when events are taken.
#[derive(Debug)]
pub(super) struct Coalescer {
    policy: CoalescePolicy,
    // From this time on, events are taken if enough of them wait.
    next_ms: u64,
    // From this time on, events are taken however few they are. Not before `next_ms`.
    latest_ms: u64,
    // The probability that a connection that gets one event gets another one.
    company: f64,
    // So many events are enough.
    events_enough: usize,
}

impl Coalescer {
    pub(super) fn new(policy: CoalescePolicy) -> Self {
        Self {
            policy,
            next_ms: 0,
            latest_ms: 0,
            company: 1.0,
            events_enough: events_enough(1.0),
        }
    }

    /// Whether events may be taken now, while `waiting` of them are in the inbox.
    pub(super) const fn is_due(&self, now_ms: u64, waiting: usize) -> bool {
        now_ms >= self.due_ms(waiting)
    }

    /// When events may be taken, in monotonic milliseconds, if no more than `waiting` arrive. A time in the past: now.
    pub(super) const fn due_ms(&self, waiting: usize) -> u64 {
        if waiting < self.events_enough {
            self.latest_ms
        } else {
            self.next_ms
        }
    }

    /// Reports a tick.
    pub(super) fn ticked(&mut self, tick: Tick) {
        self.note_company(&tick);
        let Tick { cost, end_ms, .. } = tick;
        (self.next_ms, self.latest_ms) = match self.policy {
            CoalescePolicy::Fixed(gap_ms) => {
                let next_ms = tick.start_ms + u64::from(gap_ms);
                (next_ms, next_ms)
            }
            CoalescePolicy::Auto { .. } if cost < CHEAP => (0, 0),
            CoalescePolicy::Auto { max_ms } if cost < EXPENSIVE => {
                let next_ms = end_ms + u64::from(max_ms).min(1);
                (next_ms, next_ms)
            }
            CoalescePolicy::Auto { max_ms } => {
                let max_ms = u64::from(max_ms);
                let cost_ms = u64::try_from(cost.as_millis()).unwrap_or(u64::MAX);
                let wait_ms = WAIT_MS.min(max_ms);
                (end_ms + wait_ms, end_ms + cost_ms.clamp(wait_ms, max_ms))
            }
        };
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 deliveries")]
    fn note_company(&mut self, tick: &Tick) {
        if tick.events < 2 || tick.deliveries == 0 || tick.connections == 0 {
            return; // One event has no company, and events for nobody show none.
        }
        let frames = tick.deliveries as f64 / tick.connections as f64;
        let company = ((frames - 1.0) / (tick.events - 1) as f64).clamp(0.0, 1.0);
        self.company += NEWEST * (company - self.company);
        self.events_enough = events_enough(self.company);
    }
}

// How many events bring enough frames to each connection that gets one.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is positive, and saturates"
)]
fn events_enough(company: f64) -> usize {
    (1.0 + (FRAMES_ENOUGH - 1.0) / company).ceil() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tick from 990 to 1000 ms that gave each of 10 events to 100 of 100 connections.
    fn tick(cost_us: u64) -> Tick {
        Tick {
            start_ms: 990,
            end_ms: 1_000,
            cost: Duration::from_micros(cost_us),
            events: 10,
            deliveries: 1_000,
            connections: 100,
        }
    }

    #[test]
    fn an_idle_shard_does_not_wait_and_a_busy_one_waits_no_longer_than_it_works() {
        let mut coalescer = Coalescer::new(CoalescePolicy::Auto { max_ms: 8 });
        assert!(coalescer.is_due(0, 0));
        for (cost_us, with_enough_ms, with_few_ms) in [
            (20, 0, 0),
            (249, 0, 0),
            (250, 1_001, 1_001),
            (999, 1_001, 1_001),
            (1_000, 1_002, 1_002),
            (2_999, 1_002, 1_002),
            (5_000, 1_002, 1_005),
            (80_000, 1_002, 1_008),
        ] {
            coalescer.ticked(tick(cost_us));
            assert_eq!(coalescer.due_ms(16), with_enough_ms, "{cost_us} µs");
            assert_eq!(coalescer.due_ms(15), with_few_ms, "{cost_us} µs");
        }
        assert!(!coalescer.is_due(1_007, 15));
        assert!(coalescer.is_due(1_007, 16));
        assert!(coalescer.is_due(1_008, 1));
    }

    #[test]
    fn frames_of_a_connection_count_and_not_events() {
        let mut coalescer = Coalescer::new(CoalescePolicy::Auto { max_ms: 4 });
        // Each connection has 20 of 500 channels: of 26 events it gets one.
        let market = Tick {
            events: 26,
            deliveries: 2_080,
            connections: 1_040,
            ..tick(9_000)
        };
        for _ in 0..40 {
            coalescer.ticked(market);
        }
        // (2 - 1) / 25 is 0.04, and 15 / 0.04 is 375.
        assert_eq!(
            coalescer.due_ms(370),
            1_004,
            "a connection would get fewer than 16 frames"
        );
        assert_eq!(coalescer.due_ms(380), 1_002);
        // What says nothing changes nothing.
        for (events, deliveries, connections) in [(1, 100, 100), (50, 0, 3), (50, 0, 0)] {
            coalescer.ticked(Tick {
                events,
                deliveries,
                connections,
                ..tick(9_000)
            });
            assert_eq!(coalescer.due_ms(380), 1_002);
        }
        // Events that no connection shares with another one are never enough.
        for _ in 0..1_000 {
            coalescer.ticked(Tick {
                deliveries: 100,
                ..tick(9_000)
            });
        }
        assert_eq!(coalescer.due_ms(1_000_000), 1_004);
    }

    #[test]
    fn the_longest_wait_bounds_all_waits() {
        for (max_ms, after_a_cheap_one, after_an_expensive_one) in
            [(0, 1_000, 1_000), (1, 1_001, 1_001), (20, 1_001, 1_009)]
        {
            let mut coalescer = Coalescer::new(CoalescePolicy::Auto { max_ms });
            coalescer.ticked(tick(500));
            assert_eq!(coalescer.due_ms(1), after_a_cheap_one);
            coalescer.ticked(tick(9_000));
            assert_eq!(coalescer.due_ms(1), after_an_expensive_one);
        }
    }

    #[test]
    fn a_fixed_gap_counts_from_tick_to_tick() {
        let mut coalescer = Coalescer::new(CoalescePolicy::Fixed(5));
        let tick = Tick {
            start_ms: 100,
            end_ms: 102,
            ..tick(2_000)
        };
        coalescer.ticked(tick);
        for waiting in [1, 16] {
            assert!(!coalescer.is_due(104, waiting));
            assert!(coalescer.is_due(105, waiting));
        }
        let mut coalescer = Coalescer::new(CoalescePolicy::Fixed(0));
        coalescer.ticked(tick);
        assert!(coalescer.is_due(102, 1));
    }
}
