//! Who a client is and what it may do. No I/O: keys are data, time is an argument.
//!
//! Invariant: an [`Identity`] exists only for a token that was verified, or for a configured anonymous role.

use std::sync::Arc;

use crate::channel::{Channel, Pattern};
use crate::message::ErrorCode;

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

/// What an identity may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Role admin: everything.
    pub admin: bool,
    /// May subscribe.
    pub channels: Vec<Pattern>,
    /// May command (actions follow the channel grammar).
    pub commands: Vec<Pattern>,
    /// May publish.
    pub publish: Vec<Pattern>,
}

impl Identity {
    /// Whether every channel that `pattern` can match may be read: covered by one allowed pattern, or the user's
    /// own `user.<sub>.*`; what can match another's `user.…` needs role admin or an allowed pattern whose first
    /// segment is literally `user`.
    #[must_use]
    pub fn may_subscribe(&self, pattern: &Pattern) -> bool {
        unimplemented!("{pattern}")
    }
    /// Whether `action` may be sent.
    #[must_use]
    pub fn may_command(&self, action: &Channel) -> bool {
        unimplemented!("{action}")
    }
    /// Whether `channel` may be published to.
    #[must_use]
    pub fn may_publish(&self, channel: &Channel) -> bool {
        unimplemented!("{channel}")
    }
}

/// Why a token was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TokenError {
    /// `TOKEN_EXPIRED` or `TOKEN_INVALID`.
    pub code: ErrorCode,
    /// For the client; never holds key material or the token.
    pub message: Box<str>,
}

/// `[auth] mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A token is needed.
    Required,
    /// A connection without a token is anonymous.
    Optional,
    /// Tokens are ignored; everybody is anonymous.
    Off,
}
