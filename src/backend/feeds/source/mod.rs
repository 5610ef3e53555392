//! What is asked: an HTTP URL or a Redis key. Whatever it is, the answer is one text that should be JSON.
//!
//! Invariant: what fills a placeholder stays where it was put: one path segment (or one query value) of a URL, one part
//! of a Redis key.

mod http;
mod redis;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::http::UrlTemplate;
pub use self::redis::{RedisAddress, RedisKey};

use self::http::HttpSource;
use self::redis::{RedisSource, Server};
use super::Tell;
use super::failure::Failure;
use crate::auth::Secret;
use crate::backend::commands::http::Pool;

/// `http` or `redis` of a feed.
#[derive(Clone, Debug)]
pub enum SourceSettings {
    /// GET; the body is `data`.
    Http(UrlTemplate),
    /// One key.
    Redis {
        /// The server.
        address: RedisAddress,
        /// Its password, UTF-8.
        password: Option<Secret>,
        /// The key and what it holds.
        key: RedisKey,
    },
}

/// The connections of all feeds.
#[derive(Default)]
pub(super) struct Connections {
    http: Pool,
    redis: HashMap<(RedisAddress, Option<Secret>), Arc<Server>>,
}

/// A source, ready to be asked.
pub(super) enum Source {
    Http(HttpSource),
    Redis(RedisSource),
}

impl Source {
    pub(super) fn new(settings: &SourceSettings, connections: &mut Connections) -> Self {
        match settings {
            SourceSettings::Http(url) => Self::Http(HttpSource::new(&connections.http, url.clone())),
            SourceSettings::Redis { address, password, key } => {
                let server = connections
                    .redis
                    .entry((address.clone(), password.clone()))
                    .or_insert_with(|| Arc::new(Server::new(address, password.as_ref())));
                Self::Redis(RedisSource::new(Arc::clone(server), key.clone()))
            }
        }
    }

    /// Whether this may fill the placeholder.
    pub(super) fn takes(&self, value: &str) -> bool {
        match self {
            Self::Http(_) => true,
            // A colon parts keys; white space has no place in one.
            Self::Redis(_) => !value.contains(':') && !value.contains(char::is_whitespace),
        }
    }

    /// Asks once. May be dropped at any time.
    pub(super) async fn ask(&self, value: Option<&str>, tell: &Tell, bytes_max: usize) -> Result<String, Failure> {
        match self {
            Self::Http(source) => source.ask(value, bytes_max).await,
            Self::Redis(source) => source.ask(value, tell, bytes_max).await,
        }
    }

    /// An answer did not come in time: what it was to come over may be dead.
    pub(super) fn timed_out(&self) {
        if let Self::Redis(source) = self {
            source.forget_connection();
        }
    }
}

/// The one placeholder of a text, as it is written (`{id}`). It may stand there several times.
fn placeholder(text: &str) -> Result<Option<Box<str>>, &'static str> {
    const WRONG: &str = "may hold one placeholder such as {id} and no other braces";
    let (mut found, mut rest) = (None, text);
    while let Some(start) = rest.find(['{', '}']) {
        let end = rest[start..].find('}').ok_or(WRONG)? + start;
        let name = &rest[start..=end];
        let inside = name
            .strip_prefix('{')
            .and_then(|name| name.strip_suffix('}'))
            .ok_or(WRONG)?;
        if inside.is_empty() || inside.contains('{') || found.replace(name).is_some_and(|other| other != name) {
            return Err(WRONG);
        }
        rest = &rest[end + 1..];
    }
    Ok(found.map(Into::into))
}
