//! Shards join and leave at random while publishers publish, in threads.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

/// One channel per stripe. So the number of events in the stripe, which stands for the state that a join reads, is the
/// number of the channel's last event.
fn channels() -> Vec<String> {
    let of_stripe = |stripe: usize| {
        let candidates = (0..).map(|n| format!("c{n}.x.y"));
        candidates
            .into_iter()
            .find(|name| usize::from(stripe_of(&channel(name))) == stripe)
    };
    (0..STRIPES).filter_map(of_stripe).collect()
}

#[derive(Debug, Default)]
struct Found {
    joins: u64,
    deliveries: u64,
    gaps: u64,
    duplicates: u64,
}

struct Subscription {
    pattern: Pattern,
    at: JoinPosition,
    last: [u64; STRIPES],
}

/// A shard that joins and leaves at random and checks the number of every event.
struct Joiner {
    inbox: Inbox,
    patterns: Vec<Pattern>,
    held: Vec<Subscription>,
    found: Found,
}

impl Joiner {
    fn toggle(&mut self, rng: &mut StdRng) {
        let pattern = &self.patterns[rng.random_range(0..self.patterns.len())];
        if let Some(index) = self.held.iter().position(|held| held.pattern == *pattern) {
            self.inbox.leave(pattern);
            self.held.swap_remove(index);
            return;
        }
        let mut last = [0; STRIPES];
        let mut stripes = Stripes::of(pattern).iter();
        let at = self.inbox.join_viewing(pattern, |seen| {
            let stripe = stripes.next().expect("each stripe is viewed once");
            last[usize::from(stripe)] = seen.events;
        });
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
            let channel = &popped.event.channel;
            let includes = held.at.includes(channel, popped.stripe, popped.index);
            if includes && held.pattern.matches(channel) {
                let last = &mut held.last[usize::from(popped.stripe)];
                self.found.deliveries += 1;
                self.found.gaps += u64::from(number > *last + 1);
                self.found.duplicates += u64::from(number <= *last);
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
            for name in channels().iter().filter(|name| held.pattern.matches_name(name)) {
                self.found.gaps += u64::from(held.last[usize::from(stripe_of(&channel(name)))] != total);
            }
        }
        self.found
    }
}

/// Four publishers with four channels each, and shards that join and leave all the time.
fn storm(rule: Rule, shards: usize, events_per_channel: u64) -> Vec<Found> {
    let (hub, inboxes) = hub(256, shards, NO_FRAME);
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
                            let credit = hub.credit(tickgate_protocol::channel::Tenant::DEFAULT, 0).await;
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
                plant(&inbox, rule, move |_| {
                    if rule == Rule::AfterUnlock {
                        std::thread::yield_now(); // makes the fault more likely
                    }
                });
                let joiner = Joiner {
                    inbox,
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
    let metrics = hub.metrics();
    assert_eq!(metrics.events, events_per_channel * STRIPES as u64);
    assert_eq!(metrics.credits_lent, 0, "all credits are given back");
    found
}

#[test]
fn joins_in_threads_leave_no_gap_and_no_duplicate() {
    for found in storm(Rule::UnderLock, 3, 3_000) {
        assert!(found.joins > 0 && found.deliveries > 0, "{found:?}");
        assert_eq!((found.gaps, found.duplicates), (0, 0), "{found:?}");
    }
}

// The tests without threads find the faults for certain. This test checks that the storm can find them as well. On two
// cores, one storm finds each fault some hundred times. So twenty storms that find none are not a coincidence.
#[test]
fn the_storm_finds_both_planted_faults() {
    let sum = |rule, of: fn(&Found) -> u64| -> u64 { storm(rule, 3, 1_000).iter().map(of).sum() };
    assert!((0..20).any(|_| sum(Rule::AfterUnlock, |found| found.gaps) > 0));
    assert!((0..20).any(|_| sum(Rule::Nowhere, |found| found.duplicates) > 0));
}
