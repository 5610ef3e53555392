//! Log lines, to standard error. No line of the gateway holds a token: rooms log users and client ids.

use std::io::IsTerminal as _;

use tickgate::backend::commands::audit::TARGET as AUDIT;
use tickgate::config::{Format, Level};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging. Libraries are heard from warnings on, since what they tell below is theirs and may quote headers.
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
        // Who did what is kept however little else is.
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
