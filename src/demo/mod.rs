//! A paper-trading backend that uses only the public ways in: it publishes by `POST /api/publish` on the admin
//! listener, answers commands that the gateway's `[[command]]` routes post to it, and leaves accounts and stock prices
//! to be polled by `[[feed]]`s, over HTTP and from Redis. It is the example of a real one.
//!
//! Invariant: [`platform`] and all it is made of do no I/O and read no clock: the same seed, times and commands give
//! the same events. [`backend`] steps it in real time and knows nothing of trading.
//!
//! # Layout
//!
//! - [`number`], [`position`]: decimal money, and positions whose gains and losses add up exactly.
//! - [`market`], [`exchange`], [`stocks`]: what moves by itself.
//! - [`grid`], [`strategy`], [`backtest`], [`risk`], [`accounts`]: what users do in it.
//! - [`platform`]: all of it together, step by step; [`actions`]: the commands; [`event`]: what is published.
//! - [`backend`]: HTTP in and out, and the page.
//! - [`store`]: what a Redis would hold of it, and the answers it would give; [`prices`]: the server around that, or the
//!   way into a real one; [`ways`]: what is put into the gateway's configuration.

pub mod accounts;
pub mod actions;
pub mod backend;
pub mod backtest;
pub mod event;
pub mod exchange;
pub mod grid;
pub mod market;
pub mod number;
pub mod platform;
pub mod position;
pub mod prices;
pub mod risk;
pub mod stocks;
pub mod store;
pub mod strategy;
pub mod ways;

use std::fmt::Write as _;
use std::net::SocketAddr;

pub use backend::Backend;

use crate::backend::feeds::RedisAddress;

/// What the backend is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its own port, for commands and the page. Loopback only: the page holds a token.
    pub listen: SocketAddr,
    /// The same seed gives the same market.
    pub seed: u64,
    /// Whose accounts are open from the start.
    pub users: Vec<String>,
    /// The Redis that stock prices are written to and polled from; none: the backend is one itself.
    pub redis: Option<RedisAddress>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8082)),
            seed: 42,
            users: vec![TRADER.to_owned(), ADMIN.to_owned()],
            redis: None,
        }
    }
}

/// Subject of the printed token of role `trader`.
pub const TRADER: &str = "trader";
/// Subject of the printed token of role `admin`, which the page uses.
pub const ADMIN: &str = "admin";

/// How the backend reaches the gateway, and how its users do.
#[derive(Clone)]
pub struct Access {
    /// The admin listener.
    pub admin: SocketAddr,
    /// The key it publishes with.
    pub admin_key: String,
    /// The public listener.
    pub public: SocketAddr,
    /// The path of its native endpoint.
    pub path: String,
    /// A token for [`TRADER`].
    pub trader_token: String,
    /// A token for [`ADMIN`].
    pub admin_token: String,
}

impl Access {
    /// What to print at the start: where everything is, tokens, and three lines to try.
    #[must_use]
    pub fn banner(&self, page: SocketAddr) -> String {
        let Self {
            admin,
            admin_key,
            public,
            trader_token,
            admin_token,
            path,
        } = self;
        let subscribe = r#"{"type":"subscribe","channels":["market.BTC-USDC.price","grid.*"]}"#;
        let start = r#"{"type":"command","id":"1","action":"grid.start","params":{"pair":"BTC-USDC","upper_price":97000,"lower_price":93000,"grid_count":40}}"#;
        let mut text = String::new();
        let _ = write!(
            text,
            "The paper-trading demo is running.

  page           http://{page}/
  gateway        ws://{public}{path}
  admin          http://{admin}
  admin key      {admin_key}
  trader token   {trader_token}
  admin token    {admin_token}

Three lines to try:

  npx wscat -w 60 -c 'ws://{public}{path}?token={trader_token}' -x '{subscribe}'

  npx wscat -w 5 -c 'ws://{public}{path}?token={trader_token}' -x '{start}'

  curl -s -H 'Authorization: Bearer {admin_key}' http://{admin}/api/websocket/stats
"
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_names_everything_needed() {
        let access = Access {
            admin: SocketAddr::from(([127, 0, 0, 1], 8081)),
            admin_key: "the-key".to_owned(),
            public: SocketAddr::from(([127, 0, 0, 1], 8080)),
            path: "/ws".to_owned(),
            trader_token: "trader-jwt".to_owned(),
            admin_token: "admin-jwt".to_owned(),
        };
        let text = access.banner(SocketAddr::from(([127, 0, 0, 1], 8082)));
        for part in [
            "http://127.0.0.1:8082/",
            "ws://127.0.0.1:8080/ws?token=trader-jwt",
            "admin-jwt",
            "Bearer the-key",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
