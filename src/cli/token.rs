//! `tickgate token`: a token for scripts, tests and first steps.

use std::time::Duration;

use clap::Args;
use tickgate::auth::{ADMIN_ROLE, Grant, mint};
use tickgate::config::duration_from_text;
use tickgate::time::unix_ms;
use tickgate_protocol::channel::Pattern;

use super::{ConfigFile, Failure, MISCONFIGURED, load, print_out};

#[derive(Args)]
pub(super) struct Arguments {
    /// The user.
    #[arg(long)]
    sub: String,
    /// The role.
    #[arg(long)]
    role: Option<String>,
    /// Patterns it may subscribe, separated by commas, in place of the role's.
    #[arg(long, value_delimiter = ',', value_parser = pattern, value_name = "PATTERNS")]
    channels: Option<Vec<Pattern>>,
    /// Actions it may send, in place of the role's.
    #[arg(long, value_delimiter = ',', value_parser = pattern, value_name = "PATTERNS")]
    commands: Option<Vec<Pattern>>,
    /// Channels it may publish to, in place of the role's.
    #[arg(long, value_delimiter = ',', value_parser = pattern, value_name = "PATTERNS")]
    publish: Option<Vec<Pattern>>,
    /// How long it is good, such as 90s, 10m, 1h or 30d.
    #[arg(long, default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    #[command(flatten)]
    file: ConfigFile,
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text).map_err(|error| format!("the pattern {error}"))
}

fn ttl(text: &str) -> Result<Duration, String> {
    match duration_from_text(text) {
        Some(ttl) if ttl >= Duration::from_secs(1) => Ok(ttl),
        _ => Err("expected at least a second, such as 90s, 10m, 1h or 30d".to_owned()),
    }
}

/// Prints the token alone, so that `$(tickgate token ...)` is one.
pub(super) fn print(arguments: &Arguments) -> Result<(), Failure> {
    let (config, _) = load(arguments.file.config.as_deref())?;
    let settings = config.auth();
    if let Some(role) = arguments.role.as_deref()
        && role != ADMIN_ROLE
        && !settings.policy.roles.contains_key(role)
    {
        eprintln!("warning: role {role} is not configured: [auth.default] says what this token may do");
    }
    let grant = Grant {
        subject: arguments.sub.as_str().into(),
        role: arguments.role.as_deref().map(Into::into),
        channels: arguments.channels.clone(),
        commands: arguments.commands.clone(),
        publish: arguments.publish.clone(),
        ttl_ms: u64::try_from(arguments.ttl.as_millis()).unwrap_or(u64::MAX),
    };
    let token = mint(&grant, &config.keys(), &settings, unix_ms());
    let token = token.map_err(|error| Failure {
        message: format!("no token was made: {error}"),
        code: MISCONFIGURED,
    })?;
    print_out(&format!("{token}\n"));
    Ok(())
}
