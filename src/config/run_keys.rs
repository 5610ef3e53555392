//! Keys that are made for one run because none are configured, and warnings about keys.

use super::secrets::Secrets;
use super::source::Environment;
use super::{Config, Sections};
use crate::auth::{Algorithm, Key, Mode, Secret};
use crate::ingress::http::RESTART_VARIABLE;

/// Keys that were made for one run.
pub struct RunKeys {
    /// The admin key. `None`: an admin key is configured.
    pub admin_key: Option<String>,
}

/// No key is configured, but a listener can be reached from other machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no [[auth.key]] is configured, and not every listener is on loopback or a Unix socket: name a key (such as \
     TICKGATE_JWT_SECRET), or listen on 127.0.0.1 only to try it with a key made for the run"
)]
pub struct NoKey;

impl Config {
    /// Whether `serve` must make keys of its own. It must if no token could be verified and, with `auth.mode = "off"`,
    /// the admin API could not be used either.
    ///
    /// # Errors
    ///
    /// [`NoKey`] if other machines could reach a listener. Sockets that systemd passes count as such.
    pub fn needs_run_keys(&self, environment: &Environment) -> Result<bool, NoKey> {
        let Sections {
            auth,
            server,
            endpoints,
            tenants,
            ..
        } = &self.sections;
        // With tokens off, the admin API still needs its key.
        let is_open = auth.mode == Mode::Off;
        // Without endpoints, the default tenant has no clients. The tenants have keys of their own.
        let has_clients = !endpoints.is_empty() || tenants.is_empty();
        let own = &self.secrets.own;
        if !own.key_set().is_empty() || !has_clients || (is_open && own.admin_key.is_some()) {
            return Ok(false);
        }
        let mut listeners = server.listen.iter().chain([&server.admin_listen]);
        // After a restart in place, systemd's sockets are named in another variable.
        let is_restarted = environment
            .get(RESTART_VARIABLE)
            .is_some_and(|text| text.contains("systemd"));
        let passed = is_restarted || environment.get("LISTEN_FDS").is_some();
        if passed || !listeners.all(crate::ingress::ListenAddress::is_local) {
            if is_open { Ok(false) } else { Err(NoKey) }
        } else {
            Ok(true)
        }
    }

    /// Settings of keys that are valid but probably not intended.
    pub(super) fn key_warnings(&self) -> Vec<String> {
        let Secrets {
            own,
            exposed_files,
            shared_secrets,
            ..
        } = &self.secrets;
        let mut warnings: Vec<String> = exposed_files
            .iter()
            .map(|file| format!("{} can be read by every user of this machine", file.display()))
            .collect();
        warnings.extend(shared_secrets.iter().map(|[one, other]| {
            format!("{one} and {other} are the same secret: a token of either tenant is accepted by both")
        }));
        if self.sections.auth.mode == Mode::Off && own.key_set().is_empty() && own.admin_key.is_none() {
            let warning = "no admin key and no key for tokens is configured: publishing and the admin API are refused";
            warnings.push(warning.to_owned());
        }
        if self.sections.server.trusts_every_local_user() {
            warnings.push(
                "server.socket_mode lets every user of this machine connect to the public Unix socket, and \
                 server.trusted_proxies trusts what its peers say about the client's address"
                    .to_owned(),
            );
        }
        warnings
    }

    /// Makes a random secret for tokens and, if no admin key is configured, a random admin key.
    ///
    /// # Errors
    ///
    /// The system has no randomness to give.
    pub fn add_run_keys(&mut self) -> Result<RunKeys, getrandom::Error> {
        let secret = random_hex()?;
        let key = Key::hmac(Algorithm::Hs256, secret.as_bytes(), false).map_err(|_| getrandom::Error::UNEXPECTED)?;
        self.secrets.own.keys.push(key);
        if self.secrets.own.admin_key.is_some() {
            return Ok(RunKeys { admin_key: None });
        }
        let admin_key = random_hex()?;
        self.secrets.own.admin_key = Some(Secret::new(admin_key.as_bytes()));
        Ok(RunKeys {
            admin_key: Some(admin_key),
        })
    }
}

/// 256 random bits.
fn random_hex() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
