//! Keys: every algorithm, confusion between them, rotation, and what is refused at start.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RsaKeyPair};

use super::sign::{SECRET, Signer, base64url, hs256, pem};
use crate::auth::{Algorithm, Key, KeyError, KeySet, Settings, same_secret, verify};
use tickgate_protocol::message::ErrorCode;

const PAYLOAD: &str = r#"{"sub":"42","exp":2000}"#;
const NOW_MS: u64 = 1_000_000;

fn header(algorithm: Algorithm) -> String {
    format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#)
}

fn accepts(keys: &KeySet, token: &str) -> bool {
    match verify(token, keys, &Settings::default(), NOW_MS) {
        Ok(identity) => identity.user.as_deref() == Some("42"),
        Err(error) => {
            assert_eq!(error.code, ErrorCode::TokenInvalid, "{error}");
            false
        }
    }
}

#[test]
fn every_algorithm_verifies_its_own_tokens_and_no_others() {
    let all: Vec<_> = Algorithm::ALL.into_iter().map(|a| (a, Signer::generate(a))).collect();
    for (algorithm, (signer, _)) in &all {
        let token = signer.token(&header(*algorithm), PAYLOAD);
        for (other, (_, key)) in &all {
            let keys = KeySet::new(vec![key.clone()]);
            assert_eq!(
                accepts(&keys, &token),
                algorithm == other,
                "{algorithm} token, {other} key"
            );
            // The header names what the key is for, but another algorithm signed.
            let lying = signer.token(&header(*other), PAYLOAD);
            assert_eq!(accepts(&keys, &lying), algorithm == other, "{algorithm} as {other}");
        }
        let keys = KeySet::new(all.iter().map(|(_, (_, key))| key.clone()).collect());
        assert!(accepts(&keys, &token), "{algorithm} among all keys");
        let mut broken = token.clone().into_bytes();
        let middle = token.len() / 2;
        broken[middle] = if broken[middle] == b'A' { b'B' } else { b'A' };
        assert!(
            !accepts(&keys, &String::from_utf8(broken).expect("still ASCII")),
            "{algorithm}, one letter changed"
        );
    }
}

#[test]
fn a_public_key_is_not_accepted_as_a_secret() {
    let (signer, key) = Signer::generate(Algorithm::Rs256);
    let pem = signer.public_pem().expect("public");
    // The old attack: sign with the public key's text as the secret.
    let forged = Signer::from_secret(pem.as_bytes()).token(&header(Algorithm::Hs256), PAYLOAD);
    let hs256 = Key::hmac(Algorithm::Hs256, SECRET, false).expect("long enough");
    assert!(!accepts(&KeySet::new(vec![key, hs256]), &forged));
    let refused = Key::hmac(Algorithm::Hs256, pem.as_bytes(), true).map(drop);
    assert_eq!(refused, Err(KeyError::PemAsSecret));
}

#[test]
fn several_keys_of_one_algorithm_are_all_tried_and_ids_narrow_the_choice() {
    let key = |secret: &[u8]| Key::hmac(Algorithm::Hs256, secret, false).expect("long enough");
    let other: Vec<u8> = SECRET.iter().rev().copied().collect();
    let token = hs256(PAYLOAD);
    let kid = |kid: &str| {
        let header = format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#);
        Signer::from_secret(SECRET).token(&header, PAYLOAD)
    };
    let keys = KeySet::new(vec![key(&other), key(SECRET)]);
    assert!(accepts(&keys, &token) && accepts(&keys, &kid("any")));
    let keys = KeySet::new(vec![key(&other).with_id("old"), key(SECRET).with_id("new")]);
    assert!(accepts(&keys, &token), "a token without kid tries all");
    assert!(accepts(&keys, &kid("new")));
    assert!(!accepts(&keys, &kid("old")), "the key of this id did not sign it");
    assert!(!accepts(&keys, &kid("unknown")));
    assert!(!accepts(&KeySet::default(), &token), "no key accepts no token");
}

#[test]
fn secrets_that_are_too_short_are_refused() {
    for (algorithm, bytes_min) in [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)] {
        let make = |bytes: usize, allow| Key::hmac(algorithm, &SECRET[..bytes], allow).map(drop);
        assert_eq!(make(bytes_min, false), Ok(()));
        assert_eq!(
            make(bytes_min - 1, false),
            Err(KeyError::TooShort { algorithm, bytes_min })
        );
        assert_eq!(make(bytes_min - 1, true), Ok(()));
        assert_eq!(make(0, true), Err(KeyError::Empty));
    }
    assert_eq!(
        Key::hmac(Algorithm::Es256, SECRET, true).map(drop),
        Err(KeyError::NeedsPublicKey(Algorithm::Es256))
    );
}

#[test]
fn public_keys_must_fit_their_algorithm() {
    let small = RsaKeyPair::generate(KeySize::Rsa2048).expect("generated");
    let private = small
        .as_der()
        .map(|der: aws_lc_rs::encoding::Pkcs8V1Der<'_>| pem("PRIVATE KEY", der.as_ref()));
    let ed = Ed25519KeyPair::generate().expect("generated");
    let of = |algorithm| Signer::generate(algorithm).0.public_pem().expect("public");
    let (rsa, p256, p384) = (of(Algorithm::Rs256), of(Algorithm::Es256), of(Algorithm::Es384));
    for (what, algorithm, text) in [
        ("a private key", Algorithm::Rs256, private.expect("encoded")),
        ("an RSA key", Algorithm::Es256, rsa.clone()),
        ("an RSA key", Algorithm::EdDsa, rsa),
        ("a P-256 key", Algorithm::Es384, p256.clone()),
        ("a P-256 key", Algorithm::Rs512, p256.clone()),
        ("a P-384 key", Algorithm::Es256, p384),
        ("a P-256 key", Algorithm::EdDsa, p256),
        (
            "bare bytes",
            Algorithm::EdDsa,
            pem("PUBLIC KEY", ed.public_key().as_ref()),
        ),
        ("no PEM", Algorithm::Rs256, "hello".to_owned()),
        ("nothing", Algorithm::Rs256, String::new()),
    ] {
        let refused = Key::public_pem(algorithm, text.as_bytes()).map(drop);
        assert_eq!(
            refused,
            Err(KeyError::NotAPublicKey(algorithm)),
            "{what} for {algorithm}"
        );
    }
    assert_eq!(
        Key::public_pem(Algorithm::Hs256, b"").map(drop),
        Err(KeyError::NeedsSecret(Algorithm::Hs256))
    );
}

#[test]
fn nothing_shows_a_key() {
    let keys = KeySet::new(vec![
        Key::hmac(Algorithm::Hs256, SECRET, false)
            .expect("long enough")
            .with_id("k1"),
    ]);
    let shown = format!("{keys:?} {keys:#?}");
    assert!(shown.contains("Hs256") && shown.contains("k1"));
    let secret = std::str::from_utf8(SECRET).expect("ASCII");
    let numbers = format!("{:?}", &SECRET[..8]);
    for hidden in [
        &secret[..16],
        &base64url(secret)[..16],
        numbers.trim_matches(['[', ']']),
    ] {
        assert!(!shown.contains(hidden), "{shown}");
    }
}

#[test]
fn algorithms_by_name() {
    for algorithm in Algorithm::ALL {
        assert_eq!(algorithm.as_str().parse(), Ok(algorithm));
        assert_eq!(algorithm.is_hmac(), algorithm.as_str().starts_with("HS"));
    }
    for name in ["none", "None", "hs256", "PS256", "ES512", "HS256 ", ""] {
        assert!(name.parse::<Algorithm>().is_err(), "{name:?}");
    }
}

#[test]
fn secrets_are_compared_whole() {
    assert!(same_secret(b"key", b"key") && same_secret(b"", b""));
    for other in [&b"kex"[..], b"ke", b"keyy", b"", b"key\0"] {
        assert!(!same_secret(other, b"key"), "{other:?}");
    }
}
