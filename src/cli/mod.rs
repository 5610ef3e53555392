//! The command line. Exit codes: 0 done (`serve`, `demo`: drained), 1 failed while running, 2 the command line or the
//! configuration is wrong, 128 plus the signal's number when a second signal ends a drain.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tickgate::config::{Config, Environment};

mod demo;
mod logging;
mod serve;
mod token;

/// Failed while running.
const FAILED: u8 = 1;
/// Nothing was started: the command line or the configuration is wrong. clap's own code for the former.
const MISCONFIGURED: u8 = 2;

/// A WebSocket edge gateway that fans out a trading platform's events and never loses or leaks any.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the gateway. Without any key configured and on loopback only, it makes keys for this run and prints lines
    /// to try.
    Serve(ConfigFile),
    /// Runs the gateway with a paper-trading backend, a page to watch it and tokens to use it.
    Demo(demo::Arguments),
    /// Validates the configuration and prints what is in effect, as TOML, secrets hidden.
    Check(ConfigFile),
    /// Prints a token signed with the first HMAC key.
    Token(token::Arguments),
}

/// Which configuration.
#[derive(clap::Args)]
struct ConfigFile {
    /// The TOML file; without one everything is default. TICKGATE_<SECTION>__<KEY> variables are laid over it.
    #[arg(long, env = "TICKGATE_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Why a command ended without success: what to say, and the exit code.
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

/// Does what the command line says.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(file) => serve::serve(file.config.as_deref()),
        Command::Demo(arguments) => demo::demo(&arguments),
        Command::Check(file) => check(file.config.as_deref()),
        Command::Token(arguments) => token::print(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn load(file: Option<&Path>) -> Result<(Config, Environment), Failure> {
    let environment = Environment::of_process();
    let config = Config::load(file, &environment).map_err(|problems| Failure::misconfigured(&problems))?;
    Ok((config, environment))
}

/// To standard output; a reader that has gone away is no reason to fail.
fn print_out(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn check(file: Option<&Path>) -> Result<(), Failure> {
    let (config, environment) = load(file)?;
    config
        .needs_run_keys(&environment)
        .map_err(|error| Failure::misconfigured(&error))?;
    for warning in config.warnings() {
        eprintln!("warning: {warning}");
    }
    print_out(&config.to_toml());
    Ok(())
}
