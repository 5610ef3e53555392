//! The platform: market, grids, strategies, back-tests, accounts and risk, stepped together.
//!
//! Invariant: the platform does no I/O and reads no clock. Its events depend only on the seed, the times that it is stepped
//! to, and the commands.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::value::RawValue;

use super::accounts::{Account, Part};
use super::backtest::{Backtest, Progress};
use super::event::{Events, Level, Outgoing, Price};
use super::exchange::Exchanges;
use super::grid::Grid;
use super::market::{EXCHANGES, LISTINGS, Market};
use super::number::Number;
use super::risk::Risk;
use super::stocks::Stocks;
use super::store::Write;
use super::strategy::Strategy;

/// The time between two steps, in milliseconds.
pub const STEP_MS: u64 = 200;
// A second, in steps.
const SECOND: u64 = 1000 / STEP_MS;
// The longest delay of the driver that is made up for by additional steps.
const BEHIND_MAX_MS: u64 = 2_000;
// The number of ids of ended grids, strategies and back-tests that are remembered, to tell them from unknown ids.
const ENDED_MAX: usize = 1_000;

/// The whole platform.
#[derive(Debug)]
pub struct Platform {
    pub(super) seed: u64,
    pub(super) events: Events,
    pub(super) market: Market,
    pub(super) risk: Risk,
    pub(super) grids: BTreeMap<String, Grid>,
    pub(super) strategies: BTreeMap<String, Strategy>,
    pub(super) backtests: BTreeMap<String, Backtest>,
    pub(super) accounts: BTreeMap<String, Account>,
    // Id and owner.
    pub(super) ended: VecDeque<(String, String)>,
    exchanges: Exchanges,
    stocks: Stocks,
    ids: SmallRng,
    started_ms: u64,
    steps: u64,
    day: u64,
    traded_today: Decimal,
}

impl Platform {
    /// A platform that opens at `now_ms` (Unix milliseconds) with accounts for `users`.
    #[must_use]
    pub fn new(seed: u64, users: &[&str], now_ms: u64) -> Self {
        Self {
            seed,
            events: Events::at(now_ms),
            market: Market::new(seed),
            risk: Risk::default(),
            grids: BTreeMap::new(),
            strategies: BTreeMap::new(),
            backtests: BTreeMap::new(),
            accounts: users
                .iter()
                .map(|user| ((*user).to_owned(), Account::default()))
                .collect(),
            ended: VecDeque::new(),
            // Each part has a random generator of its own, so that the parts do not influence each other.
            exchanges: Exchanges::new(seed.wrapping_add(1)),
            stocks: Stocks::new(seed.wrapping_add(2)),
            ids: SmallRng::seed_from_u64(seed.wrapping_add(3)),
            started_ms: now_ms,
            steps: 0,
            day: now_ms / 86_400_000,
            traded_today: Decimal::ZERO,
        }
    }

    /// Steps until `now_ms` (Unix milliseconds) and returns the events to publish, in order.
    pub fn advance(&mut self, now_ms: u64) -> Vec<Outgoing> {
        if now_ms > self.events.now_ms + BEHIND_MAX_MS {
            self.events.now_ms = now_ms - STEP_MS;
        }
        while self.events.now_ms + STEP_MS <= now_ms {
            self.events.now_ms += STEP_MS;
            self.step();
        }
        self.events.take()
    }

    /// One part of a user's account. A user who has not traded has a new account.
    #[must_use]
    pub fn account(&self, user: &str, part: Part) -> Box<RawValue> {
        let empty = Account::default();
        let account = self.accounts.get(user).unwrap_or(&empty);
        account.data(part, self.grids.values().filter(|grid| grid.user == user), &self.market)
    }

    /// All current stock prices, as a job writes them to Redis.
    #[must_use]
    pub fn stock_prices(&self) -> Vec<Write> {
        self.stocks.writes()
    }

    /// A new id, `<kind>_…`.
    pub(super) fn new_id(&mut self, kind: &str) -> String {
        format!("{kind}_{:010x}", self.ids.random_range(0..1u64 << 40))
    }

    /// Remembers the id of something that has ended, and its owner.
    pub(super) fn end(&mut self, id: String, user: String) {
        self.ended.push_back((id, user));
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
    }

    /// Removes finished grids and settles their positions.
    pub(super) fn settle_finished(&mut self) {
        let finished: Vec<String> = self
            .grids
            .values()
            .filter(|grid| grid.is_finished())
            .map(|grid| grid.id.clone())
            .collect();
        for id in finished {
            if let Some(grid) = self.grids.remove(&id) {
                self.accounts.entry(grid.user.clone()).or_default().settle(&grid);
                self.end(id, grid.user);
            }
        }
    }

    fn step(&mut self) {
        let step = self.steps;
        let every = |seconds: u64| step.is_multiple_of(seconds * SECOND);
        self.step_exchanges();
        self.market.step(self.exchanges.online());
        self.publish_market();
        self.step_grids(every(1), every(10));
        if every(1) {
            self.step_strategies();
        }
        self.step_backtests(every(1));
        if every(5) {
            self.publish_health();
        }
        if every(1) {
            self.stocks.step();
        }
        if every(10) {
            let message = format!(
                "grids: {}, strategies: {}, back-tests: {}",
                self.grids.len(),
                self.strategies.len(),
                self.backtests.len()
            );
            self.events.log(Level::Debug, "platform", &message);
        }
        self.steps += 1;
    }

    fn step_exchanges(&mut self) {
        for exchange in self.exchanges.step(&mut self.events) {
            let reason = format!("{} is disconnected", EXCHANGES[exchange.0]);
            let on_it = |symbol: usize| LISTINGS[symbol].exchange == exchange.0;
            for grid in self.grids.values().filter(|grid| on_it(grid.symbol())) {
                grid.lifecycle("error", Some(&reason), &mut self.events);
            }
            for strategy in self.strategies.values().filter(|strategy| on_it(strategy.symbol)) {
                strategy.lifecycle("error", Some(&reason), &mut self.events);
            }
        }
    }

    fn publish_market(&mut self) {
        for (symbol, listing) in LISTINGS.iter().enumerate() {
            let quote = &self.market.quotes[symbol];
            if !quote.moved {
                continue;
            }
            let price = Price {
                symbol: listing.name,
                price: quote.price.into(),
                change_24h: self.market.change(symbol).into(),
            };
            self.events
                .send(format!("market.{}.price", listing.name), "price_update", &price);
            self.events.send(
                format!("market.{}.orderbook", listing.name),
                "orderbook_update",
                &quote.book,
            );
            for trade in &quote.trades {
                self.events
                    .send(format!("market.{}.trade", listing.name), "trade_executed", trade);
            }
        }
    }

    fn step_grids(&mut self, publish_status: bool, publish_risk: bool) {
        let today = self.events.now_ms / 86_400_000;
        if self.day != today {
            (self.day, self.traded_today) = (today, Decimal::ZERO);
            for (user, account) in &mut self.accounts {
                let grids = self.grids.values().filter(|grid| grid.user == *user);
                let totals = account.totals(grids, &self.market);
                account.begin_day(&totals);
            }
        }
        for grid in self.grids.values_mut() {
            let quote = &self.market.quotes[grid.symbol()];
            if quote.moved {
                self.traded_today += grid.step(quote, &mut self.events);
            }
            if publish_status {
                grid.status(quote.price, &mut self.events);
            }
            if publish_risk && grid.is_active() {
                grid.check_risk(&mut self.events);
            }
        }
        self.settle_finished();
    }

    fn step_strategies(&mut self) {
        for strategy in self.strategies.values_mut() {
            let quote = &self.market.quotes[strategy.symbol];
            if quote.moved {
                strategy.step(quote.price, &mut self.events);
            }
        }
    }

    fn step_backtests(&mut self, publish: bool) {
        let mut ended = Vec::new();
        for test in self.backtests.values_mut() {
            match test.step(&mut self.events) {
                Progress::Running if publish => test.update(&mut self.events),
                Progress::Running => {}
                Progress::Ended => ended.push((test.id.clone(), test.user.clone())),
            }
        }
        for (id, user) in ended {
            self.backtests.remove(&id);
            self.end(id, user);
        }
    }

    fn publish_health(&mut self) {
        let exchanges_online = self.exchanges.online().iter().filter(|online| **online).count();
        let health = Health {
            status: if exchanges_online == EXCHANGES.len() {
                "healthy"
            } else {
                "degraded"
            },
            uptime_s: (self.events.now_ms - self.started_ms) / 1000,
            exchanges_online,
            grids: self.grids.len(),
            strategies: self.strategies.len(),
            backtests: self.backtests.len(),
        };
        self.events.send("system.health", "update", &health);
        let status = Status {
            mode: if self.risk.kill_switch().is_some() {
                "halted"
            } else {
                "auto"
            },
            // One point for each 1,000 traded.
            points_today: (self.traded_today / Decimal::ONE_THOUSAND).round_dp(4).into(),
            volume_today: self.traded_today.round_dp(8).into(),
        };
        self.events.send("system.status", "system_status", &status);
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    uptime_s: u64,
    exchanges_online: usize,
    grids: usize,
    strategies: usize,
    backtests: usize,
}

#[derive(Serialize)]
struct Status {
    mode: &'static str,
    points_today: Number,
    volume_today: Number,
}

#[cfg(test)]
mod tests;
