//! A thread reads the hub's head while publishers publish. Every event up to the head must be in the inbox.

use shuttle::thread;

use super::super::rig::*;
use super::super::versions::InFlight;
use super::{holds, is_found, publish};
use crate::hub::Hub;

const EVENTS_EACH: u64 = 2;

#[derive(Clone, Copy)]
enum Fault {
    None,
    /// The newest version counts, whether it is visible or not.
    Newest,
    /// The newest version is read behind what the stripes tell, so it may be one that was drawn later.
    NewestLast,
}

fn head(hub: &Hub, fault: Fault) -> u64 {
    match fault {
        Fault::None => hub.head(),
        Fault::Newest => hub.versions.newest(),
        Fault::NewestLast => {
            let stripes = hub.stripes.iter().map(|stripe| &stripe.in_flight);
            let told = stripes.map(InFlight::all_before).min().expect("stripes");
            told.min(hub.versions.newest())
        }
    }
}

fn heads(fault: Fault) {
    let (hub, mut inboxes) = hub(64, 1, NO_FRAME);
    let mut inbox = inboxes.pop().expect("one");
    // Two channels in two stripes.
    let channels = ["kept.a.x", "kept.c.x"];
    for channel in channels {
        inbox.join(&pattern(channel));
    }
    let publishers = channels.map(|channel| {
        let hub = hub.clone();
        thread::spawn(move || {
            for number in 0..EVENTS_EACH {
                publish(&hub, event(channel, number));
            }
        })
    });
    let mut popped = Vec::new();
    for _ in 0..3 {
        let head = head(&hub, fault);
        let end = inbox.end();
        while inbox.position() < end {
            popped.extend(inbox.pop().map(|popped| popped.event.version));
        }
        for version in 1..=head {
            assert!(
                popped.contains(&version),
                "version {version} is missing below the head {head}"
            );
        }
    }
    for publisher in publishers {
        publisher.join().expect("no panic");
    }
    assert_eq!(hub.head(), 2 * EVENTS_EACH, "nothing is in flight");
    assert_eq!(hub.versions.newest(), hub.head());
}

#[test]
fn everything_up_to_the_head_is_in_the_inbox() {
    holds(|| heads(Fault::None));
}

#[test]
fn a_head_that_ignores_what_is_in_flight_is_found() {
    is_found("is missing below the head", || heads(Fault::Newest));
}

#[test]
fn a_head_that_reads_the_newest_version_last_is_found() {
    is_found("is missing below the head", || heads(Fault::NewestLast));
}
