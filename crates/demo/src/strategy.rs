//! Strategies: two moving averages of a symbol's price, and a signal where they cross.
//!
//! Invariant: a signal is generated only when the averages cross, so buys and sells alternate.

use std::collections::VecDeque;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use super::event::{Events, Level, Lifecycle};
use super::market::{LISTINGS, find};
use super::number::Number;
use super::position::Side;

/// The name of the only algorithm.
pub const NAME: &str = "sma_cross";
/// The largest number of prices in the slow average.
pub const SPAN_MAX: u32 = 200;

/// `params` of `strategy.start`.
#[derive(Clone, Debug, Deserialize)]
pub struct StrategyParams {
    /// The algorithm. `sma_cross` if absent.
    pub name: Option<String>,
    /// The symbol.
    pub pair: String,
    /// Prices in the fast average, one per second. 5 if absent.
    pub fast: Option<u32>,
    /// Prices in the slow average, one per second. 20 if absent.
    pub slow: Option<u32>,
}

impl StrategyParams {
    /// Checks the parameters and returns the symbol's index and the averages.
    ///
    /// # Errors
    ///
    /// A message for the client if a parameter is invalid.
    pub fn check(&self) -> Result<(usize, Crossover), String> {
        let symbol = find(&self.pair).ok_or_else(|| format!("pair {} is unknown", self.pair))?;
        check_name(self.name.as_deref())?;
        Ok((symbol, Crossover::new(self.fast, self.slow)?))
    }
}

/// Checks the name of an algorithm.
///
/// # Errors
///
/// A message for the client if the name is not [`NAME`].
pub fn check_name(name: Option<&str>) -> Result<(), String> {
    match name {
        Some(name) if name != NAME => Err(format!("strategy {name} is unknown; there is {NAME}")),
        _ => Ok(()),
    }
}

/// Two moving averages.
#[derive(Clone, Debug)]
pub struct Crossover {
    fast: usize,
    slow: usize,
    prices: VecDeque<Decimal>,
    fast_is_above: Option<bool>,
}

impl Crossover {
    /// Averages of the last `fast` and `slow` prices, 5 and 20 if absent.
    ///
    /// # Errors
    ///
    /// A message for the client if a span is invalid.
    pub fn new(fast: Option<u32>, slow: Option<u32>) -> Result<Self, String> {
        let (fast, slow) = (fast.unwrap_or(5), slow.unwrap_or(20));
        if fast == 0 || slow <= fast || slow > SPAN_MAX {
            return Err(format!(
                "fast must be from 1 up, slow greater than fast and at most {SPAN_MAX}"
            ));
        }
        Ok(Self {
            fast: fast as usize,
            slow: slow as usize,
            prices: VecDeque::new(),
            fast_is_above: None,
        })
    }

    /// Takes the next price. Returns the side of the signal if the averages crossed.
    pub fn push(&mut self, price: Decimal) -> Option<Side> {
        self.prices.push_back(price);
        if self.prices.len() < self.slow {
            return None;
        }
        if self.prices.len() > self.slow {
            self.prices.pop_front();
        }
        let (fast, slow) = self.averages();
        if fast == slow {
            return None;
        }
        let before = self.fast_is_above.replace(fast > slow);
        match before {
            Some(above) if above != (fast > slow) => Some(if fast > slow { Side::Buy } else { Side::Sell }),
            _ => None,
        }
    }

    fn averages(&self) -> (Decimal, Decimal) {
        let sum = |count: usize| self.prices.iter().rev().take(count).sum::<Decimal>() / Decimal::from(count);
        (sum(self.fast), sum(self.slow))
    }
}

#[derive(Serialize)]
struct Status<'a> {
    id: &'a str,
    name: &'static str,
    pair: &'static str,
    current_price: Number,
    signals_count: u64,
    last_signal: Option<Side>,
}

#[derive(Serialize)]
struct Signal<'a> {
    id: &'a str,
    pair: &'static str,
    side: Side,
    price: Number,
    reason: &'static str,
}

/// A running strategy.
#[derive(Debug)]
pub struct Strategy {
    /// The id, `strategy_…`.
    pub id: String,
    /// The owner.
    pub user: String,
    /// The index of the symbol.
    pub symbol: usize,
    averages: Crossover,
    announced: bool,
    signals: u64,
    last_signal: Option<Side>,
}

impl Strategy {
    /// A strategy that starts at its first step.
    #[must_use]
    pub fn new(id: String, user: String, symbol: usize, averages: Crossover) -> Self {
        Self {
            id,
            user,
            symbol,
            averages,
            announced: false,
            signals: 0,
            last_signal: None,
        }
    }

    /// Takes the price of the next second.
    pub fn step(&mut self, price: Decimal, events: &mut Events) {
        if !self.announced {
            self.announced = true;
            self.lifecycle("started", None, events);
        }
        let pair = LISTINGS[self.symbol].name;
        if let Some(side) = self.averages.push(price) {
            self.signals += 1;
            self.last_signal = Some(side);
            let reason = match side {
                Side::Buy => "the fast average rose above the slow one",
                Side::Sell => "the fast average fell below the slow one",
            };
            let signal = Signal {
                id: &self.id,
                pair,
                side,
                price: price.into(),
                reason,
            };
            events.send(format!("strategy.{}.signal", self.id), "generated", &signal);
        }
        let status = Status {
            id: &self.id,
            name: NAME,
            pair,
            current_price: price.into(),
            signals_count: self.signals,
            last_signal: self.last_signal,
        };
        events.send(format!("strategy.{}.status", self.id), "update", &status);
    }

    /// Publishes a lifecycle event.
    pub fn lifecycle(&self, event: &'static str, reason: Option<&str>, events: &mut Events) {
        events.send(
            format!("strategy.{}.lifecycle", self.id),
            event,
            &Lifecycle { id: &self.id, reason },
        );
        let level = if event == "error" { Level::Warn } else { Level::Info };
        events.log(level, "strategy", &format!("{} {event}", self.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spans_are_checked() {
        for (fast, slow) in [
            (Some(0), None),
            (Some(20), None),
            (Some(30), Some(20)),
            (None, Some(201)),
            (None, Some(5)),
        ] {
            assert!(Crossover::new(fast, slow).is_err(), "{fast:?} {slow:?}");
        }
        assert!(Crossover::new(Some(1), Some(2)).is_ok());
    }

    #[test]
    fn a_rise_after_a_fall_gives_a_buy_signal() {
        let mut averages = Crossover::new(Some(1), Some(3)).expect("valid");
        let signals: Vec<Option<Side>> = [5, 4, 3, 2, 6, 7, 1]
            .map(|price| averages.push(Decimal::from(price)))
            .to_vec();
        assert_eq!(
            signals,
            [None, None, None, None, Some(Side::Buy), None, Some(Side::Sell)]
        );
    }

    proptest! {
        #[test]
        fn signals_alternate(prices in prop::collection::vec(1i64..50, 0..300), fast in 1u32..5, more in 1u32..10) {
            let mut averages = Crossover::new(Some(fast), Some(fast + more)).expect("valid");
            let signals: Vec<Side> = prices.iter().filter_map(|price| averages.push(Decimal::from(*price))).collect();
            prop_assert!(signals.windows(2).all(|pair| pair[0] != pair[1]), "{signals:?}");
        }
    }
}
