//! What the platform publishes, before it becomes HTTP.

use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::value::RawValue;

use super::number::Number;
use super::position::Side;

/// One item of `POST /api/publish`.
#[derive(Debug, Serialize)]
pub struct Outgoing {
    /// Where it goes.
    pub channel: String,
    /// Its name.
    pub event: &'static str,
    /// Its data.
    pub data: Box<RawValue>,
    /// Unix milliseconds.
    pub timestamp: u64,
}

/// How grave a line of `system.log` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Of interest to developers.
    Debug,
    /// What happens.
    Info,
    /// What should not happen often.
    Warn,
    /// What failed.
    Error,
}

impl Level {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// Collects events in order.
#[derive(Debug, Default)]
pub struct Events {
    /// Stamped on every event.
    pub now_ms: u64,
    list: Vec<Outgoing>,
}

impl Events {
    /// None yet.
    #[must_use]
    pub fn at(now_ms: u64) -> Self {
        Self {
            now_ms,
            list: Vec::new(),
        }
    }

    /// Adds an event.
    pub fn send(&mut self, channel: impl Into<String>, event: &'static str, data: &impl Serialize) {
        let data = serde_json::value::to_raw_value(data).expect("plain structs with string keys");
        self.list.push(Outgoing {
            channel: channel.into(),
            event,
            data,
            timestamp: self.now_ms,
        });
    }

    /// Adds a line to `system.log`.
    pub fn log(&mut self, level: Level, source: &str, message: &str) {
        let level = level.as_str();
        self.send("system.log", level, &Log { level, source, message });
    }

    /// Takes what was collected.
    pub fn take(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.list)
    }
}

#[derive(Serialize)]
struct Log<'a> {
    level: &'a str,
    source: &'a str,
    message: &'a str,
}

/// `market.<symbol>.price`.
#[derive(Serialize)]
pub struct Price {
    /// Its name.
    pub symbol: &'static str,
    /// The last price.
    pub price: Number,
    /// As a fraction.
    pub change_24h: Number,
}

/// `grid.<id>.status`.
#[derive(Debug, Serialize)]
pub struct GridStatus<'a> {
    /// The grid.
    pub id: &'a str,
    /// The symbol's last price.
    pub current_price: Number,
    /// Signed, in base currency.
    pub position: Number,
    /// Resting orders.
    pub active_buy_orders: usize,
    /// Resting orders.
    pub active_sell_orders: usize,
    /// Less fees.
    pub realized_pnl: Number,
    /// At the last price.
    pub unrealized_pnl: Number,
}

/// `grid.<id>.order`.
#[derive(Serialize)]
pub struct GridOrder<'a> {
    /// The grid.
    pub grid_id: &'a str,
    /// The line of the grid, from the bottom.
    pub level: usize,
    /// Which way.
    pub side: Side,
    /// Per unit.
    pub price: Number,
    /// In base currency.
    pub amount: Number,
    /// The grid's position after the event.
    pub position_after: Number,
}

/// `grid.<id>.trade`.
#[derive(Serialize)]
pub struct GridTrade<'a> {
    /// The grid.
    pub grid_id: &'a str,
    /// Which way.
    pub side: Side,
    /// Per unit.
    pub price: Number,
    /// In base currency.
    pub amount: Number,
    /// In quote currency.
    pub fee: Number,
    /// What this trade realised, less its fee: their sum is the `realized_pnl` of the other channels.
    pub realized_pnl: Number,
}

/// `grid.<id>.pnl`.
#[derive(Serialize)]
pub struct GridPnl {
    /// Less fees.
    pub realized_pnl: Number,
    /// At the last price.
    pub unrealized_pnl: Number,
    /// Both.
    pub total_pnl: Number,
}

/// `grid.<id>.risk`.
#[derive(Serialize)]
pub struct Risk<'a> {
    /// Which rule.
    pub rule: &'a str,
    /// What it found.
    pub reason: &'a str,
}

/// `<category>.<id>.lifecycle`, without a result.
#[derive(Serialize)]
pub struct Lifecycle<'a> {
    /// Of what.
    pub id: &'a str,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

/// `system.exchange`.
#[derive(Serialize)]
pub struct Exchange<'a> {
    /// Its name.
    pub exchange: &'a str,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

/// Rounds a gain for the wire: its digits beyond the eighth are of no use to anybody.
#[must_use]
pub fn money(value: Decimal) -> Number {
    Number(value.round_dp(8))
}
