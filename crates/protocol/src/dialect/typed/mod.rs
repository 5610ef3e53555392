//! The typed dialect: events go by their own names, subscriptions by types, targets and symbols, times as ISO 8601.
//!
//! Invariant: its messages are the native ones but for events, `connected`, the form of `timestamp`, and how
//! subscriptions are named; everything else is the native dialect's own code.

mod encode;
mod event;
mod parse;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub(super) use encode::{encode_reply, write_reply};
pub(super) use event::{encode_event, public_name, push_message, push_user};
pub(super) use parse::parse;
pub use template::{Template, TemplateError};

/// The type that a `subscribe` with a `target` means when it names none.
pub const DEFAULT_TYPE: &str = "strategy";

/// `[[endpoint]]`: what connections of one endpoint of this dialect share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where each `subscription_type` leads.
    pub subscription_types: BTreeMap<Box<str>, Template>,
    /// How times are written.
    pub timestamps: Timestamps,
}

/// How times are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Timestamps {
    /// `2025-11-24T10:30:00Z`
    #[default]
    Utc,
    /// `2025-11-24T10:30:00`, for clients whose parsers want no zone. It is UTC all the same.
    Naive,
}

impl Default for Settings {
    /// The types `strategy`, `stock` and `market` (boards), and UTC.
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
        }
    }
}

impl Timestamps {
    /// Appends Unix milliseconds as a JSON string. Times beyond the year 9999 are written as its end.
    pub(super) fn push(self, unix_ms: u64, out: &mut Vec<u8>) {
        use jiff::Timestamp;
        use jiff::fmt::temporal::DateTimePrinter;

        const PRINTER: DateTimePrinter = DateTimePrinter::new();
        let seconds = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
        let time = Timestamp::from_second(seconds.min(Timestamp::MAX.as_second())).unwrap_or(Timestamp::MAX);
        out.push(b'"');
        // A vector takes everything; whole seconds are printed without a fraction.
        let _ = PRINTER.print_timestamp(&time, &mut *out);
        if self == Self::Naive && out.last() == Some(&b'Z') {
            out.pop();
        }
        out.push(b'"');
    }
}
