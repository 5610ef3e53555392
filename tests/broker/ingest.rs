//! Sources: messages that are in NATS or Redis become events, once, in order, over restarts and from one gateway to another.

use std::net::TcpStream;

use async_nats::Client as NatsClient;
use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, stream};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tickgate::backend::ingest::{NatsServer, Origin, SourceSettings, Start, StreamSettings};
use tickgate::broker::nats::Login;
use tickgate::gateway::Settings;
use tickgate_protocol::channel::{Tenant, TenantNames};
use tokio::runtime::Runtime;

use crate::gateway::{self, Client, Running};
use crate::gateways::through;
use crate::nats_server::{Nats, Proxy};
use crate::redis_server::Redis;
use crate::requests::{add_acme, start as start_sharing};

/// A publisher at a NATS server, with a stream.
struct Platform {
    runtime: Runtime,
    client: NatsClient,
}

impl Platform {
    fn connect(server: &Nats) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let client = runtime.block_on(async_nats::connect(server.url())).expect("connected");
        Self { runtime, client }
    }

    fn stream(&self) -> stream::Stream {
        let config = stream::Config {
            name: "FILLS".into(),
            subjects: vec!["fills.>".into()],
            ..stream::Config::default()
        };
        let made = async { jetstream::new(self.client.clone()).get_or_create_stream(config).await };
        self.runtime.block_on(made).expect("a stream")
    }

    /// Appends a message.
    fn append(&self, subject: &str, body: &str) {
        let appended = async {
            let context = jetstream::new(self.client.clone());
            context.publish(subject.to_owned(), body.to_owned().into()).await?.await
        };
        self.runtime.block_on(appended).expect("appended");
    }

    /// Publishes a message that nobody keeps.
    fn publish(&self, subject: &str, body: &str) {
        let published = self.client.publish(subject.to_owned(), body.to_owned().into());
        self.runtime.block_on(published).expect("published");
        self.runtime.block_on(self.client.flush()).expect("flushed");
    }
}

pub(crate) fn stream_settings(start: Start) -> StreamSettings {
    StreamSettings {
        consumer: "tickgate".into(),
        subject: None,
        start,
    }
}

pub(crate) fn of(origin: Origin, channel: &str) -> SourceSettings {
    SourceSettings {
        tenant: Tenant::DEFAULT,
        channel: channel.parse().expect("a template"),
        event: "filled".parse().expect("a name"),
        origin,
        data: None,
        record_key: None,
        event_bytes: 1000,
    }
}

fn nats(url: String, from: &str) -> Origin {
    Origin::Nats {
        server: NatsServer {
            urls: vec![url.into()],
            login: Login::None,
            ca_file: None,
        },
        from: from.parse().expect("a subject or stream"),
        stream: stream_settings(Start::All),
    }
}

fn redis(server: &Redis, from: &str) -> Origin {
    Origin::Redis {
        server: server.server(),
        from: from.parse().expect("a stream or channel"),
        stream: stream_settings(Start::All),
    }
}

pub(crate) fn with(sources: &[SourceSettings]) -> impl FnOnce(&mut Settings) {
    let sources = sources.to_vec();
    move |settings| settings.sources.sources = sources
}

pub(crate) fn reader(running: &Running, pattern: &str) -> Client<TcpStream> {
    let mut client = running.client(&running.token("root", |grant| grant.role = Some("admin".into())));
    client.subscribe(&[pattern]);
    client
}

/// The channel and the data of the next event.
pub(crate) fn event(client: &mut Client<TcpStream>) -> (String, Value) {
    loop {
        let message = client.json();
        if message["type"] == "event" {
            let channel = message["channel"].as_str().expect("a text").to_owned();
            return (channel, message["data"].clone());
        }
    }
}

/// A counter of the only source.
fn count(running: &Running, name: &str) -> u64 {
    let page = running.admin("GET", "/metrics", "").body;
    let line = page
        .lines()
        .find(|line| line.starts_with(&format!("tickgate_source_{name}{{")));
    let value = line
        .and_then(|line| line.rsplit_once(' '))
        .map(|(_, value)| value.parse::<f64>());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter")]
    value.map_or(0, |value| value.expect("a number") as u64)
}

const TRIAL: &str = "md.trial";

/// Waits until a message comes through. NATS does not tell when a subscription without a stream is in force.
fn in_force(running: &Running, platform: &Platform) {
    let before = count(running, "messages_total");
    gateway::until("a subscription in force", || {
        platform.publish(TRIAL, "0");
        count(running, "messages_total") > before
    });
}

/// The next event that is no trial.
fn after_trials(client: &mut Client<TcpStream>) -> (String, Value) {
    loop {
        let (channel, data) = event(client);
        if channel != TRIAL {
            return (channel, data);
        }
    }
}

fn until_count(running: &Running, name: &str, expected: u64) {
    gateway::until(name, || count(running, name) >= expected);
    assert_eq!(count(running, name), expected, "{name}");
}

/// The check of the only source in the overview.
pub(crate) fn check(running: &Running) -> (String, String) {
    check_of(running, "source ")
}

/// The status and the detail of the first check in the overview whose name begins so.
pub(crate) fn check_of(running: &Running, begin: &str) -> (String, String) {
    let overview = running.admin("GET", "/api/overview", "").json();
    let mut checks = overview["checks"].as_array().expect("a list").iter();
    let is_wanted = |check: &&Value| check["name"].as_str().is_some_and(|name| name.starts_with(begin));
    let check = checks.find(is_wanted).expect("a check");
    let text = |name: &str| check[name].as_str().expect("a text").to_owned();
    (text("status"), text("detail"))
}

#[test]
fn a_stream_of_nats_is_read_from_where_it_was_and_bad_messages_are_skipped() {
    for program in crate::nats_server::servers() {
        let server = Nats::start_with(&program);
        let platform = Platform::connect(&server);
        platform.stream();
        let source = of(nats(server.url(), "stream:FILLS"), "grid.{2}.order");
        platform.append("fills.a", r#"{"n":1}"#);
        platform.append("fills.b.c", "{");
        platform.append("fills.b", r#"{"n":2}"#);
        let one = gateway::start(with(std::slice::from_ref(&source)));
        until_count(&one, "events_total", 2);
        until_count(&one, "bad_total", 1);
        gateway::until("read", || check(&one).0 == "ok");
        let mut client = reader(&one, "grid.*");
        platform.append("fills.a", r#"{"n":3}"#);
        assert_eq!(event(&mut client), ("grid.a.order".to_owned(), json!({"n": 3})));
        until_count(&one, "messages_total", 4);
        // The position is in NATS when the batch is confirmed.
        let stream = platform.stream();
        let confirmed = || {
            let info = platform
                .runtime
                .block_on(stream.consumer_info("tickgate"))
                .expect("a consumer");
            info.num_ack_pending == 0 && info.ack_floor.stream_sequence == 4
        };
        gateway::until("confirmed", confirmed);
        drop((client, one));
        platform.append("fills.a", r#"{"n":4}"#);
        let two = gateway::start(with(&[source]));
        until_count(&two, "messages_total", 1);
        until_count(&two, "events_total", 1);
    }
}

#[test]
fn what_was_delivered_and_not_confirmed_is_read_first_and_in_order() {
    let server = Nats::start();
    let platform = Platform::connect(&server);
    let stream = platform.stream();
    for n in 1..=3 {
        platform.append("fills.a", &json!({ "n": n }).to_string());
    }
    // A reader that died after it had got two messages.
    platform.runtime.block_on(async {
        let config = pull::Config {
            durable_name: Some("tickgate".to_owned()),
            max_ack_pending: 4096,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.expect("a consumer");
        let mut got = consumer.fetch().max_messages(2).messages().await.expect("messages");
        for _ in 0..2 {
            got.next().await.expect("a message").expect("read");
        }
    });
    let source = of(nats(server.url(), "stream:FILLS"), "grid.{2}.order");
    let gateway = gateway::start(with(&[source]));
    until_count(&gateway, "events_total", 3);
    let mut client = reader(&gateway, "grid.b.order");
    client.send(r#"{"type":"history","channel":"grid.a.order","since":0}"#);
    let history = client.json();
    let events = history["data"]["events"]
        .as_array()
        .unwrap_or_else(|| panic!("{history}"))
        .iter();
    let numbers: Vec<_> = events.map(|event| event["data"]["n"].as_u64()).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(3)]);
}

#[test]
fn a_subject_of_nats_and_channels_of_redis_are_read_as_long_as_there_is_a_connection() {
    let server = Nats::start();
    let proxy = Proxy::start(server.port);
    let platform = Platform::connect(&server);
    let source = of(nats(proxy.url(), "subject:md.>"), "md.{2..}");
    let gateway = gateway::start(with(&[source]));
    gateway::until("read", || check(&gateway).0 == "ok");
    in_force(&gateway, &platform);
    let mut client = reader(&gateway, "md.*");
    platform.publish("md.BTC.trade", "1");
    assert_eq!(after_trials(&mut client), ("md.BTC.trade".to_owned(), json!(1)));
    proxy.cut();
    gateway::until("lost", || check(&gateway).0 == "bad");
    let mut log = reader(&gateway, "system.log");
    proxy.mend();
    gateway::until("back", || check(&gateway).0 == "ok");
    // The report of the failure may come behind the subscription.
    let is_back = |told: &Value| (&told["source"], &told["state"]) == (&json!("source"), &json!("reading"));
    while !is_back(&event(&mut log).1) {}
    in_force(&gateway, &platform);
    platform.publish("md.BTC.trade", "2");
    assert_eq!(after_trials(&mut client), ("md.BTC.trade".to_owned(), json!(2)));

    let server = Redis::start();
    let source = of(redis(&server, "pattern:ticks:*"), "ticks.{2}");
    let gateway = gateway::start(with(&[source]));
    gateway::until("read", || check(&gateway).0 == "ok");
    let mut client = reader(&gateway, "ticks.*");
    server.run(&["PUBLISH", "ticks:BTC", r#"{"p":1.50}"#]);
    assert_eq!(event(&mut client), ("ticks.BTC".to_owned(), json!({"p": 1.5})));
}

#[test]
fn a_stream_of_redis_is_read_from_where_it_was() {
    let server = Redis::start();
    let add = |fields: &[&str]| server.run(&[&["XADD", "orders", "*"], fields].concat());
    add(&["user", "u1", "n", "1", "code", "000001"]);
    add(&["n", "2"]);
    // A reader that died after it had got an entry.
    server.ask_any(&["XGROUP", "CREATE", "orders", "tickgate", "0"]);
    server.ask_any(&[
        "XREADGROUP",
        "GROUP",
        "tickgate",
        "tickgate",
        "COUNT",
        "1",
        "STREAMS",
        "orders",
        ">",
    ]);
    let source = of(redis(&server, "stream:orders"), "grid.{user}.order");
    let one = gateway::start(with(std::slice::from_ref(&source)));
    until_count(&one, "events_total", 1);
    until_count(&one, "bad_total", 1);
    let stats = one.admin("GET", "/api/websocket/stats", "").json();
    let told = &stats["sources"][0];
    assert_eq!(
        [
            &told["channel"],
            &told["from"],
            &told["state"],
            &told["events"],
            &told["bad"]
        ],
        [
            &json!("grid.{user}.order"),
            &json!("redis stream:orders"),
            &json!("reading"),
            &json!(1),
            &json!(1)
        ]
    );
    let mut client = reader(&one, "grid.*");
    add(&["user", "u2", "n", "3"]);
    let expected = json!({"user": "u2", "n": 3});
    assert_eq!(event(&mut client), ("grid.u2.order".to_owned(), expected));
    gateway::until("confirmed", || server.pending("orders", "tickgate") == 0);
    drop((client, one));
    add(&["user", "u2", "n", "4"]);
    let two = gateway::start(with(&[source]));
    until_count(&two, "events_total", 1);
    until_count(&two, "messages_total", 1);
}

#[test]
fn what_waits_in_a_stream_of_redis_behind_the_last_batch_is_a_metric() {
    let server = Redis::start();
    // The user may not confirm what it reads, so the first batch is read again and again.
    server.run(&["ACL", "SETUSER", "reader", "on", ">hidden", "~orders", "+@all", "-xack"]);
    for _ in 0..300 {
        server.run(&["XADD", "orders", "*", "user", "a"]);
    }
    let origin = Origin::Redis {
        server: server.server_as(Some("reader"), "hidden"),
        from: "stream:orders".parse().expect("a stream"),
        stream: stream_settings(Start::All),
    };
    let gateway = gateway::start(with(&[of(origin, "grid.{user}.order")]));
    // A batch has 256 entries.
    gateway::until("the lag", || count(&gateway, "behind") == 44);
}

#[test]
fn a_source_reaches_its_own_tenant_only() {
    let server = Redis::start();
    let tenant = Tenant::new(1).expect("few");
    let of_acme = SourceSettings {
        tenant,
        ..of(redis(&server, "channel:of_acme"), "grid.a.order")
    };
    let of_default = of(redis(&server, "channel:of_default"), "grid.a.order");
    let gateway = gateway::start(|settings| {
        add_acme(settings);
        settings.sources.tenants = TenantNames::new(vec!["acme".into()]);
        settings.sources.sources = vec![of_acme, of_default];
    });
    let history = |tenant: &str| {
        let target = format!("/api/channels/grid.a.order/history?tenant={tenant}");
        let events = gateway.admin("GET", &target, "").json()["events"].clone();
        let events = events.as_array().expect("a list").iter();
        events.map(|event| event["data"].clone()).collect::<Vec<_>>()
    };
    let mut client = reader(&gateway, "grid.*");
    // Redis keeps nothing for a reader that is not there yet.
    gateway::until("the source of the tenant", || {
        server.run(&["PUBLISH", "of_acme", "\"acme\""]);
        !history("acme").is_empty()
    });
    gateway::until("the source of the default tenant", || {
        server.run(&["PUBLISH", "of_default", "\"default\""]);
        !history("default").is_empty()
    });
    // The client of the default tenant heard nothing before its own.
    assert_eq!(event(&mut client), ("grid.a.order".to_owned(), json!("default")));
    for tenant in ["acme", "default"] {
        assert!(history(tenant).iter().all(|data| data == tenant), "{tenant}");
    }
}

#[test]
fn one_gateway_reads_and_another_goes_on_when_it_is_cut_off() {
    let server = Nats::start();
    let platform = Platform::connect(&server);
    platform.stream();
    let source = of(nats(server.url(), "stream:FILLS"), "grid.{2}.order");
    let append = |n: u64| platform.append("fills.a", &n.to_string());
    check_taking_over((&server.url(), server.port), source, append);
}

#[test]
fn one_gateway_over_redis_reads_and_another_goes_on_when_it_is_cut_off() {
    let server = Redis::start();
    let source = SourceSettings {
        data: Some("n".parse().expect("a field")),
        ..of(redis(&server, "stream:orders"), "grid.{user}.order")
    };
    let append = |n: u64| server.run(&["XADD", "orders", "*", "user", "a", "n", &n.to_string()]);
    check_taking_over((&server.address(), server.port), source, append);
}

/// `append` appends a message with a number to the source, which both gateways reach directly.
fn check_taking_over((url, port): (&str, u16), source: SourceSettings, append: impl Fn(u64)) {
    let proxy = Proxy::start(port);
    let one = start_sharing(through(&proxy, url), "one", with(std::slice::from_ref(&source)));
    gateway::until("one reads", || check(&one).1.starts_with("is read"));
    let two = start_sharing(url.to_owned(), "two", with(&[source]));
    assert_eq!(check(&two), ("ok".to_owned(), "another gateway reads it".to_owned()));
    let mut client = reader(&two, "grid.*");
    for n in 0..50 {
        append(n);
    }
    let taken = |client: &mut Client<TcpStream>| event(client).1.as_u64().expect("a number");
    for n in 0..50 {
        assert_eq!(taken(&mut client), n);
    }
    proxy.hold();
    for n in 50..100 {
        append(n);
    }
    gateway::until("two reads", || check(&two).1.starts_with("is read"));
    for n in 50..100 {
        assert_eq!(taken(&mut client), n);
    }
    // What the first gateway sent before it was cut off comes now.
    proxy.mend();
    gateway::until("one is back", || one.admin("GET", "/readyz", "").status == 200);
    append(100);
    assert_eq!(taken(&mut client), 100, "once, and in order");
    // A gateway that drains leaves the duties to the other one at once.
    gateway::until("one waits", || check(&one).1 == "another gateway reads it");
    two.gateway.handle().drain();
    gateway::until("one reads", || check(&one).1.starts_with("is read"));
}
