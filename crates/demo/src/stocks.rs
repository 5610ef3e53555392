//! Stock prices as a job of a stock application writes them to Redis: by stock, by strategy and by board.
//!
//! Invariant: within one write, a stock has the same price under all keys.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rust_decimal::Decimal;
use serde::Serialize;

use super::number::Number;
use super::store::Write;

// Code, name, and price of the day before in hundredths.
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

// The stocks of each strategy and each board, as indices into `STOCKS`.
pub(super) const STRATEGIES: [(&str, &[usize]); 2] = [("volume_wave", &[0, 4, 5, 7]), ("value", &[1, 2, 3])];
pub(super) const BOARDS: [(&str, &[usize]); 3] = [("main", &[0, 1, 2, 3, 5]), ("growth", &[4, 7]), ("star", &[6])];

/// The prefix of all keys. A real Redis may hold keys of other applications.
pub(super) const PREFIX: &str = "demo:";

/// One stock.
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

    /// Advances by a second, in which about a third of the stocks are traded.
    pub fn step(&mut self) {
        for ((cents, volume), stock) in self.cents.iter_mut().zip(&mut self.volumes).zip(&STOCKS) {
            // Both numbers are drawn for every stock, so that the stocks do not influence each other.
            let (is_traded, step) = (self.rng.random_ratio(1, 3), self.rng.random_range(-30..=30i64));
            if is_traded {
                // A stock may move by at most a tenth in a day.
                *cents = (*cents + *cents * step / 10_000).clamp(stock.2 * 9 / 10, stock.2 * 11 / 10);
                *volume += self.rng.random_range(100..5_000u64);
            }
        }
    }

    /// All keys: a hash of JSON records for each strategy, a hash for each stock, and a list of such hashes for each board.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        let rows: Vec<Row> = (0..STOCKS.len()).map(|index| self.row(index)).collect();
        let strategy = |(name, stocks): (&str, &[usize])| Write::Hash {
            key: format!("{PREFIX}prices:{name}"),
            fields: stocks
                .iter()
                .map(|index| (rows[*index].code.to_owned(), json(&rows[*index])))
                .collect(),
        };
        let stock = |row: &Row| Write::Hash {
            key: stock_key(row.code),
            fields: vec![
                ("code".to_owned(), row.code.to_owned()),
                ("name".to_owned(), row.name.to_owned()),
                ("price".to_owned(), json(&row.price)),
                ("change_percent".to_owned(), json(&row.change_percent)),
                ("volume".to_owned(), row.volume.to_string()),
            ],
        };
        let board = |(name, stocks): (&str, &[usize])| Write::List {
            key: format!("{PREFIX}board:{name}"),
            items: stocks.iter().map(|index| stock_key(STOCKS[*index].0)).collect(),
        };
        let strategies = STRATEGIES.into_iter().map(strategy);
        strategies
            .chain(rows.iter().map(stock))
            .chain(BOARDS.into_iter().map(board))
            .collect()
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

fn stock_key(code: &str) -> String {
    format!("{PREFIX}stock:{code}")
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("plain structs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_stock_has_one_price_under_all_keys_and_some_stocks_are_not_traded() {
        let (mut stocks, mut rested) = (Stocks::new(5), 0);
        let mut last = stocks.writes();
        for _ in 0..20 {
            stocks.step();
            let writes = stocks.writes();
            assert_eq!(writes.len(), STOCKS.len() + STRATEGIES.len() + BOARDS.len());
            let mut prices: BTreeMap<String, String> = BTreeMap::new();
            for write in &writes {
                let Write::Hash { key, fields } = write else { continue };
                if let Some(code) = key.strip_prefix("demo:stock:") {
                    let price = &fields.iter().find(|field| field.0 == "price").expect("a price").1;
                    prices.insert(code.to_owned(), price.clone());
                }
            }
            for write in &writes {
                match write {
                    Write::Hash { key, fields } if key.starts_with("demo:prices:") => {
                        for (code, record) in fields {
                            let record: serde_json::Value = serde_json::from_str(record).expect("a record");
                            assert_eq!(record["code"], code.as_str());
                            assert_eq!(record["price"].to_string(), prices[code], "{key}");
                            let change = record["change_percent"].as_f64().expect("a number");
                            assert!(change.abs() <= 10.0, "{record}");
                        }
                    }
                    Write::List { key, items } => {
                        let codes = items.iter().map(|item| &item["demo:stock:".len()..]);
                        assert!(
                            codes.into_iter().all(|code| prices.contains_key(code)),
                            "{key}: {items:?}"
                        );
                    }
                    Write::Hash { .. } => {}
                }
            }
            rested += writes.iter().filter(|write| last.contains(write)).count();
            last = writes;
        }
        assert!(
            rested > BOARDS.len() * 20,
            "only changed records can be told from others"
        );
    }
}
