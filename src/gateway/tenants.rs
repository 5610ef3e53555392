//! The tenants of a gateway beside the default one.

use super::Settings;
use crate::auth::verifier::TokenRules;
use crate::{admin, auth};
use tickgate_protocol::channel::TenantNames;

/// A tenant beside the default one. Its endpoints, routes, feeds and classes are among those of all tenants.
#[derive(Debug)]
pub struct TenantSettings {
    /// Its name: no other tenant has the same.
    pub name: Box<str>,
    /// The keys that verify its tokens.
    pub keys: auth::KeySet,
    /// How its tokens are read.
    pub auth: auth::Settings,
    /// The key that administers it.
    pub admin_key: Option<admin::AdminKey>,
    /// The key of those who may look at it and not act.
    pub viewer_key: Option<admin::AdminKey>,
    /// Longest `data` of an event, in bytes.
    pub event_bytes: u32,
    /// Events per second of one publisher; 0: no limit.
    pub publish_per_second: u32,
}

impl Settings {
    /// The names of the tenants.
    pub(super) fn tenant_names(&self) -> TenantNames {
        TenantNames::new(self.tenants.iter().map(|tenant| tenant.name.clone()).collect())
    }

    /// What decides about the tokens of each tenant, the default one first.
    pub(super) fn token_rules(&self) -> Vec<TokenRules> {
        let rules = |(keys, settings): (&auth::KeySet, &auth::Settings)| TokenRules {
            keys: keys.clone(),
            settings: settings.clone(),
        };
        let tenants = self.tenants.iter().map(|tenant| (&tenant.keys, &tenant.auth));
        std::iter::once((&self.keys, &self.auth))
            .chain(tenants)
            .map(rules)
            .collect()
    }

    /// How each tenant uses the admin API.
    pub(super) fn tenant_access(&self) -> Vec<admin::TenantAccess> {
        let tenants = self.tenants.iter();
        let access = tenants.map(|tenant| admin::TenantAccess {
            name: tenant.name.clone(),
            key: tenant.admin_key.clone(),
            viewer_key: tenant.viewer_key.clone(),
            event_bytes: tenant.event_bytes,
        });
        access.collect()
    }
}
