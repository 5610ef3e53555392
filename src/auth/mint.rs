//! Signs tokens, for `tickgate token` and the demo.

use serde_json::{Map, Value, json};

use tickgate_protocol::channel::{Pattern, is_segment};

use super::{KeySet, Settings};

/// The claims of a new token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The user: one valid channel segment.
    pub subject: Box<str>,
    /// The role.
    pub role: Option<Box<str>>,
    /// Replaces the role's channels.
    pub channels: Option<Vec<Pattern>>,
    /// Replaces the role's commands.
    pub commands: Option<Vec<Pattern>>,
    /// Replaces the channels that the role may publish to.
    pub publish: Option<Vec<Pattern>>,
    /// How long the token is valid, in milliseconds, rounded down to a second.
    pub ttl_ms: u64,
}

/// Why a token was not signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// No key can sign: public keys only verify.
    #[error("no HMAC key is configured; tokens can be signed only with one (HS256, HS384 or HS512)")]
    NoSigningKey,
    /// The subject is not a valid channel segment.
    #[error("the subject must be one channel segment (no dot, star, white space or control character)")]
    BadSubject,
    /// The library failed to sign.
    #[error("the token could not be signed")]
    Failed,
}

/// Signs a token with the first HMAC key. [`super::verify`] accepts it with the same keys and settings.
///
/// # Errors
///
/// When there is no HMAC key, the subject is not a valid channel segment, or the library fails.
pub fn mint(grant: &Grant, keys: &KeySet, settings: &Settings, now_unix_ms: u64) -> Result<String, MintError> {
    if !is_segment(&grant.subject) {
        return Err(MintError::BadSubject);
    }
    let signing = |key| super::Key::signs(key).map(|secret| (key, secret));
    let (key, secret) = keys.keys().iter().find_map(signing).ok_or(MintError::NoSigningKey)?;
    let mut header = jsonwebtoken::Header::new(key.algorithm().library());
    header.kid = key.id().map(str::to_owned);
    jsonwebtoken::encode(&header, &claims(grant, settings, now_unix_ms), secret).map_err(|_| MintError::Failed)
}

fn claims(grant: &Grant, settings: &Settings, now_unix_ms: u64) -> Map<String, Value> {
    let list = |patterns: &Option<Vec<Pattern>>| {
        let texts = |patterns: &Vec<Pattern>| patterns.iter().map(Pattern::to_string).collect::<Vec<_>>();
        patterns.as_ref().map(|patterns| json!(texts(patterns)))
    };
    let all = [
        ("iss", settings.issuer.as_deref().map(Value::from)),
        ("aud", settings.audience.as_deref().map(Value::from)),
        (&*settings.subject_claim, Some(Value::from(&*grant.subject))),
        ("role", grant.role.as_deref().map(Value::from)),
        ("channels", list(&grant.channels)),
        ("commands", list(&grant.commands)),
        ("publish", list(&grant.publish)),
        ("iat", Some(Value::from(now_unix_ms / 1000))),
        (
            "exp",
            Some(Value::from(now_unix_ms.saturating_add(grant.ttl_ms) / 1000)),
        ),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect()
}
