//! Two publishers publish an event with the same id at the same time. One event is accepted and the other is a duplicate.
//! When either publisher has its receipt, the accepted event is in the inbox.

use std::sync::Arc;

use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use super::super::interest::stripe_of;
use super::super::rig::*;
use super::{holds, is_found, publish};
use crate::event::{EventId, NewEvent};
use crate::hub::{Hub, Receipt};

/// Where an id is looked up and noted: the correct way and two planted faults.
#[derive(Clone, Copy)]
enum Noted {
    /// In the same hold of the lock as the event is published.
    WithTheEvent,
    /// Planted fault: the id is looked up in one hold of the lock; the event is published and its id noted in later ones.
    Later,
    /// Planted fault: the id is looked up and noted in one hold of the lock, and the event is published in a later one.
    Before,
}

fn publish_once(hub: &Hub, mut event: NewEvent, noted: Noted) -> Receipt {
    let id = EventId([7; 16]);
    let (stripe, generations) = (stripe_of(&event.channel), &hub.generations);
    let duplicate = Receipt {
        duplicate: true,
        ..Receipt::default()
    };
    match noted {
        Noted::WithTheEvent => {
            event.options.id = Some(id);
            publish(hub, event)
        }
        Noted::Later => {
            if hub.with_state(stripe, |state| {
                state.channels.duplicate(Some(&id), generations).is_some()
            }) {
                return duplicate;
            }
            let receipt = publish(hub, event);
            hub.with_state(stripe, |state| state.channels.note_id(id, 0, generations));
            receipt
        }
        Noted::Before => {
            let is_new = hub.with_state(stripe, |state| {
                let known = state.channels.duplicate(Some(&id), generations);
                state.channels.note_id(id, 0, generations);
                known.is_none()
            });
            if is_new { publish(hub, event) } else { duplicate }
        }
    }
}

fn once(on: &'static str, noted: Noted) {
    let (hub, mut inboxes) = hub(64, 1, NO_FRAME);
    let mut inbox = inboxes.pop().expect("one");
    inbox.join(&pattern(on));
    let answered = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..2)
        .map(|number| {
            let (hub, answered) = (hub.clone(), answered.clone());
            thread::spawn(move || {
                let receipt = publish_once(&hub, event(on, number), noted);
                answered.store(true, Ordering::SeqCst);
                receipt
            })
        })
        .collect();
    let mut received = 0;
    let mut drain = || {
        let is_answered = answered.load(Ordering::SeqCst);
        received += std::iter::from_fn(|| inbox.pop()).count();
        assert!(!is_answered || received > 0, "answered before it was in the inbox");
        received
    };
    drain();
    drain();
    let receipts = publishers
        .into_iter()
        .map(|publisher| publisher.join().expect("no panic"));
    let receipts: Vec<Receipt> = receipts.collect();
    assert_eq!(drain(), 1, "published twice");
    let duplicates = receipts.iter().filter(|receipt| receipt.duplicate).count();
    assert_eq!(duplicates, 1, "both got the same answer");
    assert_eq!(receipts[0].offset, receipts[1].offset, "one event has two offsets");
    assert_eq!(hub.metrics().credits_lent, 0, "a credit leaked");
}

#[test]
fn of_two_events_of_one_id_one_is_published_and_both_are_answered_behind_it() {
    holds(|| once("kept.a.b", Noted::WithTheEvent));
    holds(|| once("a.b.c", Noted::WithTheEvent));
}

#[test]
fn an_id_that_is_noted_after_its_event_is_found() {
    is_found("published twice", || once("a.b.c", Noted::Later));
}

#[test]
fn an_id_that_is_noted_before_its_event_is_found() {
    is_found("answered before", || once("a.b.c", Noted::Before));
}

/// Two publishers find the same generation of ids over at the same time. None of its ids may be forgotten before the next
/// generation is over as well.
fn rotate_twice() {
    let hub = hub_of_ids(8);
    let publish_id = |hub: &Hub, number: u8| {
        let mut event = event("a.b.c", number.into());
        event.options.id = Some(EventId([number; 16]));
        publish(hub, event).duplicate
    };
    assert!((0..4).all(|number| !publish_id(&hub, number)));
    let publishers = [4, 5].map(|number| {
        let hub = hub.clone();
        thread::spawn(move || assert!(!publish_id(&hub, number), "published twice"))
    });
    for publisher in publishers {
        publisher.join().expect("no panic");
    }
    assert!(
        (0..6).all(|number| publish_id(&hub, number)),
        "forgotten after two others"
    );
}

#[test]
fn a_generation_of_ids_ends_once() {
    holds(rotate_twice);
}
