//! What the demo puts into the gateway's configuration: `[[command]]` routes to it and `[[feed]]`s from it.
//!
//! Invariant: nothing here that a file could not say.

use std::net::SocketAddr;
use std::time::Duration;

use super::accounts::Part;
use super::stocks::{BOARDS, PREFIX, STRATEGIES};
use crate::auth::Secret;
use crate::backend::commands::{BackendUrl, HttpSettings, RouteSettings, Target};
use crate::backend::feeds::{FeedSettings, PublishMode, RedisAddress, SourceSettings};
use tickgate_protocol::channel::Pattern;

/// From one poll of the stock prices to the next. The platform's own is a minute; here time runs fast.
const PRICES_INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

/// The routes to a backend at `address`, signed.
pub(super) fn routes(address: SocketAddr, secret: [u8; 32]) -> Vec<RouteSettings> {
    let url = BackendUrl::parse(&format!("http://{address}/commands")).expect("a valid URL");
    let http = HttpSettings {
        url,
        hmac_secret: Some(Secret::new(secret)),
    };
    let route = |pattern: &str| {
        RouteSettings::new(
            Pattern::parse(pattern).expect("a valid pattern"),
            Target::Http(http.clone()),
        )
    };
    let audited = RouteSettings {
        audit: true,
        ..route("system.kill_switch")
    };
    vec![
        audited,
        route("grid.*"),
        route("backtest.*"),
        route("strategy.*"),
        route("system.*"),
    ]
}

/// The feeds of accounts from a backend at `address`, and of stock prices from `redis`.
pub(super) fn feeds(address: SocketAddr, redis: &RedisAddress) -> Vec<FeedSettings> {
    let account = |part: Part| {
        let seconds = match part {
            Part::Balance => 10,
            Part::Positions | Part::Pnl => 5,
            Part::Orders => 15,
        };
        let name = part.name();
        FeedSettings {
            channel: format!("user.{{id}}.{name}").parse().expect("a valid channel"),
            event: format!("{name}_update").into(),
            source: SourceSettings::Http(
                format!("http://{address}/users/{{id}}/{name}")
                    .parse()
                    .expect("a valid URL"),
            ),
            publish: PublishMode::Changed,
            interval: Duration::from_secs(seconds),
            timeout: TIMEOUT,
        }
    };
    let prices = |channel: String, key: String| FeedSettings {
        channel: channel.parse().expect("a valid channel"),
        event: "price_update".into(),
        source: SourceSettings::Redis {
            address: redis.clone(),
            password: None,
            key: key.parse().expect("a valid key"),
        },
        publish: PublishMode::ChangedRecords("code".into()),
        interval: PRICES_INTERVAL,
        timeout: TIMEOUT,
    };
    let mut feeds = Part::ALL.map(account).to_vec();
    // Names that are known make fixed channels, which any pattern that matches them has polled; codes are many.
    for (name, _) in STRATEGIES {
        let key = format!("hash:{PREFIX}prices:{name}");
        feeds.push(prices(format!("strategy.{name}.prices"), key));
    }
    for (name, _) in BOARDS {
        feeds.push(prices(
            format!("board.{name}.prices"),
            format!("list:{PREFIX}board:{name}"),
        ));
    }
    feeds.push(prices(
        "stock.{code}.price".to_owned(),
        format!("record:{PREFIX}stock:{{code}}"),
    ));
    feeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_in_is_valid_and_signed() {
        let address = SocketAddr::from(([127, 0, 0, 1], 8082));
        let feeds = feeds(address, &RedisAddress::default());
        assert_eq!(feeds.len(), Part::ALL.len() + STRATEGIES.len() + BOARDS.len() + 1);
        for route in routes(address, [1; 32]) {
            let Target::Http(http) = &route.target else {
                panic!("not over HTTP")
            };
            assert!(http.hmac_secret.is_some());
        }
    }
}
