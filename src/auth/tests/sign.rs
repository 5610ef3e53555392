//! Signs tokens without the library under test, any header and any payload.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};

use crate::auth::{Algorithm, Key, KeySet};

/// As long as the longest hash.
pub(crate) const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// The other side's key of one algorithm.
pub(crate) enum Signer {
    Hmac(Box<hmac::Key>),
    Rsa(Box<RsaKeyPair>, &'static dyn signature::RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

impl Signer {
    /// HS256 with this secret.
    pub(crate) fn from_secret(secret: &[u8]) -> Self {
        Self::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// A fresh key pair (or [`SECRET`]), and the gateway's key for it.
    pub(crate) fn generate(algorithm: Algorithm) -> (Self, Key) {
        let hmac = |hash| Self::Hmac(Box::new(hmac::Key::new(hash, SECRET)));
        let rsa = |encoding| {
            Self::Rsa(
                Box::new(RsaKeyPair::generate(KeySize::Rsa2048).expect("generated")),
                encoding,
            )
        };
        let ec = |curve| Self::Ec(EcdsaKeyPair::generate(curve).expect("generated"));
        let signer = match algorithm {
            Algorithm::Hs256 => hmac(hmac::HMAC_SHA256),
            Algorithm::Hs384 => hmac(hmac::HMAC_SHA384),
            Algorithm::Hs512 => hmac(hmac::HMAC_SHA512),
            Algorithm::Rs256 => rsa(&signature::RSA_PKCS1_SHA256),
            Algorithm::Rs384 => rsa(&signature::RSA_PKCS1_SHA384),
            Algorithm::Rs512 => rsa(&signature::RSA_PKCS1_SHA512),
            Algorithm::Es256 => ec(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => ec(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDsa => Self::Ed(Ed25519KeyPair::generate().expect("generated")),
        };
        let key = match signer.public_pem() {
            Some(pem) => Key::public_pem(algorithm, pem.as_bytes()),
            None => Key::hmac(algorithm, SECRET, false),
        };
        (signer, key.expect("it fits"))
    }

    /// The public key; `None` for a secret.
    pub(crate) fn public_pem(&self) -> Option<String> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Hmac(_) => return None,
            Self::Rsa(pair, _) => pair.public_key().as_der(),
            Self::Ec(pair) => pair.public_key().as_der(),
            Self::Ed(pair) => pair.public_key().as_der(),
        }
        .expect("encoded");
        Some(pem("PUBLIC KEY", der.as_ref()))
    }

    /// The public key as a JSON Web Key, without an id and an algorithm.
    pub(crate) fn jwk(&self) -> serde_json::Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Hmac(_) => panic!("a secret is no public key"),
            Self::Rsa(pair, _) => {
                // `RSAPublicKey` of PKCS #1: a sequence of two integers.
                let (sequence, _) = der(pair.public_key().as_ref());
                let (modulus, rest) = der(sequence);
                let (exponent, _) = der(rest);
                serde_json::json!({"kty": "RSA", "n": encode(&modulus[1..]), "e": encode(exponent)})
            }
            Self::Ec(pair) => {
                let point = &pair.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                serde_json::json!({"kty": "EC", "crv": curve, "x": encode(x), "y": encode(y)})
            }
            Self::Ed(pair) => {
                serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())})
            }
        }
    }

    /// A token with this header and this payload.
    pub(crate) fn token(&self, header: &str, payload: &str) -> String {
        let message = format!("{}.{}", base64url(header), base64url(payload));
        let (bytes, random) = (message.as_bytes(), SystemRandom::new());
        let signature = match self {
            Self::Hmac(key) => hmac::sign(key, bytes).as_ref().to_vec(),
            Self::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, bytes, &mut signature).expect("signed");
                signature
            }
            Self::Ec(pair) => pair.sign(&random, bytes).expect("signed").as_ref().to_vec(),
            Self::Ed(pair) => pair.sign(bytes).as_ref().to_vec(),
        };
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// The content of the first value of DER, and what follows it.
fn der(bytes: &[u8]) -> (&[u8], &[u8]) {
    let (start, length) = match bytes[1] {
        short @ 0..0x80 => (2, usize::from(short)),
        long => {
            let count = usize::from(long & 0x7f);
            let digits = &bytes[2..2 + count];
            (
                2 + count,
                digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)),
            )
        }
    };
    bytes[start..].split_at(length)
}

/// A token signed by [`SECRET`] with HS256.
pub(crate) fn hs256(payload: &str) -> String {
    Signer::from_secret(SECRET).token(r#"{"alg":"HS256","typ":"JWT"}"#, payload)
}

/// [`SECRET`] for HS256 and nothing else.
pub(crate) fn hs256_keys() -> KeySet {
    KeySet::new(vec![Key::hmac(Algorithm::Hs256, SECRET, false).expect("long enough")])
}

pub(crate) fn base64url(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

/// SHA-256 of a text: bytes that look like a signature and are none.
pub(crate) fn noise(text: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}
