//! What operators hear of feeds that fail: the answer of a push, and the state of the feed.

#[path = "support/gateway.rs"]
mod gateway;
#[path = "support/sources.rs"]
mod sources;

use std::time::Duration;

use gateway::{Answer, Running, start};
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

fn push(gateway: &Running, strategy: &str) -> Answer {
    let target = format!("/api/websocket/push/prices?strategy={strategy}");
    gateway.admin("POST", &target, "")
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
