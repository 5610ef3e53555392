//! `[auth]` and `[admin]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::check::Check;
use crate::auth::Mode;
use crate::channel::Pattern;
use crate::config::value::choices;
use crate::config::visit::{Section, Visitor};
use crate::door::Refuse;

/// Holds the HMAC secret when no `[[auth.key]]` is given and it is set.
pub(super) const DEFAULT_SECRET_ENV: &str = "TICKGATE_JWT_SECRET";
/// Holds the admin key when `[admin]` names nothing else and it is set.
pub(in crate::config) const DEFAULT_ADMIN_KEY_ENV: &str = "TICKGATE_ADMIN_KEY";

/// `[auth]`.
#[derive(Clone, Debug)]
pub(in crate::config) struct Auth {
    pub(in crate::config) mode: Mode,
    pub(in crate::config) refuse: Refuse,
    pub(in crate::config) timeout: Duration,
    pub(in crate::config) expiry_warning: Duration,
    pub(in crate::config) leeway: Duration,
    pub(in crate::config) subject_claim: String,
    pub(in crate::config) allow_short_secret: bool,
    pub(in crate::config) issuer: Option<String>,
    pub(in crate::config) audience: Option<String>,
    pub(in crate::config) keys: Vec<Key>,
    pub(in crate::config) roles: BTreeMap<String, Role>,
    pub(in crate::config) default: Role,
    pub(in crate::config) anonymous: Role,
}

choices!(Mode { "required" => Self::Required, "optional" => Self::Optional, "off" => Self::Off });
choices!(Refuse { "auto" => Self::Auto, "http" => Self::Http, "close" => Self::Close });

impl Default for Auth {
    fn default() -> Self {
        let trader = Role::of(
            &["grid.*", "backtest.*", "strategy.*", "stock.*", "board.*", "market.*", "system.*"],
            &["grid.*", "backtest.*", "strategy.*"],
        );
        let default = [
            "market.*",
            "stock.*",
            "strategy.*",
            "board.*",
            "system.health",
            "system.status",
            "system.kill_switch",
            "system.exchange",
        ];
        let anonymous = [
            "market.*",
            "stock.*.price",
            "strategy.*.prices",
            "board.*.prices",
            "system.health",
            "system.status",
        ];
        Self {
            mode: Mode::Required,
            refuse: Refuse::Auto,
            timeout: Duration::from_secs(5),
            expiry_warning: Duration::from_secs(30),
            leeway: Duration::from_secs(5),
            subject_claim: "sub".to_owned(),
            allow_short_secret: false,
            issuer: None,
            audience: None,
            keys: Vec::new(),
            roles: BTreeMap::from([("trader".to_owned(), trader)]),
            default: Role::of(&default, &[]),
            anonymous: Role::of(&anonymous, &[]),
        }
    }
}

impl Section for Auth {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("mode", &mut self.mode);
        visitor.value("refuse", &mut self.refuse);
        visitor.value("timeout", &mut self.timeout);
        visitor.value("expiry_warning", &mut self.expiry_warning);
        visitor.value("leeway", &mut self.leeway);
        visitor.value("subject_claim", &mut self.subject_claim);
        visitor.value("allow_short_secret", &mut self.allow_short_secret);
        visitor.value("issuer", &mut self.issuer);
        visitor.value("audience", &mut self.audience);
        visitor.tables("key", &mut self.keys);
        visitor.named("role", &mut self.roles);
        visitor.table("default", &mut self.default);
        visitor.table("anonymous", &mut self.anonymous);
    }
}

impl Auth {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        check.require(!self.timeout.is_zero(), "auth.timeout", "must be longer than 0s");
        check.require(!self.subject_claim.is_empty(), "auth.subject_claim", "must not be empty");
        let narrow = self.roles.contains_key("admin");
        check.require(!narrow, "auth.role.admin", "is built in and may do everything; give another name");
        for (index, key) in self.keys.iter().enumerate() {
            key.check(&format!("auth.key[{index}]"), check);
        }
    }
}

/// `[[auth.key]]`.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Key {
    pub(in crate::config) algorithm: Option<Algorithm>,
    pub(in crate::config) secret_env: Option<String>,
    pub(in crate::config) secret_file: Option<PathBuf>,
    pub(in crate::config) public_key_file: Option<PathBuf>,
}

impl Section for Key {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("algorithm", &mut self.algorithm);
        visitor.value("secret_env", &mut self.secret_env);
        visitor.value("secret_file", &mut self.secret_file);
        visitor.value("public_key_file", &mut self.public_key_file);
        visitor.unsupported("jwks_file", "JWKS");
        visitor.unsupported("jwks_url", "JWKS");
        visitor.unsupported("secret", "a secret in the file (name it by secret_env or secret_file)");
    }
}

impl Key {
    pub(super) fn default_of_environment() -> Self {
        Self {
            algorithm: Some(Algorithm::HS256),
            secret_env: Some(DEFAULT_SECRET_ENV.to_owned()),
            ..Self::default()
        }
    }

    fn check(&self, key: &str, check: &mut Check<'_>) {
        let Some(algorithm) = self.algorithm else {
            return check.refuse(&format!("{key}.algorithm"), "is missing, such as \"HS256\"");
        };
        let sources = [self.secret_env.is_some(), self.secret_file.is_some(), self.public_key_file.is_some()];
        if sources.into_iter().filter(|given| *given).count() != 1 {
            return check.refuse(key, "needs exactly one of secret_env, secret_file and public_key_file");
        }
        let message = if algorithm.is_hmac() {
            "an HMAC algorithm needs secret_env or secret_file, not public_key_file"
        } else {
            "this algorithm needs public_key_file, not a secret"
        };
        check.require(algorithm.is_hmac() == self.public_key_file.is_none(), &format!("{key}.algorithm"), message);
    }
}

/// How tokens are signed (RFC 7518, section 3.1; RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    ES256,
    ES384,
    EdDSA,
}

choices!(Algorithm {
    "HS256" => Self::HS256, "HS384" => Self::HS384, "HS512" => Self::HS512,
    "RS256" => Self::RS256, "RS384" => Self::RS384, "RS512" => Self::RS512,
    "ES256" => Self::ES256, "ES384" => Self::ES384, "EdDSA" => Self::EdDSA,
});

impl Algorithm {
    pub(in crate::config) fn is_hmac(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }
}

/// What a role may do: `[auth.role.<name>]`, `[auth.default]`, `[auth.anonymous]`.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Role {
    pub(in crate::config) channels: Vec<Pattern>,
    pub(in crate::config) commands: Vec<Pattern>,
    pub(in crate::config) publish: Vec<Pattern>,
}

impl Role {
    fn of(channels: &[&str], commands: &[&str]) -> Self {
        // The texts are the ones above; a test parses them all.
        let parse = |texts: &[&str]| texts.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
        Self { channels: parse(channels), commands: parse(commands), publish: Vec::new() }
    }
}

impl Section for Role {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("channels", &mut self.channels);
        visitor.value("commands", &mut self.commands);
        visitor.value("publish", &mut self.publish);
    }
}

/// `[admin]`.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Admin {
    pub(in crate::config) key_env: Option<String>,
    pub(in crate::config) key_file: Option<PathBuf>,
}

impl Section for Admin {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("key_env", &mut self.key_env);
        visitor.value("key_file", &mut self.key_file);
        visitor.unsupported("key", "a secret in the file (name it by key_env or key_file)");
    }
}

impl Admin {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        if self.key_env.is_some() && self.key_file.is_some() {
            check.refuse("admin.key_file", "key_env and key_file exclude each other");
        }
    }
}
