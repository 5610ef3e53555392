//! What a subscriber gets that joins a channel which is polled already, and what the others get.
//!
//! The tests assert what was published, never when. The next change of the source shows that nothing came before it.

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/process.rs"]
mod process;
#[path = "support/redis_server.rs"]
mod redis_server;
#[path = "support/sources.rs"]
mod sources;

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use gateway::{Client, Running, start, until};
use redis_server::Redis;
use serde_json::{Value, json};
use sources::HttpSource;
use tickgate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};
use tickgate_protocol::channel::{Class, Classes, History, Overflow, Pattern};

fn feed(channel: &str, source: SourceSettings, publish: PublishMode) -> FeedSettings {
    FeedSettings {
        channel: channel.parse().expect("a channel"),
        event: "update".into(),
        source,
        publish,
        interval: Duration::from_millis(400),
        timeout: Duration::from_secs(5),
    }
}

fn http(source: &HttpSource, path: &str) -> SourceSettings {
    SourceSettings::Http(format!("http://{}{path}", source.address()).parse().expect("a URL"))
}

fn by_code() -> PublishMode {
    PublishMode::ChangedRecords("code".into())
}

fn admin(gateway: &Running) -> Client<TcpStream> {
    gateway.client(&gateway.token("root", |grant| grant.role = Some("admin".into())))
}

fn subscriber(gateway: &Running, pattern: &str) -> Client<TcpStream> {
    let mut client = admin(gateway);
    client.subscribe(&[pattern]);
    client
}

/// The `data` of the next event.
fn data(client: &mut Client<TcpStream>) -> Value {
    loop {
        let message = client.json();
        if message["type"] == "event" {
            return message["data"].clone();
        }
    }
}

/// Waits until this many more polls of the feed have ended.
fn wait_for_polls(gateway: &Running, channel: &str, more: u64) {
    let polls = || {
        let stats = gateway.admin("GET", "/api/websocket/stats", "").json();
        let feeds = stats["feeds"].as_array().expect("feeds").clone();
        let found = feeds.iter().find(|feed| feed["channel"] == channel);
        found.expect("the feed")["polls"].as_u64().expect("a number")
    };
    let wanted = polls() + more;
    until("polls", || polls() >= wanted);
}

/// The first value, an unchanged one in another notation, a change, and what is sent of the change.
const VALUE: [&str; 4] = [r#"{"n":1}"#, r#"{ "n": 1.0 }"#, r#"{"n":2}"#, r#"{"n":2}"#];
const RECORDS: [&str; 4] = [
    r#"[{"code":"a","n":1},{"code":"b","n":1}]"#,
    r#"[{"n":1.0,"code":"a"},{"code":"b","n":1}]"#,
    r#"[{"code":"a","n":1},{"code":"b","n":2}]"#,
    r#"[{"code":"b","n":2}]"#,
];

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[test]
fn only_the_newcomer_gets_the_unchanged_state_and_gets_it_once() {
    let source = HttpSource::start();
    let last_of_orders = Class {
        cache_last: true,
        overflow: Overflow::Disconnect,
        history: Some(History::BUILT_IN),
        ..Class::default()
    };
    // Per channel of a feed: the channel that is subscribed to, another pattern for newcomers, the mode and the values.
    // The classes: last value; merged records; without an entry, both; last value and history of an operator.
    let cases = [
        (
            "user.{id}.balance",
            "user.7.balance",
            "user.*",
            PublishMode::Changed,
            VALUE,
        ),
        (
            "strategy.s.prices",
            "strategy.*.prices",
            "strategy.*.prices",
            by_code(),
            RECORDS,
        ),
        ("stock.{id}.price", "stock.7.price", "stock.*", by_code(), RECORDS),
        ("desk.{id}.note", "desk.7.note", "desk.7.*", PublishMode::Changed, VALUE),
        ("desk.rows", "desk.rows", "desk.*", by_code(), RECORDS),
        ("order.{id}", "order.7", "order.7", PublishMode::Changed, VALUE),
    ];
    for (channel, first, second, mode, [value, unchanged, changed, sent]) in cases {
        source.set("/7", value);
        let path = if channel.contains('{') { "/{id}" } else { "/7" };
        let gateway = start(|settings| {
            settings.feeds.feeds = vec![feed(channel, http(&source, path), mode)];
            let orders = (Pattern::parse("order.*").expect("valid"), last_of_orders.clone());
            settings.hub.classes = Arc::new(Classes::new(vec![orders]));
        });
        let mut one = subscriber(&gateway, first);
        assert_eq!(data(&mut one), parsed(value), "{channel}");
        source.set("/7", unchanged);
        let mut newcomers: Vec<_> = [first, second].map(|pattern| subscriber(&gateway, pattern)).into();
        for newcomer in &mut newcomers {
            assert_eq!(data(newcomer), parsed(value), "{channel}");
        }
        wait_for_polls(&gateway, channel, 3);
        source.set("/7", changed);
        for client in newcomers.iter_mut().chain([&mut one]) {
            assert_eq!(data(client), parsed(sent), "{channel}: nothing came before the change");
        }
    }
}

#[test]
fn the_first_subscriber_gets_a_kept_value_once_and_then_what_changed_meanwhile() {
    let source = HttpSource::start();
    for (change, mode, [value, _, changed, sent]) in [
        (false, PublishMode::Changed, VALUE),
        (false, by_code(), RECORDS),
        (true, PublishMode::Changed, VALUE),
        (true, by_code(), RECORDS),
    ] {
        source.set("/7", value);
        // A long interval, so that the kept value is young for the whole test.
        let gateway = start(|settings| {
            settings.feeds.feeds = vec![FeedSettings {
                interval: Duration::from_secs(3),
                ..feed("desk.{id}", http(&source, "/{id}"), mode)
            }];
        });
        let mut one = subscriber(&gateway, "desk.7");
        assert_eq!(data(&mut one), parsed(value));
        drop(one);
        let stats = || gateway.admin("GET", "/api/websocket/stats", "").json()["feeds"][0].clone();
        until("nobody is left", || stats()["channels"] == 0);
        if change {
            source.set("/7", changed);
        }
        let events = stats()["events"].as_u64().expect("a number");
        let polls = stats()["polls"].as_u64().expect("a number");
        let mut again = subscriber(&gateway, "desk.7");
        assert_eq!(data(&mut again), parsed(value), "what the hub keeps");
        until("a poll for the first subscriber", || {
            stats()["polls"].as_u64() > Some(polls)
        });
        if change {
            assert_eq!(data(&mut again), parsed(sent), "what changed meanwhile");
        } else {
            assert_eq!(stats()["events"].as_u64(), Some(events), "it has the state already");
        }
    }
}

/// Where the operator says that nothing is kept, a newcomer needs a full response, which all get.
#[test]
fn without_a_kept_value_the_newcomer_gets_a_full_response() {
    let source = HttpSource::start();
    source.set("/7", VALUE[0]);
    let gateway = start(|settings| {
        settings.feeds.feeds = vec![feed("desk.{id}", http(&source, "/{id}"), PublishMode::Changed)];
        let nothing = (Pattern::parse("desk.*").expect("valid"), Class::default());
        settings.hub.classes = Arc::new(Classes::new(vec![nothing]));
    });
    let mut one = subscriber(&gateway, "desk.7");
    assert_eq!(data(&mut one), parsed(VALUE[0]));
    let mut two = subscriber(&gateway, "desk.7");
    assert_eq!(data(&mut two), parsed(VALUE[0]));
    assert_eq!(data(&mut one), parsed(VALUE[0]));
}

#[test]
fn a_redis_feed_tells_the_newcomer_only() {
    let redis = Redis::start();
    redis.run(&["HSET", "prices:s", "a", r#"{"n":1}"#, "b", r#"{"n":1}"#]);
    let source = SourceSettings::Redis {
        server: redis.server(),
        key: "hash:prices:s".parse().expect("a key"),
    };
    let gateway = start(|settings| settings.feeds.feeds = vec![feed("strategy.s.prices", source, by_code())]);
    let both = json!([{ "code": "a", "n": 1 }, { "code": "b", "n": 1 }]);
    let mut clients: Vec<_> = (0..3)
        .map(|_| {
            let mut client = subscriber(&gateway, "strategy.s.prices");
            assert_eq!(data(&mut client), both);
            client
        })
        .collect();
    wait_for_polls(&gateway, "strategy.s.prices", 3);
    redis.run(&["HSET", "prices:s", "b", r#"{"n":2}"#]);
    for client in &mut clients {
        assert_eq!(data(client), json!([{ "code": "b", "n": 2 }]));
    }
}
