//! Finds the secrets that the configuration names by a variable or a file. A secret that does not stand in the
//! configuration file stays out of its backups.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::check::Check;
use super::sections::{DEFAULT_ADMIN_KEY_ENV, DEFAULT_SECRET_ENV, Key, Sections, Space, TenantAdmin};
use super::source::Environment;
use crate::auth::{self, Secret};
use crate::backend::jwks::SetSettings;
use tickgate_protocol::channel::Tenant;

/// The shortest admin key, in bytes, unless `admin.allow_short_key` is set.
const ADMIN_KEY_BYTES_MIN: usize = 16;

/// The secrets that a configuration names.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets {
    /// Those of the default tenant.
    pub(super) own: OwnSecrets,
    /// Those of each `[[tenant]]`, in order.
    pub(super) tenants: Vec<OwnSecrets>,
    /// The password or token of `[broker]`.
    pub(super) broker: Option<Secret>,
    /// Files with secrets that every user of the machine can read.
    pub(super) exposed_files: Vec<PathBuf>,
    /// The keys of pairs of tenants with the same secret for tokens.
    pub(super) shared_secrets: Vec<[String; 2]>,
}

/// The secrets of one tenant.
#[derive(Clone, Debug, Default)]
pub(super) struct OwnSecrets {
    /// The keys of `[[auth.key]]`, in order.
    pub(super) keys: Vec<auth::Key>,
    /// The key sets of `[[auth.key]]`, in order.
    pub(super) key_sets: Vec<SetSettings>,
    pub(super) admin_key: Option<Secret>,
    pub(super) viewer_key: Option<Secret>,
    /// For each `[[command]]`, in order.
    pub(super) commands: Vec<Option<Secret>>,
    /// The Redis password of each `[[feed]]`, in order.
    pub(super) feeds: Vec<Option<Secret>>,
    /// The password of each `[[source]]`, in order.
    pub(super) sources: Vec<Option<Secret>>,
}

impl OwnSecrets {
    /// The keys that verify tokens, with those of key sets.
    pub(super) fn key_set(&self) -> auth::KeySet {
        let sources = self.key_sets.iter().map(|set| Arc::clone(&set.keys));
        auth::KeySet::new(self.keys.clone()).with_sources(sources.collect())
    }
}

impl Secrets {
    /// Those of all tenants, in the order of [`Sections::spaces`].
    pub(super) fn spaces(&self) -> impl Iterator<Item = &OwnSecrets> {
        std::iter::once(&self.own).chain(&self.tenants)
    }
}

/// Adds a key for [`DEFAULT_SECRET_ENV`] if no `[[auth.key]]` is given and the variable is set.
pub(super) fn add_default_key(sections: &mut Sections, environment: &Environment) {
    if sections.auth.keys.is_empty() && environment.get(DEFAULT_SECRET_ENV).is_some() {
        sections.auth.keys.push(Key::default_of_environment());
    }
}

/// Finds every secret that `sections` names, and reports missing and unsuitable ones. The sections must be valid. `check`
/// stands at the file as a whole.
pub(super) fn resolve(sections: &Sections, environment: &Environment, check: &mut Check<'_>) -> Secrets {
    let mut search = Search {
        environment,
        check,
        exposed_files: Vec::new(),
        token_secrets: Vec::new(),
        shared_secrets: Vec::new(),
    };
    let (broker, name) = (&sections.broker, "broker.password");
    let broker = search.password(broker.password_env.as_deref(), broker.password_file.as_deref(), name);
    let mut all: Vec<OwnSecrets> = sections.spaces().iter().map(|space| search.own(space)).collect();
    let default = search.environment.get(DEFAULT_ADMIN_KEY_ENV);
    let default = default
        .filter(|_| sections.admin.key_file.is_none())
        .map(|_| DEFAULT_ADMIN_KEY_ENV);
    let admin = &sections.admin;
    let operator = PresentedKeys {
        key: (admin.key_env.as_deref().or(default), admin.key_file.as_deref()),
        viewer_key: (admin.viewer_key_env.as_deref(), admin.viewer_key_file.as_deref()),
        allow_short: admin.allow_short_key,
    };
    let of_tenants = sections.tenants.iter().map(|tenant| PresentedKeys::of(&tenant.admin));
    let mut others = Vec::new();
    for (own, keys) in all.iter_mut().zip(std::iter::once(operator).chain(of_tenants)) {
        let prefix = match others.len() / 2 {
            0 => String::new(),
            number => format!("tenant[{}].", number - 1),
        };
        (own.admin_key, own.viewer_key) = search.presented_keys(&keys, &prefix, &others);
        others.extend([own.admin_key.clone(), own.viewer_key.clone()]);
    }
    let mut all = all.into_iter();
    Secrets {
        own: all.next().unwrap_or_default(),
        tenants: all.collect(),
        broker,
        exposed_files: search.exposed_files,
        shared_secrets: search.shared_secrets,
    }
}

/// Where the keys of a tenant are that callers of the admin listener present: the variable and the file of each.
struct PresentedKeys<'a> {
    key: (Option<&'a str>, Option<&'a Path>),
    viewer_key: (Option<&'a str>, Option<&'a Path>),
    allow_short: bool,
}

impl<'a> PresentedKeys<'a> {
    fn of(admin: &'a TenantAdmin) -> Self {
        Self {
            key: (admin.key_env.as_deref(), admin.key_file.as_deref()),
            viewer_key: (admin.viewer_key_env.as_deref(), admin.viewer_key_file.as_deref()),
            allow_short: admin.allow_short_key,
        }
    }
}

/// Looks secrets up. A method returns `None` if there is no secret to use: none is named, or a problem was reported.
struct Search<'a, 'b> {
    environment: &'a Environment,
    check: &'a mut Check<'b>,
    exposed_files: Vec<PathBuf>,
    // The secrets for tokens found so far, each with its tenant and the name of its key.
    token_secrets: Vec<(Tenant, String, Secret)>,
    shared_secrets: Vec<[String; 2]>,
}

impl Search<'_, '_> {
    /// The secrets of a tenant, except those that callers of the admin listener present.
    fn own(&mut self, space: &Space<'_>) -> OwnSecrets {
        let prefix = space.prefix();
        let keys = space.auth.keys.iter().enumerate().filter_map(|(index, key)| {
            let name = format!("{prefix}auth.key[{index}]");
            self.key(key, &name, space)
        });
        let keys = keys.collect();
        let commands = space.commands.iter().enumerate().map(|(index, command)| {
            let name = format!("{prefix}command[{index}].hmac_secret");
            let (variable, file) = (&command.hmac_secret_env, &command.hmac_secret_file);
            let found = self.either(variable.as_deref(), file.as_deref(), &name);
            found.map(|(secret, _)| secret)
        });
        let commands = commands.collect();
        let feeds = space.feeds.iter().enumerate().map(|(index, feed)| {
            let name = format!("{prefix}feed[{index}].password");
            self.password(feed.password_env.as_deref(), feed.password_file.as_deref(), &name)
        });
        let feeds = feeds.collect();
        let sources = space.sources.iter().enumerate().map(|(index, source)| {
            let name = format!("{prefix}source[{index}].password");
            self.password(source.password_env.as_deref(), source.password_file.as_deref(), &name)
        });
        OwnSecrets {
            keys,
            key_sets: space.auth.keys.iter().filter_map(Key::set).collect(),
            admin_key: None,
            viewer_key: None,
            commands,
            feeds,
            sources: sources.collect(),
        }
    }

    fn key(&mut self, key: &Key, name: &str, space: &Space<'_>) -> Option<auth::Key> {
        if key.set().is_some() {
            if let Some(path) = &key.jwks_file {
                self.check_key_set(path, &format!("{name}.jwks_file"), key.algorithm);
            }
            return None;
        }
        let algorithm = key.algorithm?;
        let (made, name) = match &key.public_key_file {
            Some(path) => {
                let name = format!("{name}.public_key_file");
                let pem = self.file(path, &name)?;
                (auth::Key::public_pem(algorithm, pem.expose()), name)
            }
            None => {
                let (variable, file) = (key.secret_env.as_deref(), key.secret_file.as_deref());
                let (secret, name) = self.either(variable, file, &format!("{name}.secret"))?;
                let allow_short = space.auth.allow_short_secret;
                let made = auth::Key::hmac(algorithm, secret.expose(), allow_short);
                self.note_token_secret(space.tenant, &name, secret);
                (made, name)
            }
        };
        let from = from_variable(key.secret_env.as_deref());
        let refused = |error| self.check.refuse(&name, format!("{error}{from}"));
        made.map_err(refused).ok()
    }

    /// Reports a key set that cannot be used. The gateway reads it again.
    fn check_key_set(&mut self, path: &Path, name: &str, algorithm: Option<auth::Algorithm>) {
        let Some(text) = self.file(path, name) else { return };
        if let Err(error) = auth::Jwks::parse(text.expose(), algorithm) {
            let message = format!("{} cannot be used: {error}", path.display());
            self.check.refuse(name, message);
        }
    }

    /// Notes the secret of a key for tokens. Two tenants with the same one accept each other's tokens.
    fn note_token_secret(&mut self, tenant: Tenant, name: &str, secret: Secret) {
        for (other, other_name, other_secret) in &self.token_secrets {
            if *other != tenant && other_secret.expose() == secret.expose() {
                self.shared_secrets.push([other_name.clone(), name.to_owned()]);
            }
        }
        self.token_secrets.push((tenant, name.to_owned(), secret));
    }

    /// The admin key and the viewer key of a tenant. `others` are those of other tenants.
    fn presented_keys(
        &mut self,
        keys: &PresentedKeys<'_>,
        prefix: &str,
        others: &[Option<Secret>],
    ) -> (Option<Secret>, Option<Secret>) {
        let allow_short = keys.allow_short;
        let name = format!("{prefix}admin.key");
        let key = self.presented_key("admin key", keys.key, allow_short, &name);
        let name = format!("{prefix}admin.viewer_key");
        let viewer_key = self.presented_key("viewer key", keys.viewer_key, allow_short, &name);
        if viewer_key.is_some() && viewer_key == key {
            let message = "the viewer key is the admin key: whoever may look could act as well";
            self.check.refuse(&name, message);
        }
        let is_taken = |key: &Option<Secret>| key.is_some() && others.contains(key);
        if is_taken(&key) || is_taken(&viewer_key) {
            let message = "another tenant, or the operator, has the same key: a key is for one tenant";
            self.check.refuse(&format!("{prefix}admin"), message);
        }
        (key, viewer_key)
    }

    /// A key that callers of the admin listener present.
    fn presented_key(
        &mut self,
        what: &str,
        (variable, file): (Option<&str>, Option<&Path>),
        allow_short: bool,
        name: &str,
    ) -> Option<Secret> {
        let (key, name) = self.either(variable, file, name)?;
        let from = from_variable(variable);
        if !key.expose().iter().all(u8::is_ascii_graphic) {
            let message = format!("the {what} must be visible ASCII: it travels in the Authorization header");
            self.check.refuse(&name, format!("{message}{from}"));
            return None;
        }
        if key.expose().len() < ADMIN_KEY_BYTES_MIN && !allow_short {
            let message = format!(
                "the {what} is shorter than {ADMIN_KEY_BYTES_MIN} bytes and could be guessed: openssl rand -hex 32 makes a \
                 good one (admin.allow_short_key = true accepts any, for tests){from}"
            );
            self.check.refuse(&name, message);
            return None;
        }
        Some(key)
    }

    /// A password, which must be text.
    fn password(&mut self, variable: Option<&str>, file: Option<&Path>, name: &str) -> Option<Secret> {
        let (secret, name) = self.either(variable, file, name)?;
        if std::str::from_utf8(secret.expose()).is_err() {
            self.check.refuse(&name, "the password must be UTF-8");
            return None;
        }
        Some(secret)
    }

    /// The secret of the key `<name>_env` or `<name>_file`, and the name of that key.
    fn either(&mut self, variable: Option<&str>, file: Option<&Path>, name: &str) -> Option<(Secret, String)> {
        let (found, name) = match (variable, file) {
            (Some(variable), _) => {
                let name = format!("{name}_env");
                (self.variable(variable, &name)?, name)
            }
            (None, Some(path)) => {
                let name = format!("{name}_file");
                let secret = self.file(path, &name)?;
                self.note_exposure(path);
                (secret, name)
            }
            (None, None) => return None,
        };
        if found.expose().trim_ascii().is_empty() {
            let from = from_variable(variable);
            self.check.refuse(&name, format!("the secret is empty or blank{from}"));
            return None;
        }
        Some((found, name))
    }

    fn variable(&mut self, variable: &str, name: &str) -> Option<Secret> {
        let found = self
            .environment
            .get(variable)
            .map(|value| Secret::new(without_line_end(value.as_bytes())));
        if found.is_none() {
            let message = format!("variable {variable} is not set (or is not UTF-8)");
            self.check.refuse(name, message);
        }
        found
    }

    /// The bytes of a file, without the line end at its end.
    fn file(&mut self, path: &Path, name: &str) -> Option<Secret> {
        match std::fs::read(path) {
            Ok(bytes) => Some(Secret::new(without_line_end(&bytes))),
            Err(error) => {
                let message = format!("{} cannot be read: {error}", path.display());
                self.check.refuse(name, message);
                None
            }
        }
    }

    fn note_exposure(&mut self, path: &Path) {
        let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o004 != 0 {
            self.exposed_files.push(path.to_owned());
        }
    }
}

/// Cuts the line end that editors and `echo` add to a file, and that a variable made from a file has too.
fn without_line_end(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    bytes.strip_suffix(b"\r").unwrap_or(bytes)
}

fn from_variable(variable: Option<&str>) -> String {
    variable
        .map(|variable| format!(" (variable {variable})"))
        .unwrap_or_default()
}
