//! What one session had, and its form outside of the process: in the snapshot, and with a broker.
//!
//! Invariant: what [`Record::decode`] accepts is valid, whatever is in the text. The text names the tenant, never its number.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::session;
use tickgate_protocol::channel::{Pattern, Tenant, TenantNames};
use tickgate_protocol::event::Epoch;
use tickgate_protocol::rate::Rate;

/// What a session had that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The name under which its client takes it back: a secret.
    pub pid: Box<str>,
    /// Whose session it was.
    pub tenant: Tenant,
    /// The epoch of the hub's store at its end.
    pub epoch: Epoch,
    /// Until when it is kept, in Unix milliseconds.
    pub until_unix_ms: u64,
    /// The session.
    pub suspended: session::Suspended,
}

/// Who asks for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The name of the session.
    pub pid: Box<str>,
    /// The tenant of the client.
    pub tenant: Tenant,
    /// The user of the client; `None`: it is anonymous.
    pub user: Option<Box<str>>,
}

#[derive(Serialize, Deserialize)]
struct Text<'a> {
    #[serde(borrow)]
    pid: Cow<'a, str>,
    /// Left out for the default tenant.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    tenant: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    user: Option<Cow<'a, str>>,
    epoch: u64,
    until_ms: u64,
    window_ms: u64,
    #[serde(default)]
    subscribed_at: u64,
    /// Each with the updates per second that the client asked for.
    #[serde(borrow)]
    patterns: Vec<(Cow<'a, str>, Option<f64>)>,
}

impl Record {
    /// Whether this is the session that is asked for, and may still be given out.
    #[must_use]
    pub fn is_for(&self, claim: &Claim, unix_ms: u64) -> bool {
        let Claim { pid, tenant, user } = claim;
        self.pid == *pid && self.tenant == *tenant && self.suspended.user == *user && unix_ms <= self.until_unix_ms
    }

    /// The record as JSON.
    #[must_use]
    pub fn encode(&self, tenants: &TenantNames) -> Vec<u8> {
        let patterns = self.suspended.patterns.iter().map(|(pattern, wish)| {
            let per_second = wish.and_then(|rate| rate.as_str().parse().ok());
            (Cow::Borrowed(pattern.as_str()), per_second)
        });
        let text = Text {
            pid: Cow::Borrowed(&self.pid),
            tenant: tenants.of(self.tenant).map(Cow::Borrowed),
            user: self.suspended.user.as_deref().map(Cow::Borrowed),
            epoch: self.epoch.0,
            until_ms: self.until_unix_ms,
            window_ms: self.suspended.window_ms,
            subscribed_at: self.suspended.subscribed_at,
            patterns: patterns.collect(),
        };
        serde_json::to_vec(&text).unwrap_or_default()
    }

    /// Reads a record; `None`: it is not valid, or its tenant does not exist any more.
    #[must_use]
    pub fn decode(text: &[u8], tenants: &TenantNames) -> Option<Self> {
        let text: Text<'_> = serde_json::from_slice(text).ok()?;
        let tenant = match &text.tenant {
            Some(name) => tenants.find(name)?,
            None => Tenant::DEFAULT,
        };
        let pattern = |(name, wish): &(Cow<'_, str>, Option<f64>)| {
            let pattern = Pattern::parse(name).ok()?.in_tenant(tenant);
            Some((pattern, wish.and_then(Rate::at_most)))
        };
        Some(Self {
            pid: text.pid.into(),
            tenant,
            epoch: Epoch(text.epoch),
            until_unix_ms: text.until_ms,
            suspended: session::Suspended {
                user: text.user.map(Into::into),
                patterns: text.patterns.iter().map(pattern).collect::<Option<_>>()?,
                window_ms: text.window_ms,
                subscribed_at: text.subscribed_at,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_the_way_and_names_its_tenant() {
        let names = |names: &[&str]| TenantNames::new(names.iter().map(|name| (*name).into()).collect());
        let before = names(&["acme", "beta"]);
        for (tenant, user) in [(0, None), (1, Some("u\n1")), (2, Some(""))] {
            let tenant = Tenant::new(tenant).expect("in range");
            let pattern = |text| Pattern::parse(text).expect("valid").in_tenant(tenant);
            let record = Record {
                pid: "9abc-1".into(),
                tenant,
                epoch: Epoch(u64::MAX),
                until_unix_ms: 1_703_836_800_000,
                suspended: session::Suspended {
                    user: user.map(Into::into),
                    patterns: Rate::ALL
                        .map(|rate| (pattern("market.*.price"), Some(rate)))
                        .into_iter()
                        .chain([(pattern("grid.é.*"), None)])
                        .collect(),
                    window_ms: 120_000,
                    subscribed_at: u64::MAX,
                },
            };
            let text = record.encode(&before);
            assert_eq!(Record::decode(&text, &before), Some(record.clone()));
            // The tenants have other numbers after a restart, and one of them is gone.
            let after = Record::decode(&text, &names(&["beta"]));
            let expected = match tenant.index() {
                0 => Some(Tenant::DEFAULT),
                1 => None,
                _ => Tenant::new(1),
            };
            assert_eq!(after.map(|record| record.tenant), expected);
        }
    }

    #[test]
    fn text_that_is_no_record_is_refused() {
        let good = r#"{"pid":"p","epoch":1,"until_ms":2,"window_ms":3,"patterns":[["a.*",null]]}"#;
        let decode = |text: &str| Record::decode(text.as_bytes(), &TenantNames::default());
        assert!(decode(good).is_some());
        for bad in [
            "",
            "{}",
            &good.replace("a.*", "a..b"),
            &good.replace("null", "\"x\""),
            &good.replace("\"epoch\":1,", ""),
            &good.replace("\"pid\":\"p\"", "\"pid\":\"p\",\"tenant\":\"gone\""),
        ] {
            assert_eq!(decode(bad), None, "{bad}");
        }
    }
}
