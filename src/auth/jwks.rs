//! JSON Web Key Sets (RFC 7517): the public keys that an issuer publishes.
//!
//! Invariant: a set yields public keys only, each with one algorithm. Shared secrets, private keys and keys for encryption are
//! left out.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::{Algorithm, Key};

/// Longest text of a set, in bytes.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;

/// Most keys of a set. A signature without a `kid` is tried with each.
const KEYS_MAX: usize = 100;

/// Why a set cannot be used. The message contains nothing of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// The text is not a JSON object with an array `keys` of objects.
    #[error("it is not a JSON Web Key Set: an object with the array `keys` (RFC 7517)")]
    NotASet,
    /// The text is longer than [`JWKS_BYTES_MAX`].
    #[error("it is longer than {JWKS_BYTES_MAX} bytes")]
    TooLong,
    /// The set has too many keys.
    #[error("it has more than {KEYS_MAX} keys")]
    TooManyKeys,
    /// No key of the set can be used.
    #[error(
        "none of its keys can verify tokens here: they need to be public RSA, EC (P-256, P-384) or Ed25519 keys for signatures"
    )]
    NoKey,
}

/// The keys of a set.
#[derive(Clone, Debug)]
pub struct Jwks {
    /// The keys that can be used.
    pub keys: Vec<Key>,
    /// How many keys were left out: of another kind, for encryption, for another algorithm, or malformed.
    pub left_out: usize,
}

#[derive(Deserialize)]
struct Set<'a> {
    // A key of an unknown kind must not spoil the others.
    #[serde(borrow)]
    keys: Vec<&'a serde_json::value::RawValue>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    // Only private keys have it.
    d: Option<serde::de::IgnoredAny>,
}

impl Jwks {
    /// Reads a set. With `algorithm`, only keys of this algorithm are used.
    ///
    /// An RSA key that names no algorithm is used for `algorithm`, or else for RS256. For the other kinds the curve decides.
    ///
    /// # Errors
    ///
    /// When the text is no set, or no key of it can be used.
    pub fn parse(text: &[u8], algorithm: Option<Algorithm>) -> Result<Self, JwksError> {
        if text.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLong);
        }
        let set: Set<'_> = serde_json::from_slice(text).map_err(|_| JwksError::NotASet)?;
        if set.keys.len() > KEYS_MAX {
            return Err(JwksError::TooManyKeys);
        }
        let total = set.keys.len();
        let keys = set.keys.into_iter().filter_map(|key| {
            let key: Jwk = serde_json::from_str(key.get()).ok()?;
            key.usable(algorithm)
        });
        let keys: Vec<_> = keys.collect();
        if keys.is_empty() {
            return Err(JwksError::NoKey);
        }
        Ok(Self {
            left_out: total - keys.len(),
            keys,
        })
    }
}

impl Jwk {
    /// The key, if it verifies signatures of an algorithm that is wanted.
    fn usable(&self, wanted: Option<Algorithm>) -> Option<Key> {
        let verifies = |operations: &Vec<String>| operations.iter().any(|operation| operation == "verify");
        let is_for_signatures = self.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && self.key_ops.as_ref().is_none_or(verifies);
        if self.d.is_some() || !is_for_signatures {
            return None;
        }
        let named = match &self.alg {
            Some(name) => Some(name.parse().ok()?),
            None => None,
        };
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let algorithm = named.or(wanted).unwrap_or(Algorithm::Rs256);
                Key::rsa(algorithm, &decode(self.n.as_ref()?)?, &decode(self.e.as_ref()?)?)
            }
            ("EC", Some("P-256")) => self.ec(Algorithm::Es256)?,
            ("EC", Some("P-384")) => self.ec(Algorithm::Es384)?,
            ("OKP", Some("Ed25519")) => Key::ed(&decode(self.x.as_ref()?)?),
            _ => return None,
        };
        let key = key.ok()?;
        let is_wanted = |algorithm: Option<Algorithm>| algorithm.is_none_or(|algorithm| algorithm == key.algorithm());
        if !is_wanted(named) || !is_wanted(wanted) {
            return None;
        }
        Some(match &self.kid {
            Some(id) => key.with_id(id),
            None => key,
        })
    }

    fn ec(&self, algorithm: Algorithm) -> Option<Result<Key, super::KeyError>> {
        let (x, y) = (decode(self.x.as_ref()?)?, decode(self.y.as_ref()?)?);
        Some(Key::ec(algorithm, &x, &y))
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
