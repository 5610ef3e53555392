//! Session ids: the connection of a session and a secret.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The length of the secret of a session id, in bytes: 128 bits.
pub const SECRET_BYTES: usize = 16;

/// A session id (`sid`), which the requests of a session carry: 32 characters of base64url for 64 bits that identify the
/// connection and 128 random bits.
///
/// A request with the session id is treated as the client's. So the secret is compared in constant time and never logged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sid {
    /// The bits that identify the shard and the connection.
    pub connection: u64,
    /// The random part.
    pub secret: [u8; SECRET_BYTES],
}

const TEXT_BYTES: usize = 32;

impl Sid {
    /// The text in the `open` packet and in queries.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = [0; 8 + SECRET_BYTES];
        bytes[..8].copy_from_slice(&self.connection.to_be_bytes());
        bytes[8..].copy_from_slice(&self.secret);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The inverse of [`Sid::to_text`]; `None` if `text` is not a session id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != TEXT_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (connection, secret) = bytes.split_first_chunk()?;
        Some(Self {
            connection: u64::from_be_bytes(*connection),
            secret: secret.try_into().ok()?,
        })
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sid")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}
