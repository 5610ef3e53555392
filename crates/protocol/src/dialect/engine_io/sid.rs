//! Names of sessions: where the session is, and what nobody can guess.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Random bytes of a name: 128 bits.
pub const SECRET_BYTES: usize = 16;

/// A session's name, as its requests carry it: 32 characters of base64url, 64 bits that say which connection it is and
/// 128 random ones. Who knows the name is taken for the client, so it is compared in constant time and never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sid {
    /// Which connection (of which shard).
    pub place: u64,
    /// Random.
    pub secret: [u8; SECRET_BYTES],
}

const TEXT_BYTES: usize = 32;

impl Sid {
    /// As it stands in the `open` packet and in queries.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut bytes = [0; 8 + SECRET_BYTES];
        bytes[..8].copy_from_slice(&self.place.to_be_bytes());
        bytes[8..].copy_from_slice(&self.secret);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The inverse of [`Sid::to_text`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != TEXT_BYTES {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (place, secret) = bytes.split_first_chunk()?;
        Some(Self {
            place: u64::from_be_bytes(*place),
            secret: secret.try_into().ok()?,
        })
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sid")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}
