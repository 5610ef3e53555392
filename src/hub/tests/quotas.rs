//! Quotas of publishers: one that publishes into more and more channels evicts its own.

use super::*;
use crate::event::{NewEvent, PublishOptions};
use crate::hub::StateSettings;
use tickgate_protocol::channel::{Class, Classes, History};

/// A hub that keeps the last values of channels below `market`, within these bounds.
fn hub_of(channels: usize, bytes: usize, per_publisher: Quota) -> Arc<Hub> {
    let class = Class {
        cache_last: true,
        ..Class::default()
    };
    let settings = Settings {
        classes: Arc::new(Classes::new(vec![(pattern("market.*"), class)])),
        state: StateSettings {
            channels,
            bytes,
            per_publisher,
            ..StateSettings::default()
        },
        ..Settings::default()
    };
    Hub::new(settings, 1, NO_FRAME).0
}

const fn channels(channels: usize) -> Quota {
    Quota { channels, bytes: 0 }
}

fn publish(hub: &Hub, channel: &str, publisher: Option<&str>, now_ms: u64, data: &str) {
    let event = NewEvent {
        data: data.to_owned().into(),
        options: PublishOptions {
            publisher: publisher.map(Into::into),
            ..PublishOptions::default()
        },
        ..event(channel, 0)
    };
    let now = Now {
        mono_ms: now_ms,
        unix_ms: 0,
    };
    let credit = hub
        .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, data.len())
        .expect("free");
    hub.publish(event, now, credit, &mut Wakes::default());
}

fn keeps(hub: &Hub, name: &str) -> bool {
    let now = Now::default();
    let page = hub.read(&channel(name), Since::Newest { above: 0 }, NO_LIMIT, now, &mut |_| {});
    !page.events.is_empty()
}

/// How many of the channels `market.<name><number>` have state.
fn kept(hub: &Hub, name: &str, numbers: std::ops::Range<u64>) -> usize {
    numbers
        .filter(|number| keeps(hub, &format!("market.{name}{number}")))
        .count()
}

#[test]
fn a_publisher_that_floods_evicts_its_own_channels_and_no_others() {
    let hub = hub_of(100, usize::MAX, channels(20));
    for number in 0..40 {
        publish(&hub, &format!("market.operator{number}"), None, 0, "1");
        publish(
            &hub,
            &format!("market.other{number}"),
            Some("other").filter(|_| number < 15),
            0,
            "1",
        );
    }
    for number in 0..1000 {
        publish(&hub, &format!("market.flood{number}"), Some("flood"), 1 + number, "1");
    }
    assert_eq!((kept(&hub, "operator", 0..40), kept(&hub, "other", 0..40)), (40, 40));
    assert_eq!((kept(&hub, "flood", 0..980), kept(&hub, "flood", 980..1000)), (0, 20));
    let metrics = hub.metrics();
    assert_eq!(
        (metrics.channels, metrics.evicted, metrics.evicted_by_quota),
        (100, 980, 980)
    );
    assert_eq!(hub.over_quota(), []);
    // Others may begin channels, too: room is made by the one that has most.
    for number in 0..10 {
        publish(&hub, &format!("market.late{number}"), Some("late"), 2000, "1");
    }
    assert_eq!(kept(&hub, "late", 0..10), 10);
}

#[test]
fn while_there_is_room_a_publisher_may_have_it_all() {
    let hub = hub_of(100, usize::MAX, channels(20));
    for number in 0..100 {
        publish(&hub, &format!("market.a{number}"), Some("a"), number, "1");
    }
    assert_eq!(kept(&hub, "a", 0..100), 100);
    let over = hub.over_quota();
    assert_eq!((over.len(), over[0].channels, &*over[0].publisher), (1, 100, "a"));
    // Then it gives room to others, until it has its quota.
    for number in 0..200 {
        publish(&hub, &format!("market.operator{number}"), None, 1000 + number, "1");
    }
    assert_eq!((kept(&hub, "a", 0..100), kept(&hub, "operator", 0..200)), (0, 100));
    assert_eq!(hub.metrics().evicted_by_quota, 80);
}

#[test]
fn bytes_have_a_quota_of_their_own() {
    let quota = Quota {
        channels: 0,
        bytes: 100_000,
    };
    let hub = hub_of(1000, 1 << 20, quota);
    let text = format!("\"{}\"", "x".repeat(8000));
    for number in 0..40 {
        publish(&hub, &format!("market.operator{number}"), None, 0, &text);
    }
    publish(&hub, "market.flood0", Some("flood"), 1, "1");
    for number in 1..300 {
        publish(&hub, &format!("market.flood{number}"), Some("flood"), 1 + number, &text);
    }
    assert_eq!(kept(&hub, "operator", 0..40), 40);
    let flood = kept(&hub, "flood", 0..300);
    assert!((5..90).contains(&flood), "{flood} channels");
    assert!(hub.metrics().state_bytes <= 1 << 20);
}

#[test]
fn a_channel_that_is_used_outlives_those_of_the_same_publisher_that_are_not() {
    let hub = hub_of(50, usize::MAX, channels(10));
    for number in 0..40 {
        publish(&hub, &format!("market.operator{number}"), None, 0, "1");
    }
    publish(&hub, "market.used0", Some("a"), 1, "1");
    for number in 0..200 {
        publish(&hub, "market.used0", Some("a"), 2 + number, &number.to_string());
        publish(&hub, &format!("market.a{number}"), Some("a"), 2 + number, "1");
    }
    assert!(keeps(&hub, "market.used0"));
    assert_eq!(kept(&hub, "operator", 0..40), 40);
    // A publisher that uses all its channels all the time loses some all the same.
    for round in 0..50 {
        for number in 0..12 {
            publish(
                &hub,
                &format!("market.busy{number}"),
                Some("a"),
                1000 + round,
                &round.to_string(),
            );
        }
    }
    assert_eq!((kept(&hub, "operator", 0..40), hub.metrics().channels), (40, 50));
}

#[test]
fn claims_of_channels_that_others_evicted_are_forgotten() {
    let hub = hub_of(10, usize::MAX, channels(1_000));
    let publisher: Arc<str> = "a".into();
    for number in 0..5000 {
        publish(&hub, &format!("market.a{number}"), Some(&publisher), number, "1");
    }
    let publisher = hub
        .publishers
        .get(tickgate_protocol::channel::Tenant::DEFAULT, &publisher)
        .expect("there are quotas");
    let mut claims = 0;
    while publisher.pop().is_some() {
        claims += 1;
    }
    assert!(claims < 200, "{claims} claims of 10 channels");
}

#[test]
fn without_quotas_the_least_recently_used_channel_is_evicted_whosever_it_is() {
    let hub = hub_of(10, usize::MAX, Quota::default());
    publish(&hub, "market.operator0", None, 0, "1");
    for number in 0..10 {
        publish(&hub, &format!("market.a{number}"), Some("a"), 1 + number, "1");
    }
    assert_eq!((kept(&hub, "operator", 0..1), kept(&hub, "a", 0..10)), (0, 10));
    assert_eq!(hub.metrics().evicted_by_quota, 0);
}

#[test]
fn publishers_without_state_are_forgotten() {
    let hub = hub_of(10, usize::MAX, channels(5));
    for number in 0..10_000 {
        publish(
            &hub,
            &format!("market.a{number}"),
            Some(&format!("user{number}")),
            number,
            "1",
        );
    }
    assert!(hub.publishers.len() < 2000);
    assert_eq!(hub.metrics().channels, 10);
}

#[test]
fn the_counts_of_a_publisher_follow_its_channels() {
    let class = Class {
        cache_last: true,
        history: Some(History { size: 3, ttl_ms: 500 }),
        ..Class::default()
    };
    let settings = Settings {
        classes: Arc::new(Classes::new(vec![(pattern("market.*"), class)])),
        state: StateSettings {
            channels: 20,
            per_publisher: channels(1),
            ..StateSettings::default()
        },
        ..Settings::default()
    };
    let hub = Hub::new(settings, 1, NO_FRAME).0;
    let check = |step: &str| {
        let metrics = hub.metrics();
        let all = hub.over_quota().pop().expect("above its quota");
        assert_eq!(
            (all.channels, all.bytes),
            (metrics.channels, metrics.state_bytes),
            "{step}"
        );
    };
    for number in 0..100 {
        let (name, text) = (format!("market.a{}", number % 15), "1".repeat(number as usize));
        publish(&hub, &name, Some("a"), number, &text);
    }
    check("trimmed");
    hub.add_demand(WireFormat::all().next().expect("one"), 1);
    for number in 0..15 {
        keeps(&hub, &format!("market.a{number}"));
    }
    check("read in another format");
    hub.expire(Now {
        mono_ms: 560,
        unix_ms: 0,
    });
    check("expired");
    for number in 0..30 {
        publish(&hub, &format!("market.b{number}"), Some("a"), 600 + number, "1");
    }
    check("evicted");
    assert_eq!(hub.metrics().channels, 20);
}
