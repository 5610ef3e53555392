use tickgate_protocol::channel::{Class, Overflow};
use tickgate_protocol::rate::Rate;

use super::*;
use crate::event::NewEvent;
use crate::shard::pace::Pace;

fn group(rate: &str) -> Group {
    let rate = Rate::at_most(rate.parse().expect("a number"));
    Pace::new(rate, None, 0).group(None).expect("a rate")
}

fn groups(rates: &[&str]) -> Groups {
    rates.iter().map(|rate| group(rate)).collect()
}

fn event(channel: &str, index: u64, record_key: Option<&str>) -> Popped {
    let new = NewEvent {
        channel: Channel::parse(channel).expect("valid"),
        name: "e".into(),
        data: index.to_string().into_bytes().into(),
        timestamp_ms: 0,
        options: crate::event::PublishOptions::default(),
    };
    let class = Class {
        cache_last: true,
        overflow: Overflow::Conflate,
        record_key: record_key.map(Into::into),
        ..Class::default()
    };
    let mut event = Event::new(new, None);
    event.class = Arc::new(class);
    event.version = index + 1;
    Popped {
        index,
        stripe: 0,
        event: Arc::new(event),
    }
}

// Ends the periods until this time; returns the channels that are due, with the index of their event.
fn end(paced: &mut Paced, now_ms: u64) -> Vec<(String, u64, bool)> {
    let mut due = Vec::new();
    paced.end_periods(now_ms);
    while let Some(step) = paced.next() {
        if let Step::Due(Due { newest, is_for_all, .. }) = step {
            due.push((newest.event.channel.to_string(), newest.index, is_for_all));
        }
    }
    due
}

#[test]
fn the_first_value_goes_at_once_and_the_newest_of_a_period_at_its_end() {
    let mut paced = Paced::default();
    let one = groups(&["1"]);
    let noted = |at_once, replaced| Noted { at_once, replaced };
    assert_eq!(paced.note(&event("a", 0, None), one, 10_100), noted(one, Groups::NONE));
    assert_eq!(paced.next_end_ms(), Some(11_000));
    assert_eq!(
        paced.note(&event("a", 1, None), one, 10_200),
        noted(Groups::NONE, Groups::NONE)
    );
    assert_eq!(paced.note(&event("a", 2, None), one, 10_300), noted(Groups::NONE, one));
    assert_eq!(end(&mut paced, 10_999), []);
    assert_eq!(end(&mut paced, 11_000), [("a".to_owned(), 2, true)]);
    // It runs until a period without a value has ended.
    assert_eq!(end(&mut paced, 12_000), []);
    assert_eq!(paced.channels.len(), 0);
    assert_eq!(paced.note(&event("a", 3, None), one, 12_001).at_once, one);
    // It was sent within the period that ends now, so it runs for the next one.
    assert_eq!(end(&mut paced, 13_000), []);
    assert_eq!(paced.note(&event("a", 4, None), one, 13_001).at_once, Groups::NONE);
    assert_eq!(end(&mut paced, 14_000), [("a".to_owned(), 4, true)]);
    assert_eq!(end(&mut paced, 15_000), []);
    assert_eq!(end(&mut paced, 16_000), []);
    assert_eq!((paced.next_end_ms(), paced.by_channel.len()), (None, 0));
}

#[test]
fn groups_are_independent_and_share_the_newest_value() {
    let mut paced = Paced::default();
    let both = groups(&["10", "1"]);
    assert_eq!(paced.note(&event("a", 0, None), both, 10_000).at_once, both);
    assert_eq!(end(&mut paced, 10_100), []);
    assert_eq!(paced.note(&event("a", 1, None), both, 10_150).at_once, Groups::NONE);
    assert_eq!(end(&mut paced, 10_200), [("a".to_owned(), 1, true)]);
    assert_eq!(end(&mut paced, 10_300), []);
    // The fast group is ready, the slow one is not.
    assert_eq!(paced.note(&event("a", 2, None), both, 10_350).at_once, groups(&["10"]));
    let slow = group("1");
    let channel = Channel::parse("a").expect("valid");
    assert!(paced.waits(&channel, slow, false));
    let (waiting, _) = paced.waiting(both);
    assert_eq!(waiting.iter().map(|value| value.newest.index).collect::<Vec<_>>(), [2]);
    assert_eq!(end(&mut paced, 11_000), [("a".to_owned(), 2, true)]);
}

#[test]
fn a_value_that_was_sent_at_once_is_owed_to_newcomers() {
    let mut paced = Paced::default();
    paced.note(&event("a", 0, None), groups(&["1"]), 10_100);
    paced.owe(&Channel::parse("a").expect("valid"), group("1"));
    assert_eq!(end(&mut paced, 11_000), [("a".to_owned(), 0, false)]);
    assert_eq!(end(&mut paced, 12_000), []);
}

#[test]
fn merged_records_are_read_from_the_first_that_waits_and_not_twice() {
    let mut paced = Paced::default();
    let one = groups(&["1"]);
    let take = |paced: &mut Paced, now_ms| {
        paced.end_periods(now_ms);
        match paced.next() {
            Some(Step::Due(due)) => due.above,
            _ => None,
        }
    };
    for index in 0..3 {
        paced.note(&event("a", index, Some("k")), one, 10_100);
    }
    // The first went at once with version 1. The second has version 2.
    assert_eq!(take(&mut paced, 11_000), Some(1));
    let channel = Channel::parse("a").expect("valid");
    paced.note_read(&channel, group("1"), 5);
    while paced.next().is_some() {}
    paced.note(&event("a", 4, Some("k")), one, 11_100);
    assert!(
        !paced.waits(&channel, group("1"), false),
        "it was read before it was popped"
    );
    paced.note(&event("a", 5, Some("k")), one, 11_200);
    assert_eq!(take(&mut paced, 12_000), Some(5));
}

#[test]
fn a_period_that_is_not_done_ends_with_the_next() {
    let mut paced = Paced::default();
    let one = groups(&["1"]);
    for (index, name) in (0..).zip(["a", "b", "c"]) {
        paced.note(&event(name, index, None), one, 10_100);
        paced.note(&event(name, index + 10, None), one, 10_100);
    }
    paced.end_periods(11_000);
    assert!(matches!(paced.next(), Some(Step::Due(_))));
    // A newer value takes the place of the one that is due.
    paced.note(&event("c", 20, None), one, 11_001);
    assert_eq!(
        end(&mut paced, 12_000),
        [("b".to_owned(), 11, true), ("c".to_owned(), 20, true)]
    );
    assert!(!paced.is_ending());
}
