//! The connection limits: in all, per address, per user, and new ones per second.
//!
//! Invariant: every count belongs to a [`Permit`], which gives it back once, when it is dropped.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;

use super::counts::Counts;
use super::http::network;
use super::settings::Settings;
use super::users::{Challenge, UserPlace, Users};
use crate::session::limits::TokenBucket;
use crate::shard::mailbox::{ConnectionId, ConnectionPermit};

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
    addresses: Counts<IpAddr>,
    // `None`: no limit.
    users: Option<Users>,
    bucket: Mutex<TokenBucket>,
}

/// One of the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// All connections.
    Total,
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
        let per_user_max = settings.max_connections_per_user;
        Arc::new(Self {
            total_max: settings.max_connections.into(),
            per_address_max: settings.max_connections_per_ip.into(),
            rate: settings.connect_rate.into(),
            total: AtomicU32::new(0),
            addresses: Counts::default(),
            users: (per_user_max > 0).then(|| Users::new(per_user_max, settings.per_user_overflow, challenge)),
            bucket: Mutex::new(TokenBucket::full(settings.connect_rate, now_mono_ms)),
        })
    }

    /// Replaces the limits, except for the one per user. Connections that are counted already stay. Those that were admitted
    /// without a limit per address are not counted for a new one.
    pub(super) fn replace(&self, settings: &Settings) {
        self.total_max.store(settings.max_connections, Relaxed);
        self.per_address_max.store(settings.max_connections_per_ip, Relaxed);
        self.rate.store(settings.connect_rate, Relaxed);
    }

    /// Counts one more connection from this address; `None` is a Unix socket's peer, which has no limit per address.
    ///
    /// # Errors
    ///
    /// When a limit is reached. Only the connect rate keeps count of a refused connection.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>, now_mono_ms: u64) -> Result<Permit, LimitReached> {
        let rate = self.rate.load(Relaxed);
        if rate > 0
            && let Err(wait_ms) = self.bucket.lock().take(rate, now_mono_ms)
        {
            return Err(LimitReached {
                limit: Limit::ConnectRate,
                retry_after_s: wait_ms.div_ceil(1000).max(1),
            });
        }
        let below = |total| (total < self.total_max.load(Relaxed)).then_some(total + 1);
        if self.total.fetch_update(Relaxed, Relaxed, below).is_err() {
            return Err(LimitReached::connections(Limit::Total));
        }
        // From here on dropping the permit gives back what it holds.
        let mut permit = Permit {
            limits: Arc::clone(self),
            held: None,
        };
        let per_address_max = self.per_address_max.load(Relaxed);
        if per_address_max > 0
            && let Some(address) = address
        {
            let network = network(address);
            if !self.addresses.take(network, per_address_max) {
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

/// One counted connection. It is small, because there is one per connection: a box holds what only some limits need.
#[derive(Debug)]
pub(super) struct Permit {
    limits: Arc<ConnectionLimits>,
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
        let Some(users) = self.limits.users.as_ref().filter(|users| users.knows_places()) else {
            return;
        };
        let held = self.held.get_or_insert_default();
        held.id = Some(id);
        if let Some(place) = &held.user {
            users.adopted(place, id);
        }
    }

    fn authenticated(&mut self, user: &str) -> bool {
        let Some(users) = &self.limits.users else {
            return true;
        };
        let held = self.held.get_or_insert_default();
        if held.user.as_ref().is_some_and(|place| place.is_of(user)) {
            return true;
        }
        let Some(place) = users.take(user, held.id) else {
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
        if let Some(held) = self.held.take() {
            if let Some(network) = held.network {
                self.limits.addresses.give_back(&network);
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
            limits.admit(None, 0).expect("below the limits"),
            limits.admit(None, 0).expect("below the limits"),
        );
        assert_eq!(limit(limits.admit(None, 0)), Limit::Total);
        assert_eq!(limits.total(), 2);
        drop(a);
        limits.admit(None, 0).expect("below the limits again");
    }

    #[test]
    fn addresses_have_their_own_limit_and_ipv6_counts_by_network() {
        let limits = limits(10, 1, 0, 0);
        let address = |text: &str| text.parse().ok();
        let first = limits.admit(address("192.0.2.1"), 0).expect("below the limits");
        assert_eq!(limit(limits.admit(address("192.0.2.1"), 0)), Limit::PerAddress);
        let _other = limits.admit(address("192.0.2.2"), 0).expect("another address");
        let _v6 = limits.admit(address("2001:db8::1"), 0).expect("below the limits");
        assert_eq!(limit(limits.admit(address("2001:db8::2"), 0)), Limit::PerAddress);
        let _v6_other = limits.admit(address("2001:db8:0:1::1"), 0).expect("another network");
        let _unix = (
            limits.admit(None, 0).expect("below the limits"),
            limits.admit(None, 0).expect("no address, no limit"),
        );
        drop(first);
        limits.admit(address("192.0.2.1"), 0).expect("below the limits again");
    }

    #[test]
    fn a_refused_connection_is_not_counted() {
        let limits = limits(10, 1, 0, 0);
        let address = "192.0.2.1".parse().ok();
        let held = limits.admit(address, 0).expect("below the limits");
        for _ in 0..100 {
            assert_eq!(limit(limits.admit(address, 0)), Limit::PerAddress);
        }
        drop(held);
        assert_eq!(limits.total(), 0);
        assert!(limits.addresses.is_empty());
    }

    #[test]
    fn users_are_counted_once_per_connection_also_when_they_authenticate_later() {
        let limits = limits(10, 0, 1, 0);
        let mut first = limits.admit(None, 0).expect("below the limits");
        let mut second = limits.admit(None, 0).expect("below the limits");
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
            limits.admit(None, 0).expect("within the burst");
        }
        assert_eq!(
            limits.admit(None, 0).expect_err("too fast"),
            LimitReached {
                limit: Limit::ConnectRate,
                retry_after_s: 1
            }
        );
        limits.admit(None, 500).expect("half a second later");
    }
}
