//! `[auth]` and `[admin]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::limits::bytes_per_second;
use super::server::{connections_or_no_limit, some_connections};
use crate::auth::{ADMIN_ROLE, Algorithm, KeySource, Mode, Permissions, Policy, Settings};
use crate::backend::jwks::{ATTEMPT_INTERVAL, JwksUrl, Location, SetSettings};
use crate::config::check::{Because, Check, DAY, HOUR, MINUTE, ensure, no_longer_than, not_blank, not_zero};
use crate::config::declare::section;
use crate::config::value::{choices, milliseconds};
use crate::ingress::TokenRefusal;
use tickgate_protocol::channel::{Pattern, Tenant};
use tickgate_protocol::rate::Rate;

/// Holds the HMAC secret if no `[[auth.key]]` is given and it is set.
pub(in crate::config) const DEFAULT_SECRET_ENV: &str = "TICKGATE_JWT_SECRET";
/// Holds the admin key if `[admin]` names nothing else and it is set.
pub(in crate::config) const DEFAULT_ADMIN_KEY_ENV: &str = "TICKGATE_ADMIN_KEY";

section! {
    /// `[auth]`.
    struct Auth {
        /// `required`: a connection needs a token, in the handshake or within `auth.timeout`. `optional`: a connection without a
        /// token has the permissions of `[auth.anonymous]`. `off`: tokens are ignored, and every connection has these
        /// permissions.
        value mode: Mode = Mode::Required;
        /// How a bad token in a handshake is refused. `http`: with status 401. `close`: after the upgrade, with `auth_result`
        /// and close code 4001 or 4004. `auto`: `close` for browsers, which cannot read a 401, and `http` for other clients.
        value refuse: TokenRefusal = TokenRefusal::Auto;
        /// The time in which a client must send `auth`, at most 1 h. Then the connection is closed with 4002.
        value timeout: Duration = Duration::from_secs(5),
            check |time| not_zero(time).and(no_longer_than(time, HOUR).because("a client without a token is kept for this time"));
        /// How long before its token expires a client gets `auth_expiring`, at most 1 d.
        value expiry_warning: Duration = Duration::from_secs(30),
            check |time| no_longer_than(time, DAY).because("clients whose tokens live shorter would always be warned");
        /// How much the clocks may differ when `exp` and `nbf` are checked, at most 1 h.
        value leeway: Duration = Duration::from_millis(Settings::default().leeway_ms),
            check |time| no_longer_than(time, HOUR).because("expired tokens are accepted for this time");
        /// The claim that names the user.
        value subject_claim: String = Settings::default().subject_claim.into(),
            check |claim| ensure(!claim.trim().is_empty(), "must not be empty");
        /// Accepts HMAC secrets that are shorter than the hash. For tests.
        value allow_short_secret: bool = false;
        /// If it is set, the `iss` of a token must equal it.
        value issuer: Option<String> = Settings::default().issuer.map(Into::into), check not_blank;
        /// If it is set, the `aud` of a token must equal or contain it.
        value audience: Option<String> = Settings::default().audience.map(Into::into), check not_blank;
        /// How long a [revoked](http-api.md#revocations) token or user is remembered, unless the request says when the token ends;
        /// 1 min to 400 d. It must be longer than any token lives, or a revoked token is accepted again.
        value revocation_ttl: Duration = Duration::from_millis(Settings::default().revocation_ttl_ms),
            check |time| ensure(*time >= MINUTE, "must be at least \"1m\"")
                .and(no_longer_than(time, 400 * DAY).because("each revocation is kept in memory for this time"));
        /// Keys that verify tokens.
        tables keys as "key": Vec<Key> = Vec::new();
        /// What a role may do, unless the token's own claims say otherwise.
        named roles as "role": BTreeMap<String, Role> = default_roles();
        /// What a token without a known role may do.
        table default: Role = Role::of(&Policy::default().default);
        /// What a connection without a token may do.
        table anonymous: Role = Role::of(&Policy::default().anonymous);

        rule admin_is_built_in;
        rule roles_have_names;
    }
}

choices!(Mode { "required" => Self::Required, "optional" => Self::Optional, "off" => Self::Off });
choices!(TokenRefusal { "auto" => Self::Auto, "http" => Self::Http, "close" => Self::Close });

fn default_roles() -> BTreeMap<String, Role> {
    let roles = Policy::default().roles;
    roles
        .iter()
        .map(|(name, permissions)| (name.to_string(), Role::of(permissions)))
        .collect()
}

fn admin_is_built_in(auth: &Auth, check: &mut Check<'_>) {
    let message = "is built in and may do everything; give another name";
    check.require(!auth.roles.contains_key(ADMIN_ROLE), "role.admin", message);
}

fn roles_have_names(auth: &Auth, check: &mut Check<'_>) {
    for name in auth.roles.keys().filter(|name| name.trim().is_empty()) {
        check.refuse(&format!("role.{name}"), "the name of a role must not be empty");
    }
}

impl Auth {
    /// How tokens of a tenant are read.
    pub(in crate::config) fn settings(&self, tenant: Tenant) -> Settings {
        let roles = self.roles.iter();
        let policy = Policy {
            roles: roles
                .map(|(name, role)| (name.as_str().into(), role.permissions()))
                .collect(),
            default: self.default.permissions(),
            anonymous: self.anonymous.permissions(),
        };
        Settings {
            tenant,
            subject_claim: self.subject_claim.as_str().into(),
            leeway_ms: milliseconds(self.leeway),
            issuer: self.issuer.as_deref().map(Into::into),
            audience: self.audience.as_deref().map(Into::into),
            revocation_ttl_ms: milliseconds(self.revocation_ttl),
            policy: policy.in_tenant(tenant),
        }
    }

    /// The mode of an endpoint.
    pub(in crate::config) fn endpoint_mode(&self, is_anonymous: bool) -> Mode {
        match self.mode {
            Mode::Required if is_anonymous => Mode::Optional,
            mode => mode,
        }
    }
}

section! {
    /// `[[auth.key]]`.
    struct Key {
        /// `HS256`, `HS384`, `HS512`, `RS256`, `RS384`, `RS512`, `ES256`, `ES384` or `EdDSA`. A token that is signed with another
        /// algorithm is refused.
        /// A key set may leave it out: then each of its keys has the algorithm that the set names, or that of its kind (RSA:
        /// RS256).
        value algorithm: Option<Algorithm> = None;
        /// The variable that holds the HMAC secret.
        value secret_env: Option<String> = None, check not_blank;
        /// The file that holds the HMAC secret.
        value secret_file: Option<PathBuf> = None;
        /// The PEM file that holds the public key, for algorithms other than HMAC.
        value public_key_file: Option<PathBuf> = None;
        /// A file with a JSON Web Key Set (RFC 7517). The `kid` of a token selects the key. Secrets in the set are not used.
        value jwks_file: Option<PathBuf> = None;
        /// The same by URL: `https://…`, or `http://…` of this machine. While it cannot be read, its last keys stay in use. The
        /// certificates of the system are trusted (or those of the variable `SSL_CERT_FILE`).
        value jwks_url: Option<JwksUrl> = None;
        /// After how long a key set is read again, 10 s to 1 d. A token that names an unknown key has it read sooner, at most
        /// once in 10 s.
        value jwks_refresh: Duration = Duration::from_secs(300),
            check |time| ensure(*time >= ATTEMPT_INTERVAL, "must be at least \"10s\"")
                .and(no_longer_than(time, DAY).because("a key that left the set is accepted for this time"));

        refused "secret" "a secret does not stand in the file: name it by secret_env or secret_file";
        rule source_fits_the_algorithm;
    }
}

fn source_fits_the_algorithm(key: &Key, check: &mut Check<'_>) {
    let is_set = key.jwks_file.is_some() || key.jwks_url.is_some();
    let Some(algorithm) = key.algorithm else {
        return check.require(is_set, "algorithm", "is missing, such as \"HS256\"");
    };
    let sources = [
        key.secret_env.is_some(),
        key.secret_file.is_some(),
        key.public_key_file.is_some(),
        key.jwks_file.is_some(),
        key.jwks_url.is_some(),
    ];
    if sources.into_iter().filter(|given| *given).count() != 1 {
        let message = "needs exactly one of secret_env, secret_file, public_key_file, jwks_file and jwks_url";
        return check.refuse("", message);
    }
    if is_set {
        return check.require(
            !algorithm.is_hmac(),
            "algorithm",
            "a key set has public keys, and no HS algorithm",
        );
    }
    check.require(
        algorithm.is_hmac() == key.public_key_file.is_none(),
        "algorithm",
        "an HS algorithm needs a secret, every other one a public_key_file",
    );
}

impl Key {
    /// The key set, if it is one.
    pub(in crate::config) fn set(&self) -> Option<SetSettings> {
        let location = match (&self.jwks_file, &self.jwks_url) {
            (Some(path), _) => Location::File(path.clone()),
            (None, Some(url)) => Location::Url(url.clone()),
            (None, None) => return None,
        };
        Some(SetSettings {
            location,
            algorithm: self.algorithm,
            refresh: self.jwks_refresh,
            keys: Arc::<KeySource>::default(),
        })
    }

    /// The key that is used if the file names none and [`DEFAULT_SECRET_ENV`] is set.
    pub(in crate::config) fn default_of_environment() -> Self {
        Self {
            algorithm: Some(Algorithm::Hs256),
            secret_env: Some(DEFAULT_SECRET_ENV.to_owned()),
            ..Self::default()
        }
    }
}

section! {
    /// `[auth.role.<name>]`, `[auth.default]` and `[auth.anonymous]`.
    struct Role {
        /// Patterns that may be subscribed to.
        value channels: Vec<Pattern> = Vec::new();
        /// Actions that may be sent.
        value commands: Vec<Pattern> = Vec::new();
        /// Channels that may be published to.
        value publish: Vec<Pattern> = Vec::new();
        /// The most updates per second that a client gets of a channel whose class conflates; in between, a newer value
        /// replaces an older one. 0.1, 0.2, 0.5, 1, 2, 5, 10 or 20; other numbers are rounded down. If it is not set: no limit.
        value max_rate: Option<Rate> = None;
        /// As `limits.bytes_per_second`, for the clients of this role. 0: no limit. Not set: the same.
        value bytes_per_second: Option<u32> = None, check |bytes| bytes.as_ref().map_or(Ok(()), bytes_per_second);
    }
}

impl Role {
    fn of(permissions: &Permissions) -> Self {
        Self {
            channels: permissions.channels.clone(),
            commands: permissions.commands.clone(),
            publish: permissions.publish.clone(),
            max_rate: permissions.max_rate,
            bytes_per_second: permissions.bytes_per_second,
        }
    }

    fn permissions(&self) -> Arc<Permissions> {
        Arc::new(Permissions {
            admin: false,
            gateway: false,
            channels: self.channels.clone(),
            commands: self.commands.clone(),
            publish: self.publish.clone(),
            max_rate: self.max_rate,
            bytes_per_second: self.bytes_per_second,
        })
    }
}

section! {
    /// `[admin]`.
    struct Admin {
        /// The variable that holds the key. If neither key is given, `TICKGATE_ADMIN_KEY` is used if it is
        /// set.
        value key_env: Option<String> = None, check not_blank;
        /// The file that holds the key.
        value key_file: Option<PathBuf> = None;
        /// The variable that holds a second key, for people who may look at the console and its API but not act.
        value viewer_key_env: Option<String> = None, check not_blank;
        /// The file that holds that second key.
        value viewer_key_file: Option<PathBuf> = None;
        /// Members of JSON objects whose values a trace does not show. `token` is never shown.
        value trace_masks: Vec<String> = vec!["password".to_owned(), "secret".to_owned()];
        /// Accepts a key that is shorter than 16 bytes. For tests.
        value allow_short_key: bool = false;
        /// Connections to the admin listener that have sent a valid key or token, 1 to 67,108,864. When there are more, the one that
        /// has been silent longest is closed; if all are being served, the request gets 503.
        value max_connections: u32 = 4096, check some_connections;
        /// Connections to the admin listener that have not, 1 to 67,108,864: probes, scrapes, and others. When there are more, the
        /// one that has been silent longest is closed.
        value max_connections_without_key: u32 = 1024, check some_connections;
        /// How many of them may be silent of one address. One more closes the one that has been silent longest. At
        /// most 67,108,864. 0: no limit.
        value max_connections_without_key_per_ip: u32 = 256, check connections_or_no_limit;

        refused "key" "a secret does not stand in the file: name it by key_env or key_file";
        rule one_key;
    }
}

fn one_key(admin: &Admin, check: &mut Check<'_>) {
    if admin.key_env.is_some() && admin.key_file.is_some() {
        check.refuse("key_file", "key_env and key_file exclude each other");
    }
    if admin.viewer_key_env.is_some() && admin.viewer_key_file.is_some() {
        check.refuse(
            "viewer_key_file",
            "viewer_key_env and viewer_key_file exclude each other",
        );
    }
}
