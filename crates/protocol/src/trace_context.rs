//! The `traceparent` of W3C Trace Context: which trace a request belongs to, and which span it was made in.

use std::fmt;
use std::str::FromStr;

/// The header of a request that holds a [`TraceParent`].
pub const TRACE_HEADER: &str = "traceparent";

/// The position of a request in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span that made the request; not 0.
    pub span_id: u64,
    /// Whether the caller records the trace.
    pub is_sampled: bool,
}

impl TraceParent {
    /// The trace, if the caller records it.
    #[must_use]
    pub fn sampled_trace(self) -> Option<u128> {
        self.is_sampled.then_some(self.trace_id)
    }
}

/// Why a text is not a `traceparent`. A receiver ignores such a text (section 3.2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a traceparent such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")]
pub struct NotTraceParent;

/// The length of version 00.
const LENGTH: usize = 55;

impl FromStr for TraceParent {
    type Err = NotTraceParent;

    fn from_str(text: &str) -> Result<Self, NotTraceParent> {
        let bytes = text.as_bytes();
        let is_separated = |index: usize| bytes.get(index) == Some(&b'-');
        let hex = |from: usize, to: usize| {
            let digits = text.get(from..to)?;
            let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            digits.bytes().all(is_hex).then_some(digits)
        };
        let number = |from, to| hex(from, to).and_then(|digits| u128::from_str_radix(digits, 16).ok());
        let read = || {
            let version = number(0, 2).filter(|version| *version != 0xff)?;
            // A later version may have more fields behind these.
            let is_whole = bytes.len() == LENGTH || version > 0 && is_separated(LENGTH);
            if !is_whole || ![2, 35, 52].into_iter().all(is_separated) {
                return None;
            }
            let span_id = u64::try_from(number(36, 52)?).ok();
            Some(Self {
                trace_id: number(3, 35).filter(|id| *id != 0)?,
                span_id: span_id.filter(|id| *id != 0)?,
                is_sampled: number(53, 55)? & 1 == 1,
            })
        };
        read().ok_or(NotTraceParent)
    }
}

/// As version 00.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{:032x}-{:016x}-{flags:02x}", self.trace_id, self.span_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_read_and_written() {
        let read: TraceParent = EXAMPLE.parse().expect("the example of the specification");
        assert_eq!(read.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!((read.span_id, read.is_sampled), (0xb7ad_6b71_6920_3331, true));
        assert_eq!(read.to_string(), EXAMPLE);
        let unsampled = EXAMPLE.replace("-01", "-00");
        let read: TraceParent = unsampled.parse().expect("valid");
        assert_eq!((read.is_sampled, read.to_string()), (false, unsampled));
        // Flags that are not known yet, and a later version with one more field.
        for text in [
            EXAMPLE.replace("-01", "-ff"),
            format!("cc{}-what the future will be", &EXAMPLE[2..]),
            format!("01{}", &EXAMPLE[2..]),
        ] {
            let read: TraceParent = text.parse().unwrap_or_else(|error| panic!("{text} {error}"));
            assert!(read.is_sampled, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            String::new(),
            format!("{EXAMPLE}-more"),
            format!("cc{}.more", &EXAMPLE[2..]),
            format!("ff{}", &EXAMPLE[2..]),
            EXAMPLE.to_uppercase(),
            EXAMPLE.replace('-', "_"),
            EXAMPLE.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            EXAMPLE.replace("b7ad6b7169203331", &"0".repeat(16)),
            EXAMPLE[..54].to_owned(),
            EXAMPLE.replace("0af", "é0"),
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(NotTraceParent), "{text}");
        }
    }
}
