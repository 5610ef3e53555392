//! `[[command]]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::auth::Secret;
use crate::backend::commands::{BackendUrl, HttpSettings, RouteSettings, Target};
use crate::config::check::{Because, Check, HOUR, at_least, at_most, no_longer_than, not_blank, not_zero};
use crate::config::declare::section;
use tickgate_protocol::channel::{Pattern, Tenant};

section! {
    /// `[[command]]`.
    struct Command {
        /// The pattern of the actions, such as `grid.*`.
        value pattern as "match": Option<Pattern> = None, required "is missing: the pattern of the actions";
        /// The backend's URL. Commands are posted to it. A command has this or `nats`.
        value http: Option<BackendUrl> = None;
        /// Commands are sent as requests to `<prefix>.cmd.<tenant>.<action>` at the broker, where backends subscribe, each group
        /// of equal ones in a queue group. It needs `broker.kind = "nats"`. See [nats.md](nats.md#answer-commands).
        value nats: bool = false;
        /// The time for the whole command, retries included, at most 1 h. Then the answer is `TIMEOUT`, and the outcome is unknown. It
        /// should be below the clients' own timeout of 30 s.
        value timeout: Duration = Duration::from_secs(25),
            check |time| not_zero(time).and(no_longer_than(time, HOUR).because("no client waits for an answer as long"));
        /// The variable that holds the secret that signs requests.
        value hmac_secret_env: Option<String> = None, check not_blank;
        /// The file that holds the secret that signs requests.
        value hmac_secret_file: Option<PathBuf> = None;
        /// The action has the same effect if it is done twice, so a failed attempt may be repeated.
        value idempotent: bool = false;
        /// Each command writes a structured line to the log and publishes an event on `system.log`.
        value audit: bool = false;
        /// Commands that may be under way at one time, 1 to 1,000,000. One more is refused with `BACKEND_UNAVAILABLE`.
        value max_in_flight: u32 = 1000,
            check |commands| at_least(*commands, 1)
                .because("every command would be refused")
                .and(at_most(*commands, 1_000_000).because("each command under way is kept in memory"));

        refused "hmac_secret" "a secret does not stand in the file: name it by hmac_secret_env or hmac_secret_file";
        rule one_target;
        rule one_secret;
    }
}

fn one_target(command: &Command, check: &mut Check<'_>) {
    match (&command.http, command.nats) {
        (None, false) => check.refuse("http", "is missing: the backend's URL, or `nats = true`"),
        (Some(_), true) => check.refuse("nats", "http and nats exclude each other"),
        _ => {}
    }
}

fn one_secret(command: &Command, check: &mut Check<'_>) {
    if command.hmac_secret_env.is_some() && command.hmac_secret_file.is_some() {
        let message = "hmac_secret_env and hmac_secret_file exclude each other";
        check.refuse("hmac_secret_file", message);
    }
}

impl Command {
    /// The settings of the route of a tenant. `None` only for a command that the check refuses.
    pub(in crate::config) fn route(&self, tenant: Tenant, hmac_secret: Option<Secret>) -> Option<RouteSettings> {
        let target = match &self.http {
            None if self.nats => Target::Nats { hmac_secret },
            http => Target::Http(HttpSettings {
                url: http.clone()?,
                hmac_secret,
            }),
        };
        Some(RouteSettings {
            timeout: self.timeout,
            idempotent: self.idempotent,
            audit: self.audit,
            in_flight_max: self.max_in_flight as usize,
            ..RouteSettings::new(self.pattern.clone()?.in_tenant(tenant), target)
        })
    }
}
