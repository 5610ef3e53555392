//! Users' accounts: balance, positions, profit and loss, and orders.
//!
//! Invariant: `total_balance` is the opening balance plus the gains and losses of all running and finished grids, fees
//! included, and `total_balance = available_balance + used_margin`.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::Serialize;

use serde_json::value::{RawValue, to_raw_value};

use super::event::money;
use super::grid::Grid;
use super::market::{LISTINGS, Market};
use super::number::Number;
use super::position::{Position, Side};

/// The opening balance of every account, in dollars.
pub const OPENING: Decimal = Decimal::from_parts(100_000, 0, 0, false, 0);

/// One user's account. The default is a new account.
#[derive(Clone, Debug, Default)]
pub struct Account {
    // The positions that finished grids left, by symbol.
    settled: BTreeMap<usize, Position>,
    // Total gains at the beginning of the day, in dollars. Zero on the first day.
    day_opening: Decimal,
}

/// A part of an account that can be polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `balance_update`
    Balance,
    /// `positions_update`
    Positions,
    /// `pnl_update`
    Pnl,
    /// `orders_update`
    Orders,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 4] = [Self::Balance, Self::Positions, Self::Pnl, Self::Orders];

    /// The name in paths and channels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Balance => "balance",
            Self::Positions => "positions",
            Self::Pnl => "pnl",
            Self::Orders => "orders",
        }
    }
}

/// The sums of an account at one instant, in dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// The opening balance plus all gains.
    pub total: Decimal,
    /// The margin of grids and positions.
    pub used: Decimal,
    /// The gains of closed positions, less fees.
    pub realized: Decimal,
    /// The gains of open positions.
    pub unrealized: Decimal,
}

impl Totals {
    /// The margin that new grids can use.
    #[must_use]
    pub fn available(&self) -> Decimal {
        self.total - self.used
    }
}

#[derive(Serialize)]
struct BalanceUpdate {
    total_balance: Number,
    available_balance: Number,
    used_margin: Number,
}

#[derive(Serialize)]
struct PositionRow {
    symbol: &'static str,
    side: &'static str,
    size: Number,
    entry_price: Number,
    mark_price: Number,
    unrealized_pnl: Number,
}

#[derive(Serialize)]
struct PnlUpdate {
    total_pnl: Number,
    today_pnl: Number,
    unrealized_pnl: Number,
    realized_pnl: Number,
}

#[derive(Serialize)]
struct OrderRow<'a> {
    order_id: &'a str,
    symbol: &'static str,
    side: Side,
    quantity: Number,
    price: Number,
    status: &'static str,
}

impl Account {
    /// Takes over the position of a finished grid.
    pub fn settle(&mut self, grid: &Grid) {
        self.settled.entry(grid.symbol()).or_default().absorb(&grid.position);
    }

    /// The sums now. `grids` are the grids of this user.
    #[must_use]
    pub fn totals<'a>(&self, grids: impl Iterator<Item = &'a Grid>, market: &Market) -> Totals {
        let mut totals = Totals {
            total: OPENING,
            used: Decimal::ZERO,
            realized: Decimal::ZERO,
            unrealized: Decimal::ZERO,
        };
        let mut count = |symbol: usize, position: &Position, used: Decimal| {
            let mark = market.quotes[symbol].price;
            totals.total += position.total(mark);
            totals.realized += position.realized_net();
            totals.unrealized += position.unrealized(mark);
            totals.used += used;
        };
        for (symbol, position) in &self.settled {
            count(*symbol, position, position.size.abs() * market.quotes[*symbol].price);
        }
        for grid in grids {
            count(
                grid.symbol(),
                &grid.position,
                grid.margin(market.quotes[grid.symbol()].price),
            );
        }
        totals
    }

    /// One part of the account, as the `data` of an event.
    #[must_use]
    pub fn data<'a>(
        &self,
        part: Part,
        grids: impl Iterator<Item = &'a Grid> + Clone,
        market: &Market,
    ) -> Box<RawValue> {
        let totals = self.totals(grids.clone(), market);
        let encoded = match part {
            Part::Balance => to_raw_value(&balance(&totals)),
            Part::Positions => to_raw_value(&self.positions(grids, market)),
            Part::Pnl => to_raw_value(&self.pnl(&totals)),
            Part::Orders => to_raw_value(&orders(grids)),
        };
        encoded.expect("plain structs with string keys")
    }

    /// Begins a day, at midnight UTC. Gains up to now do not count as today's.
    pub fn begin_day(&mut self, totals: &Totals) {
        self.day_opening = totals.realized.round_dp(8) + totals.unrealized.round_dp(8);
    }

    fn pnl(&self, totals: &Totals) -> PnlUpdate {
        let (realized, unrealized) = (totals.realized.round_dp(8), totals.unrealized.round_dp(8));
        let total = realized + unrealized;
        PnlUpdate {
            total_pnl: total.into(),
            today_pnl: (total - self.day_opening).into(),
            unrealized_pnl: unrealized.into(),
            realized_pnl: realized.into(),
        }
    }

    // At most one long and one short row for each symbol.
    fn positions<'a>(&self, grids: impl Iterator<Item = &'a Grid>, market: &Market) -> Vec<PositionRow> {
        let mut open: BTreeMap<(usize, bool), Position> = BTreeMap::new();
        let of_grids = grids.map(|grid| (grid.symbol(), &grid.position));
        for (symbol, position) in self
            .settled
            .iter()
            .map(|(symbol, position)| (*symbol, position))
            .chain(of_grids)
        {
            if !position.size.is_zero() {
                open.entry((symbol, position.size.is_sign_negative()))
                    .or_default()
                    .absorb(position);
            }
        }
        open.iter()
            .map(|((symbol, short), position)| {
                let mark = market.quotes[*symbol].price;
                PositionRow {
                    symbol: LISTINGS[*symbol].name,
                    side: if *short { "short" } else { "long" },
                    size: position.size.abs().into(),
                    entry_price: position.entry_price().into(),
                    mark_price: mark.into(),
                    unrealized_pnl: money(position.unrealized(mark)),
                }
            })
            .collect()
    }
}

fn balance(totals: &Totals) -> BalanceUpdate {
    // The parts are rounded and then added, so the published numbers add up exactly.
    let (used, available) = (totals.used.round_dp(8), totals.available().round_dp(8));
    BalanceUpdate {
        total_balance: (used + available).into(),
        available_balance: available.into(),
        used_margin: used.into(),
    }
}

// The resting orders.
fn orders<'a>(grids: impl Iterator<Item = &'a Grid>) -> Vec<OrderRow<'a>> {
    grids
        .flat_map(|grid| grid.orders().map(move |order| (grid.symbol(), order)))
        .map(|(symbol, order)| OrderRow {
            order_id: &order.id,
            symbol: LISTINGS[symbol].name,
            side: order.side,
            quantity: order.amount.into(),
            price: order.price.into(),
            status: "open",
        })
        .collect()
}
