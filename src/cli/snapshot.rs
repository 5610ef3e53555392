//! `tickgate snapshot`: looks at the file of a gateway that does not run, repairs it, or sets it aside.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use tickgate::hub::snapshot::{self, Contents, Error, Found, Repaired};

use super::{ConfigFile, FAILED, Failure, MISCONFIGURED, load, print_out};

/// How many lost channels are named.
const NAMED_MAX: usize = 20;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Reads the whole file, checks it and prints what it has. The exit code is 1 if it is damaged.
    Check(Arguments),
    /// Replaces a damaged file by a new one with all channels that can be read as a whole, and says what is lost. The
    /// damaged file is kept beside it. The next start begins a new epoch.
    Repair(Arguments),
    /// Renames the file, so that the next start begins with an empty state.
    Drop(Arguments),
}

#[derive(Args)]
pub(super) struct Arguments {
    /// The file; without one, that of the configuration's state.snapshot.
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigFile,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    let (Command::Check(arguments) | Command::Repair(arguments) | Command::Drop(arguments)) = command;
    let path = arguments.path()?;
    let failed = |error: Error| failure(&path, &error);
    let text = match command {
        Command::Check(_) => describe(&path, &snapshot::check(&path).map_err(failed)?),
        Command::Repair(_) => match snapshot::repair(&path).map_err(failed)? {
            Repaired::Whole(found) => format!("{}nothing to repair\n", describe(&path, &found)),
            Repaired::Replaced {
                kept,
                lost_channels,
                lost_rows,
                cut_tables,
                may_be_earlier,
                original,
            } => {
                let named: Vec<&str> = lost_channels.iter().take(NAMED_MAX).map(|name| &**name).collect();
                let dots = if lost_channels.len() > NAMED_MAX { ", ..." } else { "" };
                let cut = if cut_tables.is_empty() {
                    String::new()
                } else {
                    let tables = cut_tables.join(", ");
                    format!(
                        "  parts of the tables {tables} cannot be reached: channels that nothing names may be lost\n"
                    )
                };
                let earlier = if may_be_earlier {
                    "  the last save may be lost: the rest is as the file was before it\n"
                } else {
                    ""
                };
                format!(
                    "{}: repaired; the next start begins a new epoch\n  kept: {}\n  lost: {} channels of which a part \
                     cannot be read{}{}{dots}; {lost_rows} rows\n{cut}{earlier}  the damaged file is kept as {}\n",
                    path.display(),
                    contents(&kept),
                    lost_channels.len(),
                    if named.is_empty() { "" } else { ": " },
                    named.join(", "),
                    original.display(),
                )
            }
        },
        Command::Drop(_) => {
            let aside = snapshot::drop_file(&path).map_err(failed)?;
            format!(
                "{} is now {}; the next start begins with an empty state\n",
                path.display(),
                aside.display()
            )
        }
    };
    print_out(&text);
    Ok(())
}

impl Arguments {
    fn path(&self) -> Result<PathBuf, Failure> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let (config, _) = load(self.config.config.as_deref())?;
        config.snapshot_path().map(Path::to_path_buf).ok_or_else(|| Failure {
            message: "no file is named, and the configuration has no state.snapshot".to_owned(),
            code: MISCONFIGURED,
        })
    }
}

fn failure(path: &Path, error: &Error) -> Failure {
    let remedy = match error {
        Error::Damaged(_) => {
            "; it is left as it is: `tickgate snapshot repair` keeps what can be read of it, `tickgate snapshot drop` \
             sets it aside"
        }
        Error::Hopeless(_) => {
            "; it is left as it is: `tickgate snapshot drop` sets it aside, and the next start begins with an empty state and \
             a new epoch"
        }
        Error::InUse => "; stop the gateway first",
        Error::Layout { .. } => "; use the version that wrote it",
        _ => "",
    };
    Failure {
        message: format!("{}: {error}{remedy}", path.display()),
        code: FAILED,
    }
}

fn describe(path: &Path, found: &Found) -> String {
    let state = if found.open {
        "open: its run was killed, and the next start begins a new epoch"
    } else {
        "complete: the next start continues its epoch"
    };
    format!(
        "{}: whole, {} bytes, layout {}, epoch {}\n  {state}\n  {}\n",
        path.display(),
        found.bytes,
        found.layout,
        found.epoch,
        contents(&found.contents),
    )
}

fn contents(contents: &Contents) -> String {
    let Contents {
        channels,
        events,
        lasts,
        records,
        evicted_names,
        ids,
        command_keys,
        sessions,
        revocations,
    } = contents;
    format!(
        "{channels} channels with {events} events in histories, {lasts} last values and {records} records; \
         {evicted_names} names of evicted channels; {ids} ids; {command_keys} keys of commands; \
         {sessions} sessions of Socket.IO; {revocations} revocations"
    )
}
