//! `[broker]` and `[log]`.

use crate::config::declare::section;
use crate::config::value::choices;

section! {
    /// `[broker]`.
    struct Broker {
        /// The connection between gateways. `embedded`: this gateway stands alone.
        value kind: BrokerKind = BrokerKind::Embedded;

        refused "url" "brokers other than the embedded one: not supported by this version";
        refused "credentials_file" "brokers other than the embedded one: not supported by this version";
        refused "prefix" "brokers other than the embedded one: not supported by this version";
    }
}

/// `kind`: what carries events between gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum BrokerKind {
    Embedded,
}

choices!(BrokerKind { "embedded" => Self::Embedded } not { "nats", "redis" });

section! {
    /// `[log]`.
    struct Log {
        /// `human`: lines for people. `json`: one object per line.
        value format: Format = Format::Human;
        /// The least important lines that are written.
        value level: Level = Level::Info;
    }
}

/// `format`: how log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

choices!(Format { "human" => Self::Human, "json" => Self::Json });

/// `level`: the least important lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// No lines.
    Off,
    /// Failures.
    Error,
    /// Also what an operator should look at.
    Warn,
    /// Also normal events that an operator wants to have on record.
    Info,
    /// Also details that help to find a fault.
    Debug,
    /// Everything.
    Trace,
}

choices!(Level {
    "off" => Self::Off, "error" => Self::Error, "warn" => Self::Warn,
    "info" => Self::Info, "debug" => Self::Debug, "trace" => Self::Trace,
});
