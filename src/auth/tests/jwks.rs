//! Key sets: which keys are used, for what, and what is left out.

use serde_json::{Value, json};

use super::sign::Signer;
use crate::auth::{Algorithm, Jwks, JwksError, KeySet, Settings, verify};

const PAYLOAD: &str = r#"{"sub":"42","exp":2000}"#;
const NOW_MS: u64 = 1_000_000;
const PUBLIC: [Algorithm; 6] = [
    Algorithm::Rs256,
    Algorithm::Rs384,
    Algorithm::Rs512,
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
];

fn parse(keys: &[Value], algorithm: Option<Algorithm>) -> Result<Jwks, JwksError> {
    Jwks::parse(json!({"keys": keys}).to_string().as_bytes(), algorithm)
}

fn accepts(jwks: &Jwks, signer: &Signer, algorithm: Algorithm, kid: Option<&str>) -> bool {
    let mut header = json!({"alg": algorithm.as_str()});
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    let token = signer.token(&header.to_string(), PAYLOAD);
    verify(&token, &KeySet::new(jwks.keys.clone()), &Settings::default(), NOW_MS).is_ok()
}

#[test]
fn every_public_kind_of_key_verifies_and_the_kid_selects_it() {
    for algorithm in PUBLIC {
        let ((one, _), (two, _)) = (Signer::generate(algorithm), Signer::generate(algorithm));
        let mut keys = vec![one.jwk(), two.jwk()];
        for (key, kid) in keys.iter_mut().zip(["one", "two"]) {
            key["kid"] = kid.into();
            key["use"] = "sig".into();
            key["alg"] = algorithm.as_str().into();
        }
        let jwks = parse(&keys, None).expect("a set");
        assert_eq!((jwks.keys.len(), jwks.left_out), (2, 0), "{algorithm}");
        assert!(accepts(&jwks, &one, algorithm, Some("one")), "{algorithm}");
        assert!(
            !accepts(&jwks, &one, algorithm, Some("two")),
            "{algorithm}: the other key"
        );
        assert!(
            !accepts(&jwks, &one, algorithm, Some("three")),
            "{algorithm}: no such key"
        );
        assert!(accepts(&jwks, &two, algorithm, None), "{algorithm}: any key");
    }
}

#[test]
fn a_key_without_an_algorithm_has_that_of_its_kind() {
    for (algorithm, configured) in [
        (Algorithm::Rs256, None),
        (Algorithm::Rs512, Some(Algorithm::Rs512)),
        (Algorithm::Es256, None),
        (Algorithm::Es384, None),
        (Algorithm::EdDsa, None),
    ] {
        let (signer, _) = Signer::generate(algorithm);
        let jwks = parse(&[signer.jwk()], configured).expect("a set");
        assert!(accepts(&jwks, &signer, algorithm, Some("any")), "{algorithm}");
    }
}

#[test]
fn keys_that_must_not_verify_are_left_out() {
    let (signer, _) = Signer::generate(Algorithm::Es256);
    let with = |name: &str, value: Value| {
        let mut key = signer.jwk();
        key[name] = value;
        key
    };
    let point = signer.jwk()["x"].clone();
    for (key, why) in [
        (
            json!({"kty": "oct", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "alg": "HS256"}),
            "a secret",
        ),
        (with("d", point.clone()), "a private key"),
        (with("use", "enc".into()), "for encryption"),
        (with("key_ops", json!(["encrypt"])), "for encryption"),
        (with("alg", "ES384".into()), "another curve"),
        (with("alg", "HS256".into()), "a secret's algorithm"),
        (with("alg", "none".into()), "no algorithm"),
        (with("crv", "P-521".into()), "an unknown curve"),
        (with("y", point), "a point that is not on the curve"),
        (with("x", "!".into()), "not base64url"),
        (with("kty", 7.into()), "a wrong type"),
        (json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}), "a short key"),
        (json!("text"), "not an object"),
    ] {
        assert_eq!(
            parse(std::slice::from_ref(&key), None).expect_err(why),
            JwksError::NoKey,
            "{why}"
        );
        let jwks = parse(&[key, with("kid", "good".into())], None).expect("the other one is good");
        assert_eq!((jwks.keys.len(), jwks.left_out), (1, 1), "{why}");
    }
    assert_eq!(
        parse(&[signer.jwk()], Some(Algorithm::EdDsa)).expect_err("not wanted"),
        JwksError::NoKey
    );
}

#[test]
fn what_is_no_set_is_told() {
    for text in ["", "{}", "[]", r#"{"keys":{}}"#, "<html>"] {
        assert_eq!(Jwks::parse(text.as_bytes(), None).expect_err(text), JwksError::NotASet);
    }
    assert_eq!(parse(&[], None).expect_err("empty"), JwksError::NoKey);
    assert_eq!(
        parse(&vec![json!({}); 101], None).expect_err("many"),
        JwksError::TooManyKeys
    );
    let long = " ".repeat(crate::auth::JWKS_BYTES_MAX + 1);
    assert_eq!(
        Jwks::parse(long.as_bytes(), None).expect_err("long"),
        JwksError::TooLong
    );
}
