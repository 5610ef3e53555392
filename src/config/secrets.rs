//! Keys from variables and files. A secret in its own file keeps it out of the process list, of backups of the
//! configuration, and of this project's hands.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::model::check::Check;
use super::model::{Algorithm, Config, DEFAULT_ADMIN_KEY_ENV};
use super::source::Environment;

/// Bytes that are never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Takes the bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for those who must use them.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// What the named secrets hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Secrets {
    /// For each `[[auth.key]]`, in order: the HMAC secret, or the public key as PEM.
    pub(super) keys: Vec<Secret>,
    pub(super) admin_key: Option<Secret>,
    /// For each `[[command]]`, in order.
    pub(super) commands: Vec<Option<Secret>>,
    /// Files with secrets that everybody on the machine can read.
    pub(super) exposed_files: Vec<PathBuf>,
}

/// Finds every secret that `config` names, which has no contradictions.
pub(super) fn resolve(config: &Config, environment: &Environment, check: &mut Check<'_>) -> Secrets {
    let mut search = Search { environment, check, exposed_files: Vec::new() };
    let short = config.auth.allow_short_secret;
    let keys = config.auth.keys.iter().enumerate().filter_map(|(index, key)| {
        let at = format!("auth.key[{index}]");
        if let Some(path) = &key.public_key_file {
            return search.file(path, &format!("{at}.public_key_file"));
        }
        let bytes_min = if short { 1 } else { key.algorithm.map_or(1, secret_bytes_min) };
        search.either(key.secret_env.as_deref(), key.secret_file.as_deref(), &format!("{at}.secret"), bytes_min)
    });
    let keys = keys.collect();
    let default_key = environment.get(DEFAULT_ADMIN_KEY_ENV).map(|_| DEFAULT_ADMIN_KEY_ENV);
    let variable = config.admin.key_env.as_deref();
    let variable = if config.admin.key_file.is_none() { variable.or(default_key) } else { variable };
    let admin_key = search.either(variable, config.admin.key_file.as_deref(), "admin.key", 1);
    if admin_key.as_ref().is_some_and(|key| !key.expose().iter().all(u8::is_ascii_graphic)) {
        let message = "the admin key must be visible ASCII: it travels in the Authorization header";
        search.check.refuse("admin", message);
    }
    let commands = config.commands.iter().enumerate().map(|(index, command)| {
        let at = format!("command[{index}].hmac_secret");
        search.either(command.hmac_secret_env.as_deref(), command.hmac_secret_file.as_deref(), &at, 1)
    });
    let commands = commands.collect();
    Secrets { keys, admin_key, commands, exposed_files: search.exposed_files }
}

/// RFC 7518, section 3.2: a key of the hash's size or larger.
fn secret_bytes_min(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => 32,
    }
}

struct Search<'a, 'b> {
    environment: &'a Environment,
    check: &'a mut Check<'b>,
    exposed_files: Vec<PathBuf>,
}

impl Search<'_, '_> {
    /// The secret of `<key>_env` or `<key>_file`; `None` when neither is given or, told to `check`, it is no good.
    fn either(&mut self, variable: Option<&str>, file: Option<&Path>, key: &str, bytes_min: usize) -> Option<Secret> {
        let (secret, key, from) = match (variable, file) {
            (Some(name), _) => {
                let key = format!("{key}_env");
                (self.variable(name, &key)?, key, format!("variable {name}"))
            }
            (None, Some(path)) => {
                let key = format!("{key}_file");
                let secret = self.file(path, &key)?;
                self.note_exposure(path);
                (secret, key, format!("file {}", path.display()))
            }
            (None, None) => return None,
        };
        let bytes = secret.expose().len();
        if bytes < bytes_min.max(1) {
            let message = match (bytes, bytes_min) {
                (0, _) => format!("the secret in {from} is empty"),
                _ => format!(
                    "the secret in {from} is shorter than {bytes_min} bytes, which its algorithm wants \
                     (auth.allow_short_secret accepts it)"
                ),
            };
            self.check.refuse(&key, message);
            return None;
        }
        Some(secret)
    }

    fn variable(&mut self, name: &str, key: &str) -> Option<Secret> {
        let found = self.environment.get(name).map(|value| Secret::new(value.as_bytes()));
        if found.is_none() {
            self.check.refuse(key, format!("variable {name} is not set (or is not UTF-8)"));
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
                self.check.refuse(key, format!("{} cannot be read: {error}", path.display()));
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
