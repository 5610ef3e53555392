//! The keys that verify tokens.
//!
//! Invariant: a [`Key`] has exactly one algorithm, and its constructor checked that it fits. The header of a token only
//! selects among the keys; it never decides how a key is used (RFC 8725, section 3.1).

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature as lc;
use jsonwebtoken::{DecodingKey, EncodingKey};

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

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// The keys of a gateway, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<Key>);

impl KeySet {
    /// A set of any number of keys. Several may have one algorithm, for rotation. The empty set accepts no token.
    #[must_use]
    pub const fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// Whether the set has no key.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys, in order.
    #[must_use]
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// Whether some key has this algorithm.
    pub(super) fn accepts(&self, algorithm: Algorithm) -> bool {
        self.0.iter().any(|key| key.algorithm == algorithm)
    }

    /// Whether `signature` (in base64url) is a signature of `message` by a key of this algorithm whose id, if it has one,
    /// is `kid`.
    pub(super) fn verifies(&self, algorithm: Algorithm, kid: Option<&str>, message: &str, signature: &str) -> bool {
        let fits = |key: &&Key| {
            let id_fits = key.id().zip(kid).is_none_or(|(id, kid)| id == kid);
            key.algorithm == algorithm && id_fits
        };
        self.0.iter().filter(fits).any(|key| key.verifies(message, signature))
    }
}
