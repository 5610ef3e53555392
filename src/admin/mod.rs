//! The admin API, on a listener of its own: publishing, clients, statistics, metrics, health.
//!
//! Invariant: nothing but `/healthz`, `/readyz` and `/metrics` answers without the admin key or a fitting token.

use std::fmt;

pub use crate::http::ListenAddress;

/// `[admin]`, `admin_listen` and the limits of publishing.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The admin listener.
    pub listen: ListenAddress,
    /// The admin key; without one only tokens of role admin are accepted.
    pub key: Option<AdminKey>,
    /// Longest body of `POST /api/publish`, in bytes (`publish_body_bytes`).
    pub publish_body_bytes: u64,
    /// Longest `data` of an event, in bytes (`event_bytes`).
    pub event_bytes: u32,
}

/// The admin key. Never shown.
#[derive(Clone)]
pub struct AdminKey(Box<[u8]>);

impl AdminKey {
    /// A key, which must not be empty.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        (!key.is_empty()).then(|| Self(key.as_bytes().into()))
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(hidden)")
    }
}
