//! A shard joins, leaves and joins again while publishers publish and another shard ends. There must be no gap, no
//! duplicate and no lost credit.

use shuttle::thread;

use super::super::interest::{Stripes, stripe_of};
use super::super::rig::*;
use super::{holds, is_found, publish};
use crate::hub::{Inbox, JoinPosition};

/// The number of events of the two publishers. The version of each is its number in its stripe.
const EVENTS: u64 = 6;

/// A subscription of `kept.a.b`, with the version of the newest event that it has.
struct Subscription {
    at: JoinPosition,
    last: u64,
}

impl Subscription {
    /// Joins. The subscriber starts from the state as it was under the lock.
    fn new(inbox: &mut Inbox, joined: &str) -> Self {
        let stripe = stripe_of(&channel("kept.a.b"));
        let mut stripes = Stripes::of(&pattern(joined)).iter();
        let mut last = 0;
        let at = inbox.join_viewing(&pattern(joined), |seen| {
            if stripes.next() == Some(stripe) {
                last = seen.events;
            }
        });
        Self { at, last }
    }

    fn drain(&mut self, inbox: &mut Inbox) {
        while let Some(popped) = inbox.pop() {
            if !self.at.includes(&popped.event.channel, popped.stripe, popped.index) {
                continue;
            }
            let version = popped.event.version;
            assert!(version > self.last, "a duplicate: {version} after {}", self.last);
            assert!(version == self.last + 1, "a gap: {version} after {}", self.last);
            self.last = version;
        }
    }
}

fn joins(joined: &'static str, rule: Rule) {
    let (hub, mut inboxes) = hub(64, 2, NO_FRAME);
    let publishers: Vec<_> = (0..2)
        .map(|_| {
            let hub = hub.clone();
            thread::spawn(move || {
                for number in 0..EVENTS / 2 {
                    publish(&hub, event("kept.a.b", number));
                }
            })
        })
        .collect();
    let leaving = inboxes.pop().map(|mut inbox| {
        thread::spawn(move || {
            inbox.join(&pattern("kept.a.b"));
            inbox.pop();
            // The inbox is dropped with the events that are still in it.
        })
    });
    let mut inbox = inboxes.pop().expect("the first one");
    plant(&inbox, rule, |_| ());
    let mut first = Subscription::new(&mut inbox, joined);
    first.drain(&mut inbox);
    inbox.leave(&pattern(joined));
    let mut second = Subscription::new(&mut inbox, joined);
    second.drain(&mut inbox);
    for thread in publishers.into_iter().chain(leaving) {
        thread.join().expect("no panic");
    }
    second.drain(&mut inbox);
    assert_eq!(second.last, EVENTS, "a gap at the end");
    assert_eq!(hub.metrics().credits_lent, 0, "a credit leaked");
}

#[test]
fn a_join_among_publishers_misses_no_event_and_duplicates_none() {
    holds(|| joins("kept.a.b", Rule::UnderLock));
    holds(|| joins("kept.*", Rule::UnderLock));
}

#[test]
fn a_position_that_is_read_after_the_unlock_is_found() {
    is_found("a gap", || joins("kept.a.b", Rule::AfterUnlock));
    is_found("a gap", || joins("kept.*", Rule::AfterUnlock));
}

#[test]
fn a_join_without_a_position_is_found() {
    is_found("a duplicate", || joins("kept.a.b", Rule::Nowhere));
}
