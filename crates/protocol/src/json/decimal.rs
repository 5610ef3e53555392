//! Exact decimal numbers, compared without binary floating point.

use std::cmp::Ordering;
use std::fmt;

/// A longer row of zeros is written as an exponent.
const ZEROS_MAX: usize = 18;

/// The value of a JSON number, whatever its notation: `1`, `1.0` and `10e-1` are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Decimal {
    negative: bool,
    // Without leading and trailing zeros; empty for zero.
    digits: Box<str>,
    // The value is `digits` times ten to this power. 0 for zero.
    exponent: i64,
}

impl Decimal {
    /// Reads a number as JSON writes it, without white space around it. `None`: the text is not such a number, or its
    /// exponent does not fit into an `i64`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, number) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match number.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (number, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) if is_digits(fraction) => (whole, fraction),
            Some(_) => return None,
            None => (mantissa, ""),
        };
        if !is_digits(whole) || whole.len() > 1 && whole.starts_with('0') {
            return None;
        }
        let digits = [whole, fraction].concat();
        let significant = digits.trim_end_matches('0');
        let zeros = digits.len() - significant.len();
        let significant = significant.trim_start_matches('0');
        if significant.is_empty() {
            return Some(Self::default());
        }
        let exponent = exponent
            .checked_sub(i64::try_from(fraction.len()).ok()?)?
            .checked_add(i64::try_from(zeros).ok()?)?;
        Some(Self {
            negative,
            digits: significant.into(),
            exponent,
        })
    }

    /// Whether the value is 0.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// Whether the value is below 0.
    #[must_use]
    pub const fn is_negative(&self) -> bool {
        self.negative
    }

    fn compare_size(&self, other: &Self) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) => {}
        }
        // The power of ten of the first digit. Both digits strings begin with a digit that is not 0.
        let power = |decimal: &Self| i128::from(decimal.exponent) + decimal.digits.len() as i128;
        power(self)
            .cmp(&power(other))
            .then_with(|| self.digits.cmp(&other.digits))
    }
}

impl From<i64> for Decimal {
    fn from(number: i64) -> Self {
        Self::parse(&number.to_string()).unwrap_or_default()
    }
}

impl fmt::Display for Decimal {
    /// A JSON number. Equal decimals have the same text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.negative { "-" } else { "" };
        match usize::try_from(self.exponent) {
            _ if self.is_zero() => f.write_str("0"),
            Ok(zeros) if zeros <= ZEROS_MAX => write!(f, "{sign}{}{}", self.digits, "0".repeat(zeros)),
            _ => write!(f, "{sign}{}e{}", self.digits, self.exponent),
        }
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.compare_size(other),
            (true, true) => other.compare_size(self),
        }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn read_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !is_digits(digits) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).expect(text)
    }

    #[test]
    fn decimals_are_ordered_by_their_value() {
        let rising = [
            "-1e30",
            "-10.5",
            "-10",
            "-0.2",
            "-0.10",
            "0",
            "1e-30",
            "0.09",
            "0.1",
            "0.11",
            "1",
            "9",
            "9.5",
            "10",
            "94000",
            "94000.5",
            "94000.50000000000000000001",
            "1e30",
        ];
        for (index, low) in rising.iter().enumerate() {
            for (other, high) in rising.iter().enumerate() {
                assert_eq!(decimal(low).cmp(&decimal(high)), index.cmp(&other), "{low} {high}");
            }
        }
        for (a, b) in [("0", "-0.00e9"), ("1.10", "1.1"), ("100", "1E+2"), ("0.05", "5e-2")] {
            assert_eq!(decimal(a), decimal(b), "{a} {b}");
            assert_eq!(decimal(a).cmp(&decimal(b)), Ordering::Equal, "{a} {b}");
            assert_eq!(decimal(a).to_string(), decimal(b).to_string());
        }
        for (number, text) in [("-0.50", "-5e-1"), ("1200", "1200"), ("1e30", "1e30"), ("0e5", "0")] {
            assert_eq!(decimal(number).to_string(), text);
            assert_eq!(decimal(text), decimal(number));
        }
    }

    #[test]
    fn only_json_numbers_are_decimals() {
        for text in [
            "",
            "-",
            "+1",
            ".5",
            "1.",
            "01",
            "-01",
            "1e",
            "1e+",
            "0x1",
            "1 ",
            " 1",
            "NaN",
            "1,5",
            "1e99999999999999999999",
            "--1",
            "1.-1",
        ] {
            assert_eq!(Decimal::parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_order_is_that_of_integers(a in any::<i64>(), b in any::<i64>(), zeros in 0usize..4) {
            let shifted = |number: i64| format!("{number}{}e-{zeros}", "0".repeat(zeros));
            let shift = |number: i64| if number == 0 { "0".to_owned() } else { shifted(number) };
            prop_assert_eq!(decimal(&shift(a)).cmp(&Decimal::from(b)), a.cmp(&b));
        }
    }
}
