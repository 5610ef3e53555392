//! The typed dialect: events have their own names as `type`, subscriptions have types, targets and symbols, and times are
//! ISO 8601.
//!
//! Invariant: its messages differ from the native ones only in events, `connected`, the notation of `timestamp` and the
//! fields that name subscriptions. All else is the code of the native dialect.

mod encode;
mod event;
mod parse;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) use encode::{encode_reply, write_reply};
pub(super) use event::{encode_event, public_name, push_message, push_user};
pub(super) use parse::parse;
pub use template::{Template, TemplateError};

/// The `subscription_type` of a `subscribe` that has a `target` and no type.
const DEFAULT_TYPE: &str = "strategy";

/// The settings of an endpoint with this dialect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The pattern template of each `subscription_type`.
    pub subscription_types: BTreeMap<Box<str>, Template>,
    /// The notation of times.
    pub timestamps: Timestamps,
    /// The `message` of `connected`, for people.
    pub connected_message: Arc<str>,
}

/// The notation of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// `2025-11-24T10:30:00Z`
    #[default]
    Utc,
    /// `2025-11-24T10:30:00`, for clients whose parsers accept no time zone. The time is UTC nevertheless.
    Naive,
}

impl Default for Settings {
    /// The types `strategy`, `stock` and `market` (for boards), times with a `Z`, and `WebSocket connected`.
    fn default() -> Self {
        Self {
            subscription_types: [
                (DEFAULT_TYPE, "strategy.{target}.prices"),
                ("stock", "stock.{target}.price"),
                ("market", "board.{target}.prices"),
            ]
            .into_iter()
            .map(|(name, text)| (name.into(), text.parse().expect("a template")))
            .collect(),
            timestamps: Timestamps::Utc,
            connected_message: "WebSocket connected".into(),
        }
    }
}

impl Timestamps {
    /// Appends Unix milliseconds as a JSON string of whole seconds. Times after the year 9999 are written as its end.
    pub(super) fn push(self, unix_ms: u64, out: &mut Vec<u8>) {
        use jiff::Timestamp;
        use jiff::fmt::temporal::DateTimePrinter;

        const PRINTER: DateTimePrinter = DateTimePrinter::new();
        let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
        let time = Timestamp::from_second(seconds.min(Timestamp::MAX.as_second())).unwrap_or(Timestamp::MAX);
        out.push(b'"');
        // Writing to a vector does not fail.
        let _ = PRINTER.print_timestamp(&time, &mut *out);
        if self == Self::Naive && out.last() == Some(&b'Z') {
            out.pop();
        }
        out.push(b'"');
    }
}
