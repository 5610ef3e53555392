//! `redis = "string:key"`, `"hash:key"`, `"list:key"` or `"record:key"`: one key. The feeds of a server share its connections.
//!
//! - `string`: the value is the JSON response. A missing key gives `null`.
//! - `hash`: without `record_key`, one object of the fields. With it, an array with one record for each field, whose value
//!   is a JSON object. A missing key is an empty hash.
//! - `list`: an array of records. Each element of the list is the key of a hash, and each hash is a record. Keys of missing
//!   hashes are skipped. A missing list is empty.
//! - `record`: one hash as an array of one record. A missing key gives an empty array.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use redis::{Cmd, FromRedisValue};

use super::Response;
use super::server::Server;
use crate::backend::feeds::PublishMode;
use crate::backend::feeds::attributes::{self, Hash};
use crate::backend::feeds::change::RECORDS_MAX;
use crate::backend::feeds::failure::PollFailure;

/// A key with at most one placeholder, and the type of its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisKey {
    kind: Kind,
    key: Box<str>,
    placeholder: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    String,
    Hash,
    List,
    Record,
}

impl FromStr for RedisKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const WANTED: &str = "must be string:<key>, hash:<key>, list:<key> or record:<key>";
        let (kind, key) = text.split_once(':').ok_or(WANTED)?;
        let kind = match kind {
            "string" => Kind::String,
            "hash" => Kind::Hash,
            "list" => Kind::List,
            "record" => Kind::Record,
            _ => return Err(WANTED.to_owned()),
        };
        if key.is_empty() {
            return Err(WANTED.to_owned());
        }
        let placeholder = super::placeholder(key)?;
        Ok(Self {
            kind,
            key: key.into(),
            placeholder,
        })
    }
}

impl fmt::Display for RedisKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::String => "string",
            Kind::Hash => "hash",
            Kind::List => "list",
            Kind::Record => "record",
        };
        write!(f, "{kind}:{}", self.key)
    }
}

impl RedisKey {
    /// The placeholder with its braces.
    #[must_use]
    pub fn placeholder(&self) -> Option<&str> {
        self.placeholder.as_deref()
    }

    fn fill(&self, value: Option<&str>) -> String {
        match (&self.placeholder, value) {
            (Some(placeholder), Some(value)) => self.key.replace(&**placeholder, value),
            _ => self.key.to_string(),
        }
    }
}

pub(in crate::backend::feeds) struct RedisSource {
    server: Arc<Server>,
    key: RedisKey,
}

impl RedisSource {
    pub(super) fn new(server: Arc<Server>, key: RedisKey) -> Self {
        Self { server, key }
    }

    pub(super) fn forget_connections(&self) {
        self.server.forget_connections();
    }

    /// Reads the key once.
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
        let key = self.key.fill(value);
        let record_key = match mode {
            PublishMode::ChangedRecords(key) => Some(key),
            PublishMode::Changed | PublishMode::Everything => None,
        };
        let (text, is_missing) = match self.key.kind {
            Kind::String => match self.string(&key).await? {
                Some(value) => (text(value, "the value")?, false),
                None => ("null".to_owned(), true),
            },
            Kind::Hash => {
                let hash = texts(self.hash(&key).await?)?;
                let is_missing = hash.is_empty();
                let text = match record_key {
                    Some(key) => attributes::records(hash, key)?,
                    None => attributes::object(hash, None),
                };
                (text, is_missing)
            }
            Kind::List => {
                let hashes = self.list(&key).await?;
                let is_missing = hashes.is_empty();
                let hashes = hashes.into_iter().map(texts).collect::<Result<_, _>>()?;
                (attributes::array(hashes, record_key), is_missing)
            }
            Kind::Record => {
                let hash = texts(self.hash(&key).await?)?;
                let is_missing = hash.is_empty();
                (attributes::array(vec![hash], record_key), is_missing)
            }
        };
        if text.len() > bytes_max {
            return Err(PollFailure::BadResponse(format!("it is longer than {bytes_max} bytes")));
        }
        Ok(Response { text, is_missing })
    }

    async fn string(&self, key: &str) -> Result<Option<Vec<u8>>, PollFailure> {
        self.one(key, |key| redis::cmd("GET").arg(key).take()).await
    }

    async fn hash(&self, key: &str) -> Result<RawHash, PollFailure> {
        self.one(key, |key| redis::cmd("HGETALL").arg(key).take()).await
    }

    async fn list(&self, key: &str) -> Result<Vec<RawHash>, PollFailure> {
        // Up to one key more than the limit is read. The comparison with the last response refuses that many records.
        let range = |key: &&str| redis::cmd("LRANGE").arg(key).arg(0).arg(RECORDS_MAX).take();
        let keys: Vec<Vec<u8>> = self.one(key, range).await?;
        self.server
            .ask(&keys, |key| redis::cmd("HGETALL").arg(key).take())
            .await
    }

    async fn one<T: FromRedisValue + Default>(
        &self,
        key: &str,
        command: impl Fn(&&str) -> Cmd,
    ) -> Result<T, PollFailure> {
        let answers = self.server.ask(&[key], command).await?;
        Ok(answers.into_iter().next().unwrap_or_default())
    }
}

/// A hash as Redis keeps it. Its fields and values are read as bytes: the client library would give the connection up
/// after a value that is not text.
type RawHash = Vec<(Vec<u8>, Vec<u8>)>;

fn text(bytes: Vec<u8>, what: &str) -> Result<String, PollFailure> {
    String::from_utf8(bytes).map_err(|_| PollFailure::BadResponse(format!("{what} of the key is not text (UTF-8)")))
}

fn texts(hash: RawHash) -> Result<Hash, PollFailure> {
    let pair = |(field, value): (Vec<u8>, Vec<u8>)| {
        let field = text(field, "a field")?;
        let value = text(value, &format!("the field {field:?}"))?;
        Ok((field, value))
    };
    hash.into_iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_checked() {
        for good in [
            "string:a",
            "hash:prices:volume_wave",
            "list:user:{id}:orders",
            "record:stock:{code}",
        ] {
            assert_eq!(good.parse::<RedisKey>().expect(good).to_string(), good);
        }
        for bad in ["prices", "hash:", "zset:a", "hash:{a", "hash:{a}:{b}"] {
            assert!(bad.parse::<RedisKey>().is_err(), "{bad}");
        }
        let key: RedisKey = "list:user:{id}:orders".parse().expect("good");
        assert_eq!(key.fill(Some("42")), "user:42:orders");
    }
}
