//! `[auth]` and `[admin]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::check::Check;
use crate::auth::{ADMIN_ROLE, Algorithm, Mode, Permissions, Policy, Settings};
use crate::config::value::choices;
use crate::config::visit::{Section, Visitor};
use crate::ingress::Refuse;

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
        let Settings {
            subject_claim,
            leeway_ms,
            issuer,
            audience,
            policy,
        } = Settings::default();
        let Policy {
            roles,
            default,
            anonymous,
        } = policy;
        let role = |permissions: &Permissions| Role(permissions.clone());
        Self {
            mode: Mode::Required,
            refuse: Refuse::Auto,
            timeout: Duration::from_secs(5),
            expiry_warning: Duration::from_secs(30),
            leeway: Duration::from_millis(leeway_ms),
            subject_claim: subject_claim.into(),
            allow_short_secret: false,
            issuer: issuer.map(Into::into),
            audience: audience.map(Into::into),
            keys: Vec::new(),
            roles: roles
                .iter()
                .map(|(name, permissions)| (name.to_string(), role(permissions)))
                .collect(),
            default: role(&default),
            anonymous: role(&anonymous),
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
        check.require(
            !self.subject_claim.is_empty(),
            "auth.subject_claim",
            "must not be empty",
        );
        let narrow = self.roles.contains_key(ADMIN_ROLE);
        check.require(
            !narrow,
            "auth.role.admin",
            "is built in and may do everything; give another name",
        );
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
        visitor.refused(
            "secret",
            "a secret does not stand in the file: name it by secret_env or secret_file",
        );
    }
}

impl Key {
    pub(super) fn default_of_environment() -> Self {
        Self {
            algorithm: Some(Algorithm::Hs256),
            secret_env: Some(DEFAULT_SECRET_ENV.to_owned()),
            ..Self::default()
        }
    }

    fn check(&self, key: &str, check: &mut Check<'_>) {
        let Some(algorithm) = self.algorithm else {
            return check.refuse(&format!("{key}.algorithm"), "is missing, such as \"HS256\"");
        };
        let sources = [
            self.secret_env.is_some(),
            self.secret_file.is_some(),
            self.public_key_file.is_some(),
        ];
        if sources.into_iter().filter(|given| *given).count() != 1 {
            return check.refuse(key, "needs exactly one of secret_env, secret_file and public_key_file");
        }
        let message = "an HS algorithm needs a secret, every other one a public_key_file";
        check.require(
            algorithm.is_hmac() == self.public_key_file.is_none(),
            &format!("{key}.algorithm"),
            message,
        );
    }
}

/// What a role may do: `[auth.role.<name>]`, `[auth.default]`, `[auth.anonymous]`.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Role(pub(in crate::config) Permissions);

impl Section for Role {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("channels", &mut self.0.channels);
        visitor.value("commands", &mut self.0.commands);
        visitor.value("publish", &mut self.0.publish);
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
        visitor.refused(
            "key",
            "a secret does not stand in the file: name it by key_env or key_file",
        );
    }
}

impl Admin {
    pub(super) fn check(&self, check: &mut Check<'_>) {
        if self.key_env.is_some() && self.key_file.is_some() {
            check.refuse("admin.key_file", "key_env and key_file exclude each other");
        }
    }
}
