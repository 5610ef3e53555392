//! The sources of feeds: an HTTP URL or a Redis key. The response of either is one text, which should be JSON.
//!
//! Invariant: the value of a placeholder cannot change the rest of the text. It stays one path segment or one query value
//! of a URL, or one part of a Redis key.

mod http;
mod redis;
mod server;

use std::collections::HashMap;
use std::sync::Arc;

pub use self::http::UrlTemplate;
pub use self::redis::RedisKey;

use self::http::HttpSource;
use self::redis::RedisSource;
use self::server::Server;
use super::PublishMode;
use super::failure::PollFailure;
use crate::backend::commands::http::Pool;
use crate::redis::RedisServer;

/// The `http` or `redis` of a feed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceSettings {
    /// Requested with GET. The body is the `data`.
    Http(UrlTemplate),
    /// One key.
    Redis {
        /// The server.
        server: RedisServer,
        /// The key and the type of its value.
        key: RedisKey,
    },
}

impl SourceSettings {
    /// The characters that the value of a placeholder must not contain. A URL carries every value percent-encoded. A colon
    /// separates the parts of a Redis key, so such a value would name another key.
    pub(super) const fn refused_characters(&self) -> &'static str {
        match self {
            Self::Http(_) => "",
            Self::Redis { .. } => ":",
        }
    }
}

/// The connections that all feeds share.
#[derive(Default)]
pub(super) struct Connections {
    http: Pool,
    redis: HashMap<RedisServer, Arc<Server>>,
}

impl Connections {
    /// Forgets the connections that no feed uses.
    pub(super) fn forget_unused(&mut self) {
        self.redis.retain(|_, server| Arc::strong_count(server) > 1);
    }
}

/// What a source answered.
pub(super) struct Response {
    /// One JSON text, usually.
    pub(super) text: String,
    /// Whether the source does not have the key. The text then stands for that.
    pub(super) is_missing: bool,
}

/// The source of one feed.
pub(super) enum Source {
    Http(HttpSource),
    Redis(RedisSource),
}

impl Source {
    pub(super) fn new(settings: &SourceSettings, connections: &mut Connections) -> Self {
        match settings {
            SourceSettings::Http(url) => Self::Http(HttpSource::new(&connections.http, url.clone())),
            SourceSettings::Redis { server, key } => {
                let new = || Arc::new(Server::new(server.clone()));
                let server = connections.redis.entry(server.clone()).or_insert_with(new);
                Self::Redis(RedisSource::new(Arc::clone(server), key.clone()))
            }
        }
    }

    /// Polls the source once. The future may be dropped at any time.
    ///
    /// # Errors
    ///
    /// See [`PollFailure`]. A response of more than `bytes_max` bytes is one.
    pub(super) async fn fetch(
        &self,
        value: Option<&str>,
        mode: &PublishMode,
        bytes_max: usize,
    ) -> Result<Response, PollFailure> {
        match self {
            Self::Http(source) => Ok(Response {
                text: source.fetch(value, bytes_max).await?,
                is_missing: false,
            }),
            Self::Redis(source) => source.fetch(value, mode, bytes_max).await,
        }
    }

    /// The response did not arrive in time, so a connection may be dead. The next polls make new ones.
    pub(super) fn timed_out(&self) {
        if let Self::Redis(source) = self {
            source.forget_connections();
        }
    }
}

/// The placeholder of a text with its braces, such as `{id}`. The same placeholder may occur several times.
///
/// # Errors
///
/// When the text has two different placeholders or a stray brace.
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
