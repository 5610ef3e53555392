//! Redis servers that the platform runs already: their addresses, and how the gateway logs in.
//!
//! Invariant: no address holds a secret, so every address may be logged.

use std::fmt;
use std::str::FromStr;

use redis::{Client, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError};

use crate::auth::Secret;

/// The address of a server: `redis://host[:port][/database]`, without user and password.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisAddress(Box<str>);

impl FromStr for RedisAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            return Err("must not hold a user or password; use user and password_env".to_owned());
        }
        if !text.starts_with("redis://") {
            return Err("must begin with redis:// (without TLS, in a private network)".to_owned());
        }
        let wrong = |error: RedisError| format!("is not the address of a Redis server: {error}");
        text.into_connection_info().map_err(wrong)?;
        Ok(Self(text.into()))
    }
}

impl Default for RedisAddress {
    fn default() -> Self {
        Self("redis://127.0.0.1:6379".into())
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A server and how the gateway logs in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RedisServer {
    /// Where it is.
    pub address: RedisAddress,
    /// The ACL user; `None`: the default user.
    pub user: Option<Box<str>>,
    /// The password of the user, in UTF-8.
    pub password: Option<Secret>,
}

impl RedisServer {
    /// A client that connects to the server.
    ///
    /// # Errors
    ///
    /// When the address cannot be used.
    pub(super) fn client(&self) -> Result<Client, RedisError> {
        let info: ConnectionInfo = (&*self.address.0).into_connection_info()?;
        let mut login = info.redis_settings().clone();
        if let Some(user) = &self.user {
            login = login.set_username(user);
        }
        // The configuration gives passwords as text.
        if let Some(password) = self
            .password
            .as_ref()
            .and_then(|secret| str::from_utf8(secret.expose()).ok())
        {
            login = login.set_password(password);
        }
        Client::open(info.set_redis_settings(login))
    }
}

/// Whether the server refused the login.
pub(super) fn is_refused(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in ["redis://127.0.0.1:6379", "redis://cache/2", "redis://[::1]:7000"] {
            assert_eq!(good.parse::<RedisAddress>().expect(good).to_string(), good);
        }
        for (bad, why) in [
            ("redis://:hunter2@a", "password_env"),
            ("rediss://a", "must begin"),
            ("a:6379", "must begin"),
            ("redis://", "not the address"),
            ("redis://a/x", "not the address"),
        ] {
            let error = bad.parse::<RedisAddress>().expect_err(bad);
            assert!(error.contains(why) && !error.contains("hunter2"), "{bad}: {error}");
        }
    }
}
