//! A grid bot: resting orders on evenly spaced price lines. After each fill it places the opposite order on the next line.
//!
//! Invariant: while the grid runs, exactly one line is free: the last one filled or, at the start, the one nearest the
//! price. Lines below it buy and lines above it sell. The position is the sum of the fills. The `realized_pnl` of the
//! status is the sum of the trades' `realized_pnl`.
//!
//! A grid starts without inventory, like a perpetual future: it is long below its starting price and short above it.

use rust_decimal::Decimal;
use serde::Deserialize;

use super::event::{Events, GridOrder, GridPnl, GridStatus, GridTrade, Level, Lifecycle, Risk as RiskEvent, money};
use super::market::{LISTINGS, Quote, find};
use super::number::Number;
use super::position::{Position, Side};
use super::risk::check_position;

/// The range of `grid_count`. A grid has one line more.
pub const GRID_COUNT: std::ops::RangeInclusive<u32> = 2..=100;

// The fee of a maker, 1/2000 of the price paid.
const FEE_RATE: Decimal = Decimal::from_parts(5, 0, 0, false, 4);

/// `params` of `grid.start`.
#[derive(Clone, Debug, Deserialize)]
pub struct GridParams {
    /// The symbol.
    pub pair: String,
    /// The price of the highest line.
    pub upper_price: Number,
    /// The price of the lowest line.
    pub lower_price: Number,
    /// The number of intervals between lines.
    pub grid_count: u32,
    /// The amount of each order in base currency. The symbol's usual lot if absent.
    pub amount: Option<Number>,
    /// The largest position, long or short. The sum of all lines if absent.
    pub max_position: Option<Number>,
}

/// `params.params` of `grid.update_params`. Parameters that are absent do not change.
#[derive(Clone, Debug, Deserialize)]
pub struct GridChange {
    upper_price: Option<Number>,
    lower_price: Option<Number>,
    grid_count: Option<u32>,
    amount: Option<Number>,
    max_position: Option<Number>,
}

impl GridParams {
    /// The parameters after `change`.
    #[must_use]
    pub fn changed(&self, change: &GridChange) -> Self {
        Self {
            pair: self.pair.clone(),
            upper_price: change.upper_price.unwrap_or(self.upper_price),
            lower_price: change.lower_price.unwrap_or(self.lower_price),
            grid_count: change.grid_count.unwrap_or(self.grid_count),
            amount: change.amount.or(self.amount),
            max_position: change.max_position.or(self.max_position),
        }
    }

    /// Checks the parameters, as far as they do not depend on the rest of the platform.
    ///
    /// # Errors
    ///
    /// A message for the client if a parameter is invalid.
    pub fn plan(&self) -> Result<Plan, String> {
        let symbol = find(&self.pair).ok_or_else(|| format!("pair {} is unknown", self.pair))?;
        let listing = &LISTINGS[symbol];
        let (lower, upper) = (self.lower_price.0, self.upper_price.0);
        if lower <= Decimal::ZERO {
            return Err("lower_price must be greater than 0".to_owned());
        }
        if upper <= lower {
            return Err("upper_price must be greater than lower_price".to_owned());
        }
        if !GRID_COUNT.contains(&self.grid_count) {
            return Err(format!(
                "grid_count must be from {} to {}",
                GRID_COUNT.start(),
                GRID_COUNT.end()
            ));
        }
        let count = Decimal::from(self.grid_count);
        let line = |level: u32| listing.round_price(lower + (upper - lower) * Decimal::from(level) / count);
        let prices: Vec<Decimal> = (0..=self.grid_count).map(line).collect();
        if !prices.is_sorted_by(|a, b| a < b) || prices[0] <= Decimal::ZERO {
            return Err(format!(
                "grid_count is too large: lines must be {} apart",
                listing.tick()
            ));
        }
        let amount = self.amount.map_or(listing.lot(), |amount| amount.0);
        if amount <= Decimal::ZERO || amount != listing.cut_amount(amount) {
            return Err(format!(
                "amount must be a positive multiple of {}",
                listing.amount_step()
            ));
        }
        let max_position = self.max_position.map_or(count * amount, |largest| largest.0);
        if max_position < amount {
            return Err("max_position must not be less than amount".to_owned());
        }
        Ok(Plan {
            symbol,
            prices,
            amount,
            max_position,
            margin: count * amount * upper,
        })
    }
}

/// A checked grid.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The index of the symbol.
    pub symbol: usize,
    prices: Vec<Decimal>,
    amount: Decimal,
    max_position: Decimal,
    /// The cost of all lines together, in quote currency.
    pub margin: Decimal,
}

/// A resting order.
#[derive(Clone, Debug)]
pub struct Order {
    /// The unique id.
    pub id: String,
    /// The side.
    pub side: Side,
    /// The price per unit.
    pub price: Decimal,
    /// The amount in base currency.
    pub amount: Decimal,
}

#[derive(Clone, Debug)]
enum Line {
    Free,
    /// The position limit forbids an order here. A fill and its opposite order do not change the position that all orders
    /// together could make, so this lasts until the parameters change.
    Barred,
    Resting(Order),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The next step places the orders. With `announce` it publishes `started` first.
    Placing {
        announce: bool,
    },
    Running,
    /// Stopped. Orders may be left.
    Retired,
}

/// A grid bot.
#[derive(Debug)]
pub struct Grid {
    /// The id, `grid_…`.
    pub id: String,
    /// The owner.
    pub user: String,
    /// The parameters as the client gave them.
    pub params: GridParams,
    plan: Plan,
    lines: Vec<Line>,
    state: State,
    orders_placed: u64,
    /// The sum of all fills.
    pub position: Position,
}

impl Grid {
    /// A grid that starts at its first step.
    #[must_use]
    pub fn new(id: String, user: String, params: GridParams, plan: Plan) -> Self {
        let lines = vec![Line::Free; plan.prices.len()];
        let state = State::Placing { announce: true };
        Self {
            id,
            user,
            params,
            plan,
            lines,
            state,
            orders_placed: 0,
            position: Position::default(),
        }
    }

    /// The index of the symbol.
    #[must_use]
    pub fn symbol(&self) -> usize {
        self.plan.symbol
    }

    /// Whether the grid was not stopped.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state != State::Retired
    }

    /// Whether the grid was stopped and has no resting orders.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !self.is_active() && self.orders().next().is_none()
    }

    /// The resting orders, from the lowest line up.
    pub fn orders(&self) -> impl Iterator<Item = &Order> {
        self.lines.iter().filter_map(|line| match line {
            Line::Resting(order) => Some(order),
            _ => None,
        })
    }

    /// The margin: all lines while the grid is active, then the resting orders and the position.
    #[must_use]
    pub fn margin(&self, mark: Decimal) -> Decimal {
        if self.is_active() {
            return self.plan.margin;
        }
        let resting: Decimal = self.orders().map(|order| order.price * order.amount).sum();
        resting + self.position.size.abs() * mark
    }

    /// Does one step and returns the traded value in quote currency.
    pub fn step(&mut self, quote: &Quote, events: &mut Events) -> Decimal {
        if let State::Placing { announce } = self.state {
            self.state = State::Running;
            if announce {
                self.lifecycle("started", None, events);
            }
            self.place_all(quote.price, events);
        }
        let mut traded = Decimal::ZERO;
        while let Some(level) = self.next_fill(quote) {
            traded += self.fill(level, quote.price, events);
        }
        traded
    }

    // Places orders on both sides of the line nearest the price, the nearest first.
    fn place_all(&mut self, price: Decimal, events: &mut Events) {
        let free = (0..self.plan.prices.len())
            .min_by_key(|level| (self.plan.prices[*level] - price).abs())
            .expect("a grid has lines");
        for level in (0..free).rev() {
            self.place(level, Side::Buy, events);
        }
        for level in free + 1..self.plan.prices.len() {
            self.place(level, Side::Sell, events);
        }
    }

    fn place(&mut self, level: usize, side: Side, events: &mut Events) {
        if let Err(rejection) = self.check(side) {
            self.lines[level] = Line::Barred;
            return self.risk("rejected", rejection.rule, &rejection.reason, events);
        }
        self.orders_placed += 1;
        let order = Order {
            id: format!("{}_{}", self.id, self.orders_placed),
            side,
            price: self.plan.prices[level],
            amount: self.plan.amount,
        };
        self.order("placed", level, &order, events);
        self.lines[level] = Line::Resting(order);
    }

    // Checks the position that would result if all resting orders of this side and one more were filled.
    fn check(&self, side: Side) -> Result<(), super::risk::Rejection> {
        let resting: Decimal = self
            .orders()
            .filter(|order| order.side == side)
            .map(|order| order.amount)
            .sum();
        let worst = self.position.size + side.signed(resting + self.plan.amount);
        // An order that only reduces the position is never refused.
        if worst.abs() < self.position.size.abs() {
            return Ok(());
        }
        check_position(worst, self.plan.max_position)
    }

    // The line of the order nearest the price that the market has reached.
    fn next_fill(&self, quote: &Quote) -> Option<usize> {
        let reached = |level: usize, side| match &self.lines[level] {
            Line::Resting(order) if order.side == side => match side {
                Side::Buy => order.price >= quote.best_ask,
                Side::Sell => order.price <= quote.best_bid,
            },
            _ => false,
        };
        let levels = 0..self.lines.len();
        let buy = levels.clone().rev().find(|level| reached(*level, Side::Buy));
        buy.or_else(|| levels.clone().find(|level| reached(*level, Side::Sell)))
    }

    fn fill(&mut self, level: usize, mark: Decimal, events: &mut Events) -> Decimal {
        let Line::Resting(order) = std::mem::replace(&mut self.lines[level], Line::Free) else {
            return Decimal::ZERO;
        };
        let paid = order.price * order.amount;
        let fee = (paid * FEE_RATE).round_dp(8);
        let realized = self.position.fill(order.side, order.price, order.amount, fee);
        self.order("filled", level, &order, events);
        let trade = GridTrade {
            grid_id: &self.id,
            side: order.side,
            price: order.price.into(),
            amount: order.amount.into(),
            fee: fee.into(),
            realized_pnl: realized.into(),
        };
        events.send(format!("grid.{}.trade", self.id), "executed", &trade);
        self.pnl(mark, events);
        if self.is_active() {
            // The free line is the next one in the direction of the opposite side. At an end there is none.
            let next = match order.side {
                Side::Buy => Some(level + 1),
                Side::Sell => level.checked_sub(1),
            };
            if let Some(next) = next.filter(|next| matches!(self.lines.get(*next), Some(Line::Free))) {
                self.place(next, opposite(order.side), events);
            }
        }
        paid
    }

    /// Stops the grid and returns the number of cancelled orders. Without `cancel_orders` its orders stay.
    pub fn stop(&mut self, cancel_orders: bool, reason: &str, events: &mut Events) -> usize {
        let was_active = self.is_active();
        self.state = State::Retired;
        let cancelled = if cancel_orders { self.cancel_orders(events) } else { 0 };
        if was_active {
            self.lifecycle("stopped", Some(reason), events);
        }
        cancelled
    }

    /// Takes new parameters. It cancels the resting orders, and the next step places new ones. The position stays.
    pub fn update(&mut self, params: GridParams, plan: Plan, events: &mut Events) {
        self.cancel_orders(events);
        self.lines = vec![Line::Free; plan.prices.len()];
        (self.params, self.plan) = (params, plan);
        if self.state == State::Running {
            self.state = State::Placing { announce: false };
        }
    }

    fn cancel_orders(&mut self, events: &mut Events) -> usize {
        let mut cancelled = 0;
        for level in 0..self.lines.len() {
            if let Line::Resting(order) = std::mem::replace(&mut self.lines[level], Line::Free) {
                self.order("cancelled", level, &order, events);
                cancelled += 1;
            }
        }
        cancelled
    }

    /// Publishes the status.
    pub fn status(&self, mark: Decimal, events: &mut Events) {
        let sides = |side| self.orders().filter(|order| order.side == side).count();
        let status = GridStatus {
            id: &self.id,
            current_price: mark.into(),
            position: self.position.size.into(),
            active_buy_orders: sides(Side::Buy),
            active_sell_orders: sides(Side::Sell),
            realized_pnl: money(self.position.realized_net()),
            unrealized_pnl: money(self.position.unrealized(mark)),
        };
        events.send(format!("grid.{}.status", self.id), "update", &status);
    }

    /// Publishes the result of the regular check of the position.
    pub fn check_risk(&self, events: &mut Events) {
        let (size, largest) = (self.position.size.normalize(), self.plan.max_position.normalize());
        self.risk(
            "check",
            "max_position",
            &format!("position {size}, at most {largest}"),
            events,
        );
    }

    /// Publishes a lifecycle event.
    pub fn lifecycle(&self, event: &'static str, reason: Option<&str>, events: &mut Events) {
        events.send(
            format!("grid.{}.lifecycle", self.id),
            event,
            &Lifecycle { id: &self.id, reason },
        );
        let level = if event == "error" { Level::Warn } else { Level::Info };
        events.log(
            level,
            "grid",
            &format!(
                "{} {event}{}",
                self.id,
                reason.map(|why| format!(": {why}")).unwrap_or_default()
            ),
        );
    }

    /// Publishes an event of risk control.
    pub fn risk(&self, event: &'static str, rule: &str, reason: &str, events: &mut Events) {
        events.send(format!("grid.{}.risk", self.id), event, &RiskEvent { rule, reason });
    }

    fn pnl(&self, mark: Decimal, events: &mut Events) {
        let (realized, unrealized) = (self.position.realized_net(), self.position.unrealized(mark));
        let pnl = GridPnl {
            realized_pnl: money(realized),
            unrealized_pnl: money(unrealized),
            total_pnl: money(realized + unrealized),
        };
        events.send(format!("grid.{}.pnl", self.id), "updated", &pnl);
    }

    fn order(&self, event: &'static str, level: usize, order: &Order, events: &mut Events) {
        let data = GridOrder {
            grid_id: &self.id,
            level,
            side: order.side,
            price: order.price.into(),
            amount: order.amount.into(),
            position_after: self.position.size.into(),
        };
        events.send(format!("grid.{}.order", self.id), event, &data);
    }
}

const fn opposite(side: Side) -> Side {
    match side {
        Side::Buy => Side::Sell,
        Side::Sell => Side::Buy,
    }
}

#[cfg(test)]
mod tests;
