//! Publishers with a quota begin and lose channels at the same time. What is counted for each of them is what it owns.

use std::sync::Arc;

use shuttle::thread;

use super::super::rig::*;
use super::{holds, publish};
use crate::event::{NewEvent, PublishOptions};
use crate::hub::{Hub, Quota, Settings, StateSettings};
use tickgate_protocol::channel::{Class, Classes};

const CHANNELS_MAX: usize = 4;

fn hub_of_few_channels() -> Arc<Hub> {
    let class = Class {
        cache_last: true,
        ..Class::default()
    };
    let settings = Settings {
        classes: Arc::new(Classes::new(vec![(pattern("kept.*"), class)])),
        state: StateSettings {
            channels: CHANNELS_MAX,
            per_publisher: Quota { channels: 1, bytes: 0 },
            ..StateSettings::default()
        },
        ..Settings::default()
    };
    Hub::new(settings, 1, NO_FRAME).0
}

#[test]
fn the_counts_of_publishers_are_what_they_own_however_evictions_overlap() {
    holds(|| {
        let hub = hub_of_few_channels();
        let publishers = [("a", "one"), ("a", "two"), ("b", "three")].map(|(publisher, name)| {
            let hub = Arc::clone(&hub);
            thread::spawn(move || {
                for number in 0..4 {
                    let event = NewEvent {
                        options: PublishOptions {
                            publisher: Some(publisher.into()),
                            ..PublishOptions::default()
                        },
                        ..event(&format!("kept.{name}{number}"), number)
                    };
                    publish(&hub, event);
                }
            })
        });
        for publisher in publishers {
            publisher.join().expect("no panic");
        }
        let holdings = ["a", "b"].map(|name| {
            hub.publishers
                .get(tickgate_protocol::channel::Tenant::DEFAULT, &name.into())
                .expect("a quota")
                .holding()
        });
        let metrics = hub.metrics();
        let sum = |count: fn(&crate::hub::Holding) -> usize| holdings.iter().map(count).sum::<usize>();
        assert_eq!(sum(|holding| holding.channels), metrics.channels);
        assert_eq!(sum(|holding| holding.bytes), metrics.state_bytes);
        assert!(metrics.channels <= CHANNELS_MAX, "{} channels", metrics.channels);
    });
}
