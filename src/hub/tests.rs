//! The hub with several threads, and the two typical faults of a join and of a read. The faults are planted into the
//! production code, and the tests must find them.

mod ids;
mod quotas;
mod replay;
mod scan;
mod storm;
mod tenants;

use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll, Waker};

use super::rig::*;
use super::*;

fn number(popped: &Popped) -> u64 {
    number_of(&popped.event)
}

fn number_of(event: &Event) -> u64 {
    std::str::from_utf8(&event.data)
        .ok()
        .and_then(|text| text.parse().ok())
        .expect("the data is a number")
}

fn publish_now(hub: &Hub, channel: &str, number: u64) {
    let credit = hub
        .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0)
        .expect("free");
    hub.publish(event(channel, number), Now::default(), credit, &mut Wakes::default());
}

/// How many events a new subscriber of `joined` misses and how many it gets twice. One event is published before its join,
/// one directly after the join unlocks the stripe, and one later.
fn misses_and_duplicates(rule: Rule, joined: &str) -> (u64, u64) {
    let (hub, mut inboxes) = hub(64, 1, NO_FRAME);
    let inbox = &mut inboxes[0];
    inbox.join(&pattern("a.b.*")); // of another connection, so that the inbox is not empty
    publish_now(&hub, "a.b.c", 1);
    let stripe = stripe_of(&channel("a.b.c"));
    let publisher = Arc::clone(&hub);
    plant(inbox, rule, move |joined| {
        if joined == stripe {
            publish_now(&publisher, "a.b.c", 2);
        }
    });
    // The number of events in the stripe stands for its state.
    let mut state = 0;
    let mut stripes = Stripes::of(&pattern(joined)).iter();
    let at = inbox.join_viewing(&pattern(joined), |seen| {
        if stripes.next() == Some(stripe) {
            state = seen.events;
        }
    });
    publish_now(&hub, "a.b.c", 3);
    let (mut misses, mut duplicates) = (0, 0);
    while let Some(popped) = inbox.pop() {
        match (
            at.includes(&popped.event.channel, popped.stripe, popped.index),
            number(&popped) > state,
        ) {
            (true, false) => duplicates += 1,
            (false, true) => misses += 1,
            _ => {}
        }
    }
    (misses, duplicates)
}

#[test]
fn a_join_misses_no_event_and_duplicates_none() {
    for joined in ["a.b.c", "a.*", "*", "*.b.c"] {
        assert_eq!(misses_and_duplicates(Rule::UnderLock, joined), (0, 0), "{joined}");
    }
}

#[test]
fn a_position_read_after_the_unlock_is_found() {
    for joined in ["a.b.c", "a.*", "*", "*.b.c"] {
        assert_eq!(misses_and_duplicates(Rule::AfterUnlock, joined), (1, 0), "{joined}");
    }
}

#[test]
fn a_join_without_a_position_is_found() {
    for joined in ["a.b.c", "a.*", "*", "*.b.c"] {
        assert_eq!(misses_and_duplicates(Rule::Nowhere, joined), (0, 1), "{joined}");
    }
}

/// How many events a reader of `kept.a.b` misses and how many it gets twice, from its page and the live events after it.
/// One event is published before the read, one directly after the read unlocks the stripe, and one later.
fn misses_and_duplicates_of_a_read(rule: Rule, since: Since) -> (u64, u64) {
    let (hub, mut inboxes) = hub(64, 1, NO_FRAME);
    let inbox = &mut inboxes[0];
    inbox.join(&pattern("*"));
    publish_now(&hub, "a.b.c", 0); // so that the inbox has more events than the channel
    publish_now(&hub, "kept.a.b", 1);
    let publisher = Arc::clone(&hub);
    plant(inbox, rule, move |_| publish_now(&publisher, "kept.a.b", 2));
    let page = inbox.read(&channel("kept.a.b"), since, NO_LIMIT, Now::default());
    publish_now(&hub, "kept.a.b", 3);
    let mut received: Vec<u64> = page.events.iter().map(|event| number_of(event)).collect();
    assert_eq!((received.as_slice(), page.last, page.more), ([1].as_slice(), 1, false));
    let live = std::iter::from_fn(|| inbox.pop()).filter(|popped| popped.index >= page.at);
    received.extend(live.map(|popped| number(&popped)).filter(|number| *number > 0));
    let times = |number: u64| received.iter().filter(|received| **received == number).count() as u64;
    let misses = (1..=3).filter(|number| times(*number) == 0).count() as u64;
    (misses, (1..=3).map(|number| times(number).saturating_sub(1)).sum())
}

#[test]
fn a_page_and_the_live_events_after_it_meet_exactly_and_both_faults_are_found() {
    for since in [Since::After(0), Since::Newest { above: 0 }] {
        let found = |rule| misses_and_duplicates_of_a_read(rule, since);
        assert_eq!(found(Rule::UnderLock), (0, 0), "{since:?}");
        assert_eq!(found(Rule::AfterUnlock), (1, 0), "{since:?}");
        assert_eq!(found(Rule::Nowhere), (0, 1), "{since:?}");
    }
}

#[test]
fn all_shards_see_the_events_of_two_publishers_in_the_same_order() {
    let (hub, mut inboxes) = hub(64, 2, NO_FRAME);
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
                    let credit = runtime.block_on(hub.credit(tickgate_protocol::channel::Tenant::DEFAULT, 0));
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
        assert!(own.is_sorted(), "the order of each publisher is kept");
    }
}

#[test]
fn an_inbox_has_room_for_exactly_all_credits() {
    let (hub, mut inboxes) = hub(50, 3, NO_FRAME);
    inboxes[0].join(&pattern("*"));
    let mut published = 0;
    while let Some(credit) = hub.credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0) {
        hub.publish(event("a.b", published), Now::default(), credit, &mut Wakes::default());
        published += 1;
    }
    for shard in 0..3 {
        while let Some(credit) = hub.try_credit(shard, tickgate_protocol::channel::Tenant::DEFAULT, 0) {
            hub.publish(event("a.b", published), Now::default(), credit, &mut Wakes::default());
            published += 1;
        }
    }
    let metrics = hub.metrics();
    assert_eq!(
        (inboxes[0].len() as u64, metrics.credits_lent),
        (published, metrics.credits)
    );
    while inboxes[0].pop().is_some() {}
    assert_eq!(hub.metrics().credits_lent, 0);
}

#[test]
fn a_waiting_publisher_holds_no_lock() {
    let (hub, mut inboxes) = hub(4, 1, NO_FRAME);
    inboxes[0].join(&pattern("a.b"));
    while let Some(credit) = hub.credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0) {
        hub.publish(event("a.b", 0), Now::default(), credit, &mut Wakes::default());
    }
    let mut waiting = std::pin::pin!(hub.credit(tickgate_protocol::channel::Tenant::DEFAULT, 0));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(waiting.as_mut().poll(&mut cx).is_pending());
    assert!(hub.stripes.iter().all(|stripe| stripe.state.try_lock().is_some()));
    inboxes[0].join(&pattern("*"));
    inboxes[0].pop();
    assert!(matches!(waiting.as_mut().poll(&mut cx), Poll::Ready(_)));
}

#[test]
fn an_event_that_costs_more_than_all_credits_is_published() {
    let (hub, mut inboxes) = hub(2, 1, NO_FRAME);
    inboxes[0].join(&pattern("a.b"));
    for _ in 0..3 {
        let mut large = event("a.b", 1);
        large.data = vec![b'1'; 256 * 1024].into();
        let credit = hub
            .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, large.data.len())
            .expect("the whole pool");
        hub.publish(large, Now::default(), credit, &mut Wakes::default());
        assert!(hub.credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0).is_none());
        assert!(inboxes[0].pop().is_some());
    }
}

#[test]
fn a_dropped_inbox_leaves_no_lent_credit_and_no_interest() {
    let (hub, mut inboxes) = hub(8, 2, NO_FRAME);
    for inbox in &mut inboxes {
        inbox.join(&pattern("*"));
    }
    let mut wakes = Wakes::default();
    hub.publish(
        event("a.b", 1),
        Now::default(),
        hub.credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0)
            .expect("free"),
        &mut wakes,
    );
    assert_eq!(wakes, Wakes(0b11));
    assert!(inboxes[0].pop().is_some());
    assert_eq!(hub.metrics().credits_lent, 1, "the other shard has not popped it");
    drop(inboxes.pop());
    assert_eq!(hub.metrics().credits_lent, 0);
    let mut wakes = Wakes::default();
    hub.publish(
        event("a.b", 2),
        Now::default(),
        hub.credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0)
            .expect("free"),
        &mut wakes,
    );
    assert_eq!(wakes, Wakes(0b01));
}

#[test]
fn an_event_is_encoded_once_and_only_in_formats_in_use() {
    static ENCODED: AtomicUsize = AtomicUsize::new(0);
    let encode: Encode = |_, event| {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        Bytes::copy_from_slice(event.data)
    };
    let (hub, mut inboxes) = hub(8, 2, encode);
    for inbox in &mut inboxes {
        inbox.join(&pattern("a.b"));
    }
    publish_now(&hub, "a.b", 1);
    hub.add_demand(Encoding::Native.plain(), 1);
    publish_now(&hub, "a.b", 2);
    publish_now(&hub, "unwanted", 3);
    hub.add_demand(Encoding::Native.plain(), -1);
    publish_now(&hub, "a.b", 4);
    assert_eq!(ENCODED.load(Ordering::Relaxed), 1);
    for inbox in &mut inboxes {
        let frames: Vec<_> = std::iter::from_fn(|| inbox.pop())
            .map(|popped| popped.event.frame(Encoding::Native.plain()).cloned())
            .collect();
        assert_eq!(frames, [None, Some("2".into()), None]);
    }
    assert_eq!(
        hub.metrics(),
        HubMetrics {
            events: 4,
            unwanted: 1,
            credits: 8,
            ..HubMetrics::default()
        }
    );
}

#[test]
fn a_join_with_an_empty_inbox_is_settled_at_once_and_one_with_events_is_not() {
    let (hub, mut inboxes) = hub(8, 1, NO_FRAME);
    let inbox = &mut inboxes[0];
    let first = inbox.join(&pattern("*"));
    assert!(first.is_settled(inbox.position()));
    publish_now(&hub, "a.b", 1);
    let second = inbox.join(&pattern("a.b"));
    assert!(!second.is_settled(inbox.position()));
    let popped = inbox.pop().expect("one");
    let includes = |at: &JoinPosition| at.includes(&popped.event.channel, popped.stripe, popped.index);
    assert!(includes(&first) && !includes(&second));
    assert!(second.is_settled(inbox.position()));
    inbox.leave(&pattern("*"));
    inbox.leave(&pattern("a.b"));
    publish_now(&hub, "a.b", 2);
    assert!(inbox.is_empty());
}

// Two publishers without pauses, and a shard that publishes as well.
#[test]
fn publishers_and_shards_do_not_starve_each_other() {
    let (hub, mut inboxes) = hub(16, 1, NO_FRAME);
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
                    let credit = runtime.block_on(hub.credit(tickgate_protocol::channel::Tenant::DEFAULT, 0));
                    hub.publish(event("b.c", 0), Now::default(), credit, &mut Wakes::default());
                }
                running.fetch_sub(1, Ordering::Release);
            });
        }
        while own < 500 || others < 500 {
            if let Some(credit) = hub.try_credit(0, tickgate_protocol::channel::Tenant::DEFAULT, 0) {
                hub.publish(event("a.b", 1), Now::default(), credit, &mut Wakes::default());
            }
            if let Some(popped) = inbox.pop() {
                *(if number(&popped) == 1 { &mut own } else { &mut others }) += 1;
            }
        }
        stop.store(true, Ordering::Relaxed);
        // Publishers that wait for a credit must get one before the scope can end.
        while running.load(Ordering::Acquire) > 0 {
            while inbox.pop().is_some() {}
            std::thread::yield_now();
        }
    });
}
