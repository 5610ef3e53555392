//! Tenants: separate spaces of channels in one gateway.
//!
//! Invariant: a [`Channel`](super::Channel) and a [`Pattern`](super::Pattern) belong to exactly one tenant. Two that
//! differ in it are never equal, and no pattern matches, covers or intersects anything of another tenant. So every map
//! with such keys keeps tenants apart.

use std::hash::{Hash, Hasher};

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
    pub const MAX: usize = 100;

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

    /// Whether this is the default tenant.
    #[must_use]
    pub const fn is_default(self) -> bool {
        self.0 == 0
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
