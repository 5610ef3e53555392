//! Money and amounts: decimal numbers in memory, plain numbers in JSON.
//!
//! Invariant: a value is written with its exact digits and read without conversion to a binary float.

use std::str::FromStr as _;

use rust_decimal::Decimal;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

// The bounds of numbers from clients. They suffice for any price or amount, and products do not overflow.
const LARGEST: Decimal = Decimal::from_parts(1_000_000_000, 0, 0, false, 0);
const FRACTION_DIGITS_MAX: u32 = 12;

/// A decimal that is a JSON number on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Number(pub Decimal);

impl From<Decimal> for Number {
    fn from(value: Decimal) -> Self {
        Self(value)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.0.normalize().to_string();
        RawValue::from_string(text)
            .map_err(S::Error::custom)?
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let text = raw.get();
        if !text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) {
            return Err(D::Error::custom("expected a number"));
        }
        let parsed = if text.contains(['e', 'E']) {
            Decimal::from_scientific(text)
        } else {
            Decimal::from_str(text)
        };
        match parsed.map(|value| value.normalize()) {
            Ok(value) if value.abs() <= LARGEST && value.scale() <= FRACTION_DIGITS_MAX => Ok(Self(value)),
            _ => Err(D::Error::custom("a number is too large or has too many digits")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_their_digits_both_ways() {
        for (text, written) in [
            ("94000", "94000"),
            ("0.1", "0.1"),
            ("0.005432", "0.005432"),
            ("-12.50", "-12.5"),
            ("1e3", "1000"),
            ("2.5E-3", "0.0025"),
            ("0", "0"),
        ] {
            let number: Number = serde_json::from_str(text).expect(text);
            assert_eq!(serde_json::to_string(&number).expect("a number"), written);
        }
    }

    #[test]
    fn other_types_and_numbers_out_of_bounds_are_refused() {
        for text in [
            "\"1\"",
            "null",
            "true",
            "[1]",
            "1e400",
            "1000000001",
            "0.1234567890123",
            "1e-13",
            "{}",
        ] {
            assert!(serde_json::from_str::<Number>(text).is_err(), "{text}");
        }
    }
}
