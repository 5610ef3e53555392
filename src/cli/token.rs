//! `tickgate token`: signs a token for scripts, tests and first steps.

use std::time::Duration;

use clap::Args;
use tickgate::auth::{ADMIN_ROLE, Grant, mint};
use tickgate::config::duration_from_text;
use tickgate::time::unix_ms;
use tickgate_protocol::channel::Pattern;

use super::{ConfigFile, Failure, MISCONFIGURED, load, print_error, print_out};

#[derive(Args)]
pub(super) struct Arguments {
    /// The user.
    #[arg(long)]
    sub: String,
    /// The role.
    #[arg(long)]
    role: Option<String>,
    /// Patterns that the user may subscribe to, separated by commas. They replace the role's.
    #[arg(long, value_delimiter = ',', value_parser = pattern, value_name = "PATTERNS")]
    channels: Option<Vec<Pattern>>,
    /// Actions that the user may send. They replace the role's.
    #[arg(long, value_delimiter = ',', value_parser = pattern, value_name = "PATTERNS")]
    commands: Option<Vec<Pattern>>,
    /// Channels that the user may publish to. They replace the role's.
    #[arg(long, value_delimiter = ',', value_parser = pattern, value_name = "PATTERNS")]
    publish: Option<Vec<Pattern>>,
    /// How long the token is valid, such as 90s, 10m, 1h or 30d.
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
        _ => Err("must be at least a second, such as 90s, 10m, 1h or 30d".to_owned()),
    }
}

/// Prints the token and nothing else, so that scripts can use `$(tickgate token ...)`.
pub(super) fn print(arguments: &Arguments) -> Result<(), Failure> {
    let (config, _) = load(arguments.file.config.as_deref())?;
    let settings = config.auth();
    if let Some(role) = arguments.role.as_deref()
        && role != ADMIN_ROLE
        && !settings.policy.roles.contains_key(role)
    {
        let role = tickgate_escape::line(role);
        print_error(&format!(
            "warning: role {role} is not configured: [auth.default] applies to this token"
        ));
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
        message: format!("cannot sign a token: {error}"),
        code: MISCONFIGURED,
    })?;
    print_out(&format!("{token}\n"));
    Ok(())
}
