//! Revocations as gateways tell them each other and as the broker stores them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::members::FORMAT;
use crate::auth::verifier::Verifier;
use crate::auth::{Revocation, RevokedTokens};
use crate::time::unix_ms;
use tickgate_protocol::channel::TenantNames;

/// A revocation. The tenant stands by its name, since gateways may number tenants differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::admin) struct Revoked {
    v: u8,
    tenant: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<Box<str>>,
    #[serde(default)]
    issued_before_ms: u64,
    until_unix_ms: u64,
}

impl Revoked {
    pub(in crate::admin) fn of(revocation: &Revocation, tenants: &TenantNames) -> Self {
        let (jti, sub, issued_before_ms) = match &revocation.tokens {
            RevokedTokens::WithId(id) => (Some(id.clone()), None, 0),
            RevokedTokens::OfUser { user, issued_before_ms } => (None, Some(user.clone()), *issued_before_ms),
        };
        Self {
            v: FORMAT,
            tenant: tenants.label(revocation.tenant).into(),
            jti,
            sub,
            issued_before_ms,
            until_unix_ms: revocation.until_unix_ms,
        }
    }

    /// `None`: it is of another version, or of a tenant that this gateway does not have.
    pub(super) fn revocation(self, tenants: &TenantNames) -> Option<Revocation> {
        let tokens = match (self.jti, self.sub) {
            (Some(id), None) => RevokedTokens::WithId(id),
            (None, Some(user)) => RevokedTokens::OfUser {
                user,
                issued_before_ms: self.issued_before_ms,
            },
            _ => return None,
        };
        (self.v == FORMAT).then_some(())?;
        Some(Revocation {
            tenant: tenants.find(&self.tenant)?,
            tokens,
            until_unix_ms: self.until_unix_ms,
        })
    }

    /// The name under which the broker stores it: a later one about the same `jti` or user takes its place.
    pub(in crate::admin) fn name(&self) -> String {
        let tokens = (&self.tenant, &self.jti, &self.sub);
        format!("revocation.{:032x}", xxh3_128(format!("{tokens:?}").as_bytes()))
    }
}

/// Learns a fact that the broker stores, which is a revocation. Returns whether it is still needed.
pub fn learn(verifier: &Verifier, tenants: &TenantNames, fact: &Bytes) -> bool {
    let Ok(revoked) = serde_json::from_slice::<Revoked>(fact) else {
        tracing::warn!("what the broker stores for gateways is of another version, and is left alone");
        return true;
    };
    let now_ms = unix_ms();
    if revoked.v == FORMAT && revoked.until_unix_ms <= now_ms {
        return false;
    }
    if let Some(revocation) = revoked.revocation(tenants)
        && let Err(full) = verifier.revoke(revocation, now_ms, || Box::new(|_| {}))
    {
        tracing::error!(%full, "a revocation of another gateway is not in force here");
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use tickgate_protocol::channel::Tenant;

    #[test]
    fn a_revocation_survives_the_way_to_a_gateway_that_numbers_tenants_differently() {
        let here = TenantNames::new(vec!["acme".into(), "beta".into()]);
        let there = TenantNames::new(vec!["beta".into(), "acme".into()]);
        let user = |user: &str, issued_before_ms| RevokedTokens::OfUser {
            user: user.into(),
            issued_before_ms,
        };
        let of = |tokens| Revocation {
            tenant: Tenant::new(1).expect("few"),
            tokens,
            until_unix_ms: 99,
        };
        for tokens in [RevokedTokens::WithId("t-1".into()), user("u", 7)] {
            let told = serde_json::to_vec(&Revoked::of(&of(tokens.clone()), &here)).expect("JSON");
            let read: Revoked = serde_json::from_slice(&told).expect("the same");
            let back = read.revocation(&there).expect("known");
            assert_eq!((back.tenant.index(), back.tokens, back.until_unix_ms), (2, tokens, 99));
        }
        let name = |tokens| Revoked::of(&of(tokens), &here).name();
        assert_eq!(name(user("u", 7)), name(user("u", 8)), "the later one takes its place");
        let names = [
            name(user("u", 7)),
            name(user("v", 7)),
            name(RevokedTokens::WithId("u".into())),
        ];
        assert!(names[0] != names[1] && names[0] != names[2]);
        let none = Revoked::of(&of(user("u", 7)), &here).revocation(&TenantNames::default());
        assert_eq!(none, None, "there is no such tenant");
    }
}
