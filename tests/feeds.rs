//! Feeds of a whole gateway: an HTTP source that counts requests, fails and recovers; the stock application with Redis.
//!
//! The tests assert what was requested and published, never when. Where something must not happen, they wait for a number
//! of polls of another feed.

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/process.rs"]
mod process;
#[path = "support/redis_server.rs"]
mod redis_server;
#[path = "support/sources.rs"]
mod sources;

use std::net::TcpStream;
use std::time::Duration;

use gateway::{Client, Running, start, until};
use redis_server::Redis;
use serde_json::{Value, json};
use sources::HttpSource;
use tickgate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};
use tickgate::redis::RedisServer;

const INTERVAL: Duration = Duration::from_millis(100);

fn feed(channel: &str, event: &str, source: SourceSettings, publish: PublishMode) -> FeedSettings {
    FeedSettings {
        channel: channel.parse().expect("a channel"),
        event: event.into(),
        source,
        publish,
        interval: INTERVAL,
        timeout: Duration::from_secs(5),
    }
}

fn http(source: &HttpSource, path: &str) -> SourceSettings {
    SourceSettings::Http(format!("http://{}{path}", source.address()).parse().expect("a URL"))
}

fn by_code() -> PublishMode {
    PublishMode::ChangedRecords("code".into())
}

fn gateway_with(feeds: Vec<FeedSettings>) -> Running {
    start(|settings| settings.feeds.feeds = feeds)
}

impl Running {
    fn admin_client(&self) -> Client<TcpStream> {
        self.client(&self.token("root", |grant| grant.role = Some("admin".into())))
    }

    fn feed_stats(&self, channel: &str) -> Value {
        let stats = self.admin("GET", "/api/websocket/stats", "").json();
        let feeds = stats["feeds"].as_array().expect("feeds");
        let found = feeds.iter().find(|feed| feed["channel"] == channel);
        found.unwrap_or_else(|| panic!("no feed {channel}: {stats}")).clone()
    }

    /// Waits until this many more polls of the feed have ended.
    fn wait_for_polls(&self, channel: &str, more: u64) {
        let polls = || self.feed_stats(channel)["polls"].as_u64().expect("a number");
        let wanted = polls() + more;
        until("polls", || polls() >= wanted);
    }
}

trait Events {
    fn event(&mut self) -> Value;
    fn data(&mut self, channel: &str) -> Value;
}

impl Events for Client<TcpStream> {
    /// The next event.
    fn event(&mut self) -> Value {
        loop {
            let message = self.json();
            if message["type"] == "event" {
                return message;
            }
        }
    }

    /// The data of the next event, which must be of this channel.
    fn data(&mut self, channel: &str) -> Value {
        let event = self.event();
        assert_eq!(event["channel"], channel, "{event}");
        event["data"].clone()
    }
}

#[test]
fn a_source_is_polled_only_for_channels_with_subscribers() {
    let source = HttpSource::start();
    source.set("/users/1/balance", r#"{"total_balance": 100.50}"#);
    source.set("/users/2/balance", r#"{"total_balance": 7}"#);
    source.set("/clock", "1");
    let gateway = gateway_with(vec![
        feed(
            "user.{id}.balance",
            "balance_update",
            http(&source, "/users/{id}/balance"),
            PublishMode::Changed,
        ),
        feed("system.clock", "tick", http(&source, "/clock"), PublishMode::Everything),
    ]);
    let mut clock = gateway.admin_client();
    clock.subscribe(&["system.*"]);
    gateway.wait_for_polls("system.clock", 3);
    assert_eq!(source.asked("/users/1/balance"), 0, "no subscriber");

    // A pattern with a wildcard fills no placeholder.
    let mut wide = gateway.admin_client();
    wide.subscribe(&["user.*.balance"]);
    gateway.wait_for_polls("system.clock", 3);
    assert_eq!(source.requests_below("/users"), 0);

    let mut one = gateway.client(&gateway.trader("1"));
    one.subscribe(&["user.1.balance"]);
    let event = one.event();
    assert_eq!(
        (&event["channel"], &event["event"], event["data"].to_string()),
        (
            &json!("user.1.balance"),
            &json!("balance_update"),
            r#"{"total_balance":100.5}"#.to_owned()
        )
    );
    assert_eq!(wide.data("user.1.balance"), json!({ "total_balance": 100.5 }));
    assert_eq!(source.asked("/users/2/balance"), 0, "user 2 has not subscribed");

    let mut two = gateway.client(&gateway.trader("2"));
    two.subscribe(&["user.2.balance"]);
    assert_eq!(two.data("user.2.balance"), json!({ "total_balance": 7 }));
    // Only changes are published, and only to the user they belong to.
    gateway.wait_for_polls("user.{id}.balance", 4);
    source.set("/users/1/balance", r#"{"total_balance": 99}"#);
    assert_eq!(one.data("user.1.balance"), json!({ "total_balance": 99 }));
    source.set("/users/2/balance", r#"{"total_balance": 8}"#);
    assert_eq!(
        two.data("user.2.balance"),
        json!({ "total_balance": 8 }),
        "nothing of user 1 and nothing twice"
    );

    // A new subscriber gets the full state, even if nothing changed.
    let mut again = gateway.client(&gateway.trader("1"));
    again.subscribe(&["user.1.balance"]);
    assert_eq!(again.data("user.1.balance"), json!({ "total_balance": 99 }));

    drop((one, again));
    until("user 1 is gone", || {
        gateway.feed_stats("user.{id}.balance")["channels"] == 1
    });
    let asked = || (source.asked("/users/1/balance"), source.asked("/users/2/balance"));
    gateway.wait_for_polls("user.{id}.balance", 2);
    let before = asked();
    gateway.wait_for_polls("user.{id}.balance", 8);
    assert_eq!(asked().0, before.0, "no subscriber any more");
    assert!(asked().1 > before.1, "user 2 is still subscribed");

    two.send(r#"{"type":"unsubscribe","channels":["user.2.balance"]}"#);
    until("no subscriber is left", || {
        let stats = gateway.feed_stats("user.{id}.balance");
        stats["channels"] == 0 && stats["in_flight"] == 0
    });
    let before = asked();
    gateway.wait_for_polls("system.clock", 10);
    assert_eq!(asked(), before);
}

#[test]
fn an_outage_is_reported_once_and_so_is_the_recovery() {
    let mut source = HttpSource::start();
    source.set("/prices", r#"[{"code":"a","price":1},{"code":"b","price":1}]"#);
    let gateway = gateway_with(vec![feed(
        "strategy.s.prices",
        "price_update",
        http(&source, "/prices"),
        by_code(),
    )]);
    let mut log = gateway.admin_client();
    log.subscribe(&["system.log"]);
    let mut client = gateway.admin_client();
    client.subscribe(&["strategy.s.prices"]);
    assert_eq!(client.data("strategy.s.prices").as_array().map(Vec::len), Some(2));

    source.stop();
    let event = log.event();
    assert_eq!(
        (&event["event"], &event["data"]["state"]),
        (&json!("error"), &json!("failing")),
        "{event}"
    );
    assert_eq!(event["data"]["feed"], "strategy.s.prices");
    let message = event["data"]["message"].as_str().expect("a text");
    assert!(!message.contains("127.0.0.1"), "shows addresses: {message}");
    gateway.wait_for_polls("strategy.s.prices", 3);
    assert!(gateway.feed_stats("strategy.s.prices")["failures"].as_u64() >= Some(3));

    // The state from before the outage is still known, so only the changes since then are published.
    source.set("/prices", r#"[{"code":"a","price":1.0},{"code":"b","price":2}]"#);
    source.restart();
    assert_eq!(client.data("strategy.s.prices"), json!([{ "code": "b", "price": 2 }]));
    let event = log.event();
    assert_eq!(
        (&event["event"], &event["data"]["state"]),
        (&json!("info"), &json!("good")),
        "{event}"
    );

    // A malformed response fails as well, with its own reason.
    for (body, reason) in [("<html>", "not usable"), ("[1]", "not usable")] {
        source.set("/prices", body);
        let event = log.event();
        assert!(
            event["data"]["message"]
                .as_str()
                .is_some_and(|text| text.contains(reason)),
            "{event}"
        );
        source.set("/prices", r#"[{"code":"a","price":1},{"code":"b","price":2}]"#);
        assert_eq!(log.event()["data"]["state"], "good");
    }
    source.forget("/prices");
    let event = log.event();
    assert!(
        event["data"]["message"]
            .as_str()
            .is_some_and(|text| text.contains("error status")),
        "{event}"
    );
}

#[test]
fn an_operator_pushes_prices_without_subscribers() {
    let source = HttpSource::start();
    for path in ["/volume_wave", "/value"] {
        source.set(path, r#"[{"code":"a","price":1},{"code":"b","price":1}]"#);
    }
    let gateway = gateway_with(vec![
        feed(
            "strategy.volume_wave.prices",
            "price_update",
            http(&source, "/volume_wave"),
            by_code(),
        ),
        feed(
            "strategy.value.prices",
            "price_update",
            http(&source, "/value"),
            by_code(),
        ),
        feed(
            "strategy.lost.prices",
            "price_update",
            http(&source, "/lost"),
            by_code(),
        ),
        feed(
            "strategy.value.signal",
            "generated",
            http(&source, "/signal"),
            PublishMode::Changed,
        ),
    ]);
    let push = |query: &str| {
        let answer = gateway.admin("POST", &format!("/api/websocket/push/prices{query}"), "");
        (answer.status, answer.json())
    };
    assert_eq!(push("?strategy=volume_wave"), (200, json!({ "pushed": 2 })));
    assert_eq!((source.asked("/volume_wave"), source.asked("/value")), (1, 0));
    let mut client = gateway.admin_client();
    client.subscribe(&["strategy.volume_wave.prices"]);
    assert_eq!(
        client.data("strategy.volume_wave.prices").as_array().map(Vec::len),
        Some(2)
    );
    assert_eq!(push("?strategy=volume_wave").0, 200);
    let pushed = client.data("strategy.volume_wave.prices");
    assert_eq!(pushed.as_array().map(Vec::len), Some(2), "in full, although unchanged");

    let (status, all) = push("");
    assert_eq!((status, &all["pushed"]), (200, &json!(4)), "{all}");
    assert_eq!(all["errors"][0]["channel"], "strategy.lost.prices", "{all}");
    assert_eq!(source.asked("/signal"), 0, "not a price feed");
    let (status, failed) = push("?strategy=lost");
    assert_eq!(
        (status, &failed["error"]["code"]),
        (502, &json!("BACKEND_UNAVAILABLE")),
        "{failed}"
    );
    assert_eq!(push("?strategy=nowhere").0, 404);
    assert_eq!(push("?strategy=a.b").0, 400);
    let target = "/api/websocket/push/prices";
    assert_eq!(gateway.admin_as(None, "POST", target, "", b"").status, 401);
    assert_eq!(gateway.admin("GET", target, "").status, 405);
}

#[test]
fn the_stock_application_with_a_real_redis() {
    let redis = Redis::start();
    let price = |code: &str, price: f64| {
        let record = json!({ "name": format!("n{code}"), "price": price, "change_percent": 2.5, "volume": 12_345_678 });
        redis.run(&["HSET", "prices:volume_wave", code, &record.to_string()]);
        redis.run(&[
            "HSET",
            &format!("stock:{code}"),
            "code",
            code,
            "price",
            &price.to_string(),
            "name",
            "000",
        ]);
    };
    for code in ["600519", "000001", "300750"] {
        price(code, 10.5);
    }
    redis.run(&["RPUSH", "board:main", "stock:600519", "stock:gone", "stock:000001"]);
    redis.run(&["SET", "status", r#"{"mode":"auto"}"#]);
    let from = |key: &str| SourceSettings::Redis {
        server: redis.server(),
        key: key.parse().expect("a key"),
    };
    let gateway = gateway_with(vec![
        feed(
            "strategy.volume_wave.prices",
            "price_update",
            from("hash:prices:volume_wave"),
            by_code(),
        ),
        feed(
            "stock.{code}.price",
            "price_update",
            from("record:stock:{code}"),
            by_code(),
        ),
        feed(
            "board.{name}.prices",
            "price_update",
            from("list:board:{name}"),
            by_code(),
        ),
        feed(
            "system.status",
            "system_status",
            from("string:status"),
            PublishMode::Changed,
        ),
        feed(
            "user.{id}.account",
            "account",
            from("hash:account:{id}"),
            PublishMode::Changed,
        ),
    ]);
    let client = |channel: &str| {
        let mut client = gateway.admin_client();
        client.subscribe(&[channel]);
        client
    };
    let mut strategy = client("strategy.*.prices");
    let mut stock = client("stock.600519.price");
    let mut board = client("board.main.prices");
    let codes = |data: &Value| -> Vec<String> {
        let records = data.as_array().expect("an array");
        records
            .iter()
            .map(|record| record["code"].as_str().expect("a text").to_owned())
            .collect()
    };
    let first = strategy.data("strategy.volume_wave.prices");
    assert_eq!(codes(&first), ["000001", "300750", "600519"]);
    assert_eq!(first[0]["volume"], 12_345_678);
    assert_eq!(
        stock.data("stock.600519.price"),
        json!([{ "code": "600519", "name": "000", "price": 10.5 }])
    );
    assert_eq!(codes(&board.data("board.main.prices")), ["600519", "000001"]);

    // One stock changes, and another is written again unchanged.
    price("300750", 10.5);
    gateway.wait_for_polls("strategy.volume_wave.prices", 2);
    price("600519", 11.0);
    let changed = strategy.data("strategy.volume_wave.prices");
    assert_eq!(
        (codes(&changed), &changed[0]["price"]),
        (vec!["600519".to_owned()], &json!(11.0))
    );
    assert_eq!(stock.data("stock.600519.price")[0]["price"], json!(11));
    assert_eq!(codes(&board.data("board.main.prices")), ["600519"]);
    // A stock that is not on the board changes only the strategy's prices.
    price("300750", 12.0);
    assert_eq!(codes(&strategy.data("strategy.volume_wave.prices")), ["300750"]);
    price("000001", 12.0);
    assert_eq!(codes(&board.data("board.main.prices")), ["000001"]);
    assert_eq!(codes(&strategy.data("strategy.volume_wave.prices")), ["000001"]);

    let mut status = client("system.status");
    assert_eq!(status.data("system.status"), json!({ "mode": "auto" }));
    redis.run(&["DEL", "status"]);
    assert_eq!(status.data("system.status"), Value::Null, "a missing string");
    let mut account = client("user.7.account");
    assert_eq!(account.data("user.7.account"), json!({}), "a missing hash");
    redis.run(&["HSET", "account:7", "total", "1.50"]);
    assert_eq!(account.data("user.7.account"), json!({ "total": 1.5 }));
    // A value that would name another key is refused and counted.
    let mut other = client("user.7:b.account");
    until("counted", || gateway.feed_stats("user.{id}.account")["refused"] == 1);
    assert_eq!(gateway.feed_stats("user.{id}.account")["channels"], 1);
    other.send(r#"{"type":"ping"}"#);
    assert_eq!(other.json()["type"], "pong", "no event came");

    // Redis restarts with a single price.
    let mut log = client("system.log");
    let redis = redis.restart_with(|redis| {
        let lost = log.event();
        assert_eq!(lost["data"]["source"], "feed", "{lost}");
        redis
    });
    redis.run(&["HSET", "prices:volume_wave", "600519", r#"{"price":13}"#]);
    let back = strategy.data("strategy.volume_wave.prices");
    assert_eq!(back, json!([{ "code": "600519", "price": 13 }]));
}

#[test]
fn a_redis_user_and_password_are_used_and_never_published() {
    let redis = Redis::start();
    redis.run(&["SET", "status", "1"]);
    redis.run(&[
        "ACL", "SETUSER", "poller", "on", ">hunter4", "~status", "+get", "+select", "+client",
    ]);
    redis.run(&["CONFIG", "SET", "requirepass", "hunter2"]);
    let from = |channel: &str, server: RedisServer| {
        let key = "string:status".parse().expect("a key");
        let source = SourceSettings::Redis { server, key };
        feed(channel, "system_status", source, PublishMode::Changed)
    };
    let gateway = gateway_with(vec![
        from("system.status", redis.server_as(None, "hunter2")),
        from("system.by_user", redis.server_as(Some("poller"), "hunter4")),
        from("system.shut", redis.server()),
        from("system.wrong", redis.server_as(None, "hunter3")),
        // The password of another user.
        from("system.other", redis.server_as(Some("poller"), "hunter2")),
    ]);
    for channel in ["system.status", "system.by_user"] {
        let mut client = gateway.admin_client();
        client.subscribe(&[channel]);
        assert_eq!(client.data(channel), 1);
    }
    for channel in ["system.shut", "system.wrong", "system.other"] {
        let mut log = gateway.admin_client();
        log.subscribe(&["system.log", channel]);
        let event = log.event();
        assert_eq!(
            (&event["channel"], &event["data"]["feed"]),
            (&json!("system.log"), &json!(channel))
        );
        assert!(!event.to_string().contains("hunter"), "{event}");
    }
}

#[test]
fn replaced_feeds_serve_those_who_are_subscribed_and_the_others_go_on() {
    let source = HttpSource::start();
    for (path, body) in [("/clock", "1"), ("/v1/7", "1"), ("/v2/7", "2"), ("/late/x", "3")] {
        source.set(path, body);
    }
    let clock = || feed("system.clock", "tick", http(&source, "/clock"), PublishMode::Everything);
    let balance = |path| {
        feed(
            "user.{id}.balance",
            "balance",
            http(&source, path),
            PublishMode::Changed,
        )
    };
    let gateway = gateway_with(vec![clock(), balance("/v1/{id}")]);
    let reload = |feeds| {
        let mut settings = gateway::settings();
        settings.feeds.feeds = feeds;
        let kept = gateway.gateway.handle().reload(settings).expect("taken over");
        assert_eq!(kept, None);
    };
    let mut ticks = gateway.admin_client();
    ticks.subscribe(&["system.clock"]);
    let mut client = gateway.admin_client();
    client.subscribe(&["user.7.balance", "late.x"]);
    assert_eq!(client.data("user.7.balance"), json!(1));
    gateway.wait_for_polls("system.clock", 3);
    let ticked = gateway.feed_stats("system.clock")["polls"].as_u64();

    // The source of one feed changes, one is new, and one changes its interval.
    let slower = FeedSettings {
        interval: 2 * INTERVAL,
        ..clock()
    };
    let late = feed("late.{id}", "late", http(&source, "/late/{id}"), PublishMode::Changed);
    reload(vec![late, balance("/v2/{id}"), slower.clone()]);
    let mut seen = [client.event(), client.event()].map(|event| (event["channel"].to_string(), event["data"].clone()));
    seen.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("\"late.x\"".to_owned(), json!(3)),
        ("\"user.7.balance\"".to_owned(), json!(2)),
    ];
    assert_eq!(seen, expected);
    let asked = source.asked("/v1/7");
    gateway.wait_for_polls("system.clock", 4);
    assert_eq!(source.asked("/v1/7"), asked, "the old source is left alone");
    assert!(
        gateway.feed_stats("system.clock")["polls"].as_u64() > ticked,
        "its counters go on"
    );
    assert_eq!(gateway.feed_stats("user.{id}.balance")["channels"], 1);

    reload(vec![slower]);
    until("the feeds are gone", || {
        let stats = gateway.admin("GET", "/api/websocket/stats", "").json();
        stats["feeds"].as_array().is_some_and(|feeds| feeds.len() == 1)
    });
    let asked = source.asked("/v2/7");
    gateway.wait_for_polls("system.clock", 4);
    assert_eq!(source.asked("/v2/7"), asked, "a feed that is gone is not polled");
}
