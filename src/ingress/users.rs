//! The places of each user of a tenant, of which there is a limited number.
//!
//! [`PerUserOverflow::Oldest`] lets a user at the limit connect nevertheless. Then the user's other connections are
//! challenged: each is asked for a sign of life. One that gives none in time is dead and makes room. If all give one, the
//! oldest ends, and its client is told to stay away.
//!
//! Invariants: a user holds at most twice the limit, connections that are challenged included. A place is given back once.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hashbrown::HashMap;
use parking_lot::Mutex;

use super::counts::Counts;
use super::settings::PerUserOverflow;
use crate::shard::mailbox::ConnectionId;
use tickgate_protocol::channel::Tenant;

/// Asks a connection for a sign of life. Its shard reports the outcome to the connection's permit.
pub(super) type Challenge = dyn Fn(ConnectionId) + Send + Sync;

/// The places of all users.
pub(super) struct Users {
    // By the number of the tenant. 0: no limit.
    max: Vec<u32>,
    taken: Taken,
    challenge: Box<Challenge>,
}

enum Taken {
    /// One more connection is refused, so only the number counts.
    Counts(Counts<User>),
    /// The places of each user, in the order in which they were taken.
    Places {
        by_user: Mutex<HashMap<User, Vec<Place>, foldhash::fast::RandomState>>,
        numbers: AtomicU64,
    },
}

/// A user of a tenant.
type User = (Tenant, Box<str>);

/// One connection of a user.
struct Place {
    number: u64,
    // `None` until a shard has the connection.
    id: Option<ConnectionId>,
    // Whether the outcome of a challenge is still to come.
    is_challenged: bool,
}

/// A place that a permit holds.
#[derive(Debug)]
pub(super) struct UserPlace {
    user: User,
    number: u64,
}

impl UserPlace {
    /// Whether it is a place of the user of this name.
    pub(super) fn is_of(&self, name: &str) -> bool {
        *self.user.1 == *name
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("max", &self.max).finish_non_exhaustive()
    }
}

impl Users {
    /// `max` is the limit in each tenant; 0: none.
    pub(super) fn new(max: Vec<u32>, overflow: PerUserOverflow, challenge: Box<Challenge>) -> Self {
        let taken = match overflow {
            PerUserOverflow::Refuse => Taken::Counts(Counts::default()),
            PerUserOverflow::Oldest => Taken::Places {
                by_user: Mutex::default(),
                numbers: AtomicU64::new(0),
            },
        };
        Self { max, taken, challenge }
    }

    /// Whether the places' connections have to be known.
    pub(super) const fn knows_places(&self) -> bool {
        matches!(self.taken, Taken::Places { .. })
    }

    /// How many places a user of this tenant may have; 0: no limit.
    pub(super) fn max_in(&self, tenant: Tenant) -> u32 {
        self.max.get(tenant.index()).copied().unwrap_or(0)
    }

    /// Takes a place for a connection of a user of a tenant with a limit. A shard has the connection already if there is an
    /// `id`. `None`: the user has too many.
    pub(super) fn take(&self, tenant: Tenant, name: &str, id: Option<ConnectionId>) -> Option<UserPlace> {
        let (user, max): (User, u32) = ((tenant, name.into()), self.max_in(tenant));
        let number = match &self.taken {
            Taken::Counts(counts) => counts.take(user.clone(), max).then_some(0)?,
            Taken::Places { by_user, numbers } => {
                let number = numbers.fetch_add(1, Relaxed);
                let mut by_user = by_user.lock();
                let places = by_user.entry(user.clone()).or_default();
                if places.len() >= 2 * max as usize {
                    return None;
                }
                places.push(Place {
                    number,
                    id,
                    is_challenged: false,
                });
                let due = Self::due(places, max);
                drop(by_user);
                self.challenge_all(&due);
                number
            }
        };
        Some(UserPlace { user, number })
    }

    /// A shard has the connection of a place.
    pub(super) fn adopted(&self, place: &UserPlace, id: ConnectionId) {
        let max = self.max_in(place.user.0);
        let due = self.with_places(place, |places, index| {
            places[index].id = Some(id);
            Self::due(places, max)
        });
        self.challenge_all(&due.unwrap_or_default());
    }

    /// The outcome of a challenge. Returns whether the connection must end; its place is given back then.
    ///
    /// A silent connection must end as long as the user has too many. One that answers must end only if it is among the
    /// oldest that are too many.
    pub(super) fn challenged(&self, place: &UserPlace, has_answered: bool) -> bool {
        let max = self.max_in(place.user.0) as usize;
        let must_end = self.with_places(place, |places, index| {
            let excess = places.len().saturating_sub(max);
            let must_end = excess > 0 && (!has_answered || index < excess);
            if must_end {
                places.remove(index);
            } else {
                places[index].is_challenged = false;
            }
            must_end
        });
        must_end.unwrap_or(false)
    }

    /// Gives a place back.
    pub(super) fn give_back(&self, place: &UserPlace) {
        match &self.taken {
            Taken::Counts(counts) => counts.give_back(&place.user),
            Taken::Places { by_user, .. } => {
                let mut by_user = by_user.lock();
                if let Some(places) = by_user.get_mut(&place.user) {
                    places.retain(|other| other.number != place.number);
                    if places.is_empty() {
                        by_user.remove(&place.user);
                    }
                }
            }
        }
    }

    /// Calls `change` with the places of the user and the index of this one, if it is known.
    fn with_places<T>(&self, place: &UserPlace, change: impl FnOnce(&mut Vec<Place>, usize) -> T) -> Option<T> {
        let Taken::Places { by_user, .. } = &self.taken else {
            return None;
        };
        let mut by_user = by_user.lock();
        let places = by_user.get_mut(&place.user)?;
        let index = places.iter().position(|other| other.number == place.number)?;
        Some(change(places, index))
    }

    /// The connections to be challenged now, because the user has too many: all but the newest.
    fn due(places: &mut [Place], max: u32) -> Vec<ConnectionId> {
        if places.len() <= max as usize {
            return Vec::new();
        }
        let Some((_, older)) = places.split_last_mut() else {
            return Vec::new();
        };
        let waiting = older.iter_mut().filter(|place| !place.is_challenged);
        waiting
            .filter_map(|place| {
                place.is_challenged = place.id.is_some();
                place.id
            })
            .collect()
    }

    // Without the lock: a shard that answers takes it.
    fn challenge_all(&self, ids: &[ConnectionId]) {
        for id in ids {
            (self.challenge)(*id);
        }
    }
}

#[cfg(test)]
impl Users {
    /// Whether no user has a place.
    pub(super) fn is_empty(&self) -> bool {
        match &self.taken {
            Taken::Counts(counts) => counts.is_empty(),
            Taken::Places { by_user, .. } => by_user.lock().is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn id(slot: u32) -> ConnectionId {
        ConnectionId {
            shard: 0,
            slot,
            generation: 1,
        }
    }

    /// Users that may hold `max` places, and the slots that were challenged since the last look.
    fn users(max: u32) -> (Users, impl Fn() -> Vec<u32>) {
        let challenged = Arc::<Mutex<Vec<u32>>>::default();
        let noted = Arc::clone(&challenged);
        let challenge = Box::new(move |id: ConnectionId| noted.lock().push(id.slot));
        let users = Users::new(vec![max], PerUserOverflow::Oldest, challenge);
        (users, move || std::mem::take(&mut *challenged.lock()))
    }

    #[test]
    fn below_the_limit_nobody_is_challenged() {
        let (users, challenged) = users(2);
        let first = users.take(Tenant::DEFAULT, "a", Some(id(1))).expect("a place");
        let second = users.take(Tenant::DEFAULT, "a", Some(id(2))).expect("a place");
        let other = users.take(Tenant::DEFAULT, "b", Some(id(3))).expect("a place");
        assert!(challenged().is_empty());
        assert!(!users.challenged(&first, false), "an outcome nobody asked for");
        for place in [&first, &second, &other] {
            users.give_back(place);
        }
        assert!(users.is_empty());
    }

    #[test]
    fn a_silent_connection_makes_room_and_the_oldest_stays() {
        let (users, challenged) = users(2);
        let oldest = users.take(Tenant::DEFAULT, "a", Some(id(1))).expect("a place");
        let dead = users.take(Tenant::DEFAULT, "a", Some(id(2))).expect("a place");
        let newest = users.take(Tenant::DEFAULT, "a", Some(id(3))).expect("a place for now");
        assert_eq!(challenged(), [1, 2]);
        assert!(users.challenged(&dead, false));
        assert!(!users.challenged(&oldest, true), "there is room now");
        // Both may be challenged again. The newest of now is the oldest but one then.
        let next = users.take(Tenant::DEFAULT, "a", Some(id(4))).expect("a place for now");
        assert_eq!(challenged(), [1, 3]);
        assert!(!users.challenged(&newest, true) && users.challenged(&oldest, true));
        users.give_back(&newest);
        users.give_back(&next);
        assert!(users.is_empty(), "places that were taken away are not given back again");
    }

    #[test]
    fn the_oldest_ends_when_all_answer() {
        let (users, challenged) = users(1);
        let first = users.take(Tenant::DEFAULT, "a", Some(id(1))).expect("a place");
        let second = users.take(Tenant::DEFAULT, "a", Some(id(2))).expect("a place for now");
        assert_eq!(challenged(), [1], "the newest is not asked");
        assert!(
            users.take(Tenant::DEFAULT, "a", Some(id(3))).is_none(),
            "twice the limit"
        );
        assert!(challenged().is_empty());
        assert!(users.challenged(&first, true));
        assert!(!users.challenged(&second, false), "alone");
    }

    #[test]
    fn only_as_many_silent_connections_end_as_are_too_many() {
        let (users, _) = users(2);
        let places: Vec<_> = (1..=3)
            .map(|slot| users.take(Tenant::DEFAULT, "a", Some(id(slot))).expect("a place"))
            .collect();
        assert!(users.challenged(&places[0], false));
        assert!(!users.challenged(&places[1], false), "its heartbeat decides");
    }

    #[test]
    fn a_connection_that_no_shard_has_yet_is_challenged_when_one_has_it() {
        let (users, challenged) = users(1);
        let early = users.take(Tenant::DEFAULT, "a", None).expect("a place");
        let late = users.take(Tenant::DEFAULT, "a", None).expect("a place for now");
        assert!(challenged().is_empty());
        users.adopted(&late, id(2));
        assert!(challenged().is_empty(), "the newest");
        users.adopted(&early, id(1));
        assert_eq!(challenged(), [1]);
        assert!(users.challenged(&early, true));
    }
}
