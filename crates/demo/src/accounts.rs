//! Users' accounts: balance, positions, profit and loss, orders, for whoever asks.
//!
//! Invariant: `total_balance` is what the account opened with plus the gains and losses of all its grids, running and
//! finished, fees included; `total_balance = available_balance + used_margin`.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde::Serialize;

use serde_json::value::{RawValue, to_raw_value};

use super::event::money;
use super::grid::Grid;
use super::market::{LISTINGS, Market};
use super::number::Number;
use super::position::{Position, Side};

/// What every account opens with, in dollars.
pub const OPENING: Decimal = Decimal::from_parts(100_000, 0, 0, false, 0);

/// One user's account; empty as it opens.
#[derive(Clone, Debug, Default)]
pub struct Account {
    // What finished grids left, by symbol.
    settled: BTreeMap<usize, Position>,
    // Total gains at the beginning of the day; nothing on the first.
    day_opening: Decimal,
}

/// What can be asked of an account.
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
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Balance, Self::Positions, Self::Pnl, Self::Orders];

    /// As paths and channels call it.
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

/// The figures of an account at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Opening balance and all gains.
    pub total: Decimal,
    /// Set aside for grids and positions.
    pub used: Decimal,
    /// Gains of closed positions, less fees.
    pub realized: Decimal,
    /// Gains of open positions.
    pub unrealized: Decimal,
}

impl Sample {
    /// What new grids can use.
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
    /// Takes over what a finished grid leaves.
    pub fn settle(&mut self, grid: &Grid) {
        self.settled.entry(grid.symbol()).or_default().absorb(&grid.position);
    }

    /// Its figures now; `grids` are its own.
    #[must_use]
    pub fn figures<'a>(&self, grids: impl Iterator<Item = &'a Grid>, market: &Market) -> Sample {
        let mut figures = Sample {
            total: OPENING,
            used: Decimal::ZERO,
            realized: Decimal::ZERO,
            unrealized: Decimal::ZERO,
        };
        let mut count = |symbol: usize, position: &Position, used: Decimal| {
            let mark = market.quotes[symbol].price;
            figures.total += position.total(mark);
            figures.realized += position.realized_net();
            figures.unrealized += position.unrealized(mark);
            figures.used += used;
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
        figures
    }

    /// What it says of a part of itself: the event's `data`.
    #[must_use]
    pub fn tell<'a>(
        &self,
        part: Part,
        grids: impl Iterator<Item = &'a Grid> + Clone,
        market: &Market,
    ) -> Box<RawValue> {
        let figures = self.figures(grids.clone(), market);
        let data = match part {
            Part::Balance => to_raw_value(&balance(&figures)),
            Part::Positions => to_raw_value(&self.positions(grids, market)),
            Part::Pnl => to_raw_value(&self.pnl(&figures)),
            Part::Orders => to_raw_value(&orders(grids)),
        };
        data.expect("plain structs with string keys")
    }

    /// A day begins (midnight UTC): what was gained up to now is not of today.
    pub fn begin_day(&mut self, figures: &Sample) {
        self.day_opening = figures.realized.round_dp(8) + figures.unrealized.round_dp(8);
    }

    fn pnl(&self, figures: &Sample) -> PnlUpdate {
        let (realized, unrealized) = (figures.realized.round_dp(8), figures.unrealized.round_dp(8));
        let total = realized + unrealized;
        PnlUpdate {
            total_pnl: total.into(),
            today_pnl: (total - self.day_opening).into(),
            unrealized_pnl: unrealized.into(),
            realized_pnl: realized.into(),
        }
    }

    // One long and one short row per symbol at most.
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

fn balance(figures: &Sample) -> BalanceUpdate {
    // The parts are rounded, not their sum, so that they add up for the reader, too.
    let (used, available) = (figures.used.round_dp(8), figures.available().round_dp(8));
    BalanceUpdate {
        total_balance: (used + available).into(),
        available_balance: available.into(),
        used_margin: used.into(),
    }
}

// Resting ones.
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
