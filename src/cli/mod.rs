//! The command line.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | success; for `serve` and `demo`: drained |
//! | 1 | failed while running; for `health`: the gateway is not well |
//! | 2 | the command line or the configuration is wrong |
//! | 3 | drained, but the snapshot could not be completed |
//! | 128 + signal | a second signal ended a drain |

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tickgate::config::{Config, Environment};

mod demo;
mod first_steps;
mod health;
mod logging;
mod reload;
mod restart;
mod serve;
mod signals;
mod snapshot;
mod token;

/// The exit code of a failure while running.
const FAILED: u8 = 1;
/// The exit code when the command line or the configuration is wrong and nothing was started. clap uses it, too.
const MISCONFIGURED: u8 = 2;
/// The exit code when a gateway drained and its last state could not be written.
const NOT_SAVED: u8 = 3;

/// A WebSocket edge gateway that fans out a trading platform's events and never loses or leaks any.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the gateway. If no key is configured and all listeners are local, it makes keys for this run and prints
    /// commands to try it.
    Serve(ConfigFile),
    /// Runs the gateway with a paper-trading backend, a page to watch it and tokens to use it.
    Demo(demo::Arguments),
    /// Checks the configuration and prints the effective one as TOML, without secrets.
    Check(ConfigFile),
    /// Prints a token signed with the first HMAC key.
    Token(token::Arguments),
    /// Looks at the file of state.snapshot, repairs it, or sets it aside. The gateway must not be running.
    #[command(subcommand)]
    Snapshot(snapshot::Command),
    /// Asks the running gateway of this configuration how it is. The exit code is 0 if it is well, otherwise 1.
    Health(health::Arguments),
}

/// The option that names the configuration.
#[derive(clap::Args)]
struct ConfigFile {
    /// The TOML file; without one the defaults apply. TICKGATE_<SECTION>__<KEY> variables override it.
    #[arg(long, env = "TICKGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// A failed command: the message for standard error, and the exit code.
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn running(error: &dyn std::error::Error) -> Self {
        Self {
            message: error.to_string(),
            code: FAILED,
        }
    }

    fn misconfigured(error: &dyn std::error::Error) -> Self {
        Self {
            message: error.to_string(),
            code: MISCONFIGURED,
        }
    }
}

/// Parses the command line and runs the command.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(file) => serve::serve(file.config.as_deref()),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Check(file) => check(file.config.as_deref()),
        Command::Token(arguments) => token::print(&arguments),
        Command::Snapshot(command) => snapshot::run(&command),
        Command::Health(arguments) => health::ask(&arguments),
    };
    let unwritten = logging::flush(logging::AUDIT_FLUSH_TIMEOUT);
    let outcome = outcome.and_then(|()| match unwritten {
        0 => Ok(()),
        lines => Err(Failure {
            message: format!("{lines} audit lines could not be written: standard error was not read"),
            code: FAILED,
        }),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print_error(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn load(file: Option<&Path>) -> Result<(Config, Environment), Failure> {
    let environment = Environment::of_process();
    let config = Config::load(file, &environment).map_err(|problems| Failure::misconfigured(&problems))?;
    Ok((config, environment))
}

/// Prints to standard output. Characters that act on a terminal are escaped, line breaks are not.
fn print_out(text: &str) {
    logging::write_bounded(std::io::stdout(), tickgate_escape::lines(text).into_owned());
}

/// Prints a message to standard error, as [`print_out`] does. It may have several lines.
fn print_error(message: &str) {
    logging::write_bounded(std::io::stderr(), format!("{}\n", tickgate_escape::lines(message)));
}

fn check(file: Option<&Path>) -> Result<(), Failure> {
    let (config, environment) = load(file)?;
    config
        .needs_run_keys(&environment)
        .map_err(|error| Failure::misconfigured(&error))?;
    for warning in config.warnings(&environment) {
        print_error(&tickgate_escape::line(&format!("warning: {warning}")));
    }
    for open in config.open_to_anybody() {
        print_error(&open);
    }
    for explained in config.explained() {
        print_error(&tickgate_escape::line(&explained));
    }
    print_out(&format!("{}\n{}", config.to_toml(), Config::built_in_classes()));
    let name = file.map_or_else(|| "the default configuration".into(), Path::to_string_lossy);
    print_error(&tickgate_escape::line(&format!("{name}: valid")));
    Ok(())
}
