//! A position valued at average cost, and its cash flow.
//!
//! Invariant: `cash + size * mark = realized - fees + unrealized(mark)` for every `mark`, exactly, where `cash` starts at
//! zero. `size` is the sum of the signed fills.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

// A share of a cost is rounded once to this many digits, so that all later sums are exact.
const COST_DIGITS: u32 = 8;

/// The side of a trade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Base currency is bought.
    Buy,
    /// Base currency is sold.
    Sell,
}

impl Side {
    /// `amount` with the sign of its effect on a position.
    #[must_use]
    pub fn signed(self, amount: Decimal) -> Decimal {
        match self {
            Self::Buy => amount,
            Self::Sell => -amount,
        }
    }

    /// `buy` or `sell`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "buy",
            Self::Sell => "sell",
        }
    }
}

/// A position in one symbol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The size in base currency. Below zero the position is short.
    pub size: Decimal,
    /// The cost of the open position in quote currency, with the sign of `size`.
    pub cost: Decimal,
    /// The gains of closed parts, before fees.
    pub realized: Decimal,
    /// The fees paid.
    pub fees: Decimal,
    /// Quote currency received less quote currency paid, fees included.
    pub cash: Decimal,
}

impl Position {
    /// Applies a fill and returns the gain that it realised, less its fee.
    pub fn fill(&mut self, side: Side, price: Decimal, amount: Decimal, fee: Decimal) -> Decimal {
        let change = side.signed(amount);
        self.cash -= change * price + fee;
        self.fees += fee;
        self.merge(change, change * price) - fee
    }

    /// Takes over another position in the same symbol with all that went through it.
    pub fn absorb(&mut self, other: &Self) {
        self.realized += other.realized;
        self.fees += other.fees;
        self.cash += other.cash;
        self.merge(other.size, other.cost);
    }

    // Adds a size and its cost, which has the same sign. The parts that cancel out are closed; their gain is the difference
    // of their costs.
    fn merge(&mut self, size: Decimal, cost: Decimal) -> Decimal {
        let opposite = self.size * size < Decimal::ZERO;
        let closed = if opposite {
            self.size.abs().min(size.abs())
        } else {
            Decimal::ZERO
        };
        let (own, others) = (share(self.cost, self.size, closed), share(cost, size, closed));
        let realized = -(own + others);
        self.size += size;
        self.cost += cost - own - others;
        self.realized += realized;
        realized
    }

    /// The additional gain if the position were closed at the price `mark`.
    #[must_use]
    pub fn unrealized(&self, mark: Decimal) -> Decimal {
        self.size * mark - self.cost
    }

    /// The realised gains less fees.
    #[must_use]
    pub fn realized_net(&self) -> Decimal {
        self.realized - self.fees
    }

    /// All gains and losses at `mark`, fees included.
    #[must_use]
    pub fn total(&self, mark: Decimal) -> Decimal {
        self.realized_net() + self.unrealized(mark)
    }

    /// The average price of the open part. Zero if there is none.
    #[must_use]
    pub fn entry_price(&self) -> Decimal {
        if self.size.is_zero() {
            Decimal::ZERO
        } else {
            (self.cost / self.size).round_dp(COST_DIGITS)
        }
    }
}

fn share(cost: Decimal, size: Decimal, closed: Decimal) -> Decimal {
    match () {
        () if closed.is_zero() => Decimal::ZERO,
        () if closed == size.abs() => cost,
        () => (cost * closed / size.abs()).round_dp(COST_DIGITS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fill() -> impl Strategy<Value = (bool, i64, i64)> {
        (any::<bool>(), 1i64..2_000_000, 1i64..50_000)
    }

    fn position(fills: &[(bool, i64, i64)]) -> (Position, Decimal, Decimal) {
        let (mut position, mut size, mut realized) = (Position::default(), Decimal::ZERO, Decimal::ZERO);
        for &(buy, price, amount) in fills {
            let side = if buy { Side::Buy } else { Side::Sell };
            let (price, amount) = (Decimal::new(price, 1), Decimal::new(amount, 4));
            let fee = (price * amount * Decimal::new(5, 4)).round_dp(8);
            realized += position.fill(side, price, amount, fee);
            size += side.signed(amount);
        }
        (position, size, realized)
    }

    proptest! {
        #[test]
        fn money_adds_up(fills in prop::collection::vec(fill(), 0..60), mark in 1i64..2_000_000) {
            let mark = Decimal::new(mark, 1);
            let (position, size, realized) = position(&fills);
            prop_assert_eq!(position.size, size, "the sum of the fills");
            prop_assert_eq!(position.realized_net(), realized, "what the fills said");
            prop_assert_eq!(position.cash + position.size * mark, position.total(mark), "equity");
            prop_assert!(position.size.is_zero() == position.cost.is_zero());
        }

        #[test]
        fn absorbing_keeps_every_total(a in prop::collection::vec(fill(), 0..30), b in prop::collection::vec(fill(), 0..30)) {
            let mark = Decimal::new(950_000, 1);
            let ((mut all, ..), (other, ..)) = (position(&a), position(&b));
            let (size, total) = (all.size + other.size, all.total(mark) + other.total(mark));
            all.absorb(&other);
            prop_assert_eq!(all.size, size);
            prop_assert_eq!(all.total(mark), total);
            prop_assert_eq!(all.cash + all.size * mark, total);
        }
    }

    #[test]
    fn buying_low_and_selling_high_gains_the_difference_less_fees() {
        let mut position = Position::default();
        let (low, high, amount, fee) = (
            Decimal::from(94_000),
            Decimal::from(95_000),
            Decimal::new(1, 3),
            Decimal::new(47, 3),
        );
        assert_eq!(position.fill(Side::Buy, low, amount, fee), -fee);
        assert_eq!(position.entry_price(), low);
        assert_eq!(position.fill(Side::Sell, high, amount, fee), Decimal::ONE - fee);
        assert_eq!(
            (position.size, position.cost, position.realized),
            (Decimal::ZERO, Decimal::ZERO, Decimal::ONE)
        );
    }
}
