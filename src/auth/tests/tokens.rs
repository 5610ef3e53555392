//! Claims, time, malformed tokens, and minting.

use std::sync::Arc;

use proptest::prelude::*;

use super::sign::{SECRET, Signer, base64url, hs256, hs256_keys, noise};
use crate::auth::{
    Algorithm, Grant, Identity, Key, KeySet, MintError, Settings, TOKEN_BYTES_MAX, TokenError, mint, verify,
};
use tickgate_protocol::channel::{Pattern, Tenant};
use tickgate_protocol::message::ErrorCode;

/// 2023-12-29T10:40:00Z
const NOW_MS: u64 = 1_703_846_400_000;
const EXP: &str = "1703850000";

pub(super) fn read_with(settings: &Settings, payload: &str, now_unix_ms: u64) -> Result<Identity, TokenError> {
    verify(&hs256(payload), &hs256_keys(), settings, now_unix_ms)
}

pub(super) fn read(payload: &str) -> Result<Identity, TokenError> {
    read_with(&Settings::default(), payload, NOW_MS)
}

/// Subject and expiry, and these claims.
fn with(claims: &str) -> String {
    let comma = if claims.is_empty() { "" } else { "," };
    format!(r#"{{"sub":"42","exp":{EXP}{comma}{claims}}}"#)
}

fn texts(patterns: &[Pattern]) -> Vec<&str> {
    patterns.iter().map(Pattern::as_str).collect()
}

#[test]
fn a_plain_token() {
    let identity = read(&with(
        r#""role":"trader","jti":"t-1","iat":1703846000,"extra":{"a":[1]}"#,
    ))
    .expect("good");
    assert_eq!(identity.user.as_deref(), Some("42"));
    assert_eq!(identity.role.as_deref(), Some("trader"));
    assert_eq!(identity.token_id.as_deref(), Some("t-1"));
    assert_eq!(identity.exp_ms, Some(1_703_850_000_000));
    assert_eq!(identity.expires_at_ms, Some(1_703_850_005_000));
    assert!(!identity.permissions.admin);
}

#[test]
fn tokens_of_one_role_share_its_permissions() {
    let settings = Settings::default();
    let read = |claims: &str| read_with(&settings, &with(claims), NOW_MS).expect("good").permissions;
    assert!(Arc::ptr_eq(
        &read(r#""role":"trader""#),
        &settings.policy.roles["trader"]
    ));
    assert!(Arc::ptr_eq(&read(r#""role":"unknown""#), &settings.policy.default));
    assert!(Arc::ptr_eq(&read(r#""role":null"#), &settings.policy.default));
    assert!(read(r#""role":"admin""#).admin);
}

#[test]
fn a_list_in_the_token_replaces_the_roles() {
    let claims = r#""role":"trader","channels":["grid.a.*","system.health"],"publish":["grid.*"]"#;
    let identity = read(&with(claims)).expect("good");
    assert_eq!(texts(&identity.permissions.channels), ["grid.a.*", "system.health"]);
    assert_eq!(
        texts(&identity.permissions.commands),
        ["grid.*", "backtest.*", "strategy.*"]
    );
    assert_eq!(texts(&identity.permissions.publish), ["grid.*"]);
    let none = read(&with(r#""role":"trader","channels":[],"commands":[]"#)).expect("good");
    assert!(none.permissions.channels.is_empty() && none.permissions.commands.is_empty());
}

#[test]
fn subjects() {
    for (claim, user) in [
        (r#""42""#, "42"),
        ("42", "42"),
        ("0", "0"),
        ("-7", "-7"),
        ("-0", "0"),
        ("9007199254740993", "9007199254740993"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        (r#""u42""#, "u42"),
        (r#""\u540d""#, "名"),
        (r#""a/b@c""#, "a/b@c"),
    ] {
        let identity = read(&format!(r#"{{"sub":{claim},"exp":{EXP}}}"#));
        assert_eq!(identity.map(|i| i.user), Ok(Some(user.into())), "{claim}");
    }
    let long = format!("\"{}\"", "x".repeat(256));
    for claim in [
        r#""""#,
        r#"" ""#,
        r#""a.b""#,
        r#""*""#,
        r#""a*""#,
        r#"">""#,
        r#""a\nb""#,
        r#""a\u00a0b""#,
        r#""a\u0000""#,
        "4.2",
        "42.0",
        "4e2",
        "true",
        "null",
        "[]",
        "{}",
        r#"["42"]"#,
        &long,
    ] {
        let refused = read(&format!(r#"{{"sub":{claim},"exp":{EXP}}}"#)).expect_err(claim);
        assert_eq!(refused.code, ErrorCode::TokenInvalid, "{claim}");
        assert!(refused.message.starts_with("claim sub "), "{claim}: {refused}");
    }
}

#[test]
fn another_claim_can_name_the_user() {
    let settings = Settings {
        subject_claim: "user_id".into(),
        ..Settings::default()
    };
    let user = |payload: &str| read_with(&settings, payload, NOW_MS).map(|identity| identity.user);
    let both = format!(r#"{{"sub":"other","user_id":42,"exp":{EXP}}}"#);
    assert_eq!(user(&both), Ok(Some("42".into())));
    assert_eq!(
        &*user(&with("")).expect_err("missing").message,
        "claim user_id is missing"
    );
}

#[test]
fn time_is_an_argument_and_leeway_counts_once() {
    let settings = Settings::default();
    let at = |payload: &str, now_ms| read_with(&settings, payload, now_ms).map(drop);
    let exp_ms = 1_703_850_000_000;
    assert_eq!(at(&with(""), exp_ms + 4_999), Ok(()));
    let expired = at(&with(""), exp_ms + 5_000).expect_err("expired");
    assert_eq!(expired.code, ErrorCode::TokenExpired);
    assert_eq!(expired.to_string(), "token expired at 2023-12-29T11:40:00Z");
    // A fraction counts.
    let fraction = r#"{"sub":"42","exp":1703850000.25}"#;
    assert_eq!(at(fraction, exp_ms + 5_249), Ok(()));
    let expired = at(fraction, exp_ms + 5_250).expect_err("expired");
    assert_eq!(expired.to_string(), "token expired at 2023-12-29T11:40:00.25Z");
    // `nbf` in the future, by more than the leeway.
    let early = with(r#""nbf":1703846400"#);
    assert_eq!(at(&early, NOW_MS - 5_000), Ok(()));
    let refused = at(&early, NOW_MS - 5_001).expect_err("early");
    assert_eq!(refused.code, ErrorCode::TokenInvalid);
    assert_eq!(
        refused.to_string(),
        "the token is not valid before 2023-12-29T10:40:00Z"
    );
}

#[test]
fn times_at_the_edges() {
    let exp = |claim: &str| read(&format!(r#"{{"sub":"42","exp":{claim}}}"#)).map(|identity| identity.exp_ms);
    for far in ["253402300800", "1e18", "1e300", "99999999999999999999999"] {
        assert_eq!(exp(far), Ok(Some(253_402_300_799_999)), "{far}");
    }
    for past in ["0", "-1", "-1e300", "1", "1.5e3"] {
        assert_eq!(exp(past).expect_err(past).code, ErrorCode::TokenExpired, "{past}");
    }
    for bad in ["\"1703850000\"", "true", "[]", "1e999", "null"] {
        assert_eq!(exp(bad).expect_err(bad).code, ErrorCode::TokenInvalid, "{bad}");
    }
}

#[test]
fn issuer_and_audience() {
    let settings = Settings {
        issuer: Some("https://login.example".into()),
        audience: Some("tickgate".into()),
        ..Settings::default()
    };
    let good = r#""iss":"https://login.example""#;
    for (claims, accepted) in [
        (format!(r#"{good},"aud":"tickgate""#), true),
        (format!(r#"{good},"aud":["api","tickgate"]"#), true),
        (format!(r#"{good},"aud":"api""#), false),
        (format!(r#"{good},"aud":["api"]"#), false),
        (format!(r#"{good},"aud":[]"#), false),
        (format!(r#"{good},"aud":"tickgate2""#), false),
        (format!(r#"{good},"aud":7"#), false),
        (format!(r#"{good},"aud":["tickgate",7]"#), false),
        (good.to_owned(), false),
        (r#""aud":"tickgate""#.to_owned(), false),
        (r#""iss":"https://login.example/","aud":"tickgate""#.to_owned(), false),
        (r#""iss":["https://login.example"],"aud":"tickgate""#.to_owned(), false),
    ] {
        let outcome = read_with(&settings, &with(&claims), NOW_MS);
        assert_eq!(outcome.is_ok(), accepted, "{claims}");
        assert!(
            outcome.map_or_else(|e| e.code == ErrorCode::TokenInvalid, |_| true),
            "{claims}"
        );
    }
    // Without the settings any are accepted.
    assert!(read(&with(r#""iss":"x","aud":["y"]"#)).is_ok());
}

#[test]
fn claims_of_a_wrong_type_are_refused_and_named() {
    for (claims, message) in [
        (r#""role":7"#, "claim role must be a string"),
        (r#""role":["admin"]"#, "claim role must be a string"),
        (r#""jti":7"#, "claim jti must be a string"),
        (r#""nbf":"soon""#, "claim nbf must be a number of seconds"),
        (r#""iat":"now""#, "claim iat must be a number of seconds"),
        (r#""channels":"grid.*""#, "claim channels must be an array of patterns"),
        (r#""channels":[7]"#, "claim channels must be an array of patterns"),
        (r#""channels":{}"#, "claim channels must be an array of patterns"),
        (
            r#""channels":["a","b..c"]"#,
            "claim channels: item 1 has an empty segment",
        ),
        (
            r#""commands":["a b"]"#,
            "claim commands: item 0 has a character that is not allowed: ' '",
        ),
        (
            r#""publish":["a.b.c.d.e.f.g.h.i"]"#,
            "claim publish: item 0 has more than 8 segments",
        ),
        (
            r#""publish":["a*"]"#,
            "claim publish: item 0 has a character that is not allowed: '*'",
        ),
    ] {
        let refused = read(&with(claims)).expect_err(claims);
        assert_eq!(
            (refused.code, &*refused.message),
            (ErrorCode::TokenInvalid, message),
            "{claims}"
        );
    }
}

#[test]
fn payloads_that_two_readers_could_read_differently_are_refused() {
    for payload in [
        r#"{"sub":"42","sub":"43","exp":1703850000}"#,
        r#"{"sub":"42","role":"a","exp":1703850000,"r\u006fle":"admin"}"#,
        r#"["sub","42"]"#,
        r#""42""#,
        "",
        "{",
        r#"{"sub":"42","exp":1703850000}x"#,
        r#"{"sub":"42","exp":1703850000,}"#,
    ] {
        let refused = read(payload).expect_err(payload);
        assert_eq!(
            &*refused.message, "the token's payload is not a JSON object, or has a claim twice",
            "{payload}"
        );
    }
}

#[test]
fn malformed_and_forged_tokens() {
    let good = hs256(&with(""));
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let payload = message.split_once('.').expect("two parts").1;
    let hmac = || Signer::from_secret(SECRET);
    let signed = |header: &str| hmac().token(header, &with(""));
    let unsigned = |header: &str| format!("{}.{payload}.", base64url(header));
    for (what, token) in [
        ("nothing", String::new()),
        ("dots", "..".to_owned()),
        ("two parts", message.to_owned()),
        ("no signature", format!("{message}.")),
        ("four parts", format!("{good}.x")),
        ("five parts, encrypted", format!("{good}.x.y")),
        ("padding", format!("{good}=")),
        ("white space", format!(" {good}")),
        ("a line feed", format!("{good}\n")),
        ("Bearer", format!("Bearer {good}")),
        ("another signature", format!("{message}.{}", noise("x"))),
        ("a shorter signature", format!("{message}.{}", &signature[..40])),
        ("alg none", unsigned(r#"{"alg":"none"}"#)),
        ("alg nOnE", unsigned(r#"{"alg":"nOnE"}"#)),
        ("alg none, signed", signed(r#"{"alg":"none"}"#)),
        ("no alg", signed(r#"{"typ":"JWT"}"#)),
        ("alg null", signed(r#"{"alg":null}"#)),
        ("alg twice", signed(r#"{"alg":"HS256","alg":"HS256"}"#)),
        ("an algorithm without a key", signed(r#"{"alg":"HS512"}"#)),
        ("crit", signed(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#)),
        ("crit b64", signed(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#)),
        ("empty crit", signed(r#"{"alg":"HS256","crit":[]}"#)),
        ("kid no string", signed(r#"{"alg":"HS256","kid":7}"#)),
        ("header no object", signed("[]")),
        ("header no JSON", signed("hello")),
        (
            "too long",
            hs256(&with(&format!(r#""x":"{}""#, "y".repeat(TOKEN_BYTES_MAX)))),
        ),
        ("not ASCII", "é.é.é".to_owned()),
    ] {
        let refused = verify(&token, &hs256_keys(), &Settings::default(), NOW_MS).expect_err(what);
        assert_eq!(refused.code, ErrorCode::TokenInvalid, "{what}");
        let is_padded = ["white space", "a line feed"].contains(&what);
        assert_eq!(refused.message.contains("white space around it"), is_padded, "{what}");
        for secret in [payload, signature, std::str::from_utf8(SECRET).expect("ASCII")] {
            assert!(!refused.message.contains(secret), "{what}: {refused}");
        }
    }
    assert!(verify(&good, &hs256_keys(), &Settings::default(), NOW_MS).is_ok());
    assert!(
        verify(
            &signed(r#"{"alg":"HS256","kid":"k","x5t":"y"}"#),
            &hs256_keys(),
            &Settings::default(),
            NOW_MS
        )
        .is_ok()
    );
}

/// RFC 7515, appendix A.1: signed by others.
#[test]
fn the_example_of_the_rfc() {
    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let secret = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, secret).expect("base64url");
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let keys = KeySet::new(vec![Key::hmac(Algorithm::Hs256, &secret, false).expect("long enough")]);
    let settings = Settings {
        subject_claim: "iss".into(),
        ..Settings::default()
    };
    let identity = verify(token, &keys, &settings, 1_300_819_380_000).expect("good");
    assert_eq!(
        (identity.user.as_deref(), identity.exp_ms),
        (Some("joe"), Some(1_300_819_380_000))
    );
}

#[test]
fn minted_tokens_are_accepted() {
    let settings = Settings {
        subject_claim: "uid".into(),
        issuer: Some("me".into()),
        audience: Some("you".into()),
        ..Settings::default()
    };
    let list = |text: &str| Some(vec![Pattern::parse(text).expect("valid")]);
    let grant = Grant {
        subject: "42".into(),
        role: Some("trader".into()),
        channels: list("grid.*"),
        commands: Some(Vec::new()),
        publish: list("grid.a"),
        ttl_ms: 3_600_000,
    };
    let keys = KeySet::new(vec![
        Signer::generate(Algorithm::EdDsa).1,
        Key::hmac(Algorithm::Hs512, SECRET, false)
            .expect("long enough")
            .with_id("k"),
    ]);
    let token = mint(&grant, &keys, &settings, NOW_MS).expect("minted");
    let identity = verify(&token, &keys, &settings, NOW_MS).expect("accepted");
    assert_eq!(
        (identity.user.as_deref(), identity.role.as_deref()),
        (Some("42"), Some("trader"))
    );
    assert_eq!(identity.exp_ms, Some(NOW_MS + 3_600_000));
    assert_eq!(texts(&identity.permissions.channels), ["grid.*"]);
    assert!(identity.permissions.commands.is_empty());
    assert_eq!(texts(&identity.permissions.publish), ["grid.a"]);
    // Without lists the role's stay.
    let plain = Grant {
        subject: "42".into(),
        ttl_ms: 1000,
        ..Grant::default()
    };
    let token = mint(&plain, &keys, &settings, NOW_MS).expect("minted");
    let identity = verify(&token, &keys, &settings, NOW_MS).expect("accepted");
    assert!(Arc::ptr_eq(&identity.permissions, &settings.policy.default));
}

#[test]
fn invalid_grants_are_not_minted() {
    let grant = |subject: &str| Grant {
        subject: subject.into(),
        ..Grant::default()
    };
    let settings = Settings::default();
    let public = KeySet::new(vec![Signer::generate(Algorithm::Es256).1]);
    assert_eq!(
        mint(&grant("42"), &public, &settings, NOW_MS),
        Err(MintError::NoSigningKey)
    );
    assert_eq!(
        mint(&grant("42"), &KeySet::default(), &settings, NOW_MS),
        Err(MintError::NoSigningKey)
    );
    assert_eq!(
        mint(&grant("a.b"), &hs256_keys(), &settings, NOW_MS),
        Err(MintError::BadSubject)
    );
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(token in "[A-Za-z0-9_.=-]{0,80}|.{0,40}") {
        prop_assert!(verify(&token, &hs256_keys(), &Settings::default(), NOW_MS).is_err());
    }

    #[test]
    fn no_signed_payload_makes_it_panic(payload in r#"[{}\[\]":,a-z0-9.eE+-]{0,60}|\{"sub":[0-9"a.-]{1,5},"exp":[0-9.eE+-]{1,8}\}"#) {
        if let Ok(identity) = read(&payload) {
            prop_assert!(tickgate_protocol::channel::is_segment(identity.user.as_deref().unwrap_or_default()));
        }
    }

    #[test]
    fn a_token_with_one_byte_changed_is_never_accepted(at in 0usize..1000, to in "[A-Za-z0-9_.=-]") {
        let good = hs256(&with(""));
        let mut bytes = good.clone().into_bytes();
        let at = at % bytes.len();
        bytes[at] = to.as_bytes()[0];
        let changed = String::from_utf8(bytes).expect("ASCII");
        prop_assert_eq!(verify(&changed, &hs256_keys(), &Settings::default(), NOW_MS).is_ok(), changed == good);
    }
}

#[test]
fn the_mark_of_a_cursor_is_that_of_a_user_of_a_tenant_whatever_its_number() {
    let mark = |number: usize, tenant: Option<&str>, user: &str| {
        let identity = Identity {
            tenant: Tenant::new(number).expect("in range"),
            user: Some(user.into()),
            ..Identity::anonymous(Arc::default())
        };
        identity.holder(tenant)
    };
    assert_eq!(mark(1, Some("acme"), "u1"), mark(2, Some("acme"), "u1"));
    let others = [
        mark(0, None, "u1"),
        mark(1, Some("beta"), "u1"),
        mark(1, Some("acme"), "u2"),
        mark(1, Some("acmeu"), "1"),
        mark(0, None, "acmeu1"),
    ];
    assert!(!others.contains(&mark(1, Some("acme"), "u1")), "{others:?}");
}
