//! The market: a few symbols whose prices move randomly around their opening prices, with order books and trades.
//!
//! Invariant: a [`Market`] depends only on its seed and on the exchanges that were online at each step. Users' orders do not
//! move it. Books are sorted and never crossed.
//!
//! Prices move faster than real ones, about 1/1000 in each step, so that a grid trades often.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rust_decimal::Decimal;
use serde::Serialize;

use super::number::Number;
use super::position::Side;

/// The number of levels on each side of a published book.
pub const DEPTH: usize = 10;
/// The names of the exchanges.
pub const EXCHANGES: [&str; 2] = ["paper-dex", "paper-cex"];

// Prices are kept in thousandths of a tick, so that small moves of symbols with large ticks are not lost.
const UNITS_PER_TICK: i64 = 1000;
// Each step moves a price back by 1/300 of its distance from the opening price.
const PULL: i64 = 300;
// The standard deviation of the sum of four random numbers from -1000 to 1000.
const DRAW_DEVIATION: i64 = 1155;

/// The constants of a symbol.
#[derive(Debug)]
pub struct Listing {
    /// The name, such as `BTC-USDC`.
    pub name: &'static str,
    /// The index in [`EXCHANGES`].
    pub exchange: usize,
    // The opening price in ticks, and the decimal digits of a tick and of the smallest amount.
    open_ticks: i64,
    tick_digits: u32,
    amount_digits: u32,
    // The standard deviation of a step, in parts per million.
    volatility_ppm: i64,
    // The largest distance between two levels of the book, in ticks.
    gap_ticks: i64,
    // The usual amount of an order, in multiples of the smallest amount.
    lot: i64,
}

/// All symbols.
pub const LISTINGS: [Listing; 5] = [
    Listing {
        name: "BTC-USDC",
        exchange: 0,
        open_ticks: 950_000,
        tick_digits: 1,
        amount_digits: 4,
        volatility_ppm: 900,
        gap_ticks: 20,
        lot: 10,
    },
    Listing {
        name: "ETH-USDC",
        exchange: 0,
        open_ticks: 340_000,
        tick_digits: 2,
        amount_digits: 3,
        volatility_ppm: 1000,
        gap_ticks: 10,
        lot: 50,
    },
    Listing {
        name: "SOL-USDC",
        exchange: 0,
        open_ticks: 18_500,
        tick_digits: 2,
        amount_digits: 2,
        volatility_ppm: 1200,
        gap_ticks: 2,
        lot: 100,
    },
    Listing {
        name: "BTC/USDT",
        exchange: 1,
        open_ticks: 9_502_500,
        tick_digits: 2,
        amount_digits: 4,
        volatility_ppm: 900,
        gap_ticks: 200,
        lot: 10,
    },
    Listing {
        name: "KOGE/USDT",
        exchange: 1,
        open_ticks: 54_320,
        tick_digits: 7,
        amount_digits: 0,
        volatility_ppm: 1500,
        gap_ticks: 20,
        lot: 100_000,
    },
];

impl Listing {
    /// The smallest price step.
    #[must_use]
    pub fn tick(&self) -> Decimal {
        Decimal::new(1, self.tick_digits)
    }

    /// The smallest amount.
    #[must_use]
    pub fn amount_step(&self) -> Decimal {
        Decimal::new(1, self.amount_digits)
    }

    /// The usual amount of an order.
    #[must_use]
    pub fn lot(&self) -> Decimal {
        Decimal::new(self.lot, self.amount_digits)
    }

    /// `price` rounded to a multiple of the tick.
    #[must_use]
    pub fn round_price(&self, price: Decimal) -> Decimal {
        price.round_dp(self.tick_digits)
    }

    /// `amount` rounded down to a multiple of the smallest amount.
    #[must_use]
    pub fn cut_amount(&self, amount: Decimal) -> Decimal {
        amount.trunc_with_scale(self.amount_digits)
    }

    /// The opening price.
    #[must_use]
    pub fn open(&self) -> Decimal {
        Decimal::new(self.open_ticks, self.tick_digits)
    }

    fn price(&self, ticks: i64) -> Decimal {
        Decimal::new(ticks, self.tick_digits)
    }
}

/// The index of the symbol with this name.
#[must_use]
pub fn find(name: &str) -> Option<usize> {
    LISTINGS.iter().position(|listing| listing.name == name)
}

/// A random walk of a price around its start. The market and the generated history use it.
#[derive(Clone, Copy, Debug)]
pub struct Walk {
    units: i64,
    open_units: i64,
    volatility_ppm: i64,
}

impl Walk {
    /// A walk that starts at the symbol's opening price.
    #[must_use]
    pub fn new(listing: &Listing) -> Self {
        let units = listing.open_ticks * UNITS_PER_TICK;
        Self {
            units,
            open_units: units,
            volatility_ppm: listing.volatility_ppm,
        }
    }

    /// The same walk with steps `times` as large, for bars that are longer than a step.
    #[must_use]
    pub fn coarser(self, times: i64) -> Self {
        Self {
            volatility_ppm: self.volatility_ppm * times,
            ..self
        }
    }

    /// Does one step.
    pub fn step(&mut self, rng: &mut SmallRng) {
        let draw: i64 = (0..4).map(|_| rng.random_range(-1000..=1000i64)).sum();
        let step = self.units / 1000 * self.volatility_ppm / 1000 * draw / DRAW_DEVIATION;
        let pull = (self.open_units - self.units) / PULL;
        self.units = (self.units + step + pull).clamp(self.open_units / 2, self.open_units * 2);
    }

    /// The price, a multiple of the tick.
    #[must_use]
    pub fn price(&self, listing: &Listing) -> Decimal {
        listing.price(self.ticks())
    }

    fn ticks(&self) -> i64 {
        self.units / UNITS_PER_TICK
    }
}

/// A published book: pairs of price and amount, the best first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Book {
    /// Buy orders, with falling prices.
    pub bids: Vec<(Number, Number)>,
    /// Sell orders, with rising prices, all above every bid.
    pub asks: Vec<(Number, Number)>,
}

/// A trade between other participants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trade {
    /// The taker's side.
    pub side: Side,
    /// The price per unit.
    pub price: Number,
    /// The amount in base currency.
    pub quantity: Number,
    /// The taker's fee, 1/1000 of the price paid.
    pub cost: Number,
}

/// The current state of a symbol.
#[derive(Clone, Debug)]
pub struct Quote {
    walk: Walk,
    /// Whether it moved in the last step.
    pub moved: bool,
    /// The last price.
    pub price: Decimal,
    /// The highest price of a buy order.
    pub best_bid: Decimal,
    /// The lowest price of a sell order.
    pub best_ask: Decimal,
    /// The book.
    pub book: Book,
    /// The trades of the last step.
    pub trades: Vec<Trade>,
}

/// The current state of all symbols.
#[derive(Debug)]
pub struct Market {
    rng: SmallRng,
    /// In the order of [`LISTINGS`].
    pub quotes: Vec<Quote>,
}

impl Market {
    /// A market that just opened.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut market = Self {
            rng: SmallRng::seed_from_u64(seed),
            quotes: LISTINGS.iter().map(opening).collect(),
        };
        market.step([true; EXCHANGES.len()]);
        market
    }

    /// Does one step. Only symbols of exchanges that are online move.
    pub fn step(&mut self, online: [bool; EXCHANGES.len()]) {
        for (quote, listing) in self.quotes.iter_mut().zip(&LISTINGS) {
            quote.moved = online[listing.exchange];
            quote.trades.clear();
            if quote.moved {
                step(quote, listing, &mut self.rng);
            }
        }
    }

    /// The change of a symbol since the opening, as a fraction with four digits.
    #[must_use]
    pub fn change(&self, symbol: usize) -> Decimal {
        let open = LISTINGS[symbol].open();
        ((self.quotes[symbol].price - open) / open).round_dp(4)
    }
}

fn opening(listing: &Listing) -> Quote {
    let walk = Walk::new(listing);
    let price = walk.price(listing);
    Quote {
        walk,
        moved: false,
        price,
        best_bid: price,
        best_ask: price,
        book: Book::default(),
        trades: Vec::new(),
    }
}

fn step(quote: &mut Quote, listing: &Listing, rng: &mut SmallRng) {
    quote.walk.step(rng);
    let mid = quote.walk.ticks();
    let half_spread = rng.random_range(1..=listing.gap_ticks);
    quote.price = listing.price(mid);
    quote.best_bid = listing.price(mid - half_spread);
    quote.best_ask = listing.price(mid + half_spread);
    quote.book.bids = side(listing, rng, mid - half_spread, -1);
    quote.book.asks = side(listing, rng, mid + half_spread, 1);
    while quote.trades.len() < 3 && rng.random_bool(0.3) {
        let side = if rng.random_bool(0.5) { Side::Buy } else { Side::Sell };
        let price = if side == Side::Buy {
            quote.best_ask
        } else {
            quote.best_bid
        };
        let quantity = amount(listing, rng);
        let cost = (price * quantity * Decimal::new(1, 3)).round_dp(8);
        quote.trades.push(Trade {
            side,
            price: price.into(),
            quantity: quantity.into(),
            cost: cost.into(),
        });
    }
}

fn side(listing: &Listing, rng: &mut SmallRng, best_ticks: i64, direction: i64) -> Vec<(Number, Number)> {
    let mut ticks = best_ticks;
    let mut level = || {
        let level = (Number(listing.price(ticks)), Number(amount(listing, rng)));
        ticks += direction * rng.random_range(1..=listing.gap_ticks);
        level
    };
    (0..DEPTH).map(|_| level()).collect()
}

fn amount(listing: &Listing, rng: &mut SmallRng) -> Decimal {
    Decimal::new(rng.random_range(1..=listing.lot * 20), listing.amount_digits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prices(seed: u64, steps: usize) -> Vec<Decimal> {
        let mut market = Market::new(seed);
        let mut prices = Vec::new();
        for _ in 0..steps {
            market.step([true; 2]);
            prices.extend(market.quotes.iter().map(|quote| quote.price));
        }
        prices
    }

    #[test]
    fn the_market_depends_on_the_seed() {
        assert_eq!(prices(7, 500), prices(7, 500));
        assert_ne!(prices(7, 500), prices(8, 500));
    }

    #[test]
    fn symbols_of_an_exchange_that_is_offline_do_not_move() {
        let mut market = Market::new(1);
        let before: Vec<Decimal> = market.quotes.iter().map(|quote| quote.price).collect();
        for _ in 0..50 {
            market.step([true, false]);
        }
        for (symbol, listing) in LISTINGS.iter().enumerate() {
            let moved = market.quotes[symbol].price != before[symbol];
            assert_eq!(moved, listing.exchange == 0, "{}", listing.name);
            assert_eq!(market.quotes[symbol].moved, listing.exchange == 0);
        }
    }

    proptest! {
        #[test]
        fn books_are_sorted_uncrossed_and_positive(seed: u64, steps in 1usize..200) {
            let mut market = Market::new(seed);
            for _ in 0..steps {
                market.step([true; 2]);
            }
            for (quote, listing) in market.quotes.iter().zip(&LISTINGS) {
                let Book { bids, asks } = &quote.book;
                prop_assert_eq!((bids.len(), asks.len()), (DEPTH, DEPTH));
                prop_assert!(bids.is_sorted_by(|a, b| a.0 > b.0) && asks.is_sorted_by(|a, b| a.0 < b.0));
                prop_assert!(bids[0].0 < asks[0].0);
                prop_assert!(bids[0].0.0 == quote.best_bid && asks[0].0.0 == quote.best_ask);
                for (price, amount) in bids.iter().chain(asks) {
                    prop_assert!(price.0 > Decimal::ZERO && amount.0 > Decimal::ZERO);
                    prop_assert_eq!(price.0, listing.round_price(price.0));
                    prop_assert_eq!(amount.0, listing.cut_amount(amount.0));
                }
            }
        }
    }
}
