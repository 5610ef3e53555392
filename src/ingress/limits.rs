//! The connection limits: in all, per tenant, per address, per user, and new ones per second. Addresses and users count
//! within their tenant.
//!
//! Invariant: every count belongs to a [`Permit`], which gives it back once, when it is dropped.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;

use super::counts::Counts;
use super::http::network;
use super::settings::{Settings, TenantLimits};
use super::users::{Challenge, UserPlace, Users};
use crate::session::limits::TokenBucket;
use crate::shard::mailbox::{ConnectionId, ConnectionPermit};
use tickgate_protocol::channel::Tenant;

/// After how many seconds a client may try again that was over a limit of connections.
const RETRY_AFTER_S: u32 = 10;

/// The counts of one gateway. A limit of 0 is no limit, except the total's.
#[derive(Debug)]
pub(super) struct ConnectionLimits {
    total_max: AtomicU32,
    per_address_max: AtomicU32,
    // New connections per second, and the bucket's capacity.
    rate: AtomicU32,
    total: AtomicU32,
    addresses: Counts<(Tenant, IpAddr)>,
    // Of each tenant but the default one.
    tenants: Vec<TenantCount>,
    // `None`: no limit for any tenant.
    users: Option<Users>,
    bucket: Mutex<TokenBucket>,
}

/// The connections of one tenant.
#[derive(Debug)]
struct TenantCount {
    // 0: no limit.
    max: AtomicU32,
    count: AtomicU32,
}

/// One of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// All connections.
    Total,
    /// Connections of one tenant.
    Tenant,
    /// Connections of one address.
    PerAddress,
    /// Connections of one user.
    PerUser,
    /// New connections per second.
    ConnectRate,
}

/// A limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LimitReached {
    pub(super) limit: Limit,
    /// After how many seconds the client may try again, at least 1.
    pub(super) retry_after_s: u32,
}

impl LimitReached {
    const fn connections(limit: Limit) -> Self {
        Self {
            limit,
            retry_after_s: RETRY_AFTER_S,
        }
    }
}

impl ConnectionLimits {
    /// `challenge` asks a connection for a sign of life.
    pub(super) fn new(settings: &Settings, challenge: Box<Challenge>, now_mono_ms: u64) -> Arc<Self> {
        let of_tenants = settings.tenants.iter().map(|tenant| tenant.max_connections_per_user);
        let per_user_max: Vec<u32> = std::iter::once(settings.max_connections_per_user)
            .chain(of_tenants)
            .collect();
        let has_users = per_user_max.iter().any(|max| *max > 0);
        let tenant = |limits: &TenantLimits| TenantCount {
            max: limits.max_connections.into(),
            count: AtomicU32::new(0),
        };
        Arc::new(Self {
            tenants: settings.tenants.iter().map(tenant).collect(),
            total_max: settings.max_connections.into(),
            per_address_max: settings.max_connections_per_ip.into(),
            rate: settings.connect_rate.into(),
            total: AtomicU32::new(0),
            addresses: Counts::default(),
            users: has_users.then(|| Users::new(per_user_max, settings.per_user_overflow, challenge)),
            bucket: Mutex::new(TokenBucket::full(settings.connect_rate, now_mono_ms)),
        })
    }

    /// Replaces the limits, except for the one per user. Connections that are counted already stay. Those that were admitted
    /// without a limit per address are not counted for a new one.
    pub(super) fn replace(&self, settings: &Settings) {
        self.total_max.store(settings.max_connections, Relaxed);
        self.per_address_max.store(settings.max_connections_per_ip, Relaxed);
        self.rate.store(settings.connect_rate, Relaxed);
        for (tenant, limits) in self.tenants.iter().zip(&settings.tenants) {
            tenant.max.store(limits.max_connections, Relaxed);
        }
    }

    fn of_tenant(&self, tenant: Tenant) -> Option<&TenantCount> {
        self.tenants.get(tenant.index().checked_sub(1)?)
    }

    /// Counts one more connection of a tenant from this address; `None` is a Unix socket's peer, which has no limit per address.
    ///
    /// # Errors
    ///
    /// When a limit is reached. Only the connect rate keeps count of a refused connection.
    pub(super) fn admit(
        self: &Arc<Self>,
        tenant: Tenant,
        address: Option<IpAddr>,
        now_mono_ms: u64,
    ) -> Result<Permit, LimitReached> {
        let rate = self.rate.load(Relaxed);
        if rate > 0
            && let Err(wait_ms) = self.bucket.lock().take(rate, now_mono_ms)
        {
            return Err(LimitReached {
                limit: Limit::ConnectRate,
                retry_after_s: wait_ms.div_ceil(1000).max(1),
            });
        }
        if !take_one(&self.total, self.total_max.load(Relaxed)) {
            return Err(LimitReached::connections(Limit::Total));
        }
        if let Some(TenantCount { max, count }) = self.of_tenant(tenant) {
            let max = match max.load(Relaxed) {
                0 => u32::MAX,
                max => max,
            };
            if !take_one(count, max) {
                self.total.fetch_sub(1, Relaxed);
                return Err(LimitReached::connections(Limit::Tenant));
            }
        }
        // From here on dropping the permit gives back what it holds.
        let mut permit = Permit {
            limits: Arc::clone(self),
            tenant,
            held: None,
        };
        let per_address_max = self.per_address_max.load(Relaxed);
        if per_address_max > 0
            && let Some(address) = address
        {
            let network = network(address);
            if !self.addresses.take((tenant, network), per_address_max) {
                return Err(LimitReached::connections(Limit::PerAddress));
            }
            permit.held = Some(Box::new(Held {
                network: Some(network),
                ..Held::default()
            }));
        }
        Ok(permit)
    }

    /// Connections that hold a permit.
    pub(super) fn total(&self) -> u32 {
        self.total.load(Relaxed)
    }
}

/// Counts one more, unless there are `max`.
fn take_one(count: &AtomicU32, max: u32) -> bool {
    let below = |count| (count < max).then_some(count + 1);
    count.fetch_update(Relaxed, Relaxed, below).is_ok()
}

/// One counted connection. It is small, because there is one per connection: a box holds what only some limits need.
#[derive(Debug)]
pub(super) struct Permit {
    limits: Arc<ConnectionLimits>,
    tenant: Tenant,
    held: Option<Box<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    network: Option<IpAddr>,
    user: Option<UserPlace>,
    // Known as soon as a shard has the connection, and only if users may displace their connections.
    id: Option<ConnectionId>,
}

impl Permit {
    /// Counts the connection for its user.
    ///
    /// # Errors
    ///
    /// When the user has too many connections.
    pub(super) fn count_user(&mut self, user: &str) -> Result<(), LimitReached> {
        if self.authenticated(user) {
            Ok(())
        } else {
            Err(LimitReached::connections(Limit::PerUser))
        }
    }
}

impl ConnectionPermit for Permit {
    fn adopted(&mut self, id: ConnectionId) {
        let users = self.limits.users.as_ref();
        let Some(users) = users.filter(|users| users.knows_places() && users.max_in(self.tenant) > 0) else {
            return;
        };
        let held = self.held.get_or_insert_default();
        held.id = Some(id);
        if let Some(place) = &held.user {
            users.adopted(place, id);
        }
    }

    fn authenticated(&mut self, user: &str) -> bool {
        let limited = self.limits.users.as_ref();
        let Some(users) = limited.filter(|users| users.max_in(self.tenant) > 0) else {
            return true;
        };
        let held = self.held.get_or_insert_default();
        if held.user.as_ref().is_some_and(|place| place.is_of(user)) {
            return true;
        }
        let Some(place) = users.take(self.tenant, user, held.id) else {
            return false;
        };
        if let Some(before) = held.user.replace(place) {
            users.give_back(&before);
        }
        true
    }

    fn challenged(&mut self, has_answered: bool) -> bool {
        let (Some(users), Some(held)) = (&self.limits.users, &mut self.held) else {
            return false;
        };
        let is_taken = |place: &mut UserPlace| users.challenged(place, has_answered);
        held.user.take_if(is_taken).is_some()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limits.total.fetch_sub(1, Relaxed);
        if let Some(tenant) = self.limits.of_tenant(self.tenant) {
            tenant.count.fetch_sub(1, Relaxed);
        }
        if let Some(held) = self.held.take() {
            if let Some(network) = held.network {
                self.limits.addresses.give_back(&(self.tenant, network));
            }
            if let (Some(users), Some(place)) = (&self.limits.users, held.user) {
                users.give_back(&place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total: u32, per_address: u32, per_user: u32, rate: u32) -> Arc<ConnectionLimits> {
        let settings = Settings {
            max_connections: total,
            max_connections_per_ip: per_address,
            max_connections_per_user: per_user,
            connect_rate: rate,
            ..super::super::tests::settings()
        };
        ConnectionLimits::new(&settings, Box::new(|_| {}), 0)
    }

    fn limit(refused: Result<Permit, LimitReached>) -> Limit {
        refused.expect_err("refused").limit
    }

    #[test]
    fn dropped_permits_are_given_back() {
        let limits = limits(2, 0, 0, 0);
        let (a, _b) = (
            limits.admit(Tenant::DEFAULT, None, 0).expect("below the limits"),
            limits.admit(Tenant::DEFAULT, None, 0).expect("below the limits"),
        );
        assert_eq!(limit(limits.admit(Tenant::DEFAULT, None, 0)), Limit::Total);
        assert_eq!(limits.total(), 2);
        drop(a);
        limits.admit(Tenant::DEFAULT, None, 0).expect("below the limits again");
    }

    #[test]
    fn addresses_have_their_own_limit_and_ipv6_counts_by_network() {
        let limits = limits(10, 1, 0, 0);
        let address = |text: &str| text.parse().ok();
        let first = limits
            .admit(Tenant::DEFAULT, address("192.0.2.1"), 0)
            .expect("below the limits");
        assert_eq!(
            limit(limits.admit(Tenant::DEFAULT, address("192.0.2.1"), 0)),
            Limit::PerAddress
        );
        let _other = limits
            .admit(Tenant::DEFAULT, address("192.0.2.2"), 0)
            .expect("another address");
        let _v6 = limits
            .admit(Tenant::DEFAULT, address("2001:db8::1"), 0)
            .expect("below the limits");
        assert_eq!(
            limit(limits.admit(Tenant::DEFAULT, address("2001:db8::2"), 0)),
            Limit::PerAddress
        );
        let _v6_other = limits
            .admit(Tenant::DEFAULT, address("2001:db8:0:1::1"), 0)
            .expect("another network");
        let _unix = (
            limits.admit(Tenant::DEFAULT, None, 0).expect("below the limits"),
            limits.admit(Tenant::DEFAULT, None, 0).expect("no address, no limit"),
        );
        drop(first);
        limits
            .admit(Tenant::DEFAULT, address("192.0.2.1"), 0)
            .expect("below the limits again");
    }

    #[test]
    fn a_tenant_has_its_own_total_and_its_own_addresses_and_users() {
        let settings = Settings {
            max_connections: 10,
            max_connections_per_ip: 2,
            max_connections_per_user: 1,
            tenants: vec![
                TenantLimits {
                    max_connections: 2,
                    max_connections_per_user: 2,
                },
                TenantLimits::default(),
            ],
            ..super::super::tests::settings()
        };
        let limits = ConnectionLimits::new(&settings, Box::new(|_| {}), 0);
        let tenant = |index| Tenant::new(index).expect("few");
        let address = "192.0.2.1".parse().ok();
        let mut one: Vec<_> = (0..2)
            .map(|_| limits.admit(tenant(1), address, 0).expect("two"))
            .collect();
        assert_eq!(limit(limits.admit(tenant(1), None, 0)), Limit::Tenant);
        let mut two = limits.admit(tenant(2), address, 0).expect("another tenant's address");
        let mut own = limits.admit(Tenant::DEFAULT, address, 0).expect("the default tenant's");
        assert_eq!(limits.total(), 4, "a refused connection is not counted");
        // The same user may have two connections, none, and one.
        assert!(one.iter_mut().all(|permit| permit.authenticated("u")));
        assert!(two.authenticated("u") && own.authenticated("u"));
        let mut second = limits.admit(Tenant::DEFAULT, None, 0).expect("below the limits");
        assert!(!second.authenticated("u"));
        drop((one, two, own));
        assert!(second.authenticated("u"));
        limits.admit(tenant(1), None, 0).expect("below the total again");
    }

    #[test]
    fn a_refused_connection_is_not_counted() {
        let limits = limits(10, 1, 0, 0);
        let address = "192.0.2.1".parse().ok();
        let held = limits.admit(Tenant::DEFAULT, address, 0).expect("below the limits");
        for _ in 0..100 {
            assert_eq!(limit(limits.admit(Tenant::DEFAULT, address, 0)), Limit::PerAddress);
        }
        drop(held);
        assert_eq!(limits.total(), 0);
        assert!(limits.addresses.is_empty());
    }

    #[test]
    fn users_are_counted_once_per_connection_also_when_they_authenticate_later() {
        let limits = limits(10, 0, 1, 0);
        let mut first = limits.admit(Tenant::DEFAULT, None, 0).expect("below the limits");
        let mut second = limits.admit(Tenant::DEFAULT, None, 0).expect("below the limits");
        assert!(
            first.authenticated("a") && first.authenticated("a"),
            "a token refresh is not a second connection"
        );
        assert!(!second.authenticated("a"));
        assert_eq!(
            second.count_user("a"),
            Err(LimitReached {
                limit: Limit::PerUser,
                retry_after_s: RETRY_AFTER_S
            })
        );
        assert!(second.authenticated("b"));
        drop(first);
        assert!(second.authenticated("a"));
        drop(second);
        assert!(limits.users.as_ref().is_some_and(Users::is_empty));
    }

    #[test]
    fn the_connect_rate_tells_when_to_retry() {
        let limits = limits(100, 0, 0, 2);
        for _ in 0..2 {
            limits.admit(Tenant::DEFAULT, None, 0).expect("within the burst");
        }
        assert_eq!(
            limits.admit(Tenant::DEFAULT, None, 0).expect_err("too fast"),
            LimitReached {
                limit: Limit::ConnectRate,
                retry_after_s: 1
            }
        );
        limits.admit(Tenant::DEFAULT, None, 500).expect("half a second later");
    }
}
