//! Stock prices, published one by one, by strategy and by board.
//!
//! Invariant: at every publication all channels tell the same price of one stock.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rust_decimal::Decimal;
use serde::Serialize;

use super::event::Events;
use super::number::Number;

// Code, name, price of the day before in hundredths.
const STOCKS: [(&str, &str, i64); 8] = [
    ("600519", "Kweichow Moutai", 180_490),
    ("000858", "Wuliangye", 15_632),
    ("601318", "Ping An", 4_871),
    ("600036", "China Merchants Bank", 3_512),
    ("300750", "CATL", 19_845),
    ("002594", "BYD", 25_320),
    ("688981", "SMIC", 5_218),
    ("300059", "East Money", 1_644),
];

// Which stocks (by index) a strategy watches or a board lists.
const STRATEGIES: [(&str, &[usize]); 2] = [("volume_wave", &[0, 4, 5, 7]), ("value", &[1, 2, 3])];
const BOARDS: [(&str, &[usize]); 3] = [("main", &[0, 1, 2, 3, 5]), ("growth", &[4, 7]), ("star", &[6])];

/// One row of a price message.
#[derive(Clone, Debug, Serialize)]
struct Row {
    code: &'static str,
    name: &'static str,
    price: Number,
    change_percent: Number,
    volume: u64,
}

/// All stocks.
#[derive(Debug)]
pub struct Stocks {
    rng: SmallRng,
    cents: [i64; STOCKS.len()],
    volumes: [u64; STOCKS.len()],
}

impl Stocks {
    /// Stocks at the prices of the day before.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            cents: STOCKS.map(|stock| stock.2),
            volumes: [0; STOCKS.len()],
        }
    }

    /// Moves all prices and publishes them.
    pub fn publish(&mut self, events: &mut Events) {
        for ((cents, volume), stock) in self.cents.iter_mut().zip(&mut self.volumes).zip(&STOCKS) {
            let step = *cents * self.rng.random_range(-100..=100i64) / 10_000;
            // Stocks may move by a tenth a day.
            *cents = (*cents + step).clamp(stock.2 * 9 / 10, stock.2 * 11 / 10);
            *volume += self.rng.random_range(10_000..500_000u64);
        }
        let rows: Vec<Row> = (0..STOCKS.len()).map(|index| self.row(index)).collect();
        let mut publish = |channel: String, stocks: &[usize]| {
            let rows: Vec<&Row> = stocks.iter().map(|index| &rows[*index]).collect();
            events.send(channel, "price_update", &rows);
        };
        for (index, stock) in STOCKS.iter().enumerate() {
            publish(format!("stock.{}.price", stock.0), &[index]);
        }
        for (name, stocks) in STRATEGIES {
            publish(format!("strategy.{name}.prices"), stocks);
        }
        for (name, stocks) in BOARDS {
            publish(format!("board.{name}.prices"), stocks);
        }
    }

    fn row(&self, index: usize) -> Row {
        let (code, name, before) = STOCKS[index];
        let change = Decimal::from(self.cents[index] - before) * Decimal::ONE_HUNDRED / Decimal::from(before);
        Row {
            code,
            name,
            price: Decimal::new(self.cents[index], 2).into(),
            change_percent: change.round_dp(2).into(),
            volume: self.volumes[index],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn every_channel_tells_the_same_price() {
        let (mut stocks, mut events) = (Stocks::new(5), Events::default());
        for _ in 0..20 {
            stocks.publish(&mut events);
            let mut prices: BTreeMap<String, serde_json::Value> = BTreeMap::new();
            let told = events.take();
            assert_eq!(told.len(), STOCKS.len() + STRATEGIES.len() + BOARDS.len());
            for event in told {
                let rows: Vec<serde_json::Value> = serde_json::from_str(event.data.get()).expect("an array");
                for row in rows {
                    let code = row["code"].as_str().expect("a code").to_owned();
                    assert!(row["change_percent"].as_f64().expect("a number").abs() <= 10.0, "{row}");
                    assert_eq!(
                        prices.entry(code).or_insert_with(|| row.clone()),
                        &row,
                        "{}",
                        event.channel
                    );
                }
            }
            assert_eq!(prices.len(), STOCKS.len());
        }
    }
}
