//! `[log]`.

use crate::config::check::Check;
use crate::config::declare::section;
use crate::config::value::choices;
use crate::log_level::{Level, Levels};

section! {
    /// `[log]`.
    struct Log {
        /// `human`: lines for people. `json`: one object per line.
        value format: Format = Format::Human;
        /// The least important lines that are written: `off`, `error`, `warn`, `info`, `debug` or `trace`. Single modules may have
        /// another level, with the modules in them: `"info,hub=debug,backend::commands=trace"`. `PUT /api/log` changes it for a
        /// while.
        value level: Levels = Levels::of(Level::Info);
        /// What happens to audit lines (`command[].audit`) that standard error does not take. `bounded`: they wait in memory with
        /// the other lines, and are dropped beyond 8192; nothing waits for them. `lossless`: none is dropped, and a command of
        /// an audited route is sent to its backend only after there is room for its line (1024 may be unwritten). So while
        /// nobody reads the log, these commands wait and, when their `timeout` is over, are refused with
        /// `BACKEND_UNAVAILABLE`. Other commands, events and connections do not wait. Lines of refused commands wait too;
        /// more than 8192 are counted and not written. The end of the process waits for unwritten lines for up to 10 s, and
        /// fails if some are left.
        value audit: AuditMode = AuditMode::Bounded;

        rule a_lossless_trail_is_written;
    }
}

fn a_lossless_trail_is_written(log: &Log, check: &mut Check<'_>) {
    if log.audit == AuditMode::Lossless && log.level.all == Level::Off {
        let message =
            "log.audit = \"lossless\" and log.level = \"off\" contradict each other: no audit line would be written";
        check.contradiction(["audit", "level"], message);
    }
}

/// `audit`: what happens to audit lines that cannot be written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditMode {
    /// Too many are dropped.
    Bounded,
    /// Commands wait for them.
    Lossless,
}

choices!(AuditMode { "bounded" => Self::Bounded, "lossless" => Self::Lossless });

/// `format`: how log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

choices!(Format { "human" => Self::Human, "json" => Self::Json });
