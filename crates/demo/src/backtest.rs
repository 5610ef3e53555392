//! Back-tests: the moving averages of [`super::strategy`] applied to a generated history.
//!
//! Invariant: the same parameters and seed give the same result. `final_equity` is `initial_capital` plus all realised
//! gains less fees, because the position is closed at the end.

use jiff::ToSpan as _;
use jiff::civil::Date;
use rand::SeedableRng as _;
use rand::rngs::SmallRng;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::event::{Events, Level, money};
use super::market::{LISTINGS, Walk, find};
use super::number::Number;
use super::position::{Position, Side};
use super::strategy::{Crossover, check_name};

/// The longest span of a test, in days.
pub const DAYS_MAX: i32 = 731;
// A bar is an hour. Its price moves as much as in `BAR_STEPS` steps of the market.
const BARS_PER_DAY: i64 = 24;
const BAR_STEPS: i64 = 4;
// Steps of the platform that a test takes, whatever its length, so that clients see progress.
const TICKS: i64 = 25;
// The fee of a taker, 1/1000 of the price paid.
const FEE_RATE: Decimal = Decimal::from_parts(1, 0, 0, false, 3);

/// `params` of `backtest.run`.
#[derive(Clone, Debug, Deserialize)]
pub struct BacktestParams {
    /// The algorithm. `sma_cross` if absent.
    pub strategy: Option<String>,
    /// The symbol.
    pub pair: String,
    /// The first day, `YYYY-MM-DD`.
    pub start_date: String,
    /// The last day, `YYYY-MM-DD`.
    pub end_date: String,
    /// The capital in quote currency. 10,000 if absent.
    pub initial_capital: Option<Number>,
    /// Bars in the fast average. 5 if absent.
    pub fast: Option<u32>,
    /// Bars in the slow average. 20 if absent.
    pub slow: Option<u32>,
    /// The test ends with `error` if the equity falls by more than this fraction of its maximum.
    pub max_drawdown: Option<Number>,
}

/// A running back-test.
#[derive(Debug)]
pub struct Backtest {
    /// The id, `backtest_…`.
    pub id: String,
    /// The owner.
    pub user: String,
    symbol: usize,
    averages: Crossover,
    walk: Walk,
    rng: SmallRng,
    first_day: Date,
    bars: i64,
    bar: i64,
    initial_capital: Decimal,
    max_drawdown: Option<Decimal>,
    position: Position,
    price: Decimal,
    trades: u64,
    wins: u64,
    highest: Decimal,
    drawdown: Decimal,
}

/// The state of a test after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The test goes on.
    Running,
    /// The test has ended and published its end.
    Ended,
}

#[derive(Serialize)]
struct Update<'a> {
    id: &'a str,
    progress: Number,
    current_date: String,
    trades_count: u64,
    current_equity: Number,
}

#[derive(Serialize)]
struct Lifecycle<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Outcome>,
}

/// The result of a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    initial_capital: Number,
    final_equity: Number,
    total_return: Number,
    max_drawdown: Number,
    trades_count: u64,
    win_rate: Number,
    fees: Number,
}

impl Backtest {
    /// A test with these parameters.
    ///
    /// # Errors
    ///
    /// A message for the client if a parameter is invalid.
    pub fn new(id: String, user: String, params: &BacktestParams, seed: u64) -> Result<Self, String> {
        let symbol = find(&params.pair).ok_or_else(|| format!("pair {} is unknown", params.pair))?;
        check_name(params.strategy.as_deref())?;
        let averages = Crossover::new(params.fast, params.slow)?;
        let date = |field: &str, text: &str| {
            text.parse::<Date>()
                .map_err(|_| format!("{field} must be a date such as 2024-01-31"))
        };
        let first_day = date("start_date", &params.start_date)?;
        let last_day = date("end_date", &params.end_date)?;
        let days = (last_day - first_day).get_days();
        if days < 1 {
            return Err("end_date must be after start_date".to_owned());
        }
        if days > DAYS_MAX {
            return Err(format!("a test spans at most {DAYS_MAX} days"));
        }
        let initial_capital = params
            .initial_capital
            .map_or(Decimal::from(10_000), |capital| capital.0);
        if initial_capital <= Decimal::ZERO {
            return Err("initial_capital must be greater than 0".to_owned());
        }
        let max_drawdown = params.max_drawdown.map(|fraction| fraction.0);
        if max_drawdown.is_some_and(|fraction| fraction <= Decimal::ZERO || fraction > Decimal::ONE) {
            return Err("max_drawdown must be greater than 0 and at most 1".to_owned());
        }
        let listing = &LISTINGS[symbol];
        let walk = Walk::new(listing).coarser(BAR_STEPS);
        Ok(Self {
            id,
            user,
            symbol,
            averages,
            walk,
            // The history depends on the symbol and its first day, not on the time of the command.
            rng: SmallRng::seed_from_u64(seed ^ (symbol as u64) << 32 ^ days_since_epoch(first_day)),
            first_day,
            bars: i64::from(days) * BARS_PER_DAY,
            bar: 0,
            initial_capital,
            max_drawdown,
            position: Position::default(),
            price: walk.price(listing),
            trades: 0,
            wins: 0,
            highest: initial_capital,
            drawdown: Decimal::ZERO,
        })
    }

    /// Works through the next part of the history.
    pub fn step(&mut self, events: &mut Events) -> Progress {
        if self.bar == 0 {
            self.end("started", None, None, events);
        }
        let until = (self.bar + (self.bars / TICKS).max(1)).min(self.bars);
        while self.bar < until {
            self.bar += 1;
            self.next_bar();
            if self.max_drawdown.is_some_and(|largest| self.drawdown > largest) {
                let reason = format!("the drawdown reached {}", self.drawdown.round_dp(4));
                self.update(events);
                self.end("error", Some(reason), None, events);
                return Progress::Ended;
            }
        }
        if self.bar < self.bars {
            return Progress::Running;
        }
        self.close();
        self.update(events);
        let outcome = self.outcome();
        self.end("completed", None, Some(outcome), events);
        Progress::Ended
    }

    fn next_bar(&mut self) {
        let listing = &LISTINGS[self.symbol];
        self.walk.step(&mut self.rng);
        self.price = self.walk.price(listing);
        match self.averages.push(self.price) {
            Some(Side::Buy) if self.position.size.is_zero() => {
                let amount = listing.cut_amount(self.equity() / (self.price * (Decimal::ONE + FEE_RATE)));
                self.trade(Side::Buy, amount);
            }
            Some(Side::Sell) => self.close(),
            _ => {}
        }
        let equity = self.equity();
        self.highest = self.highest.max(equity);
        self.drawdown = self.drawdown.max((self.highest - equity) / self.highest);
    }

    fn close(&mut self) {
        let entry = self.position.entry_price();
        if !self.position.size.is_zero() {
            self.wins += u64::from(self.price > entry);
            self.trade(Side::Sell, self.position.size);
        }
    }

    fn trade(&mut self, side: Side, amount: Decimal) {
        if amount > Decimal::ZERO {
            let fee = (self.price * amount * FEE_RATE).round_dp(8);
            self.position.fill(side, self.price, amount, fee);
            self.trades += 1;
        }
    }

    fn equity(&self) -> Decimal {
        self.initial_capital + self.position.total(self.price)
    }

    fn outcome(&self) -> Outcome {
        let equity = self.equity();
        let rounds = Decimal::from((self.trades / 2).max(1));
        Outcome {
            initial_capital: self.initial_capital.into(),
            final_equity: money(equity),
            total_return: Number(((equity - self.initial_capital) / self.initial_capital).round_dp(6)),
            max_drawdown: Number(self.drawdown.round_dp(6)),
            trades_count: self.trades,
            win_rate: Number((Decimal::from(self.wins) / rounds).round_dp(4)),
            fees: money(self.position.fees),
        }
    }

    /// Publishes the progress.
    pub fn update(&self, events: &mut Events) {
        let day = self.first_day.saturating_add((self.bar / BARS_PER_DAY).days());
        let update = Update {
            id: &self.id,
            progress: Number((Decimal::from(self.bar) / Decimal::from(self.bars)).round_dp(4)),
            current_date: day.to_string(),
            trades_count: self.trades,
            current_equity: money(self.equity()),
        };
        events.send(format!("backtest.{}.progress", self.id), "update", &update);
    }

    /// Publishes that the test was cancelled.
    pub fn cancel(&self, events: &mut Events) {
        self.end("cancelled", None, None, events);
    }

    fn end(&self, event: &'static str, reason: Option<String>, result: Option<Outcome>, events: &mut Events) {
        let level = if event == "error" { Level::Warn } else { Level::Info };
        events.log(level, "backtest", &format!("{} {event}", self.id));
        events.send(
            format!("backtest.{}.lifecycle", self.id),
            event,
            &Lifecycle {
                id: &self.id,
                reason,
                result,
            },
        );
    }
}

fn days_since_epoch(day: Date) -> u64 {
    u64::from((day - jiff::civil::date(1970, 1, 1)).get_days().unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params() -> BacktestParams {
        serde_json::from_str(
            r#"{"pair":"BTC-USDC","start_date":"2024-01-01","end_date":"2024-03-31","initial_capital":10000}"#,
        )
        .expect("valid")
    }

    fn run(params: &BacktestParams, seed: u64) -> (Outcome, Vec<String>) {
        let mut test = Backtest::new("b".to_owned(), "u".to_owned(), params, seed).expect("valid");
        let mut events = Events::default();
        while test.step(&mut events) == Progress::Running {}
        let events = events.take().into_iter().filter(|event| event.channel != "system.log");
        (
            test.outcome(),
            events.map(|event| format!("{} {}", event.event, event.data)).collect(),
        )
    }

    #[test]
    fn a_test_starts_completes_and_publishes_its_result() {
        let (outcome, events) = run(&params(), 7);
        assert!(events[0].starts_with("started"), "{events:?}");
        assert!(
            events[1].starts_with("update") && events[1].contains("\"progress\":1,"),
            "{events:?}"
        );
        assert!(events[1].contains("\"current_date\":\"2024-03-31\""), "{events:?}");
        assert!(
            events[2].starts_with("completed") && events[2].contains("\"result\":{\"initial_capital\":10000,"),
            "{events:?}"
        );
        assert!(outcome.trades_count > 10, "{outcome:?}");
        assert_eq!(outcome.trades_count % 2, 0, "every position was closed");
        assert_eq!(run(&params(), 7), (outcome.clone(), events), "the same again");
        assert_ne!(run(&params(), 8).0, outcome, "another seed is another history");
    }

    #[test]
    fn a_drawdown_beyond_the_limit_is_an_error() {
        let limit = serde_json::from_str("0.0001").expect("a number");
        let (_, events) = run(
            &BacktestParams {
                max_drawdown: Some(limit),
                ..params()
            },
            7,
        );
        assert!(
            events
                .last()
                .is_some_and(|last| last.starts_with("error") && last.contains("drawdown")),
            "{events:?}"
        );
    }

    #[test]
    fn invalid_parameters_are_refused() {
        let with = |change: &dyn Fn(&mut BacktestParams)| {
            let mut params = params();
            change(&mut params);
            Backtest::new(String::new(), String::new(), &params, 1)
                .map(|_| ())
                .expect_err("refused")
        };
        for (error, part) in [
            (with(&|p| p.pair = "X".to_owned()), "pair"),
            (with(&|p| p.strategy = Some("oracle".to_owned())), "strategy"),
            (with(&|p| p.start_date = "2024-02-30".to_owned()), "start_date"),
            (with(&|p| p.end_date = "soon".to_owned()), "end_date"),
            (
                with(&|p| p.end_date = "2024-01-01".to_owned()),
                "end_date must be after",
            ),
            (with(&|p| p.end_date = "2030-01-01".to_owned()), "at most"),
            (with(&|p| p.start_date = "-009999-01-01".to_owned()), "at most"),
            (
                with(&|p| p.initial_capital = Some(Number(Decimal::ZERO))),
                "initial_capital",
            ),
            (with(&|p| p.fast = Some(50)), "fast"),
            (with(&|p| p.max_drawdown = Some(Number(Decimal::TWO))), "max_drawdown"),
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn equity_is_capital_plus_gains_less_fees(seed: u64, days in 1i64..60, fast in 1u32..6, more in 1u32..20) {
            let end_date = jiff::civil::date(2024, 1, 1).saturating_add(days.days()).to_string();
            let params = BacktestParams { end_date, fast: Some(fast), slow: Some(fast + more), ..params() };
            let mut test = Backtest::new("b".to_owned(), "u".to_owned(), &params, seed).expect("valid");
            let mut events = Events::default();
            while test.step(&mut events) == Progress::Running {
                prop_assert!(test.initial_capital + test.position.cash >= Decimal::ZERO, "it never borrows");
            }
            prop_assert_eq!(test.equity(), test.initial_capital + test.position.cash);
            prop_assert_eq!(test.position.cash, test.position.realized - test.position.fees);
        }
    }
}
