//! The rates at which a client can have the values of conflating channels.
//!
//! Invariant: there are few rates. Clients with the same rate share the frames of an update, so a wish between two
//! steps is rounded down.

use std::fmt;

/// Updates per second and channel: one of [`Rate::ALL`]. A faster rate is greater.
///
/// Where a rate is optional, `None` means no limit, which is faster than any rate: see [`slower`] and [`faster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(u8);

/// For each rate, its number as text and its period in milliseconds.
const STEPS: [(&str, u64); Rate::COUNT] = [
    ("0.1", 10_000),
    ("0.2", 5_000),
    ("0.5", 2_000),
    ("1", 1_000),
    ("2", 500),
    ("5", 200),
    ("10", 100),
    ("20", 50),
];

impl Rate {
    /// The number of rates.
    pub const COUNT: usize = 8;

    /// All rates, the slowest first.
    pub const ALL: [Self; Self::COUNT] = [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5), Self(6), Self(7)];

    /// The fastest rate that is not above `per_second`; `None` if every rate is above it, or it is not a number.
    #[must_use]
    pub fn at_most(per_second: f64) -> Option<Self> {
        let mut steps = Self::ALL.into_iter().rev();
        steps.find(|rate| rate.as_str().parse::<f64>().is_ok_and(|step| step <= per_second))
    }

    /// The rate with this index, as given by [`Rate::index`].
    #[must_use]
    pub fn from_index(index: usize) -> Option<Self> {
        Self::ALL.get(index).copied()
    }

    /// Its index in [`Rate::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The time between two updates of a channel, in milliseconds.
    #[must_use]
    pub const fn period_ms(self) -> u64 {
        STEPS[self.0 as usize].1
    }

    /// The updates per second, as a JSON number.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        STEPS[self.0 as usize].0
    }

    /// All rates as text, the fastest first.
    #[must_use]
    pub fn list() -> String {
        let texts: Vec<_> = Self::ALL.into_iter().rev().map(Self::as_str).collect();
        texts.join(", ")
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The slower of two limits. `None`: no limit.
#[must_use]
pub fn slower(left: Option<Rate>, right: Option<Rate>) -> Option<Rate> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.min(right)),
        (limit, None) | (None, limit) => limit,
    }
}

/// The faster of two limits. `None`: no limit.
#[must_use]
pub fn faster(left: Option<Rate>, right: Option<Rate>) -> Option<Rate> {
    Some(left?.max(right?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_rounded_down_to_a_step() {
        let granted = |wish: f64| Rate::at_most(wish).map(Rate::as_str);
        for (wish, step) in [
            (1e300, Some("20")),
            (20.0, Some("20")),
            (19.99, Some("10")),
            (4.0, Some("2")),
            (0.5, Some("0.5")),
            (0.1, Some("0.1")),
            (0.099, None),
            (0.0, None),
            (-1.0, None),
            (f64::NAN, None),
        ] {
            assert_eq!(granted(wish), step, "{wish}");
        }
    }

    #[test]
    fn a_period_holds_one_update() {
        for rate in Rate::ALL {
            let per_second: f64 = rate.as_str().parse().expect("a number");
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let updates = per_second * rate.period_ms() as f64;
            assert!((updates - 1000.0).abs() < 1e-6, "{rate}");
            assert_eq!(Rate::from_index(rate.index()), Some(rate));
        }
        assert!(Rate::ALL.is_sorted());
    }

    #[test]
    fn no_limit_is_faster_than_any_rate() {
        let [slow, .., fast] = Rate::ALL.map(Some);
        assert_eq!(
            (slower(slow, fast), slower(None, fast), slower(None, None)),
            (slow, fast, None)
        );
        assert_eq!(
            (faster(slow, fast), faster(slow, None), faster(None, None)),
            (fast, None, None)
        );
    }
}
