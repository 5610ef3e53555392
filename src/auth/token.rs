//! Verifies a token and reads its claims (RFC 7515, RFC 7519).
//!
//! Invariant: the payload is parsed only after its signature was verified, and no error message contains a part of the
//! token.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::Claims;
use super::{Identity, KeySet, Permissions, Settings, TokenError, iso};

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The header parameters that the gateway understands. Others are ignored (RFC 7515, section 4).
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    /// Extensions that the verifier must understand. The gateway understands none.
    crit: Option<IgnoredAny>,
}

/// Verifies a token in compact form and returns the identity of its owner.
///
/// # Errors
///
/// `TOKEN_EXPIRED` for a valid token whose `exp` plus leeway has passed, else `TOKEN_INVALID`.
pub fn verify(token: &str, keys: &KeySet, settings: &Settings, now_unix_ms: u64) -> Result<Identity, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::too_long());
    }
    // Told apart from a bad signature, because the line feed of the file that a token came from is hard to see.
    if token.trim_ascii() != token {
        return Err(TokenError::invalid(
            "the token has white space around it, such as the line feed of a file",
        ));
    }
    let payload = verified_payload(token, keys)?;
    let identity = read_claims(&Claims::parse(&payload)?, settings, now_unix_ms)?;
    match (identity.expires_at_ms, identity.exp_ms) {
        (Some(end), Some(exp)) if now_unix_ms >= end => Err(TokenError::expired(exp)),
        _ => Ok(identity),
    }
}

fn verified_payload(token: &str, keys: &KeySet) -> Result<Vec<u8>, TokenError> {
    let malformed = || TokenError::invalid("the token is not a JSON Web Token in compact form");
    let (message, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
    let (header, payload) = message.split_once('.').ok_or_else(malformed)?;
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| malformed())?;
    let header: Header = serde_json::from_slice(&header).map_err(|_| malformed())?;
    // The alphabet of base64url has no dot, so a token with four parts fails here.
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| malformed())?;
    if header.crit.is_some() {
        return Err(TokenError::invalid(
            "the token has a critical header parameter that is not supported",
        ));
    }
    // `none` is not a supported algorithm.
    let algorithm = header.alg.parse().ok().filter(|&algorithm| keys.accepts(algorithm));
    let kid = header.kid.as_deref();
    let refused = match algorithm {
        Some(algorithm) if keys.verifies(algorithm, kid, message, signature) => return Ok(payload),
        Some(_) => "the token's signature does not verify with any accepted key",
        None => "the token's algorithm is not accepted",
    };
    if keys.may_get(kid) {
        return Err(TokenError::key_awaited());
    }
    Err(TokenError::invalid(refused))
}

fn read_claims(claims: &Claims<'_>, settings: &Settings, now_unix_ms: u64) -> Result<Identity, TokenError> {
    if let Some(issuer) = &settings.issuer
        && claims.text("iss")?.as_deref() != Some(issuer)
    {
        return Err(TokenError::invalid("claim iss is not the accepted issuer"));
    }
    if let Some(audience) = &settings.audience
        && !claims.names_audience(audience)?
    {
        return Err(TokenError::invalid("claim aud does not contain the accepted audience"));
    }
    if let Some(nbf) = claims.time_ms("nbf")?
        && now_unix_ms.saturating_add(settings.leeway_ms) < nbf
    {
        return Err(TokenError::invalid(format!(
            "the token is not valid before {}",
            iso(nbf)
        )));
    }
    let exp = claims
        .time_ms("exp")?
        .ok_or_else(|| TokenError::invalid("claim exp is missing"))?;
    let role = claims.text("role")?;
    Ok(Identity {
        tenant: settings.tenant,
        user: Some(claims.subject(&settings.subject_claim)?.into()),
        permissions: permissions(claims, settings, role.as_deref())?,
        role: role.map(Arc::from),
        expires_at_ms: Some(exp.saturating_add(settings.leeway_ms)),
        exp_ms: Some(exp),
        token_id: claims.text("jti")?,
        issued_at_ms: claims.time_ms("iat")?,
    })
}

/// The permissions of the role. A list, rate or limit in the token replaces the role's.
fn permissions(claims: &Claims<'_>, settings: &Settings, role: Option<&str>) -> Result<Arc<Permissions>, TokenError> {
    let mut permissions = settings.policy.of_role(role);
    let tenant = settings.tenant;
    let lists = [
        claims.patterns("channels", tenant)?,
        claims.patterns("commands", tenant)?,
        claims.patterns("publish", tenant)?,
    ];
    let max_rate = claims.rate("max_rate")?;
    if max_rate.is_some() && max_rate != permissions.max_rate {
        Arc::make_mut(&mut permissions).max_rate = max_rate;
    }
    let bytes_per_second = claims.bytes_per_second("bytes_per_second")?;
    if bytes_per_second.is_some() && bytes_per_second != permissions.bytes_per_second {
        Arc::make_mut(&mut permissions).bytes_per_second = bytes_per_second;
    }
    // Tokens without lists share one instance per role.
    if lists.iter().any(Option::is_some) {
        let own = Arc::make_mut(&mut permissions);
        let fields = [&mut own.channels, &mut own.commands, &mut own.publish];
        for (field, list) in fields.into_iter().zip(lists) {
            if let Some(list) = list {
                *field = list;
            }
        }
    }
    Ok(permissions)
}
