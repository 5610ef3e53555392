//! The addresses of servers and Sentinels.

use std::fmt;
use std::str::FromStr;

use redis::IntoConnectionInfo as _;

/// The address of a server or of a Sentinel, without user and password: `redis://host:port/database` or, with TLS,
/// `rediss://…`; `sentinel://host:port/master` or, with TLS to the Sentinel and the master, `sentinels://…`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisAddress(pub(super) Place);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// A server, by its URL.
    Server(Box<str>),
    /// A Sentinel, by a URL as a server has, which names a master.
    Sentinel { url: Box<str>, master: Box<str> },
}

impl FromStr for RedisAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The message does not repeat the text, which holds a secret.
        if text.contains('@') {
            return Err("must not contain a user or a secret: use user and password_env".to_owned());
        }
        place(text).map(Self).ok_or_else(|| {
            format!(
                "{text:?} must be redis://host:port, rediss://host:port, sentinel://host:port/master or \
                 sentinels://host:port/master"
            )
        })
    }
}

fn place(text: &str) -> Option<Place> {
    let is_url = |url: &str| url.into_connection_info().is_ok();
    let (scheme, rest) = text.split_once("://")?;
    let scheme = match scheme {
        "redis" | "rediss" => return is_url(text).then(|| Place::Server(text.into())),
        "sentinel" => "redis",
        "sentinels" => "rediss",
        _ => return None,
    };
    let (host, master) = rest.split_once('/')?;
    let url = format!("{scheme}://{host}");
    let is_fine = is_url(&url) && !master.is_empty() && master.bytes().all(|byte| byte.is_ascii_graphic());
    is_fine.then(|| Place::Sentinel {
        url: url.into(),
        master: master.into(),
    })
}

impl Default for RedisAddress {
    fn default() -> Self {
        Self(Place::Server("redis://127.0.0.1:6379".into()))
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Server(url) => f.write_str(url),
            Place::Sentinel { url, master } => {
                let (scheme, host) = match url.strip_prefix("rediss://") {
                    Some(host) => ("sentinels", host),
                    None => ("sentinel", url.trim_start_matches("redis://")),
                };
                write!(f, "{scheme}://{host}/{master}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_server_or_a_sentinel() {
        for good in [
            "redis://127.0.0.1:6379",
            "redis://cache/2",
            "redis://[::1]:7000",
            "rediss://a",
            "sentinel://s:26379/events",
            "sentinels://s/events",
        ] {
            assert_eq!(good.parse::<RedisAddress>().expect(good).to_string(), good);
        }
        let encrypted = Place::Sentinel {
            url: "rediss://s".into(),
            master: "events".into(),
        };
        assert_eq!("sentinels://s/events".parse(), Ok(RedisAddress(encrypted)));
        for wrong in [
            "redis://",
            "redis://a/x",
            "sentinel://s",
            "sentinel://s/",
            "sentinel:///m",
            "a:6379",
            "nats://a",
        ] {
            let told = wrong.parse::<RedisAddress>().expect_err(wrong);
            assert!(told.contains("must be redis://host:port"), "{wrong}: {told}");
        }
        let told = "redis://:hunter2@a".parse::<RedisAddress>().expect_err("a secret");
        assert!(told.contains("password_env") && !told.contains("hunter2"), "{told}");
    }
}
