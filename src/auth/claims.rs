//! Reads the claims of a token strictly (RFC 7519, section 4).
//!
//! Invariant: a claim of a wrong type, or one that is given twice, is an error, so that no other reader of the token
//! understands it differently. `null` counts as absent.

use std::fmt;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use tickgate_protocol::channel::{Pattern, Tenant, is_segment};
use tickgate_protocol::rate::Rate;

use super::{BYTES_PER_SECOND_MIN, TokenError};

/// Later times count as the last millisecond of the year 9999. It can be formatted as a date, and sums with it do not
/// overflow.
const TIME_MS_MAX: u64 = 253_402_300_799_999;

/// All claims of one token, unparsed.
pub(super) struct Claims<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Claims<'a> {
    /// Splits the decoded payload into claims.
    pub(super) fn parse(payload: &'a [u8]) -> Result<Self, TokenError> {
        serde_json::from_slice(payload)
            .map_err(|_| TokenError::invalid("the token's payload is not a JSON object, or has a claim twice"))
    }

    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let (_, value) = self.0.iter().find(|(key, _)| key == name)?;
        (value.get() != "null").then_some(value)
    }

    fn get<T: DeserializeOwned>(&self, name: &str, expected: &str) -> Result<Option<T>, TokenError> {
        let parse = |raw: &RawValue| serde_json::from_str(raw.get());
        let parsed = self.raw(name).map(parse).transpose();
        parsed.map_err(|_| TokenError::invalid(format!("claim {name} must be {expected}")))
    }

    /// A claim that is a string.
    pub(super) fn text(&self, name: &str) -> Result<Option<Box<str>>, TokenError> {
        self.get(name, "a string")
    }

    /// The user: a string or an integer that is a valid channel segment.
    pub(super) fn subject(&self, name: &str) -> Result<Box<str>, TokenError> {
        let raw = self.raw(name);
        let raw = raw.ok_or_else(|| TokenError::invalid(format!("claim {name} is missing")))?;
        let subject: Box<str> = match raw.get() {
            "-0" => "0".into(),
            digits if digits.bytes().all(|b| b.is_ascii_digit() || b == b'-') => digits.into(),
            _ => self.get(name, "a string or an integer")?.unwrap_or_default(),
        };
        if is_segment(&subject) {
            return Ok(subject);
        }
        let rule = "must be one channel segment (no dot, star, white space or control character)";
        Err(TokenError::invalid(format!("claim {name} {rule}")))
    }

    /// A claim that is a time in seconds, with or without a fraction, as Unix milliseconds. A negative time gives 0.
    pub(super) fn time_ms(&self, name: &str) -> Result<Option<u64>, TokenError> {
        let seconds: Option<f64> = self.get(name, "a number of seconds")?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a float cast saturates"
        )]
        let to_ms = |seconds: f64| ((seconds * 1000.0).round() as u64).min(TIME_MS_MAX);
        Ok(seconds.map(to_ms))
    }

    /// A claim that is a rate: a number, rounded down to a rate that there is.
    pub(super) fn rate(&self, name: &str) -> Result<Option<Rate>, TokenError> {
        let per_second: Option<f64> = self.get(name, "a number of updates per second")?;
        let rate = |per_second| {
            let problem = || format!("claim {name} must be at least {} updates per second", Rate::ALL[0]);
            Rate::at_most(per_second).ok_or_else(|| TokenError::invalid(problem()))
        };
        per_second.map(rate).transpose()
    }

    /// A claim that is a number of bytes in a second; 0: no limit.
    pub(super) fn bytes_per_second(&self, name: &str) -> Result<Option<u32>, TokenError> {
        let bytes: Option<u32> = self.get(name, "a whole number of bytes per second, at most 4294967295")?;
        if bytes.is_none_or(|bytes| bytes == 0 || bytes >= BYTES_PER_SECOND_MIN) {
            return Ok(bytes);
        }
        let problem = format!("claim {name} must be 0 or at least {BYTES_PER_SECOND_MIN} bytes per second");
        Err(TokenError::invalid(problem))
    }

    /// Whether `aud` is or contains `audience`.
    pub(super) fn names_audience(&self, audience: &str) -> Result<bool, TokenError> {
        let given: Option<OneOrMany> = self.get("aud", "a string or an array of strings")?;
        Ok(match given {
            None => false,
            Some(OneOrMany::One(one)) => *one == *audience,
            Some(OneOrMany::Many(many)) => many.iter().any(|one| **one == *audience),
        })
    }

    /// A claim that is a list of patterns, as patterns of a tenant.
    pub(super) fn patterns(&self, name: &str, tenant: Tenant) -> Result<Option<Vec<Pattern>>, TokenError> {
        let texts: Option<Vec<String>> = self.get(name, "an array of patterns")?;
        let parse = |(index, text): (usize, String)| {
            let pattern = Pattern::parse(&text);
            let pattern = pattern.map_err(|why| TokenError::invalid(format!("claim {name}: item {index} {why}")))?;
            Ok(pattern.in_tenant(tenant))
        };
        texts
            .map(|texts| texts.into_iter().enumerate().map(parse).collect())
            .transpose()
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Box<str>),
    Many(Vec<Box<str>>),
}

impl<'de> Deserialize<'de> for Claims<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Claims<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims<'de>, A::Error> {
                let mut claims: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if claims.iter().any(|(earlier, _)| *earlier == name) {
                        return Err(de::Error::custom("a claim is given twice"));
                    }
                    claims.push((name, value));
                }
                Ok(Claims(claims))
            }
        }

        deserializer.deserialize_map(Object)
    }
}
