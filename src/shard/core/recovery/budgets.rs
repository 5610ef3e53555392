//! Who pays for the work of requests, and who has to wait.
//!
//! Looking at channels and reading events from the hub is counted in steps. Each connection has an account of its own, and
//! shares another one with the other connections of its user (without a user: of its address). An account fills at a
//! constant rate up to a burst. No subscribe request is refused: whoever has overdrawn an account is served in the slow lane, which
//! takes short slices of the turns and a bounded part of the shard's time, those with the least debt first. So a client
//! that asks for more than its share delays itself, and hardly anybody else; and a client that has asked for little is
//! ahead of its neighbours behind the same address. What such connections have yet to read comes in few pages a turn
//! ([`pages`](super::pages)). A request for a history is refused until the accounts are paid.
//!
//! Invariant: the slow lane takes at most [`SLICE`] steps of a turn and a page, and at most [`SLOW_PER_SECOND`] in a second
//! and a burst.

use std::hash::BuildHasher as _;
use std::net::IpAddr;

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::shard::ScanBudget;
use crate::shard::connection::Cold;
use crate::shard::core::connections::Connections;
use crate::shard::mailbox::ConnectionId;
use crate::time::Now;

/// The most steps of the slow lane in one turn: about a quarter of a millisecond. Where there are very many channels, looking
/// at one takes 0.4 µs, since little of it is in the processor's caches.
pub(super) const SLICE: usize = 512;

/// The steps of the slow lane in a second: about a fifth of the shard's time. Freeing what they leave behind, and reading the
/// values of the channels that they found, takes up to twice as much again. With fewer steps, requests wait for so long that
/// the accounts of their clients fill meanwhile, and the next ones are served at once, in longer turns.
const SLOW_PER_SECOND: u32 = 500_000;

/// The connections of a user or an address together have this many times the budget of one.
const SHARED_FACTOR: u32 = 8;

/// An event that is read costs one step, and one more for each of these bytes.
const BYTES_PER_STEP: usize = 256;

/// With this many accounts, those that are full are looked for and forgotten.
const ACCOUNTS_MIN: usize = 1024;

/// The steps of reading an event.
pub(super) const fn event_steps(bytes: usize) -> usize {
    1 + bytes / BYTES_PER_STEP
}

/// The accounts that pay for a connection's requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payers {
    connection: ConnectionId,
    // The hash of the tenant and of the user or the address; `None`: neither is known.
    shared: Option<u64>,
}

/// The accounts of a shard; see the module's docs.
pub(super) struct Budgets {
    budget: ScanBudget,
    hasher: RandomState,
    own: HashMap<ConnectionId, Account, RandomState>,
    shared: HashMap<u64, Account, RandomState>,
    // How many accounts there may be before full ones are looked for.
    accounts_max: usize,
    slow: Account,
    // Steps of the slow lane in this turn.
    slow_taken: usize,
}

/// Steps that may be taken, or a debt. It fills with time.
#[derive(Clone, Copy, Debug)]
struct Account {
    steps: i64,
    filled_ms: u64,
}

impl Account {
    fn full(budget: ScanBudget, now: Now) -> Self {
        Self {
            steps: budget.burst.into(),
            filled_ms: now.mono_ms,
        }
    }

    fn fill(&mut self, budget: ScanBudget, now: Now) {
        let elapsed_ms = now.mono_ms.saturating_sub(self.filled_ms);
        let filled = u64::from(budget.per_second).saturating_mul(elapsed_ms) / 1000;
        // A time that gives less than a step is not lost.
        if filled > 0 || elapsed_ms > 1000 {
            let filled = i64::try_from(filled).unwrap_or(i64::MAX);
            self.steps = self.steps.saturating_add(filled).min(budget.burst.into());
            self.filled_ms = now.mono_ms;
        }
    }

    // A debt is at most one burst, so that it is paid within a bounded time.
    fn take(&mut self, steps: usize, budget: ScanBudget) {
        let steps = i64::try_from(steps).unwrap_or(i64::MAX);
        self.steps = self.steps.saturating_sub(steps).max(-i64::from(budget.burst));
    }

    fn debt(&self) -> u64 {
        u64::try_from(-self.steps).unwrap_or(0)
    }
}

impl ScanBudget {
    const SLOW: Self = Self {
        per_second: SLOW_PER_SECOND,
        burst: SLOW_PER_SECOND / 10,
    };

    const fn shared(self) -> Self {
        Self {
            per_second: self.per_second.saturating_mul(SHARED_FACTOR),
            burst: self.burst.saturating_mul(SHARED_FACTOR),
        }
    }
}

impl Budgets {
    pub(super) fn new(budget: ScanBudget) -> Self {
        Self {
            budget,
            hasher: RandomState::default(),
            own: HashMap::default(),
            shared: HashMap::default(),
            accounts_max: ACCOUNTS_MIN,
            slow: Account {
                steps: ScanBudget::SLOW.burst.into(),
                filled_ms: 0,
            },
            slow_taken: 0,
        }
    }

    /// Who pays for the requests of the connection in a slot.
    pub(super) fn payers(&self, slot: u32, connections: &Connections) -> Payers {
        let cold = connections.cold(slot);
        let user = cold.and_then(|cold| cold.session.identity()?.user.as_deref());
        let address = cold.and_then(|cold: &Cold| cold.address);
        let tenant = connections.endpoint(slot).settings.tenant;
        Payers {
            connection: connections.id(slot),
            shared: user
                .map(|user| self.hasher.hash_one((tenant, user)))
                .or_else(|| address.map(|address| self.hasher.hash_one((tenant, network(address))))),
        }
    }

    /// The connection's own debt if one of its accounts is overdrawn. `None`: it may be served at once.
    pub(super) fn debt(&mut self, payers: Payers, now: Now) -> Option<u64> {
        let own = self.own.get_mut(&payers.connection).map_or(0, |account| {
            account.fill(self.budget, now);
            account.debt()
        });
        let shared = payers.shared.and_then(|shared| self.shared.get_mut(&shared));
        let shared = shared.map_or(0, |account| {
            account.fill(self.budget.shared(), now);
            account.debt()
        });
        (own > 0 || shared > 0).then_some(own)
    }

    /// Whether one of the accounts of the connection in a slot is overdrawn.
    pub(super) fn is_overdrawn(&mut self, slot: u32, connections: &Connections, now: Now) -> bool {
        self.debt(self.payers(slot, connections), now).is_some()
    }

    /// After how many milliseconds no account is overdrawn any more; `None`: none is.
    pub(super) fn wait_ms(&mut self, payers: Payers, now: Now) -> Option<u32> {
        self.debt(payers, now)?;
        let own = self
            .own
            .get(&payers.connection)
            .map(|account| (account.debt(), self.budget));
        let shared = payers.shared.and_then(|shared| self.shared.get(&shared));
        let shared = shared.map(|account| (account.debt(), self.budget.shared()));
        let wait = |(debt, budget): (u64, ScanBudget)| (debt * 1000).div_ceil(budget.per_second.max(1).into());
        let longest = own.into_iter().chain(shared).map(wait).max().unwrap_or(0);
        Some(u32::try_from(longest).unwrap_or(u32::MAX).max(1))
    }

    /// Takes steps from the accounts.
    pub(super) fn charge(&mut self, payers: Payers, steps: usize, now: Now) {
        if steps == 0 {
            return;
        }
        self.forget_full(now);
        let budget = self.budget;
        let own = self.own.entry(payers.connection);
        let own = own.or_insert_with(|| Account::full(budget, now));
        own.fill(budget, now);
        own.take(steps, budget);
        if let Some(shared) = payers.shared {
            let budget = budget.shared();
            let shared = self.shared.entry(shared).or_insert_with(|| Account::full(budget, now));
            shared.fill(budget, now);
            shared.take(steps, budget);
        }
    }

    // An account that is full says as much as none.
    fn forget_full(&mut self, now: Now) {
        if self.own.len() + self.shared.len() < self.accounts_max {
            return;
        }
        let (budget, shared) = (self.budget, self.budget.shared());
        let is_used = |account: &mut Account, budget: ScanBudget| {
            account.fill(budget, now);
            account.steps < budget.burst.into()
        };
        self.own.retain(|_, account| is_used(account, budget));
        self.shared.retain(|_, account| is_used(account, shared));
        self.accounts_max = ACCOUNTS_MIN.max(2 * (self.own.len() + self.shared.len()));
    }

    /// Begins a turn.
    pub(super) const fn begin_turn(&mut self) {
        self.slow_taken = 0;
    }

    /// The steps that the slow lane may take in this turn.
    pub(super) fn slow_left(&mut self, now: Now) -> usize {
        self.slow.fill(ScanBudget::SLOW, now);
        let left = usize::try_from(self.slow.steps).unwrap_or(0);
        left.min(SLICE.saturating_sub(self.slow_taken))
    }

    /// Takes steps of the slow lane.
    pub(super) fn spend_slow(&mut self, steps: usize) {
        self.slow_taken += steps;
        self.slow.take(steps, ScanBudget::SLOW);
    }

    /// When the slow lane has steps again, in monotonic milliseconds.
    pub(super) fn slow_ready_ms(&self) -> u64 {
        if self.slow.steps > 0 {
            return self.slow.filled_ms;
        }
        let missing = self.slow.debt() + SLICE as u64;
        self.slow.filled_ms + (missing * 1000).div_ceil(SLOW_PER_SECOND.into())
    }
}

/// The network that counts as one client's address: of IPv6, the 64 bits that a site has.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGET: ScanBudget = ScanBudget {
        per_second: 1000,
        burst: 5000,
    };

    fn at(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 0 }
    }

    fn payers(slot: u32, shared: Option<u64>) -> Payers {
        let connection = ConnectionId {
            shard: 0,
            slot,
            generation: 1,
        };
        Payers { connection, shared }
    }

    #[test]
    fn a_debt_is_paid_with_time_and_is_at_most_a_burst() {
        let mut budgets = Budgets::new(BUDGET);
        let one = payers(1, None);
        assert_eq!(budgets.debt(one, at(0)), None);
        budgets.charge(one, 5000, at(0));
        assert_eq!(budgets.debt(one, at(0)), None, "the burst");
        budgets.charge(one, 1, at(0));
        assert_eq!(budgets.debt(one, at(0)), Some(1));
        assert_eq!(budgets.debt(one, at(1)), None);
        budgets.charge(one, 1_000_000, at(1));
        assert_eq!(budgets.debt(one, at(1)), Some(5000));
        assert_eq!(budgets.debt(one, at(5000)), Some(1));
        assert_eq!(budgets.debt(one, at(5001)), None);
    }

    #[test]
    fn the_connections_of_a_user_or_an_address_share_an_account_and_a_newcomer_has_no_debt_of_its_own() {
        let mut budgets = Budgets::new(BUDGET);
        for slot in 0..9 {
            budgets.charge(payers(slot, Some(7)), 5000, at(0));
        }
        assert_eq!(budgets.debt(payers(0, Some(7)), at(0)), Some(0));
        assert_eq!(
            budgets.debt(payers(99, Some(7)), at(0)),
            Some(0),
            "it waits, but ahead of those in debt"
        );
        assert_eq!(budgets.debt(payers(99, Some(8)), at(0)), None);
        assert_eq!(budgets.debt(payers(99, None), at(0)), None);
    }

    #[test]
    fn accounts_that_are_full_again_are_forgotten() {
        let mut budgets = Budgets::new(BUDGET);
        for slot in 0..10_000u32 {
            budgets.charge(payers(slot, Some(slot.into())), 1, at(u64::from(slot)));
        }
        assert!(budgets.own.len() < 2 * ACCOUNTS_MIN, "{}", budgets.own.len());
    }

    #[test]
    fn addresses_of_one_site_are_one() {
        let network = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:2"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }

    proptest! {
        #[test]
        fn the_slow_lane_takes_no_more_than_its_part(turns in prop::collection::vec((0u64..20, 0usize..5000), 1..500)) {
            let mut budgets = Budgets::new(BUDGET);
            let (mut now_ms, mut taken) = (0, 0u64);
            for (ms, wanted) in turns {
                now_ms += ms;
                budgets.begin_turn();
                let steps = budgets.slow_left(at(now_ms)).min(wanted);
                prop_assert!(steps <= SLICE);
                budgets.spend_slow(steps);
                taken += steps as u64;
                let most = u64::from(ScanBudget::SLOW.burst) + u64::from(SLOW_PER_SECOND) * now_ms / 1000;
                prop_assert!(taken <= most);
                if budgets.slow_left(at(now_ms)) == 0 && budgets.slow_taken < SLICE {
                    let ready_ms = budgets.slow_ready_ms();
                    prop_assert!(ready_ms > now_ms || wanted == 0);
                    budgets.begin_turn();
                    prop_assert!(budgets.clone_slow().at(ready_ms));
                }
            }
        }
    }

    impl Budgets {
        fn clone_slow(&self) -> SlowLater {
            SlowLater(self.slow)
        }
    }

    struct SlowLater(Account);

    impl SlowLater {
        /// Whether the slow lane has steps at that time.
        fn at(mut self, ms: u64) -> bool {
            self.0.fill(ScanBudget::SLOW, at(ms));
            self.0.steps > 0
        }
    }
}
