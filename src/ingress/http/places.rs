//! The places of connections that speak HTTP: bounded in total and for each address.
//!
//! A connection is silent while the gateway waits for its client: for a request's head, or for a response to be read.
//! When the places run out, the connection that has been silent longest loses its place to a newer one. So a client that
//! opens connections and sends nothing displaces its own connections first, and never those that are being served.
//!
//! Invariant: at most `total_max` connections hold a [`Place`], and at most `per_address_max` of those of one address are
//! silent.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

/// A bounded number of places.
#[derive(Debug)]
pub struct Places {
    total_max: usize,
    // 0: no bound.
    per_address_max: usize,
    state: Mutex<State>,
    // Tells one accept loop that a place may have become free, or its connection silent.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    seats: Slab<Seat>,
    // The seats of silent connections, in the order in which they became silent.
    silent: BTreeMap<u64, usize>,
    // The same for each address.
    silent_of: HashMap<IpAddr, BTreeMap<u64, usize>>,
    next: u64,
}

#[derive(Debug)]
struct Seat {
    address: Option<IpAddr>,
    // The key of the seat in the order of silent connections.
    silent: Option<u64>,
    loss: Arc<Loss>,
}

/// Why a connection lost its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displaced {
    /// All places were taken.
    Total,
    /// Too many connections of its address were silent.
    PerAddress,
}

/// Tells a connection that it lost its place.
#[derive(Debug, Default)]
pub struct Loss {
    // Set under the lock of the places.
    why: OnceLock<Displaced>,
    notify: Notify,
}

impl Loss {
    /// Waits until the place is lost. Only one caller may wait.
    pub async fn happened(&self) -> Displaced {
        loop {
            if let Some(why) = self.why.get() {
                return *why;
            }
            self.notify.notified().await;
        }
    }
}

/// The place of one connection. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    seat: usize,
    is_silent: bool,
    loss: Arc<Loss>,
}

impl Places {
    /// `total_max` places, at least 1. At most `per_address_max` connections of one address may be silent; 0: no bound.
    #[must_use]
    pub fn new(total_max: u32, per_address_max: u32) -> Arc<Self> {
        Arc::new(Self {
            total_max: total_max.max(1) as usize,
            per_address_max: per_address_max as usize,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Takes a place for a connection from `address`; `None` stands for an address that is not known, which has no bound.
    ///
    /// Waits only while every place is taken by a connection that is being served.
    pub async fn take(self: &Arc<Self>, address: Option<IpAddr>) -> Place {
        let loss = Arc::<Loss>::default();
        loop {
            let changed = self.changed.notified();
            if let Some(place) = self.try_take(address, &loss) {
                return place;
            }
            changed.await;
        }
    }

    /// Takes a place without waiting, for a connection that is told of its loss by `loss`. `None` when every place is
    /// taken by a connection that is being served.
    #[must_use]
    pub fn try_take(self: &Arc<Self>, address: Option<IpAddr>, loss: &Arc<Loss>) -> Option<Place> {
        let mut state = self.state.lock();
        if state.seats.len() >= self.total_max {
            let (_, oldest) = state.silent.first_key_value()?;
            let oldest = *oldest;
            state.displace(oldest, Displaced::Total);
        }
        let seat = state.seats.insert(Seat {
            address: address.map(network),
            silent: None,
            loss: Arc::clone(loss),
        });
        Some(Place {
            places: Arc::clone(self),
            seat,
            is_silent: false,
            loss: Arc::clone(loss),
        })
    }

    /// Closes the connection that has been silent longest, if one is silent.
    pub fn make_room(&self) {
        let mut state = self.state.lock();
        if let Some((_, oldest)) = state.silent.first_key_value() {
            let oldest = *oldest;
            state.displace(oldest, Displaced::Total);
        }
    }

    /// The number of places that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.state.lock().seats.len()
    }

    /// Whether every place is taken by a connection that is being served.
    #[must_use]
    pub fn are_busy(&self) -> bool {
        let state = self.state.lock();
        state.seats.len() >= self.total_max && state.silent.is_empty()
    }
}

impl State {
    /// Marks a seat's connection as silent.
    fn add_silent(&mut self, seat: usize, per_address_max: usize) {
        let order = self.next;
        self.next += 1;
        self.seats[seat].silent = Some(order);
        self.silent.insert(order, seat);
        let Some(address) = self.seats[seat].address else {
            return;
        };
        let of_address = self.silent_of.entry(address).or_default();
        of_address.insert(order, seat);
        if per_address_max > 0
            && of_address.len() > per_address_max
            && let Some((_, oldest)) = of_address.first_key_value()
        {
            let oldest = *oldest;
            self.displace(oldest, Displaced::PerAddress);
        }
    }

    fn remove_silent(&mut self, seat: usize) {
        let Some(order) = self.seats[seat].silent.take() else {
            return;
        };
        self.silent.remove(&order);
        if let Some(address) = self.seats[seat].address
            && let Some(of_address) = self.silent_of.get_mut(&address)
        {
            of_address.remove(&order);
            if of_address.is_empty() {
                self.silent_of.remove(&address);
            }
        }
    }

    fn displace(&mut self, seat: usize, why: Displaced) {
        self.remove_silent(seat);
        let loss = self.seats.remove(seat).loss;
        let _ = loss.why.set(why);
        loss.notify.notify_one();
    }
}

impl Place {
    /// Tells the connection when it loses its place.
    #[must_use]
    pub fn loss(&self) -> Arc<Loss> {
        Arc::clone(&self.loss)
    }

    /// Says whether the gateway waits for the client. A connection that becomes silent may displace one of its address
    /// that has been silent longer.
    pub fn set_silent(&mut self, is_silent: bool) {
        if self.is_silent == is_silent {
            return;
        }
        self.is_silent = is_silent;
        let seat = self.seat;
        self.change(|state, per_address_max| {
            if is_silent {
                state.add_silent(seat, per_address_max);
            } else {
                state.remove_silent(seat);
            }
        });
    }

    /// Sets the address that the connection counts for from now on. The connection must not be silent.
    pub fn set_address(&mut self, address: Option<IpAddr>) {
        debug_assert!(!self.is_silent, "the address of a silent connection does not change");
        let (seat, address) = (self.seat, address.map(network));
        self.change(|state, _| state.seats[seat].address = address);
    }

    /// Changes the state, unless the place is lost.
    fn change(&self, change: impl FnOnce(&mut State, usize)) {
        let places = &*self.places;
        {
            let mut state = places.state.lock();
            if self.loss.why.get().is_some() {
                return;
            }
            change(&mut state, places.per_address_max);
        }
        places.changed.notify_one();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let seat = self.seat;
        self.change(|state, _| {
            state.remove_silent(seat);
            state.seats.remove(seat);
        });
    }
}

/// What counts as one address: an IPv4 address, or an IPv6 network of 64 bits, the least that a provider assigns to one
/// customer.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn take(places: &Arc<Places>, address: Option<&str>) -> Place {
        let address = address.map(|address| address.parse().expect("an address"));
        places.try_take(address, &Arc::default()).expect("a place")
    }

    fn silent(places: &Arc<Places>, address: Option<&str>) -> Place {
        let mut place = take(places, address);
        place.set_silent(true);
        place
    }

    fn lost(place: &Place) -> Option<Displaced> {
        place.loss.why.get().copied()
    }

    #[test]
    fn the_longest_silent_connection_makes_room() {
        let places = Places::new(3, 0);
        let busy = take(&places, None);
        let (first, second) = (silent(&places, None), silent(&places, None));
        let third = silent(&places, None);
        assert_eq!(lost(&first), Some(Displaced::Total));
        assert_eq!((lost(&busy), lost(&second), lost(&third)), (None, None, None));
        // A connection that was served in between is not the longest silent one.
        let mut second = second;
        second.set_silent(false);
        second.set_silent(true);
        let _fourth = silent(&places, None);
        assert_eq!((lost(&second), lost(&third)), (None, Some(Displaced::Total)));
    }

    #[test]
    fn a_lost_place_gives_nothing_back() {
        let places = Places::new(1, 0);
        let mut displaced = silent(&places, None);
        let held = take(&places, None);
        displaced.set_silent(false);
        drop(displaced);
        assert!(places.are_busy());
        assert!(places.try_take(None, &Arc::default()).is_none(), "its place is taken");
        places.make_room();
        assert_eq!(lost(&held), None, "a connection that is being served keeps its place");
        drop(held);
        assert!(!places.are_busy());
        let state = places.state.lock();
        assert!(state.seats.is_empty() && state.silent.is_empty() && state.silent_of.is_empty());
    }

    #[test]
    fn silent_connections_are_bounded_for_each_address() {
        let places = Places::new(100, 2);
        let held: Vec<_> = (0..3).map(|_| silent(&places, Some("192.0.2.1"))).collect();
        let lost_places: Vec<_> = held.iter().map(lost).collect();
        assert_eq!(lost_places, [Some(Displaced::PerAddress), None, None]);
        let others: Vec<_> = ["192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"]
            .into_iter()
            .map(|address| silent(&places, Some(address)))
            .collect();
        let unknown: Vec<_> = (0..5).map(|_| silent(&places, None)).collect();
        let served: Vec<_> = (0..5).map(|_| take(&places, Some("192.0.2.1"))).collect();
        assert!(
            others
                .iter()
                .chain(&unknown)
                .chain(&served)
                .all(|place| lost(place).is_none())
        );
        assert!(lost(&held[1]).is_none(), "connections that are served do not count");
        // Addresses of one IPv6 network are one.
        let _more: Vec<_> = (2..4)
            .map(|n| silent(&places, Some(&format!("2001:db8::{n}"))))
            .collect();
        assert_eq!(lost(&others[1]), Some(Displaced::PerAddress));
        assert_eq!(lost(&others[2]), None);
    }

    #[test]
    fn a_connection_counts_for_the_address_that_its_proxy_names() {
        let places = Places::new(100, 1);
        let mut proxied = take(&places, None);
        proxied.set_address("192.0.2.1".parse().ok());
        proxied.set_silent(true);
        let _second = silent(&places, Some("192.0.2.1"));
        assert_eq!(lost(&proxied), Some(Displaced::PerAddress));
    }

    #[tokio::test]
    async fn a_newcomer_waits_while_all_connections_are_served() {
        let places = Places::new(1, 0);
        for ends in [true, false] {
            let mut held = places.take(None).await;
            let mut newcomer = Box::pin(places.take(None));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(newcomer.as_mut().poll(&mut cx).is_pending());
            if ends {
                drop(held);
            } else {
                held.set_silent(true);
                assert_eq!(held.loss().why.get(), None, "until the newcomer runs");
            }
            assert!(matches!(newcomer.as_mut().poll(&mut cx), Poll::Ready(_)));
        }
    }

    #[tokio::test]
    async fn a_loss_is_told_before_and_while_it_is_waited_for() {
        let places = Places::new(1, 0);
        let first = silent(&places, None);
        let loss = first.loss();
        let waits = tokio::spawn(async move { loss.happened().await });
        tokio::task::yield_now().await;
        let second = silent(&places, None);
        assert_eq!(waits.await.expect("told"), Displaced::Total);
        let _third = take(&places, None);
        assert_eq!(second.loss().happened().await, Displaced::Total);
    }
}
