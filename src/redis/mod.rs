//! Redis and Valkey servers: where they are, how the gateway logs in, and which one takes writes. The broker, feeds and
//! sources share it.
//!
//! | address | the server that is used |
//! |---|---|
//! | `redis://host:port/database`, `rediss://…` | this one |
//! | the same, of a node of a Redis Cluster | the node that owns the slot of the key |
//! | `sentinel://host:port/master`, `sentinels://…` | the master that the Sentinel names |
//!
//! Invariants: no address holds a secret, so every address may be logged. A connection is to one process and is not made
//! again by itself: whoever uses it looks for the server anew, since another one may take writes by then.

mod address;
mod find;

use std::path::PathBuf;

use redis::{ErrorKind, RedisError};

use crate::auth::Secret;

pub use address::RedisAddress;
pub(crate) use find::{Found, NODES_MAX, NoConnection, Sentinel};

/// Where a server is, and how the gateway logs in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisServer {
    /// Where it is, at least one. They are tried in turn.
    pub addresses: Vec<RedisAddress>,
    /// The ACL user; `None`: the default user.
    pub user: Option<Box<str>>,
    /// The password of the user, in UTF-8.
    pub password: Option<Secret>,
    /// The certificates of authorities that may have signed the server's; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
}

impl Default for RedisServer {
    fn default() -> Self {
        Self {
            addresses: vec![RedisAddress::default()],
            user: None,
            password: None,
            ca_file: None,
        }
    }
}

/// Whether the server refused the login.
pub(crate) fn is_refused(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed
}
