//! Authentication by JSON Web Tokens, and permissions. No I/O: keys are data, and time is an argument.
//!
//! Invariant: an [`Identity`] exists only for a verified token, or for the configured anonymous permissions.
//!
//! [`verify`] checks a token's signature with the keys of a [`KeySet`], then its claims, then the time. Its permissions
//! come from the [`Policy`], by role, unless the token has lists of its own. [`Identity::may_subscribe`],
//! [`Identity::may_command`] and [`Identity::may_publish`] apply them.

mod claims;
mod explain;
mod jwks;
mod key;
mod mint;
mod permission;
mod policy;
mod revocation;
mod secret;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod token;
pub mod verifier;

use std::sync::{Arc, LazyLock};

pub use explain::Explanation;
pub use jwks::{JWKS_BYTES_MAX, Jwks, JwksError};
pub use key::{Algorithm, Key, KeyError, KeySet, UnknownAlgorithm};
pub use mint::{Grant, MintError, mint};
pub use permission::{BYTES_PER_SECOND_MIN, Permissions, is_admin_only};
pub use policy::{ADMIN_ROLE, Policy, Settings};
pub use revocation::{REVOCATIONS_MAX, Revocation, Revocations, RevocationsFull, RevokedTokens, TOKEN_ID_BYTES_MAX};
pub use secret::{Secret, same_secret};
pub use source::KeySource;
pub use token::{TOKEN_BYTES_MAX, verify};

use tickgate_protocol::channel::Tenant;
use tickgate_protocol::message::ErrorCode;

/// The identity of a connection: its user and permissions. Connections with the same token share one.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// The tenant whose key signed the token, or whose endpoint an anonymous connection used. Nothing of another tenant is
    /// allowed.
    pub tenant: Tenant,
    /// The token's subject, one valid channel segment; `None` for anonymous connections.
    pub user: Option<Arc<str>>,
    /// The role that the token names.
    pub role: Option<Arc<str>>,
    /// What the user may do.
    pub permissions: Arc<Permissions>,
    /// When the identity ends (the token's `exp` plus leeway), in Unix milliseconds; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// The token's `exp` without leeway, in Unix milliseconds, as clients see it.
    pub exp_ms: Option<u64>,
    /// The token's `jti`.
    pub token_id: Option<Box<str>>,
    /// The token's `iat`, in Unix milliseconds.
    pub issued_at_ms: Option<u64>,
}

impl Identity {
    /// The identity of connections without a token, in the default tenant. It never expires and owns no `user.…` channel.
    #[must_use]
    pub const fn anonymous(permissions: Arc<Permissions>) -> Self {
        Self {
            tenant: Tenant::DEFAULT,
            user: None,
            role: None,
            permissions,
            expires_at_ms: None,
            exp_ms: None,
            token_id: None,
            issued_at_ms: None,
        }
    }

    /// A mark of tenant and user, for cursors. Different users may have the same one, but hardly ever do. The tenant counts by
    /// its name, which is `None` for the default tenant: its number may differ on another gateway.
    #[must_use]
    pub fn holder(&self, tenant: Option<&str>) -> u32 {
        // FNV-1a: the same in every process, since a cursor outlives the one that made it.
        let add = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let tenant = tenant.into_iter().flat_map(|name| name.bytes().chain([b'\n']));
        let user = self.user.as_deref().unwrap_or_default();
        tenant.chain(user.bytes()).fold(0x811c_9dc5, add)
    }

    /// Whose quotas what the identity publishes counts for: the user's, or one for all anonymous connections, whose name is
    /// empty. `None` for role admin, which has no quotas.
    #[must_use]
    pub fn publisher(&self) -> Option<Arc<str>> {
        if self.permissions.admin {
            return None;
        }
        let anonymous = || Arc::clone(&ANONYMOUS_PUBLISHER);
        Some(self.user.clone().unwrap_or_else(anonymous))
    }
}

/// No user has an empty name.
static ANONYMOUS_PUBLISHER: LazyLock<Arc<str>> = LazyLock::new(|| "".into());

/// A token was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TokenError {
    /// `TOKEN_EXPIRED` or `TOKEN_INVALID`; `INTERNAL` when the gateway cannot verify tokens at present.
    pub code: ErrorCode,
    /// The reason, for the client. It never contains the token or key material.
    pub message: Box<str>,
}

impl TokenError {
    /// An error of `TOKEN_INVALID`.
    #[must_use]
    pub fn invalid(message: impl Into<Box<str>>) -> Self {
        Self {
            code: ErrorCode::TokenInvalid,
            message: message.into(),
        }
    }

    /// The error for a token that was revoked.
    #[must_use]
    pub fn revoked() -> Self {
        Self::invalid("the token was revoked: get a new one")
    }

    /// The error for a token above [`TOKEN_BYTES_MAX`].
    #[must_use]
    pub fn too_long() -> Self {
        Self::invalid(format!("the token is longer than {TOKEN_BYTES_MAX} bytes"))
    }

    /// The error for a token whose key may be among those that are being read.
    #[must_use]
    pub fn key_awaited() -> Self {
        Self {
            code: ErrorCode::Internal,
            message: "the token's key is not known yet; try again in some seconds".into(),
        }
    }

    /// The error for a token whose `exp` (in Unix milliseconds) plus leeway has passed.
    #[must_use]
    pub fn expired(exp_ms: u64) -> Self {
        Self {
            code: ErrorCode::TokenExpired,
            message: format!("token expired at {}", iso(exp_ms)).into(),
        }
    }
}

/// `[auth] mode`: whether clients need a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Every client needs a token.
    #[default]
    Required,
    /// A client without a token is anonymous.
    Optional,
    /// Tokens are ignored: every client is anonymous.
    Off,
}

/// Formats Unix milliseconds as `2025-11-24T10:30:00Z`, with a fraction of a second when there is one.
fn iso(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{unix_ms} ms"), |at| at.to_string())
}
