//! The door's limits: connections in all, per address and per user, and handshakes per second.
//!
//! Invariant: what a [`Permit`] took it gives back, once, when it is dropped; nothing is counted without a permit.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use hashbrown::HashMap;
use parking_lot::Mutex;

use crate::metrics::Refused;
use crate::session::limits::TokenBucket;
use crate::shard::mailbox::ConnectionPermit;

/// After how many seconds a connection over a limit of places may try again.
const PLACE_RETRY_S: u32 = 10;

/// The counts of one door. A limit of 0 is none (but for the total's).
#[derive(Debug)]
pub(super) struct Gate {
    total_max: u32,
    per_address_max: u32,
    per_user_max: u32,
    rate: u32,
    total: AtomicU32,
    addresses: Counts<IpAddr>,
    users: Counts<Box<str>>,
    bucket: Mutex<TokenBucket>,
}

/// A refusal, and after how many seconds to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full {
    pub(super) why: Refused,
    pub(super) retry_after_s: u32,
}

impl Gate {
    pub(super) fn new(settings: &super::Settings, now_mono_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            total_max: settings.max_connections,
            per_address_max: settings.max_connections_per_ip,
            per_user_max: settings.max_connections_per_user,
            rate: settings.connect_rate,
            total: AtomicU32::new(0),
            addresses: Counts::default(),
            users: Counts::default(),
            bucket: Mutex::new(TokenBucket::full(settings.connect_rate, now_mono_ms)),
        })
    }

    /// A place for one more connection from this address, and its share of the connect rate.
    pub(super) fn admit(self: &Arc<Self>, address: Option<IpAddr>, now_mono_ms: u64) -> Result<Permit, Full> {
        if self.rate > 0
            && let Err(wait_ms) = self.bucket.lock().take(self.rate, now_mono_ms)
        {
            return Err(Full {
                why: Refused::ConnectRate,
                retry_after_s: wait_ms.div_ceil(1000).max(1),
            });
        }
        let below = |total| (total < self.total_max).then_some(total + 1);
        if self.total.fetch_update(Relaxed, Relaxed, below).is_err() {
            return Err(Full {
                why: Refused::Total,
                retry_after_s: PLACE_RETRY_S,
            });
        }
        // From here on the permit gives back what it holds.
        let mut permit = Permit {
            gate: Arc::clone(self),
            held: None,
        };
        if self.per_address_max > 0
            && let Some(address) = address
        {
            let network = network(address);
            if !self.addresses.take(network, self.per_address_max) {
                return Err(Full {
                    why: Refused::PerAddress,
                    retry_after_s: PLACE_RETRY_S,
                });
            }
            permit.held = Some(Box::new(Held {
                network: Some(network),
                user: None,
            }));
        }
        Ok(permit)
    }

    /// Connections that hold a permit.
    pub(super) fn total(&self) -> u32 {
        self.total.load(Relaxed)
    }
}

/// A connection's place. Small, for there is one per connection: what only some limits need lies in a box.
#[derive(Debug)]
pub(super) struct Permit {
    gate: Arc<Gate>,
    held: Option<Box<Held>>,
}

#[derive(Debug, Default)]
struct Held {
    network: Option<IpAddr>,
    user: Option<Box<str>>,
}

impl Permit {
    /// Counts the connection for its user.
    pub(super) fn user(&mut self, user: &str) -> Result<(), Full> {
        if self.authenticated(user) {
            return Ok(());
        }
        Err(Full {
            why: Refused::PerUser,
            retry_after_s: PLACE_RETRY_S,
        })
    }
}

impl ConnectionPermit for Permit {
    fn authenticated(&mut self, user: &str) -> bool {
        if self.gate.per_user_max == 0 {
            return true;
        }
        let held = self.held.get_or_insert_default();
        if held.user.as_deref() == Some(user) {
            return true;
        }
        if !self.gate.users.take(user.into(), self.gate.per_user_max) {
            return false;
        }
        if let Some(before) = held.user.replace(user.into()) {
            self.gate.users.give_back(&before);
        }
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.total.fetch_sub(1, Relaxed);
        if let Some(held) = self.held.take() {
            if let Some(network) = held.network {
                self.gate.addresses.give_back(&network);
            }
            if let Some(user) = held.user {
                self.gate.users.give_back(&user);
            }
        }
    }
}

/// How many hold each key; a key that nobody holds is not there.
#[derive(Debug)]
struct Counts<K>(Mutex<HashMap<K, u32, foldhash::fast::RandomState>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Counts<K> {
    fn take(&self, key: K, max: u32) -> bool {
        let mut counts = self.0.lock();
        let count = counts.entry(key).or_insert(0);
        let room = *count < max;
        if room {
            *count += 1;
        }
        // `max` is at least 1, so a key that was just made has room.
        room
    }

    fn give_back(&self, key: &K) {
        let mut counts = self.0.lock();
        if let Some(count) = counts.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(key);
            }
        }
    }
}

/// What counts as one address: of IPv6 the /64, which is the least that a provider gives to one customer.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(total: u32, per_address: u32, per_user: u32, rate: u32) -> Arc<Gate> {
        let settings = super::super::Settings {
            max_connections: total,
            max_connections_per_ip: per_address,
            max_connections_per_user: per_user,
            connect_rate: rate,
            ..super::super::tests::settings()
        };
        Gate::new(&settings, 0)
    }

    fn why(refused: Result<Permit, Full>) -> Refused {
        refused.expect_err("refused").why
    }

    #[test]
    fn places_are_given_back() {
        let gate = gate(2, 0, 0, 0);
        let (a, _b) = (gate.admit(None, 0).expect("room"), gate.admit(None, 0).expect("room"));
        assert_eq!(why(gate.admit(None, 0)), Refused::Total);
        assert_eq!(gate.total(), 2);
        drop(a);
        gate.admit(None, 0).expect("room again");
    }

    #[test]
    fn addresses_have_their_own_limit_and_ipv6_counts_by_network() {
        let gate = gate(10, 1, 0, 0);
        let address = |text: &str| text.parse().ok();
        let first = gate.admit(address("192.0.2.1"), 0).expect("room");
        assert_eq!(why(gate.admit(address("192.0.2.1"), 0)), Refused::PerAddress);
        let _other = gate.admit(address("192.0.2.2"), 0).expect("another address");
        let _v6 = gate.admit(address("2001:db8::1"), 0).expect("room");
        assert_eq!(why(gate.admit(address("2001:db8::2"), 0)), Refused::PerAddress);
        let _v6_other = gate.admit(address("2001:db8:0:1::1"), 0).expect("another network");
        let _unix = (
            gate.admit(None, 0).expect("room"),
            gate.admit(None, 0).expect("no address, no limit"),
        );
        drop(first);
        gate.admit(address("192.0.2.1"), 0).expect("room again");
    }

    #[test]
    fn a_refusal_holds_nothing() {
        let gate = gate(10, 1, 0, 0);
        let address = "192.0.2.1".parse().ok();
        let held = gate.admit(address, 0).expect("room");
        for _ in 0..100 {
            assert_eq!(why(gate.admit(address, 0)), Refused::PerAddress);
        }
        drop(held);
        assert_eq!(gate.total(), 0);
        assert!(gate.addresses.0.lock().is_empty());
    }

    #[test]
    fn users_are_counted_once_per_connection_also_when_they_authenticate_later() {
        let gate = gate(10, 0, 1, 0);
        let mut first = gate.admit(None, 0).expect("room");
        let mut second = gate.admit(None, 0).expect("room");
        assert!(
            first.authenticated("a") && first.authenticated("a"),
            "a refresh takes no second place"
        );
        assert!(!second.authenticated("a"));
        assert_eq!(
            second.user("a"),
            Err(Full {
                why: Refused::PerUser,
                retry_after_s: PLACE_RETRY_S
            })
        );
        assert!(second.authenticated("b"));
        drop(first);
        assert!(second.authenticated("a"));
        drop(second);
        assert!(gate.users.0.lock().is_empty());
    }

    #[test]
    fn the_rate_says_when_to_come_back() {
        let gate = gate(100, 0, 0, 2);
        for _ in 0..2 {
            gate.admit(None, 0).expect("within the burst");
        }
        assert_eq!(
            gate.admit(None, 0).expect_err("too fast"),
            Full {
                why: Refused::ConnectRate,
                retry_after_s: 1
            }
        );
        gate.admit(None, 500).expect("half a second later");
    }
}
