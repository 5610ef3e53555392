//! Tenants: separate spaces of channels in one gateway.
//!
//! Invariant: a [`Channel`](super::Channel) and a [`Pattern`](super::Pattern) belong to exactly one tenant. Two that
//! differ in it are never equal, and no pattern matches, covers or intersects anything of another tenant. So every map
//! with such keys keeps tenants apart.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use super::{Channel, Pattern};

/// The number of a tenant in one process. It can differ after a restart, so it is never written to disk.
///
/// 0 is the default tenant: everything that is configured outside `[[tenant]]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(u8);

impl Tenant {
    /// The default tenant.
    pub const DEFAULT: Self = Self(0);

    /// The highest number of tenants in a gateway, beside the default tenant.
    pub const MAX: usize = 31;

    /// The tenant with this number; `None` for a number above [`Self::MAX`].
    #[must_use]
    pub fn new(index: usize) -> Option<Self> {
        let index = (index <= Self::MAX).then_some(index)?;
        u8::try_from(index).ok().map(Self)
    }

    /// The tenant's number, for tables: 0 for the default tenant.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The number of tenants that a gateway can have, the default one included: the size of tables by number.
    pub const COUNT: usize = Self::MAX + 1;

    /// Whether this is the default tenant.
    #[must_use]
    pub const fn is_default(self) -> bool {
        self.0 == 0
    }
}

/// The name by which operators name the default tenant. No other tenant may have it.
pub const DEFAULT_TENANT: &str = "default";

/// The names of a gateway's tenants, without the default one, which has none. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantNames(Arc<[Box<str>]>);

impl TenantNames {
    /// The names of the tenants 1, 2 and so on.
    #[must_use]
    pub fn new(names: Vec<Box<str>>) -> Self {
        Self(names.into())
    }

    /// The name of a tenant; `None` for the default tenant.
    #[must_use]
    pub fn of(&self, tenant: Tenant) -> Option<&str> {
        self.0.get(tenant.index().checked_sub(1)?).map(|name| &**name)
    }

    /// The name by which operators name a tenant: [`DEFAULT_TENANT`] for the default one.
    #[must_use]
    pub fn label(&self, tenant: Tenant) -> &str {
        self.of(tenant).unwrap_or(DEFAULT_TENANT)
    }

    /// The tenant with this name, or with the name [`DEFAULT_TENANT`].
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Tenant> {
        if name == DEFAULT_TENANT {
            return Some(Tenant::DEFAULT);
        }
        Tenant::new(1 + self.0.iter().position(|known| **known == *name)?)
    }

    /// All tenants with their names.
    pub fn iter(&self) -> impl Iterator<Item = (Tenant, &str)> {
        (self.0.iter().enumerate()).filter_map(|(index, name)| Some((Tenant::new(index + 1)?, &**name)))
    }

    /// Whether there is no tenant but the default one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many tables there must be, so that each tenant has one at its number.
    #[must_use]
    pub fn tables(&self) -> usize {
        self.0.len() + 1
    }
}

/// The name of a channel or pattern, borrowed, with its tenant. It finds entries of hash maps whose keys are channels or
/// patterns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// Whose channel it is.
    pub tenant: Tenant,
    /// The name within the tenant.
    pub text: &'a str,
}

impl Hash for Name<'_> {
    // A trailing byte separates names, as in the hash of `str`. Here the tenant is that byte, so it costs nothing.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.text.as_bytes());
        state.write_u8(!self.tenant.0);
    }
}

impl hashbrown::Equivalent<Channel> for Name<'_> {
    fn equivalent(&self, channel: &Channel) -> bool {
        *self == channel.key()
    }
}

impl hashbrown::Equivalent<Pattern> for Name<'_> {
    fn equivalent(&self, pattern: &Pattern) -> bool {
        *self == pattern.key()
    }
}
