//! A scan in pages while publishers publish. Every event that is published before, during or between its pages is either
//! in a view or delivered afterwards, but not both. Planted faults must be found.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::hub::Scan;
use tickgate_protocol::channel::{Class, Classes, History};

/// How a page finds its position. All but the first are planted faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PageRule {
    UnderLock,
    /// The end of the inbox is read after the unlock: an event in between is in no view and is not delivered.
    AfterUnlock,
    /// All pages of a stripe use the position of its first page: what a later page saw is delivered again.
    FirstPage,
}

/// Publishers, and the channel and version of each event that they published.
struct Publishers {
    hub: Arc<Hub>,
    rng: StdRng,
    log: Vec<(String, u64)>,
}

impl Publishers {
    fn publish(&mut self) {
        for _ in 0..self.rng.random_range(0..6) {
            // At most three stripes, with several channels in each.
            let name = format!("user.{}.c{}", self.rng.random_range(0..3), self.rng.random_range(0..12));
            let credit = self
                .hub
                .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0)
                .expect("free");
            let receipt = self
                .hub
                .publish(event(&name, 0), Now::default(), credit, &mut Wakes::default());
            self.log.push((name, receipt.offset.expect("a history")));
        }
    }
}

/// How many events one scan missed, and how many were delivered twice.
fn misses_and_duplicates(seed: u64, rule: PageRule) -> (usize, usize) {
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
    // Of another connection of the shard, so that there are events in the inbox before and after every page.
    inbox.join(&pattern("*"));
    let others = Arc::new(Mutex::new(Publishers {
        hub,
        rng: StdRng::seed_from_u64(seed),
        log: Vec::new(),
    }));
    let mut first_pages = [None; STRIPES];
    let publishers = Arc::clone(&others);
    inbox.plant(move |stripe, under_lock, later| {
        publishers.lock().publish();
        let first_page = *first_pages[usize::from(stripe)].get_or_insert(under_lock);
        match rule {
            PageRule::UnderLock => under_lock,
            PageRule::AfterUnlock => later(),
            PageRule::FirstPage => first_page,
        }
    });
    let random = |range| others.lock().rng.random_range(range);
    let all = ["user.*", "*.*.*", "user.1.*", "*.2.*", "*"].map(pattern);
    let patterns: Vec<Pattern> = (0..2)
        .filter_map(|_| all.choose(&mut others.lock().rng).cloned())
        .collect();
    let mut scan = Scan::new(patterns.clone(), Vec::new());
    let mut seen: BTreeMap<String, u64> = BTreeMap::new();
    let mut delivered = Vec::new();
    while !scan.is_complete() {
        others.lock().publish();
        let view = &mut |view: ChannelView<'_>| {
            assert!(
                seen.insert(view.channel.to_string(), view.latest).is_none(),
                "viewed twice"
            );
        };
        inbox.scan(&mut scan, random(1..4), Now::default(), view);
        // An event that is popped during the scan is judged by the position so far.
        let at = scan.position();
        let count = random(0..8);
        delivered.extend((0..count).map_while(|_| inbox.pop()).map(|popped| (popped, at.clone())));
    }
    others.lock().publish();
    let at = scan.position();
    assert!(at.is_complete());
    delivered.extend(std::iter::from_fn(|| inbox.pop()).map(|popped| (popped, at.clone())));
    assert!(at.is_settled(inbox.position()));
    delivered.retain(|(popped, at)| at.includes(&popped.event.channel, popped.stripe, popped.index));
    let of = |event: &Event| (event.channel.to_string(), event.version);
    let delivered: BTreeSet<(String, u64)> = delivered.iter().map(|(popped, _)| of(&popped.event)).collect();
    let is_seen = |(name, version): &(String, u64)| seen.get(name).is_some_and(|latest| version <= latest);
    let is_owed = |event: &&(String, u64)| patterns.iter().any(|pattern| pattern.matches_name(&event.0));
    let others = others.lock();
    let owed: Vec<_> = others.log.iter().filter(is_owed).collect();
    let misses = owed
        .iter()
        .filter(|event| !is_seen(event) && !delivered.contains(**event));
    let duplicates = owed
        .iter()
        .filter(|event| is_seen(event) && delivered.contains(**event));
    (misses.count(), duplicates.count())
}

fn sum(rule: PageRule) -> (usize, usize) {
    let found = (0..200).map(|seed| misses_and_duplicates(seed, rule));
    found.fold((0, 0), |sum, found| (sum.0 + found.0, sum.1 + found.1))
}

#[test]
fn a_scan_among_publishers_misses_no_event_and_duplicates_none() {
    for seed in 0..500 {
        assert_eq!(misses_and_duplicates(seed, PageRule::UnderLock), (0, 0), "seed {seed}");
    }
}

#[test]
fn a_page_whose_position_is_read_after_the_unlock_is_found() {
    let (misses, duplicates) = sum(PageRule::AfterUnlock);
    assert!(
        misses > 0 && duplicates == 0,
        "{misses} missed, {duplicates} duplicates"
    );
}

#[test]
fn a_page_with_the_position_of_an_earlier_one_is_found() {
    let (misses, duplicates) = sum(PageRule::FirstPage);
    assert!(
        misses == 0 && duplicates > 0,
        "{misses} missed, {duplicates} duplicates"
    );
}

#[test]
fn a_page_is_bounded_and_a_stripe_that_no_pattern_concerns_is_not_locked() {
    let (hub, mut inboxes) = hub(64, 1, NO_FRAME);
    for n in 0..5_000 {
        publish_now(&hub, &format!("system.x{n}.status"), 0);
    }
    let at = Now::default();
    let mut scanned = |patterns: Vec<Pattern>, steps_max: usize| {
        let mut scan = Scan::new(patterns, Vec::new());
        let (mut longest, mut seen) = (0, 0);
        while !scan.is_complete() {
            longest = longest.max(inboxes[0].scan(&mut scan, steps_max, at, &mut |_| seen += 1));
        }
        (scan.pages(), longest, seen)
    };
    let (pages, longest, seen) = scanned(vec![pattern("system.*")], 100);
    assert!((50..=50 + STRIPES).contains(&pages), "{pages}");
    assert_eq!((longest, seen), (101, 5_000));
    // However many steps the caller allows.
    assert!(scanned(vec![pattern("*")], usize::MAX).1 <= 1025);
    // Comparing with many patterns costs more, so a page visits fewer channels.
    let many: Vec<Pattern> = (0..40).map(|n| pattern(&format!("*.no{n}.*"))).collect();
    let (pages, longest, seen) = scanned(many, 120);
    assert!(pages >= 250 && longest <= 126, "{pages} {longest}");
    assert_eq!(seen, 0);
    assert_eq!(scanned(vec![pattern("system.x7.*")], 100), (1, 2, 1));
}
