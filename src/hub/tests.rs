//! The hub under threads, and the two classic faults of a join, planted into the join's own code: both must be found.

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll, Waker};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::inbox::UnderLock;
use super::*;
use crate::channel::{Channel, Pattern};
use crate::event::Terms;

const NO_FRAME: Encode = |_, _| Bytes::new();

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("valid")
}

fn event(channel: &str, number: u64) -> NewEvent {
    NewEvent {
        channel: Channel::parse(channel).expect("valid"),
        name: "n".into(),
        data: number.to_string().into(),
        timestamp_ms: 0,
        terms: Terms::default(),
    }
}

fn number(popped: &Popped) -> u64 {
    std::str::from_utf8(&popped.event.data)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("the publisher wrote a number")
}

fn publish_now(hub: &Hub, channel: &str, number: u64) {
    let credit = hub.credit_now(0).expect("free");
    hub.publish(event(channel, number), Now::default(), credit, &mut Wakes::default());
}

/// How a join finds its position: the right way and two wrong ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    UnderLock,
    /// Planted fault: the inbox's length is read after the unlock. An event in between is in nobody's state and is
    /// not delivered either: a gap.
    AfterUnlock,
    /// Planted fault: no position at all. What the state held already is delivered again: a duplicate.
    Nowhere,
}

impl Rule {
    fn place(self, seen: UnderLock, later: &dyn Fn() -> u64) -> u64 {
        match self {
            Self::UnderLock => seen.at,
            Self::AfterUnlock => later(),
            Self::Nowhere => 0,
        }
    }
}

/// What a new subscriber of `joined` misses and gets twice when one event comes before its join, one right after
/// the join's unlock, and one later.
fn misses_and_doubles(rule: Rule, joined: &str) -> (u64, u64) {
    let (hub, mut inboxes) = Hub::new(
        Settings {
            credits: 64,
            ..Settings::default()
        },
        1,
        NO_FRAME,
    );
    let inbox = &mut inboxes[0];
    inbox.join(&pattern("a.b.*")); // somebody else's, so that the inbox is not empty
    publish_now(&hub, "a.b.c", 1);
    let stripe = stripe_of("a.b.c");
    let mut state = 0;
    let at = inbox.join_by(
        &pattern(joined),
        |_| (),
        |joining, seen, later| {
            if joining == stripe {
                state = seen.events;
                publish_now(&hub, "a.b.c", 2);
            }
            rule.place(seen, later)
        },
    );
    publish_now(&hub, "a.b.c", 3);
    let (mut misses, mut doubles) = (0, 0);
    while let Some(popped) = inbox.pop() {
        match (at.includes(popped.stripe, popped.index), number(&popped) > state) {
            (true, false) => doubles += 1,
            (false, true) => misses += 1,
            _ => {}
        }
    }
    (misses, doubles)
}

#[test]
fn a_join_misses_nothing_and_doubles_nothing() {
    for joined in ["a.b.c", "a.*", "*", "*.b.c"] {
        assert_eq!(misses_and_doubles(Rule::UnderLock, joined), (0, 0), "{joined}");
    }
}

#[test]
fn a_length_read_after_the_unlock_is_found() {
    for joined in ["a.b.c", "a.*", "*", "*.b.c"] {
        assert_eq!(misses_and_doubles(Rule::AfterUnlock, joined), (1, 0), "{joined}");
    }
}

#[test]
fn a_join_without_position_is_found() {
    for joined in ["a.b.c", "a.*", "*", "*.b.c"] {
        assert_eq!(misses_and_doubles(Rule::Nowhere, joined), (0, 1), "{joined}");
    }
}

/// One channel per stripe, so that the stripe's count of events is the channel's last number: the state a join reads.
fn channels() -> Vec<String> {
    let of_stripe = |stripe: usize| {
        let candidates = (0..).map(|n| format!("c{n}.x.y"));
        candidates
            .into_iter()
            .find(|name| usize::from(stripe_of(name)) == stripe)
    };
    (0..STRIPES).filter_map(of_stripe).collect()
}

#[derive(Debug, Default)]
struct Found {
    joins: u64,
    deliveries: u64,
    gaps: u64,
    doubles: u64,
}

struct Subscription {
    pattern: Pattern,
    at: JoinAt,
    last: [u64; STRIPES],
}

/// A shard that joins and leaves at random and checks every number.
struct Joiner {
    inbox: Inbox,
    rule: Rule,
    patterns: Vec<Pattern>,
    held: Vec<Subscription>,
    found: Found,
}

impl Joiner {
    fn toggle(&mut self, rng: &mut StdRng) {
        let pattern = &self.patterns[rng.random_range(0..self.patterns.len())];
        if let Some(place) = self.held.iter().position(|held| held.pattern == *pattern) {
            self.inbox.leave(pattern);
            self.held.swap_remove(place);
            return;
        }
        let (rule, mut last) = (self.rule, [0; STRIPES]);
        let at = self.inbox.join_by(
            pattern,
            |_| (),
            |stripe, seen, later| {
                last[usize::from(stripe)] = seen.events;
                if rule == Rule::AfterUnlock {
                    std::thread::yield_now(); // the fault's window, opened a little
                }
                rule.place(seen, later)
            },
        );
        let pattern = pattern.clone();
        self.held.push(Subscription { pattern, at, last });
        self.found.joins += 1;
    }

    fn pop(&mut self) -> bool {
        let Some(popped) = self.inbox.pop() else {
            return false;
        };
        let number = number(&popped);
        for held in &mut self.held {
            if held.pattern.matches(popped.event.channel.as_str()) && held.at.includes(popped.stripe, popped.index) {
                let last = &mut held.last[usize::from(popped.stripe)];
                self.found.deliveries += 1;
                self.found.gaps += u64::from(number > *last + 1);
                self.found.doubles += u64::from(number <= *last);
                *last = number;
            }
        }
        true
    }

    fn run(mut self, seed: u64, publishing: &AtomicUsize, total: u64) -> Found {
        let mut rng = StdRng::seed_from_u64(seed);
        loop {
            let done = publishing.load(Ordering::Acquire) == 0;
            if !done {
                self.toggle(&mut rng);
            }
            for _ in 0..rng.random_range(1..64) {
                if !self.pop() {
                    break;
                }
            }
            if done && self.inbox.is_empty() {
                break;
            }
        }
        for held in &self.held {
            for channel in channels().iter().filter(|channel| held.pattern.matches(channel)) {
                self.found.gaps += u64::from(held.last[usize::from(stripe_of(channel))] != total);
            }
        }
        self.found
    }
}

/// Four publishers with four channels each against shards that join and leave all the time.
fn storm(rule: Rule, shards: usize, events_per_channel: u64) -> Vec<Found> {
    let (hub, inboxes) = Hub::new(
        Settings {
            credits: 256,
            ..Settings::default()
        },
        shards,
        NO_FRAME,
    );
    let channels = channels();
    let publishing = AtomicUsize::new(4);
    let found = std::thread::scope(|scope| {
        for own in channels.chunks(4) {
            let (hub, publishing) = (&hub, &publishing);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    for number in 1..=events_per_channel {
                        for channel in own {
                            let credit = hub.credit(0).await;
                            hub.publish(event(channel, number), Now::default(), credit, &mut Wakes::default());
                        }
                    }
                });
                publishing.fetch_sub(1, Ordering::Release);
            });
        }
        let joiners: Vec<_> = (0u64..)
            .zip(inboxes)
            .map(|(seed, inbox)| {
                let mut patterns = vec![pattern("*"), pattern("*.x.y"), pattern("*.*")];
                patterns.extend(channels.iter().map(|name| pattern(name)));
                patterns.extend(channels.iter().map(|name| pattern(&name.replace(".y", ".*"))));
                patterns.extend(channels.iter().map(|name| pattern(&name.replace(".x.y", ".*"))));
                let joiner = Joiner {
                    inbox,
                    rule,
                    patterns,
                    held: Vec::new(),
                    found: Found::default(),
                };
                let publishing = &publishing;
                scope.spawn(move || joiner.run(seed, publishing, events_per_channel))
            })
            .collect();
        joiners
            .into_iter()
            .map(|joiner| joiner.join().expect("no panic"))
            .collect()
    });
    let stats = hub.stats();
    assert_eq!(stats.events, events_per_channel * STRIPES as u64);
    assert_eq!(stats.credits_lent, 0, "credits are conserved");
    found
}

#[test]
fn joins_under_threads_leave_no_gap_and_no_double() {
    for found in storm(Rule::UnderLock, 3, 3_000) {
        assert!(found.joins > 0 && found.deliveries > 0, "{found:?}");
        assert_eq!((found.gaps, found.doubles), (0, 0), "{found:?}");
    }
}

// The certain proof is above, without threads; here the checker of the storm is itself put to the proof. One storm
// finds either fault some hundred times on two cores; twenty finding none is not a matter of luck.
#[test]
fn the_storm_finds_both_planted_faults() {
    let sum = |rule, of: fn(&Found) -> u64| -> u64 { storm(rule, 3, 1_000).iter().map(of).sum() };
    assert!((0..20).any(|_| sum(Rule::AfterUnlock, |found| found.gaps) > 0));
    assert!((0..20).any(|_| sum(Rule::Nowhere, |found| found.doubles) > 0));
}

#[test]
fn two_publishers_of_one_channel_are_seen_in_one_order_by_all_shards() {
    let (hub, mut inboxes) = Hub::new(
        Settings {
            credits: 64,
            ..Settings::default()
        },
        2,
        NO_FRAME,
    );
    for inbox in &mut inboxes {
        inbox.join(&pattern("a.*"));
    }
    let orders: Vec<Vec<u64>> = std::thread::scope(|scope| {
        for publisher in 0..2u64 {
            let hub = &hub;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .expect("a runtime");
                for n in 0..2_000 {
                    let credit = runtime.block_on(hub.credit(0));
                    hub.publish(
                        event("a.b", n * 2 + publisher),
                        Now::default(),
                        credit,
                        &mut Wakes::default(),
                    );
                }
            });
        }
        let readers: Vec<_> = inboxes
            .into_iter()
            .map(|mut inbox| {
                scope.spawn(move || {
                    let mut order = Vec::new();
                    while order.len() < 4_000 {
                        match inbox.pop() {
                            Some(popped) => {
                                assert_eq!(popped.index, order.len() as u64);
                                order.push(number(&popped));
                            }
                            None => std::thread::yield_now(),
                        }
                    }
                    order
                })
            })
            .collect();
        readers
            .into_iter()
            .map(|reader| reader.join().expect("no panic"))
            .collect()
    });
    assert_eq!(orders[0], orders[1]);
    for publisher in 0..2 {
        let own: Vec<u64> = orders[0].iter().copied().filter(|n| n % 2 == publisher).collect();
        assert!(own.is_sorted(), "each publisher's own order is kept");
    }
}

#[test]
fn every_credit_lent_fills_an_inbox_to_the_brim_and_not_over_it() {
    let (hub, mut inboxes) = Hub::new(
        Settings {
            credits: 50,
            ..Settings::default()
        },
        3,
        NO_FRAME,
    );
    inboxes[0].join(&pattern("*"));
    let mut published = 0;
    while let Some(credit) = hub.credit_now(0) {
        hub.publish(event("a.b", published), Now::default(), credit, &mut Wakes::default());
        published += 1;
    }
    for shard in 0..3 {
        while let Some(credit) = hub.try_credit(shard, 0) {
            hub.publish(event("a.b", published), Now::default(), credit, &mut Wakes::default());
            published += 1;
        }
    }
    let stats = hub.stats();
    assert_eq!(
        (inboxes[0].len() as u64, stats.credits_lent),
        (published, stats.credits)
    );
    while inboxes[0].pop().is_some() {}
    assert_eq!(hub.stats().credits_lent, 0);
}

#[test]
fn a_publisher_that_waits_holds_no_lock() {
    let (hub, mut inboxes) = Hub::new(
        Settings {
            credits: 4,
            ..Settings::default()
        },
        1,
        NO_FRAME,
    );
    inboxes[0].join(&pattern("a.b"));
    while let Some(credit) = hub.credit_now(0) {
        hub.publish(event("a.b", 0), Now::default(), credit, &mut Wakes::default());
    }
    let mut waiting = std::pin::pin!(hub.credit(0));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    assert!(hub.stripes.iter().all(|stripe| stripe.state.try_lock().is_some()));
    inboxes[0].join(&pattern("*"));
    inboxes[0].pop();
    assert!(matches!(waiting.as_mut().poll(&mut cx), Poll::Ready(_)));
}

#[test]
fn an_event_larger_than_all_credits_passes() {
    let (hub, mut inboxes) = Hub::new(
        Settings {
            credits: 2,
            ..Settings::default()
        },
        1,
        NO_FRAME,
    );
    inboxes[0].join(&pattern("a.b"));
    for _ in 0..3 {
        let mut large = event("a.b", 1);
        large.data = vec![b'1'; 256 * 1024].into();
        let credit = hub.credit_now(large.data.len()).expect("the whole pool");
        hub.publish(large, Now::default(), credit, &mut Wakes::default());
        assert!(hub.credit_now(0).is_none());
        assert!(inboxes[0].pop().is_some());
    }
}

#[test]
fn a_shard_that_goes_leaves_no_debt_and_no_interest() {
    let (hub, mut inboxes) = Hub::new(
        Settings {
            credits: 8,
            ..Settings::default()
        },
        2,
        NO_FRAME,
    );
    for inbox in &mut inboxes {
        inbox.join(&pattern("*"));
    }
    let mut wakes = Wakes::default();
    hub.publish(
        event("a.b", 1),
        Now::default(),
        hub.credit_now(0).expect("free"),
        &mut wakes,
    );
    assert_eq!(wakes, Wakes(0b11));
    assert!(inboxes[0].pop().is_some());
    assert_eq!(hub.stats().credits_lent, 1, "the other shard has not popped it");
    drop(inboxes.pop());
    assert_eq!(hub.stats().credits_lent, 0);
    let mut wakes = Wakes::default();
    hub.publish(
        event("a.b", 2),
        Now::default(),
        hub.credit_now(0).expect("free"),
        &mut wakes,
    );
    assert_eq!(wakes, Wakes(0b01));
}

#[test]
fn an_event_is_encoded_once_and_only_when_somebody_needs_it() {
    static ENCODED: AtomicUsize = AtomicUsize::new(0);
    let encode: Encode = |_, event| {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        event.data.clone()
    };
    let (hub, mut inboxes) = Hub::new(
        Settings {
            credits: 8,
            ..Settings::default()
        },
        2,
        encode,
    );
    for inbox in &mut inboxes {
        inbox.join(&pattern("a.b"));
    }
    publish_now(&hub, "a.b", 1);
    hub.need(Encoding::Native, 1);
    publish_now(&hub, "a.b", 2);
    publish_now(&hub, "unwanted", 3);
    hub.need(Encoding::Native, -1);
    publish_now(&hub, "a.b", 4);
    assert_eq!(ENCODED.load(Ordering::Relaxed), 1);
    for inbox in &mut inboxes {
        let frames: Vec<_> = std::iter::from_fn(|| inbox.pop())
            .map(|popped| popped.event.frame(Encoding::Native).cloned())
            .collect();
        assert_eq!(frames, [None, Some("2".into()), None]);
    }
    assert_eq!(
        hub.stats(),
        HubStats {
            events: 4,
            unwanted: 1,
            credits: 8,
            ..HubStats::default()
        }
    );
}

#[test]
fn a_join_of_an_empty_inbox_is_settled_at_once_and_a_late_one_is_not() {
    let (hub, mut inboxes) = Hub::new(
        Settings {
            credits: 8,
            ..Settings::default()
        },
        1,
        NO_FRAME,
    );
    let inbox = &mut inboxes[0];
    let first = inbox.join(&pattern("*"));
    assert!(first.settled(inbox.position()));
    publish_now(&hub, "a.b", 1);
    let second = inbox.join(&pattern("a.b"));
    assert!(!second.settled(inbox.position()));
    let popped = inbox.pop().expect("one");
    assert!(first.includes(popped.stripe, popped.index) && !second.includes(popped.stripe, popped.index));
    assert!(second.settled(inbox.position()));
    inbox.leave(&pattern("*"));
    inbox.leave(&pattern("a.b"));
    publish_now(&hub, "a.b", 2);
    assert!(inbox.is_empty());
}

// A publisher with no end of events, and a shard that wants to publish one now and then: neither starves the other.
#[test]
fn publishers_and_shards_do_not_starve_each_other() {
    let (hub, mut inboxes) = Hub::new(
        Settings {
            credits: 16,
            ..Settings::default()
        },
        1,
        NO_FRAME,
    );
    let inbox = &mut inboxes[0];
    inbox.join(&pattern("*"));
    let (stop, running) = (AtomicBool::new(false), AtomicUsize::new(2));
    let (mut own, mut others) = (0u64, 0u64);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (hub, stop, running) = (&hub, &stop, &running);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .expect("a runtime");
                while !stop.load(Ordering::Relaxed) {
                    let credit = runtime.block_on(hub.credit(0));
                    hub.publish(event("b.c", 0), Now::default(), credit, &mut Wakes::default());
                }
                running.fetch_sub(1, Ordering::Release);
            });
        }
        while own < 500 || others < 500 {
            if let Some(credit) = hub.try_credit(0, 0) {
                hub.publish(event("a.b", 1), Now::default(), credit, &mut Wakes::default());
            }
            if let Some(popped) = inbox.pop() {
                *(if number(&popped) == 1 { &mut own } else { &mut others }) += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        // Those who wait for room must be let go before the scope can end.
        while running.load(Ordering::Acquire) > 0 {
            while inbox.pop().is_some() {}
            std::thread::yield_now();
        }
    });
}
