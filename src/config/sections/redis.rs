//! How `[broker]`, `[[feed]]` and `[[source]]` say where Redis is.

use std::path::Path;

use super::broker::Urls;
use crate::auth::Secret;
use crate::config::check::ensure;
use crate::redis::{RedisAddress, RedisServer};

/// The addresses that URLs name.
///
/// # Errors
///
/// Why one of them is not an address.
pub(super) fn addresses(urls: &Urls) -> Result<Vec<RedisAddress>, String> {
    ensure(!urls.0.is_empty(), "must name a server")?;
    urls.0.iter().map(|url| url.parse()).collect()
}

/// The server at these URLs, or the usual port of this machine. `None` only for URLs that the check refuses.
pub(super) fn server(
    urls: Option<&Urls>,
    (user, password): (Option<&str>, Option<Secret>),
    ca_file: Option<&Path>,
) -> Option<RedisServer> {
    Some(RedisServer {
        addresses: match urls {
            Some(urls) => addresses(urls).ok()?,
            None => vec![RedisAddress::default()],
        },
        user: user.map(Into::into),
        password,
        ca_file: ca_file.map(Into::into),
    })
}
