//! Connecting to the broker.
//!
//! Invariant: a client connects once. After a lost connection it fails instead of connecting again: what was handed to it
//! before must not be sent later, to a broker that may have lost the end of its log.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Auth, AuthError, Client, ConnectOptions, Event};
use nkeys::KeyPair;
use tokio::sync::mpsc;

use super::Settings;
use crate::auth::Secret;
use crate::broker::link::{End, chain};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How often the broker is pinged.
const PING: Duration = Duration::from_secs(2);

/// Messages that wait in the client for a task of the gateway.
const CLIENT_MESSAGES: usize = 64 * 1024;

/// How the gateway authenticates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Login {
    /// Not at all.
    #[default]
    None,
    /// By a token.
    Token(Secret),
    /// By a name and a password.
    User(Box<str>, Secret),
    /// By a file with a JWT and the seed of an nkey.
    Credentials(PathBuf),
}

impl Login {
    /// By a file with credentials, by a user with a password, or by a token, whichever is given.
    #[must_use]
    pub fn of(credentials: Option<&PathBuf>, user: Option<&str>, password: Option<Secret>) -> Self {
        match (credentials, user, password) {
            (Some(path), ..) => Self::Credentials(path.clone()),
            (None, Some(user), Some(password)) => Self::User(user.into(), password),
            (None, None, Some(token)) => Self::Token(token),
            (None, _, None) => Self::None,
        }
    }
}

/// Servers of one cluster, and how the gateway connects to them.
pub(crate) struct Target<'a> {
    /// At least one.
    pub(crate) urls: &'a [Box<str>],
    pub(crate) login: &'a Login,
    /// The certificates of authorities; `None`: those of the system.
    pub(crate) ca_file: Option<&'a Path>,
    /// The name of the connection, for the operators of the servers.
    pub(crate) name: String,
    /// What replies are sent to; `None`: `_INBOX`.
    pub(crate) inbox_prefix: Option<String>,
}

/// Connects to one of the configured servers. The second value tells when the connection is lost.
pub(super) async fn connect(
    settings: &Settings,
    attempt: usize,
) -> Result<(Client, mpsc::UnboundedReceiver<Event>), End> {
    let target = Target {
        urls: &settings.urls,
        login: &settings.login,
        ca_file: settings.ca_file.as_deref(),
        name: format!("tickgate {}", settings.node),
        // Only gateways may subscribe to it, so nobody else sees replies to them.
        inbox_prefix: Some(format!("{}.inbox", settings.prefix)),
    };
    connect_to(target, attempt).await.map_err(End::Failed)
}

/// Connects once to one of the servers, which are tried in turn. The second value tells when the connection is lost.
///
/// # Errors
///
/// Why there is no connection.
pub(crate) async fn connect_to(
    target: Target<'_>,
    attempt: usize,
) -> Result<(Client, mpsc::UnboundedReceiver<Event>), String> {
    let url = &target.urls[attempt % target.urls.len()];
    let login = prepare(target.login)?;
    let (events, received) = mpsc::unbounded_channel();
    let was_used = Arc::new(AtomicBool::new(false));
    // The callback is asked for each connection, before anything is sent on it. The second time it refuses.
    let authenticate = move |nonce: Vec<u8>| {
        let answer = if was_used.swap(true, Ordering::Relaxed) {
            Err(AuthError::new("the session is over"))
        } else {
            login.answer(&nonce)
        };
        async move { answer }
    };
    let mut options = ConnectOptions::with_auth_callback(authenticate)
        .name(target.name)
        .max_reconnects(1)
        .retain_servers_order()
        .ignore_discovered_servers()
        .connection_timeout(CONNECT)
        .ping_interval(PING)
        .subscription_capacity(CLIENT_MESSAGES)
        .event_callback(move |event| {
            let events = events.clone();
            async move {
                let _ = events.send(event);
            }
        });
    if let Some(prefix) = target.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    if let Some(path) = target.ca_file {
        options = options.add_root_certificates(path.to_owned());
    }
    let client = options.connect(&**url).await;
    let client = client.map_err(|error| format!("no connection to {url}: {}", chain(&error)))?;
    Ok((client, received))
}

// A login that was read.
enum Prepared {
    Auth(Auth),
    Key { jwt: String, seed: String },
}

impl Prepared {
    fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        match self {
            Self::Auth(auth) => Ok(auth.clone()),
            Self::Key { jwt, seed } => {
                let signed = KeyPair::from_seed(seed).and_then(|key| key.sign(nonce));
                let mut auth = Auth::new();
                auth.jwt = Some(jwt.clone());
                auth.signature = Some(signed.map_err(AuthError::new)?);
                Ok(auth)
            }
        }
    }
}

fn text(secret: &Secret) -> Result<String, String> {
    let text = std::str::from_utf8(secret.expose());
    text.map(str::to_owned)
        .map_err(|_| "the password is not UTF-8".to_owned())
}

fn prepare(login: &Login) -> Result<Prepared, String> {
    let mut auth = Auth::new();
    match login {
        Login::None => {}
        Login::Token(token) => auth.token = Some(text(token)?),
        Login::User(name, password) => {
            auth.username = Some(name.to_string());
            auth.password = Some(text(password)?);
        }
        Login::Credentials(path) => return read_credentials(path),
    }
    Ok(Prepared::Auth(auth))
}

fn read_credentials(path: &Path) -> Result<Prepared, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let block = |name: &str| {
        let mut lines = text
            .lines()
            .map(str::trim)
            .skip_while(|line| !(line.starts_with("---") && line.contains(name)));
        lines
            .nth(1)
            .filter(|line| !line.is_empty() && !line.starts_with('-'))
            .map(str::to_owned)
    };
    match (block("BEGIN NATS USER JWT"), block("BEGIN USER NKEY SEED")) {
        (Some(jwt), Some(seed)) if KeyPair::from_seed(&seed).is_ok() => Ok(Prepared::Key { jwt, seed }),
        _ => Err(format!("{shown} is not a file of NATS credentials")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_read_and_sign_the_nonce() {
        let key = KeyPair::new_user();
        let seed = key.seed().expect("a seed");
        let text = format!(
            "-----BEGIN NATS USER JWT-----\nabc.def\n------END NATS USER JWT------\n\n****\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let prepared = prepare(&Login::Credentials(file.path().into())).expect("valid");
        let auth = prepared.answer(b"nonce").expect("signed");
        assert_eq!(auth.jwt.as_deref(), Some("abc.def"));
        key.verify(b"nonce", &auth.signature.expect("a signature"))
            .expect("the signature of the key");
        std::fs::write(file.path(), "-----BEGIN NATS USER JWT-----\nabc\n").expect("written");
        assert!(prepare(&Login::Credentials(file.path().into())).is_err());
        assert!(prepare(&Login::Credentials("/nowhere/at/all".into())).is_err());
    }
}
