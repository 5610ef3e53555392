//! What operators hear of feeds that fail: the answer of a push, and the state of the feed.

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/process.rs"]
mod process;
#[path = "support/redis_server.rs"]
mod redis_server;
#[path = "support/sources.rs"]
mod sources;

use std::time::Duration;

use gateway::{Answer, Running, start, until};
use redis_server::Redis;
use sources::HttpSource;
use tickgate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};

fn prices(channel: &str, source: SourceSettings, publish: PublishMode) -> FeedSettings {
    FeedSettings {
        channel: channel.parse().expect("a channel"),
        event: "price_update".into(),
        source,
        publish,
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
    }
}

fn redis(redis: &Redis, password: Option<&str>, key: &str) -> SourceSettings {
    SourceSettings::Redis {
        server: password.map_or_else(|| redis.server(), |password| redis.server_as(None, password)),
        key: key.parse().expect("a key"),
    }
}

fn by_code() -> PublishMode {
    PublishMode::ChangedRecords("code".into())
}

fn push(gateway: &Running, strategy: &str) -> Answer {
    let target = format!("/api/websocket/push/prices?strategy={strategy}");
    gateway.admin("POST", &target, "")
}

/// The state, the failures and the polls of the only feed.
fn state(gateway: &Running) -> (String, u64, u64) {
    let feed = &gateway.admin("GET", "/api/websocket/stats", "").json()["feeds"][0];
    let number = |name: &str| feed[name].as_u64().expect("a number");
    (
        feed["state"].as_str().expect("a state").to_owned(),
        number("failures"),
        number("polls"),
    )
}

#[test]
fn the_failure_of_an_http_source_says_what_is_wrong() {
    let source = HttpSource::start();
    let url = format!("http://{}/prices/{{name}}", source.address());
    let feed = prices(
        "strategy.{name}.prices",
        SourceSettings::Http(url.parse().expect("a URL")),
        PublishMode::Everything,
    );
    let gateway = start(|settings| settings.feeds.feeds = vec![feed]);
    source.set("/prices/moved", "1");
    source.set_head(
        "/prices/moved",
        "301 Moved\r\nLocation: https://u:hush@prices.example/x?hush",
    );
    source.set("/prices/packed", "1");
    source.set_head("/prices/packed", "200 OK\r\nContent-Encoding: gzip");
    // A value that the source does not know is no failure of the source.
    let answer = push(&gateway, "missing");
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (404, "NOT_FOUND"),
        "{answer:?}"
    );
    assert_eq!(state(&gateway), ("unknown".to_owned(), 0, 1));
    for (name, tells) in [
        (
            "moved",
            "status 301: it redirects to https://prices.example, and redirects are not followed",
        ),
        ("packed", "it is encoded (Content-Encoding: gzip)"),
    ] {
        let answer = push(&gateway, name);
        assert_eq!(answer.status, 502);
        assert!(
            answer.body.contains(tells) && !answer.body.contains("hush"),
            "{answer:?}"
        );
    }
    // A byte order mark before the JSON is skipped.
    source.set("/prices/marked", "\u{feff}[1,2]");
    assert_eq!(push(&gateway, "marked").body, r#"{"pushed":2}"#);
    let request = source.last_request().to_lowercase();
    assert!(
        request.contains("user-agent: tickgate/") && request.contains("accept-encoding: identity"),
        "{request}"
    );
}

#[test]
fn pushing_a_missing_redis_key_is_404_and_no_failure() {
    let server = Redis::start();
    server.run(&["HSET", "prices:known", "600519", r#"{"price":1}"#]);
    server.run(&["SET", "text:known", r#"[{"code":"1"}]"#]);
    for key in [
        "hash:prices:{name}",
        "string:text:{name}",
        "list:board:{name}",
        "record:stock:{name}",
    ] {
        let feed = prices("strategy.{name}.prices", redis(&server, None, key), by_code());
        let gateway = start(|settings| settings.feeds.feeds = vec![feed]);
        let answer = push(&gateway, "nowhere");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (404, "NOT_FOUND"),
            "{key}: {answer:?}"
        );
        assert!(answer.body.contains("no such key"), "{answer:?}");
        until("the poll has ended", || state(&gateway).2 == 1);
        assert_eq!(state(&gateway), ("unknown".to_owned(), 0, 1), "{key}");
        if ["hash", "string"].iter().any(|kind| key.starts_with(kind)) {
            assert_eq!(push(&gateway, "known").body, r#"{"pushed":1}"#, "{key}");
        }
        // A value that would name another key is refused, not ignored.
        let answer = push(&gateway, "a:b");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "INVALID_MESSAGE"),
            "{answer:?}"
        );
    }
}

#[test]
fn a_redis_value_that_is_not_text_is_told_and_keeps_the_connection() {
    let server = Redis::start();
    // A list may name hashes by any bytes, but a value must be text.
    server.run(&["EVAL", r"return redis.call('SET', 'bad', '\255\254')", "0"]);
    server.run(&["EVAL", r"return redis.call('HSET', 'badhash', 'f', '\255')", "0"]);
    server.run(&["SET", "good", "[]"]);
    for (key, tells) in [
        ("string:{name}", "the value of the key is not text"),
        ("hash:{name}hash", "is not text"),
    ] {
        let feed = prices(
            "strategy.{name}.prices",
            redis(&server, None, key),
            PublishMode::Everything,
        );
        let gateway = start(|settings| settings.feeds.feeds = vec![feed]);
        let connections = || server.info("total_connections_received");
        assert!(push(&gateway, "bad").body.contains(tells), "{key}");
        let before = connections();
        for _ in 0..5 {
            let answer = push(&gateway, "bad");
            assert!(answer.status == 502 && answer.body.contains(tells), "{answer:?}");
        }
        // Each of these questions makes a connection itself.
        assert_eq!(connections(), before + 1, "{key}: the gateway keeps its connection");
    }
}

#[test]
fn a_wrong_redis_password_is_told_as_such() {
    let server = Redis::start();
    server.run(&["CONFIG", "SET", "requirepass", "hunter2"]);
    for password in [None, Some("hunter3")] {
        let feed = prices(
            "strategy.a.prices",
            redis(&server, password, "string:a"),
            PublishMode::Everything,
        );
        let gateway = start(|settings| settings.feeds.feeds = vec![feed]);
        let answer = push(&gateway, "a");
        assert_eq!(answer.status, 502);
        assert!(answer.body.contains("the source refused the request"), "{answer:?}");
        assert!(
            !answer.body.contains("cannot be reached") && !answer.body.contains("hunter"),
            "{answer:?}"
        );
    }
}
