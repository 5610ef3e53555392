//! The keys that verify tokens.
//!
//! Invariant: a [`Key`] has exactly one algorithm, and its constructor checked that it fits. The header of a token only
//! selects among the keys; it never decides how a key is used (RFC 8725, section 3.1).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::signature as lc;
use jsonwebtoken::{DecodingKey, EncodingKey};

use super::source::KeySource;

/// A signature algorithm (RFC 7518, section 3.1; EdDSA: RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the variants have the names of the RFC")]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    EdDsa,
}

/// The kind of key that an algorithm needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    /// A shared secret of at least this many bytes, which is the length of the hash.
    Hmac(usize),
    Rsa,
    Ec,
    Ed,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 9] = [
        Self::Hs256,
        Self::Hs384,
        Self::Hs512,
        Self::Rs256,
        Self::Rs384,
        Self::Rs512,
        Self::Es256,
        Self::Es384,
        Self::EdDsa,
    ];

    /// The name in a token's header.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Hs384 => "HS384",
            Self::Hs512 => "HS512",
            Self::Rs256 => "RS256",
            Self::Rs384 => "RS384",
            Self::Rs512 => "RS512",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
        }
    }

    /// Whether the algorithm uses shared secrets.
    #[must_use]
    pub const fn is_hmac(self) -> bool {
        matches!(self.family(), Family::Hmac(_))
    }

    const fn family(self) -> Family {
        match self {
            Self::Hs256 => Family::Hmac(32),
            Self::Hs384 => Family::Hmac(48),
            Self::Hs512 => Family::Hmac(64),
            Self::Rs256 | Self::Rs384 | Self::Rs512 => Family::Rsa,
            Self::Es256 | Self::Es384 => Family::Ec,
            Self::EdDsa => Family::Ed,
        }
    }

    pub(super) const fn library(self) -> jsonwebtoken::Algorithm {
        use jsonwebtoken::Algorithm as Library;
        match self {
            Self::Hs256 => Library::HS256,
            Self::Hs384 => Library::HS384,
            Self::Hs512 => Library::HS512,
            Self::Rs256 => Library::RS256,
            Self::Rs384 => Library::RS384,
            Self::Rs512 => Library::RS512,
            Self::Es256 => Library::ES256,
            Self::Es384 => Library::ES384,
            Self::EdDsa => Library::EdDSA,
        }
    }

    /// The library's public-key algorithm; `None` for an algorithm with shared secrets.
    fn public(self) -> Option<&'static dyn lc::VerificationAlgorithm> {
        Some(match self {
            Self::Hs256 | Self::Hs384 | Self::Hs512 => return None,
            Self::Rs256 => &lc::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &lc::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &lc::RSA_PKCS1_2048_8192_SHA512,
            Self::Es256 => &lc::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &lc::ECDSA_P384_SHA384_FIXED,
            Self::EdDsa => &lc::ED25519,
        })
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name is not that of a supported algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of HS256, HS384, HS512, RS256, RS384, RS512, ES256, ES384, EdDSA")]
pub struct UnknownAlgorithm;

impl FromStr for Algorithm {
    type Err = UnknownAlgorithm;

    fn from_str(name: &str) -> Result<Self, UnknownAlgorithm> {
        let named = |algorithm: &Self| algorithm.as_str() == name;
        Self::ALL.into_iter().find(named).ok_or(UnknownAlgorithm)
    }
}

/// Why a key cannot be used. The message contains nothing of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The secret is empty or consists of white space.
    #[error("the secret is empty or blank")]
    Empty,
    /// The secret is shorter than the algorithm's hash (RFC 7518, section 3.2).
    #[error("the secret is shorter than the {bytes_min} bytes that {algorithm} needs")]
    TooShort {
        /// The algorithm of the key.
        algorithm: Algorithm,
        /// The shortest accepted secret, in bytes.
        bytes_min: usize,
    },
    /// The secret is a public key. Every holder of that key could sign tokens.
    #[error("the secret is a PEM file; a public key needs an RS, ES or EdDSA algorithm")]
    PemAsSecret,
    /// A secret is given for a public-key algorithm.
    #[error("{0} needs a public key, not a secret")]
    NeedsPublicKey(Algorithm),
    /// A public key is given for an HMAC algorithm.
    #[error("{0} needs a secret, not a public key")]
    NeedsSecret(Algorithm),
    /// The file is not a PEM public key of the algorithm's kind and size.
    #[error("the file is not a PEM public key for {0}")]
    NotAPublicKey(Algorithm),
}

/// One key. `Debug` shows its algorithm and id only.
#[derive(Clone)]
pub struct Key {
    id: Option<Box<str>>,
    algorithm: Algorithm,
    verifies: DecodingKey,
    signs: Option<EncodingKey>,
}

impl Key {
    /// A key of an HMAC algorithm.
    ///
    /// # Errors
    ///
    /// When the algorithm needs a public key, or when the secret is empty, is a PEM file, or is shorter than the
    /// algorithm's hash. `allow_short` accepts a secret that is shorter.
    pub fn hmac(algorithm: Algorithm, secret: &[u8], allow_short: bool) -> Result<Self, KeyError> {
        let Family::Hmac(bytes_min) = algorithm.family() else {
            return Err(KeyError::NeedsPublicKey(algorithm));
        };
        if secret.trim_ascii().is_empty() {
            return Err(KeyError::Empty);
        }
        if secret.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Err(KeyError::PemAsSecret);
        }
        if secret.len() < bytes_min && !allow_short {
            return Err(KeyError::TooShort { algorithm, bytes_min });
        }
        Ok(Self {
            id: None,
            algorithm,
            verifies: DecodingKey::from_secret(secret),
            signs: Some(EncodingKey::from_secret(secret)),
        })
    }

    /// A public key in PEM: `PUBLIC KEY`, or `RSA PUBLIC KEY` of 2048 to 8192 bits.
    ///
    /// # Errors
    ///
    /// When the algorithm needs a secret, or when the key's kind, curve or size does not fit the algorithm. A private key
    /// is refused: the gateway does not need it.
    pub fn public_pem(algorithm: Algorithm, pem: &[u8]) -> Result<Self, KeyError> {
        let public = algorithm.public().ok_or(KeyError::NeedsSecret(algorithm))?;
        let parsed = match algorithm.family() {
            Family::Rsa => DecodingKey::from_rsa_pem(pem),
            Family::Ec => DecodingKey::from_ec_pem(pem),
            _ => DecodingKey::from_ed_pem(pem),
        };
        let refused = KeyError::NotAPublicKey(algorithm);
        let verifies = parsed.map_err(|_| refused)?;
        let bytes = verifies.try_get_as_bytes().map_err(|_| refused)?;
        // jsonwebtoken checks the key only when it verifies. Parsing it here reports a bad key at start.
        lc::ParsedPublicKey::new(public, bytes).map_err(|_| refused)?;
        Ok(Self {
            id: None,
            algorithm,
            verifies,
            signs: None,
        })
    }

    /// A public RSA key of 2048 to 8192 bits, from its big-endian modulus and exponent.
    ///
    /// # Errors
    ///
    /// When the algorithm is not an RSA one, or the numbers are not such a key.
    pub(super) fn rsa(algorithm: Algorithm, modulus: &[u8], exponent: &[u8]) -> Result<Self, KeyError> {
        let der = der_sequence(&[der_integer(modulus), der_integer(exponent)].concat());
        let start = modulus.iter().position(|byte| *byte != 0).unwrap_or(modulus.len());
        let bits = modulus[start..].len() * 8 - modulus.get(start).map_or(0, |byte| byte.leading_zeros() as usize);
        let fits = algorithm.family() == Family::Rsa && (2048..=8192).contains(&bits);
        Self::checked(algorithm, fits, &der, DecodingKey::from_rsa_der)
    }

    /// A public key on the curve of the algorithm, from its coordinates.
    ///
    /// # Errors
    ///
    /// When the algorithm has no curve, or there is no such point on it.
    pub(super) fn ec(algorithm: Algorithm, x: &[u8], y: &[u8]) -> Result<Self, KeyError> {
        // An uncompressed point (SEC 1, section 2.3.3).
        let point = [&[4], x, y].concat();
        let fits = algorithm.family() == Family::Ec && x.len() == y.len();
        Self::checked(algorithm, fits, &point, DecodingKey::from_ec_der)
    }

    /// A public Ed25519 key of 32 bytes.
    ///
    /// # Errors
    ///
    /// When the bytes are not such a key.
    pub(super) fn ed(bytes: &[u8]) -> Result<Self, KeyError> {
        Self::checked(Algorithm::EdDsa, true, bytes, DecodingKey::from_ed_der)
    }

    fn checked(
        algorithm: Algorithm,
        fits: bool,
        bytes: &[u8],
        decoding: impl FnOnce(&[u8]) -> DecodingKey,
    ) -> Result<Self, KeyError> {
        let refused = KeyError::NotAPublicKey(algorithm);
        let public = algorithm.public().filter(|_| fits).ok_or(refused)?;
        lc::ParsedPublicKey::new(public, bytes).map_err(|_| refused)?;
        Ok(Self {
            id: None,
            algorithm,
            verifies: decoding(bytes),
            signs: None,
        })
    }

    /// Sets the key's id. A token with a `kid` is verified by keys of that id, and by keys without an id.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        self.id = Some(id.into());
        self
    }

    /// The key's algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(super) const fn signs(&self) -> Option<&EncodingKey> {
        self.signs.as_ref()
    }

    fn verifies(&self, message: &str, signature: &str) -> bool {
        let message = message.as_bytes();
        jsonwebtoken::crypto::verify(signature, message, &self.verifies, self.algorithm.library()).unwrap_or(false)
    }
}

/// A DER INTEGER of a non-negative number in big-endian bytes.
fn der_integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
    let mut content = bytes[start..].to_vec();
    if content.first().is_none_or(|first| *first >= 0x80) {
        content.insert(0, 0);
    }
    der(0x02, &content)
}

/// A DER SEQUENCE.
fn der_sequence(content: &[u8]) -> Vec<u8> {
    der(0x30, content)
}

fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut encoded = vec![tag];
    match content.len() {
        length @ 0..0x80 => encoded.push(length as u8),
        length => {
            let bytes = length.to_be_bytes();
            let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
            encoded.push(0x80 | (bytes.len() - start) as u8);
            encoded.extend_from_slice(&bytes[start..]);
        }
    }
    encoded.extend_from_slice(content);
    encoded
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// The keys of a gateway: those of the configuration, in order, and those of sources.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    sources: Vec<Arc<KeySource>>,
}

impl KeySet {
    /// A set of any number of keys. Several may have one algorithm, for rotation. The empty set accepts no token.
    #[must_use]
    pub const fn new(keys: Vec<Key>) -> Self {
        Self {
            keys,
            sources: Vec::new(),
        }
    }

    /// Adds sources, whose keys may change.
    #[must_use]
    pub fn with_sources(mut self, sources: Vec<Arc<KeySource>>) -> Self {
        self.sources = sources;
        self
    }

    /// Whether the set has neither a key nor a source.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.sources.is_empty()
    }

    /// The keys of the configuration, in order.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether `test` is true for some key.
    fn any(&self, test: impl Fn(&Key) -> bool) -> bool {
        self.keys.iter().any(&test) || self.sources.iter().any(|source| source.keys().iter().any(&test))
    }

    /// Whether some key has this algorithm.
    pub(super) fn accepts(&self, algorithm: Algorithm) -> bool {
        self.any(|key| key.algorithm == algorithm)
    }

    /// Whether `signature` (in base64url) is a signature of `message` by a key of this algorithm whose id, if it has one,
    /// is `kid`.
    pub(super) fn verifies(&self, algorithm: Algorithm, kid: Option<&str>, message: &str, signature: &str) -> bool {
        self.any(|key| {
            let id_fits = key.id().zip(kid).is_none_or(|(id, kid)| id == kid);
            key.algorithm == algorithm && id_fits && key.verifies(message, signature)
        })
    }

    /// Whether the key that a token names is unknown, but may come. Asks for it then. A token that names none may have a key
    /// of a source that has none yet.
    pub(super) fn may_get(&self, kid: Option<&str>) -> bool {
        let stale = |source: &&Arc<KeySource>| match kid {
            Some(_) => source.ask(),
            None => source.keys().is_empty() && source.ask(),
        };
        let is_known = kid.is_some_and(|kid| self.any(|key| key.id() == Some(kid)));
        // Every stale source is asked.
        !is_known && self.sources.iter().filter(stale).count() > 0
    }
}
