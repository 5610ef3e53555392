//! A scan in pages among publishers: whatever is published before, in and between its pages is either seen by it or
//! delivered behind it, once. Planted faults must be found.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::hub::Scan;
use tickgate_protocol::channel::{Class, Classes, History};

/// How a page finds its position; all but the first are planted faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    UnderLock,
    /// The inbox's length is read after the unlock: an event in between is in neither.
    AfterUnlock,
    /// That of the stripe's first page stands for all its pages: what a later one saw is delivered again.
    FirstPage,
}

/// Publishers, and what they have published: channel and version.
struct Publishers {
    hub: Arc<Hub>,
    rng: StdRng,
    log: Vec<(String, u64)>,
}

impl Publishers {
    fn publish(&mut self) {
        for _ in 0..self.rng.random_range(0..6) {
            // Three stripes at most, several channels in each.
            let name = format!("user.{}.c{}", self.rng.random_range(0..3), self.rng.random_range(0..12));
            let credit = self.hub.credit_now(0).expect("free");
            let receipt = self
                .hub
                .publish(event(&name, 0), Now::default(), credit, &mut Wakes::default());
            self.log.push((name, receipt.offset.expect("a history")));
        }
    }
}

/// How many events one scan missed, and how many came twice.
fn misses_and_doubles(seed: u64, rule: Rule) -> (usize, usize) {
    let class = Class {
        history: Some(History::BUILT_IN),
        ..Class::default()
    };
    let settings = Settings {
        classes: Arc::new(Classes::new(vec![(pattern("user.*"), class)])),
        ..Settings::default()
    };
    let (hub, mut inboxes) = Hub::new(settings, 1, NO_FRAME);
    let inbox = &mut inboxes[0];
    // Somebody else's of the same shard, so that events wait in the inbox before and behind every page.
    inbox.join(&pattern("*"));
    let rng = StdRng::seed_from_u64(seed);
    let mut others = Publishers {
        hub,
        rng,
        log: Vec::new(),
    };
    let all = ["user.*", "*.*.*", "user.1.*", "*.2.*", "*"].map(pattern);
    let patterns: Vec<Pattern> = (0..2).filter_map(|_| all.choose(&mut others.rng).cloned()).collect();
    let mut scan = Scan::new(patterns.clone(), Vec::new());
    let mut first = [None; STRIPES];
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut delivered = Vec::new();
    while !scan.is_complete() {
        others.publish();
        let most = others.rng.random_range(1..4);
        let each = &mut |view: ChannelView<'_>| {
            assert!(
                seen.insert(view.channel.to_string(), view.latest).is_none(),
                "looked at twice"
            );
        };
        inbox.scan_by(&mut scan, most, Now::default(), each, |stripe, now, later| {
            others.publish();
            let first = *first[usize::from(stripe)].get_or_insert(now.at);
            match rule {
                Rule::UnderLock => now.at,
                Rule::AfterUnlock => later(),
                Rule::FirstPage => first,
            }
        });
        // What is popped while the scan is under way is judged by how far it has come.
        let at = scan.position();
        let many = others.rng.random_range(0..8);
        delivered.extend((0..many).map_while(|_| inbox.pop()).map(|popped| (popped, at.clone())));
    }
    others.publish();
    let at = scan.position();
    assert!(at.is_complete());
    delivered.extend(std::iter::from_fn(|| inbox.pop()).map(|popped| (popped, at.clone())));
    assert!(at.is_settled(inbox.position()));
    delivered.retain(|(popped, at)| at.includes(&popped.event.channel, popped.stripe, popped.index));
    let of = |event: &Event| (event.channel.to_string(), event.version);
    let delivered: BTreeSet<(String, u64)> = delivered.iter().map(|(popped, _)| of(&popped.event)).collect();
    let is_seen = |(name, version): &(String, u64)| seen.get(name).is_some_and(|latest| version <= latest);
    let is_owed = |event: &&(String, u64)| patterns.iter().any(|pattern| pattern.matches(&event.0));
    let owed: Vec<_> = others.log.iter().filter(is_owed).collect();
    let misses = owed
        .iter()
        .filter(|event| !is_seen(event) && !delivered.contains(**event));
    let doubles = owed
        .iter()
        .filter(|event| is_seen(event) && delivered.contains(**event));
    (misses.count(), doubles.count())
}

fn sum(rule: Rule) -> (usize, usize) {
    let found = (0..200).map(|seed| misses_and_doubles(seed, rule));
    found.fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1))
}

#[test]
fn a_scan_among_publishers_misses_nothing_and_doubles_nothing() {
    for seed in 0..500 {
        assert_eq!(misses_and_doubles(seed, Rule::UnderLock), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_page_whose_position_is_read_after_the_unlock_is_found() {
    let (misses, doubles) = sum(Rule::AfterUnlock);
    assert!(misses > 0 && doubles == 0, "{misses} missed, {doubles} double");
}

#[test]
fn a_page_with_the_position_of_an_earlier_one_is_found() {
    let (misses, doubles) = sum(Rule::FirstPage);
    assert!(misses == 0 && doubles > 0, "{misses} missed, {doubles} double");
}

#[test]
fn a_page_is_no_longer_than_it_may_be_and_a_stripe_that_concerns_nobody_is_not_locked() {
    let (hub, mut inboxes) = hub(64, 1, NO_FRAME);
    for n in 0..5_000 {
        publish_now(&hub, &format!("system.x{n}.status"), 0);
    }
    let at = Now::default();
    let mut looked_at = |patterns: Vec<Pattern>, most: usize| {
        let mut scan = Scan::new(patterns, Vec::new());
        let (mut longest, mut seen) = (0, 0);
        while !scan.is_complete() {
            longest = longest.max(inboxes[0].scan(&mut scan, most, at, &mut |_| seen += 1));
        }
        (scan.pages(), longest, seen)
    };
    let (pages, longest, seen) = looked_at(vec![pattern("system.*")], 100);
    assert!((50..=50 + STRIPES).contains(&pages), "{pages}");
    assert_eq!((longest, seen), (101, 5_000));
    // Whatever the caller allows.
    assert!(looked_at(vec![pattern("*")], usize::MAX).1 <= 1025);
    // Comparing with many costs more, and so a page looks at fewer channels.
    let many: Vec<Pattern> = (0..40).map(|n| pattern(&format!("*.no{n}.*"))).collect();
    let (pages, longest, seen) = looked_at(many, 120);
    assert!(pages >= 250 && longest <= 126, "{pages} {longest}");
    assert_eq!(seen, 0);
    assert_eq!(looked_at(vec![pattern("system.x7.*")], 100), (1, 2, 1));
}
