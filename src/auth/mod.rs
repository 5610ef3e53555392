//! Who a client is and what it may do. No I/O: keys are data, time is an argument.
//!
//! Invariant: an [`Identity`] exists only for a token that was verified, or for the configured anonymous role.
//!
//! A token goes through [`verify`]: signature by a key of the [`KeySet`], then claims, then time. What its owner may
//! do comes from the [`Policy`] (by role) unless the token's own claims say otherwise, and is asked of the identity
//! ([`Identity::may_subscribe`], [`Identity::may_command`], [`Identity::may_publish`]).

mod claims;
mod key;
mod mint;
mod permission;
mod policy;
mod secret;
#[cfg(test)]
pub(crate) mod tests;
mod token;
pub mod verifier;

use std::sync::Arc;

pub use key::{Algorithm, Key, KeyError, KeySet, UnknownAlgorithm};
pub use mint::{Grant, MintError, mint};
pub use permission::{Permissions, is_admin_only};
pub use policy::{ADMIN_ROLE, Policy, Settings};
pub use secret::{Secret, same_secret};
pub use token::{TOKEN_BYTES_MAX, verify};

use tickgate_protocol::message::ErrorCode;

/// Who a connection is. Shared between connections of one token.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// The token's subject, one valid channel segment; `None` for anonymous connections.
    pub user: Option<Arc<str>>,
    /// The role, as the token names it.
    pub role: Option<Arc<str>>,
    /// What it may do.
    pub permissions: Arc<Permissions>,
    /// When the token ends (its `exp` plus leeway), Unix milliseconds; `None`: never.
    pub expires_at_ms: Option<u64>,
    /// The token's `exp` itself, Unix milliseconds: what clients are told.
    pub exp_ms: Option<u64>,
    /// The token's `jti`.
    pub token_id: Option<Box<str>>,
}

impl Identity {
    /// A connection without a token, with these permissions. It never expires and owns no `user.…` channel.
    #[must_use]
    pub const fn anonymous(permissions: Arc<Permissions>) -> Self {
        Self {
            user: None,
            role: None,
            permissions,
            expires_at_ms: None,
            exp_ms: None,
            token_id: None,
        }
    }
}

/// Why a token was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TokenError {
    /// `TOKEN_EXPIRED` or `TOKEN_INVALID`; `INTERNAL` when the gateway could not verify it now.
    pub code: ErrorCode,
    /// For the client; never holds key material or the token.
    pub message: Box<str>,
}

impl TokenError {
    /// A token that no time will make good.
    #[must_use]
    pub fn invalid(message: impl Into<Box<str>>) -> Self {
        Self {
            code: ErrorCode::TokenInvalid,
            message: message.into(),
        }
    }

    /// A token above [`TOKEN_BYTES_MAX`].
    #[must_use]
    pub fn too_long() -> Self {
        Self::invalid(format!("the token is longer than {TOKEN_BYTES_MAX} bytes"))
    }

    /// A token whose `exp` (Unix milliseconds) and leeway passed.
    #[must_use]
    pub fn expired(exp_ms: u64) -> Self {
        Self {
            code: ErrorCode::TokenExpired,
            message: format!("token expired at {}", iso(exp_ms)).into(),
        }
    }
}

/// `[auth] mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// A token is needed.
    #[default]
    Required,
    /// A connection without a token is anonymous.
    Optional,
    /// Tokens are ignored; everybody is anonymous.
    Off,
}

/// Unix milliseconds as `2025-11-24T10:30:00Z` (with a fraction when there is one).
fn iso(unix_ms: u64) -> String {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| format!("{unix_ms} ms"), |at| at.to_string())
}
