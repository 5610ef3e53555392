//! Classes are replaced while a channel begins. Its state is never of a lane that the newest classes do not have.

use std::sync::Arc;

use shuttle::thread;

use super::super::rig::*;
use super::{holds, is_found, publish};
use crate::hub::{ClassesKept, Hub, Settings};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Class, Classes, History, Overflow};

fn classes(class: Class) -> Arc<Classes> {
    Arc::new(Classes::new(vec![(pattern("kept.*"), class)]))
}

fn last() -> Class {
    Class {
        cache_last: true,
        overflow: Overflow::Conflate,
        ..Class::default()
    }
}

fn history() -> Class {
    Class {
        history: Some(History::BUILT_IN),
        overflow: Overflow::Disconnect,
        ..Class::default()
    }
}

fn a_channel_begins_during(replace: fn(&Hub, Arc<Classes>) -> Result<(), ClassesKept>) {
    let settings = Settings {
        classes: classes(history()),
        ..Settings::default()
    };
    let hub = Hub::new(settings, 1, NO_FRAME).0;
    let publisher = {
        let hub = Arc::clone(&hub);
        thread::spawn(move || {
            publish(&hub, event("kept.a", 1));
        })
    };
    let replaced = replace(&hub, classes(last()));
    publisher.join().expect("no panic");
    let channel = Channel::parse("kept.a").expect("valid");
    let stripe = super::super::interest::stripe_of(&channel);
    let state = hub.stripes[usize::from(stripe)].lock();
    assert_eq!(state.channels.leaving_lane(hub.classes()), None, "{replaced:?}");
}

#[test]
fn a_channel_that_begins_during_a_replacement_is_in_its_lane() {
    holds(|| a_channel_begins_during(|hub, classes| hub.replace_classes(classes, Now::default())));
}

/// A replacement that does not hold the stripes from its check to the new table.
#[test]
fn a_replacement_without_the_locks_is_found() {
    let without_locks = |hub: &Hub, classes: Arc<Classes>| {
        for stripe in &hub.stripes {
            if let Some((channel, key)) = stripe.lock().channels.leaving_lane(&classes) {
                return Err(ClassesKept::Lane { channel, key });
            }
        }
        hub.classes.add(classes)
    };
    is_found("left: Some", move || a_channel_begins_during(without_locks));
}
