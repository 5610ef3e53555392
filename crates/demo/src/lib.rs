//! A paper-trading backend for tickgate, and the example of how to write one.
//!
//! It uses only the gateway's network interfaces. It publishes with `POST /api/publish` on the admin listener. It answers
//! commands that the gateway's `[[command]]` routes post to it. Accounts and stock prices are polled by the gateway's
//! `[[feed]]`s, over HTTP and from Redis.
//!
//! Invariant: [`platform`] and the modules it uses do no I/O and read no clock, so the same seed, times and commands give
//! the same events. [`backend`] steps the platform in real time and knows nothing about trading.
//!
//! # Layout
//!
//! - [`number`], [`position`]: decimal money, and positions whose gains and losses add up exactly.
//! - [`market`], [`exchange`], [`stocks`]: everything that moves without commands.
//! - [`grid`], [`strategy`], [`backtest`], [`risk`], [`accounts`]: everything that users do.
//! - [`platform`]: all of these together, step by step; [`actions`]: the commands; [`event`]: the published events.
//! - [`backend`]: HTTP server and client, and the page.
//! - [`store`]: an in-memory subset of Redis; [`prices`]: the server for it, or the writer to a real Redis.
//! - [`configuration`]: the routes and feeds that the gateway's configuration needs.

pub mod accounts;
pub mod actions;
pub mod backend;
pub mod backtest;
pub mod configuration;
pub mod event;
pub mod exchange;
pub mod grid;
pub mod market;
pub mod number;
mod page;
pub mod platform;
pub mod position;
pub mod prices;
pub mod risk;
pub mod stocks;
pub mod store;
pub mod strategy;

use std::fmt::Write as _;
use std::net::SocketAddr;

pub use backend::Backend;

/// Settings of the backend.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address of its own port, for commands and the page. It must be a loopback address because the page holds a token.
    pub listen: SocketAddr,
    /// The same seed gives the same market.
    pub seed: u64,
    /// Users whose accounts exist from the start.
    pub users: Vec<String>,
    /// URL of the Redis that stock prices are written to and polled from, such as `redis://127.0.0.1:6379/0`. Without
    /// one, the backend serves the prices itself, with the Redis protocol.
    pub redis: Option<String>,
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

/// Subject of the token with the role `trader`.
pub const TRADER: &str = "trader";
/// Subject of the token with the role `admin`, which the page uses.
pub const ADMIN: &str = "admin";

/// How the backend and its users reach the gateway.
#[derive(Clone)]
pub struct Access {
    /// Address of the admin listener.
    pub admin: SocketAddr,
    /// The key that the backend publishes with.
    pub admin_key: String,
    /// Address of the public listener.
    pub public: SocketAddr,
    /// Path of the public listener's native endpoint.
    pub path: String,
    /// A token for [`TRADER`].
    pub trader_token: String,
    /// A token for [`ADMIN`].
    pub admin_token: String,
}

impl Access {
    /// The text to print at the start: addresses, tokens, and three commands to try. `page` is the backend's own address.
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
  console        http://{admin}/  (sign in with the admin key)
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
            "http://127.0.0.1:8081/ ",
            "admin-jwt",
            "Bearer the-key",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
