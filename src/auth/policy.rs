//! What a token must contain, and what roles may do. Plain data that the configuration builds.

use std::collections::BTreeMap;
use std::sync::Arc;

use tickgate_protocol::channel::{Pattern, Tenant};

use super::{Identity, Permissions};

/// The role that may do everything.
pub const ADMIN_ROLE: &str = "admin";

/// `[auth]`: how claims are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The tenant whose tokens these rules are for.
    pub tenant: Tenant,
    /// The claim that names the user.
    pub subject_claim: Box<str>,
    /// How long after `exp`, and before `nbf`, a token is valid, in milliseconds.
    pub leeway_ms: u64,
    /// When set, the token's `iss` must be equal to it.
    pub issuer: Option<Box<str>>,
    /// When set, the token's `aud` must be or contain it. Otherwise any `aud` is accepted.
    pub audience: Option<Box<str>>,
    /// How long a revocation is remembered that does not say it itself, in milliseconds.
    pub revocation_ttl_ms: u64,
    /// What roles may do.
    pub policy: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tenant: Tenant::DEFAULT,
            subject_claim: "sub".into(),
            leeway_ms: 5_000,
            issuer: None,
            audience: None,
            revocation_ttl_ms: 30 * 86_400_000,
            policy: Policy::default(),
        }
    }
}

impl Settings {
    /// The identity of a connection without a token.
    #[must_use]
    pub fn anonymous_identity(&self) -> Identity {
        Identity {
            tenant: self.tenant,
            ..Identity::anonymous(Arc::clone(&self.policy.anonymous))
        }
    }
}

/// `[auth.role.*]`, `[auth.default]` and `[auth.anonymous]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Permissions by role. An entry for [`ADMIN_ROLE`] has no effect: that role may do everything.
    pub roles: BTreeMap<Box<str>, Arc<Permissions>>,
    /// The permissions of a token without a configured role.
    pub default: Arc<Permissions>,
    /// The permissions of a connection without a token.
    pub anonymous: Arc<Permissions>,
}

impl Policy {
    /// The permissions of a token with this `role` claim, without lists of its own.
    #[must_use]
    pub fn of_role(&self, role: Option<&str>) -> Arc<Permissions> {
        match role {
            Some(ADMIN_ROLE) => Arc::new(Permissions {
                admin: true,
                ..Permissions::default()
            }),
            Some(role) => Arc::clone(self.roles.get(role).unwrap_or(&self.default)),
            None => Arc::clone(&self.default),
        }
    }

    /// The same rules for a tenant: its own patterns of the same text.
    #[must_use]
    pub fn in_tenant(self, tenant: Tenant) -> Self {
        let moved = |permissions: Arc<Permissions>| Arc::new(Arc::unwrap_or_clone(permissions).in_tenant(tenant));
        Self {
            roles: (self.roles.into_iter())
                .map(|(role, permissions)| (role, moved(permissions)))
                .collect(),
            default: moved(self.default),
            anonymous: moved(self.anonymous),
        }
    }
}

impl Default for Policy {
    /// The role `trader`, and the defaults of the configuration.
    fn default() -> Self {
        let trader = permissions(
            &[
                "grid.*",
                "backtest.*",
                "strategy.*",
                "stock.*",
                "board.*",
                "market.*",
                "system.*",
            ],
            &["grid.*", "backtest.*", "strategy.*"],
        );
        Self {
            roles: BTreeMap::from([("trader".into(), trader)]),
            default: permissions(
                &[
                    "market.*",
                    "stock.*",
                    "strategy.*",
                    "board.*",
                    "system.health",
                    "system.status",
                    "system.kill_switch",
                    "system.exchange",
                ],
                &[],
            ),
            anonymous: permissions(
                &[
                    "market.*",
                    "stock.*.price",
                    "strategy.*.prices",
                    "board.*.prices",
                    "system.health",
                    "system.status",
                ],
                &[],
            ),
        }
    }
}

fn permissions(channels: &[&str], commands: &[&str]) -> Arc<Permissions> {
    let patterns = |texts: &[&str]| {
        let parsed = texts.iter().map(|text| Pattern::parse(text));
        parsed
            .collect::<Result<_, _>>()
            .expect("the defaults are valid patterns")
    };
    Arc::new(Permissions {
        admin: false,
        gateway: false,
        channels: patterns(channels),
        commands: patterns(commands),
        publish: Vec::new(),
        max_rate: None,
        bytes_per_second: None,
    })
}
