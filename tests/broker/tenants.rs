//! Tenants that share a broker: whatever it carries or keeps belongs to one of them, by its name.

use tickgate::broker::{Link, nats, redis};
use tickgate::session::Suspended;
use tickgate::suspended::{Claim, Record};
use tickgate_protocol::channel::{Pattern, Tenant};

use crate::nats_server::Nats;
use crate::node::{Node, channel, event, until, until_with};
use crate::redis_server::Redis;

/// One of each class that a broker treats in a way of its own: a history, a last value, merged records, an order book, and
/// nothing kept.
const CHANNELS: [&str; 5] = ["kept.a", "last.a", "rows.a", "book.a", "plain.a"];

/// What a tenant publishes to the channel of this name.
fn text(channel: &str, name: &str) -> String {
    match channel {
        "rows.a" => format!(r#"[{{"id":1,"of":"{name}"}}]"#),
        "book.a" => format!(r#"{{"bids":[["1","{}"]],"asks":[]}}"#, name.len()),
        _ => format!("\"{name}\""),
    }
}

fn tenant(number: usize) -> Tenant {
    Tenant::new(number).expect("few")
}

/// The names of the tenants by their numbers, on a gateway with these.
fn names(own: [&str; 2]) -> [(usize, &str); 3] {
    [(0, "default"), (1, own[0]), (2, own[1])]
}

fn are_apart(start: impl Fn([&str; 2]) -> Node) {
    let (in_one, in_two) = (["acme", "beta"], ["beta", "acme"]);
    let mut one = start(in_one);
    // The other gateway has the tenants in another order.
    let mut two = start(in_two);
    for number in 0..3 {
        two.join_pattern(&Pattern::parse("*").expect("valid").in_tenant(tenant(number)));
    }
    for (number, name) in names(in_one) {
        for channel in CHANNELS {
            let mut event = event(channel, text(channel, name));
            event.channel = event.channel.in_tenant(tenant(number));
            one.publish_one(event);
        }
    }
    let mut got = Vec::new();
    until_with("the events", || {
        two.take_events(&mut got);
        (got.len() >= 3 * CHANNELS.len())
            .then_some(())
            .ok_or_else(|| format!("{got:?}"))
    });
    let mut got: Vec<_> = got
        .iter()
        .map(|(channel, data)| (channel.tenant().index(), channel.as_str(), data.clone()))
        .collect();
    got.sort_unstable();
    let mut expected: Vec<_> = names(in_two)
        .into_iter()
        .flat_map(|(number, name)| CHANNELS.map(|channel| (number, channel, text(channel, name))))
        .collect();
    expected.sort_unstable();
    assert_eq!(got, expected);
    // What a tenant keeps is not another one's, also on a gateway that starts later.
    let three = start(in_two);
    for (number, name) in names(in_two) {
        for kept in &CHANNELS[..3] {
            for node in [&two, &three] {
                let last = node.last_of(&channel(kept).in_tenant(tenant(number)));
                assert_eq!(last, Some(text(kept, name)), "{kept} of {name}");
            }
        }
    }
    sessions_are_apart(&mut one, &mut two);
}

/// A session is given back to its own tenant, although the user and the secret name are the same.
fn sessions_are_apart(one: &mut Node, two: &mut Node) {
    let claim = |pid: &str, number| Claim {
        pid: pid.into(),
        tenant: tenant(number),
        user: Some("u1".into()),
    };
    for pid in ["the same", "behind"] {
        let record = Record {
            pid: pid.into(),
            // `acme`, which is number 2 on the other gateway.
            tenant: tenant(1),
            epoch: one.hub.epoch(),
            until_unix_ms: one.now().unix_ms + 120_000,
            suspended: Suspended {
                user: Some("u1".into()),
                patterns: vec![(Pattern::parse("kept.*").expect("valid").in_tenant(tenant(1)), None)],
                window_ms: 120_000,
                subscribed_at: 0,
            },
        };
        assert_eq!(one.broker.keep_session(record), Ok(()));
    }
    // The second one tells that the first one has arrived.
    until("the session behind", || two.take_session(claim("behind", 2)).is_some());
    for number in [0, 1] {
        assert_eq!(two.take_session(claim("the same", number)), None, "another tenant");
    }
    let found = two.take_session(claim("the same", 2)).expect("it stays for its tenant");
    let (pattern, _) = &found.suspended.patterns[0];
    assert_eq!((found.tenant, pattern.tenant()), (tenant(2), tenant(2)));
}

#[test]
fn tenants_are_apart_on_every_gateway_whatever_their_numbers() {
    let server = Nats::start();
    are_apart(|tenants| {
        let mut node = Node::nats(nats::Settings {
            tenants: tenants.map(Into::into).into(),
            ..Node::settings(server.url(), tenants[0])
        });
        node.wait_for(Link::Up);
        node
    });
}

#[test]
fn tenants_are_apart_on_every_gateway_over_redis() {
    let server = Redis::start();
    are_apart(|tenants| {
        let mut node = Node::redis(redis::Settings {
            tenants: tenants.map(Into::into).into(),
            ..Node::redis_settings(&server.address(), tenants[0])
        });
        node.wait_for(Link::Up);
        node
    });
}
