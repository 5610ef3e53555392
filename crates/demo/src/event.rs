//! The events that the platform publishes.

use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::value::RawValue;

use super::number::Number;
use super::position::Side;

/// One item of `POST /api/publish`.
#[derive(Debug, Serialize)]
pub struct Outgoing {
    /// The channel.
    pub channel: String,
    /// The event's name.
    pub event: &'static str,
    /// The event's data.
    pub data: Box<RawValue>,
    /// The time, in Unix milliseconds.
    pub timestamp: u64,
}

/// The severity of a line of `system.log`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Details for developers.
    Debug,
    /// Normal events.
    Info,
    /// Events that should be rare.
    Warn,
    /// An operation failed.
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
    /// The time of the events that are added, in Unix milliseconds.
    pub now_ms: u64,
    list: Vec<Outgoing>,
}

impl Events {
    /// An empty collection.
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

    /// Takes the collected events.
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
    /// The symbol's name.
    pub symbol: &'static str,
    /// The last price.
    pub price: Number,
    /// The change since the opening, as a fraction.
    pub change_24h: Number,
}

/// `grid.<id>.status`.
#[derive(Debug, Serialize)]
pub struct GridStatus<'a> {
    /// The grid's id.
    pub id: &'a str,
    /// The symbol's last price.
    pub current_price: Number,
    /// The position in base currency. Below zero it is short.
    pub position: Number,
    /// The number of resting buy orders.
    pub active_buy_orders: usize,
    /// The number of resting sell orders.
    pub active_sell_orders: usize,
    /// The realised gain less fees.
    pub realized_pnl: Number,
    /// The gain of the open position at the last price.
    pub unrealized_pnl: Number,
}

/// `grid.<id>.order`.
#[derive(Serialize)]
pub struct GridOrder<'a> {
    /// The grid's id.
    pub grid_id: &'a str,
    /// The index of the grid's line. The lowest line is 0.
    pub level: usize,
    /// The side.
    pub side: Side,
    /// The price per unit.
    pub price: Number,
    /// The amount in base currency.
    pub amount: Number,
    /// The grid's position after the event.
    pub position_after: Number,
}

/// `grid.<id>.trade`.
#[derive(Serialize)]
pub struct GridTrade<'a> {
    /// The grid's id.
    pub grid_id: &'a str,
    /// The side.
    pub side: Side,
    /// The price per unit.
    pub price: Number,
    /// The amount in base currency.
    pub amount: Number,
    /// The fee in quote currency.
    pub fee: Number,
    /// The realised gain of this trade less its fee. Their sum is the `realized_pnl` of the other channels.
    pub realized_pnl: Number,
}

/// `grid.<id>.pnl`.
#[derive(Serialize)]
pub struct GridPnl {
    /// The realised gain less fees.
    pub realized_pnl: Number,
    /// The gain of the open position at the last price.
    pub unrealized_pnl: Number,
    /// The sum of both.
    pub total_pnl: Number,
}

/// `grid.<id>.risk`.
#[derive(Serialize)]
pub struct Risk<'a> {
    /// The rule.
    pub rule: &'a str,
    /// The finding.
    pub reason: &'a str,
}

/// `<category>.<id>.lifecycle`, without a result.
#[derive(Serialize)]
pub struct Lifecycle<'a> {
    /// The id of the grid, strategy or back-test.
    pub id: &'a str,
    /// The reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

/// `system.exchange`.
#[derive(Serialize)]
pub struct Exchange<'a> {
    /// The exchange's name.
    pub exchange: &'a str,
    /// The reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'a str>,
}

/// Rounds a gain to eight digits, the precision of published numbers.
#[must_use]
pub fn money(value: Decimal) -> Number {
    Number(value.round_dp(8))
}
