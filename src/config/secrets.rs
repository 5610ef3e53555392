//! Keys from variables and files. A secret in its own file keeps it out of the process list, of backups of the
//! configuration, and of this project's hands.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::model::check::Check;
use super::model::{Config, DEFAULT_ADMIN_KEY_ENV, Key};
use super::source::Environment;
use crate::auth::{self, Secret};

/// What the named secrets hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets {
    /// The keys of `[[auth.key]]`, in order.
    pub(super) keys: Vec<auth::Key>,
    pub(super) admin_key: Option<Secret>,
    /// For each `[[command]]`, in order.
    pub(super) commands: Vec<Option<Secret>>,
    /// The Redis password of each `[[feed]]`, in order.
    pub(super) feeds: Vec<Option<Secret>>,
    /// Files with secrets that everybody on the machine can read.
    pub(super) exposed_files: Vec<PathBuf>,
}

/// Finds every secret that `config` names, which has no contradictions.
pub(super) fn resolve(config: &Config, environment: &Environment, check: &mut Check<'_>) -> Secrets {
    let mut search = Search {
        environment,
        check,
        exposed_files: Vec::new(),
    };
    let keys = config.auth.keys.iter().enumerate();
    let keys =
        keys.filter_map(|(index, key)| search.key(key, &format!("auth.key[{index}]"), config.auth.allow_short_secret));
    let keys = keys.collect();
    let commands = config.commands.iter().enumerate().map(|(index, command)| {
        let at = format!("command[{index}].hmac_secret");
        search.either(
            command.hmac_secret_env.as_deref(),
            command.hmac_secret_file.as_deref(),
            &at,
        )
    });
    let commands = commands.map(|found| found.map(|(secret, _)| secret)).collect();
    let feeds = config.feeds.iter().enumerate().map(|(index, feed)| {
        let at = format!("feed[{index}].password");
        search.password(feed.password_env.as_deref(), feed.password_file.as_deref(), &at)
    });
    let feeds = feeds.collect();
    let admin_key = search.admin_key(config);
    Secrets {
        keys,
        admin_key,
        commands,
        feeds,
        exposed_files: search.exposed_files,
    }
}

/// Looks secrets up and tells `check` what is wrong with them.
struct Search<'a, 'b> {
    environment: &'a Environment,
    check: &'a mut Check<'b>,
    exposed_files: Vec<PathBuf>,
}

impl Search<'_, '_> {
    fn key(&mut self, key: &Key, at: &str, allow_short: bool) -> Option<auth::Key> {
        let algorithm = key.algorithm?;
        let (made, name) = match &key.public_key_file {
            Some(path) => {
                let name = format!("{at}.public_key_file");
                let pem = self.file(path, &name)?;
                (auth::Key::public_pem(algorithm, pem.expose()), name)
            }
            None => {
                let (secret, name) = self.either(
                    key.secret_env.as_deref(),
                    key.secret_file.as_deref(),
                    &format!("{at}.secret"),
                )?;
                (auth::Key::hmac(algorithm, secret.expose(), allow_short), name)
            }
        };
        let from = key
            .secret_env
            .as_ref()
            .map(|variable| format!(" (variable {variable})"))
            .unwrap_or_default();
        let refused = |error| self.check.refuse(&name, format!("{error}{from}"));
        made.map_err(refused).ok()
    }

    fn admin_key(&mut self, config: &Config) -> Option<Secret> {
        let admin = &config.admin;
        let default = self
            .environment
            .get(DEFAULT_ADMIN_KEY_ENV)
            .map(|_| DEFAULT_ADMIN_KEY_ENV);
        let variable = admin
            .key_env
            .as_deref()
            .or(default.filter(|_| admin.key_file.is_none()));
        let (key, name) = self.either(variable, admin.key_file.as_deref(), "admin.key")?;
        if key.expose().iter().all(u8::is_ascii_graphic) {
            return Some(key);
        }
        self.check.refuse(
            &name,
            "the admin key must be visible ASCII: it travels in the Authorization header",
        );
        None
    }

    /// A password, which must be text.
    fn password(&mut self, variable: Option<&str>, file: Option<&Path>, key: &str) -> Option<Secret> {
        let (secret, key) = self.either(variable, file, key)?;
        if std::str::from_utf8(secret.expose()).is_err() {
            self.check.refuse(&key, "the password must be UTF-8");
            return None;
        }
        Some(secret)
    }

    /// The secret of `<key>_env` or `<key>_file`, and which of the two it was. `None`: neither is given, or it is not
    /// there.
    fn either(&mut self, variable: Option<&str>, file: Option<&Path>, key: &str) -> Option<(Secret, String)> {
        let (found, key) = match (variable, file) {
            (Some(name), _) => {
                let key = format!("{key}_env");
                (self.variable(name, &key)?, key)
            }
            (None, Some(path)) => {
                let key = format!("{key}_file");
                let secret = self.file(path, &key)?;
                self.note_exposure(path);
                (secret, key)
            }
            (None, None) => return None,
        };
        if found.expose().is_empty() {
            let from = variable.map(|name| format!(" (variable {name})")).unwrap_or_default();
            self.check.refuse(&key, format!("the secret is empty{from}"));
            return None;
        }
        Some((found, key))
    }

    fn variable(&mut self, name: &str, key: &str) -> Option<Secret> {
        let found = self.environment.get(name).map(|value| Secret::new(value.as_bytes()));
        if found.is_none() {
            self.check
                .refuse(key, format!("variable {name} is not set (or is not UTF-8)"));
        }
        found
    }

    /// A file's bytes without the newline that editors and `echo` leave at its end.
    fn file(&mut self, path: &Path, key: &str) -> Option<Secret> {
        match std::fs::read(path) {
            Ok(mut bytes) => {
                for end in [b'\n', b'\r'] {
                    if bytes.last() == Some(&end) {
                        bytes.pop();
                    }
                }
                Some(Secret::new(bytes))
            }
            Err(error) => {
                self.check
                    .refuse(key, format!("{} cannot be read: {error}", path.display()));
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
