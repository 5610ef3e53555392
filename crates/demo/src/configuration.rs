//! What the gateway's configuration has to say about the backend: `[[command]]` routes to it and `[[feed]]`s from it.
//!
//! Invariant: this is data that a configuration file could hold. It uses no type of the gateway.

use std::net::SocketAddr;
use std::time::Duration;

use super::accounts::Part;
use super::stocks::{BOARDS, PREFIX, STRATEGIES};

/// Interval between two polls of the stock prices. A real platform would poll once a minute; the demo's time runs fast.
const PRICES_INTERVAL: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

/// One `[[command]]`. The requests are signed with the secret that [`Backend::hmac_secret`](super::Backend::hmac_secret)
/// returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// `pattern`: the actions that the route takes.
    pub pattern: &'static str,
    /// `http`: the URL that commands are posted to.
    pub url: String,
    /// `audit`.
    pub audit: bool,
}

/// One `[[feed]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    /// `channel`, perhaps with a placeholder such as `{id}`.
    pub channel: String,
    /// `event`: the name of the events.
    pub event: String,
    /// `http` or `redis`.
    pub source: Source,
    /// `record_key`. If there is one, only changed records are published, otherwise a changed answer as a whole.
    pub record_key: Option<&'static str>,
    /// `interval`.
    pub interval: Duration,
    /// `timeout`.
    pub timeout: Duration,
}

/// What a feed polls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `http`: a URL, with the placeholder of the channel.
    Http(String),
    /// `redis` and `redis_url`.
    Redis {
        /// `redis_url`: the server, such as `redis://127.0.0.1:6379`.
        url: String,
        /// `redis`: kind and name of the key, such as `hash:prices`, with the placeholder of the channel.
        key: String,
    },
}

/// Routes to a backend that listens on `address`.
#[must_use]
pub fn routes(address: SocketAddr) -> Vec<Route> {
    let route = |pattern| Route {
        pattern,
        url: format!("http://{address}/commands"),
        audit: false,
    };
    let audited = Route {
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

/// Feeds of accounts from a backend that listens on `address`, and of stock prices from the Redis at `redis_url`.
#[must_use]
pub fn feeds(address: SocketAddr, redis_url: &str) -> Vec<Feed> {
    let account = |part: Part| {
        let seconds = match part {
            Part::Balance => 10,
            Part::Positions | Part::Pnl => 5,
            Part::Orders => 15,
        };
        let name = part.name();
        Feed {
            channel: format!("user.{{id}}.{name}"),
            event: format!("{name}_update"),
            source: Source::Http(format!("http://{address}/users/{{id}}/{name}")),
            record_key: None,
            interval: Duration::from_secs(seconds),
            timeout: TIMEOUT,
        }
    };
    let prices = |channel: String, key: String| Feed {
        channel,
        event: "price_update".to_owned(),
        source: Source::Redis {
            url: redis_url.to_owned(),
            key,
        },
        record_key: Some("code"),
        interval: PRICES_INTERVAL,
        timeout: TIMEOUT,
    };
    let mut feeds = Part::ALL.map(account).to_vec();
    // Strategies and boards are few and known, so each has a channel of its own: a wide subscription such as
    // `strategy.*` has them polled. Stocks are many, so their channel has a placeholder.
    for (name, _) in STRATEGIES {
        let key = format!("hash:{PREFIX}prices:{name}");
        feeds.push(prices(format!("strategy.{name}.prices"), key));
    }
    for (name, _) in BOARDS {
        let key = format!("list:{PREFIX}board:{name}");
        feeds.push(prices(format!("board.{name}.prices"), key));
    }
    let key = format!("record:{PREFIX}stock:{{code}}");
    feeds.push(prices("stock.{code}.price".to_owned(), key));
    feeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_part_strategy_and_board_has_a_feed() {
        let feeds = feeds(SocketAddr::from(([127, 0, 0, 1], 8082)), "redis://127.0.0.1:6379");
        assert_eq!(feeds.len(), Part::ALL.len() + STRATEGIES.len() + BOARDS.len() + 1);
    }
}
