//! The log, on standard error. No log line of the gateway contains a token: modules log users and client ids.

use std::io::IsTerminal as _;

use tickgate::backend::commands::audit::TARGET as AUDIT;
use tickgate::config::{Format, Level};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging. Libraries log warnings and errors only, because their finer levels may quote headers.
pub(super) fn start(format: Format, level: Level) {
    let own = match level {
        Level::Off => LevelFilter::OFF,
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let filter = Targets::new()
        .with_default(own.min(LevelFilter::WARN))
        .with_target("tickgate", own)
        // The audit log stays on at every level except `off`.
        .with_target(
            AUDIT,
            if own == LevelFilter::OFF {
                own
            } else {
                own.max(LevelFilter::INFO)
            },
        );
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        Format::Human => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).init(),
        Format::Json => registry.with(lines.json().flatten_event(true)).init(),
    }
}
