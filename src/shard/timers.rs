//! The timer wheel. Each connection has at most one timer, for its nearest deadline.
//!
//! Invariants: a timer whose deadline lies within the wheel (128 s) never fires early. It fires less than one slot (250
//! ms) late if [`Timers::expire`] is called in time. A deadline beyond the wheel fires early, in the last slot. So on
//! expiry each owner checks whether its deadline has really passed, and arms the timer again if not. For the same
//! reason, handling a frame does not touch the wheel: a deadline that moved into the future is noticed on expiry.

use super::slots::Slots;

/// The width of a slot, in milliseconds.
pub(super) const SLOT_MS: u64 = 250;
const SLOTS: usize = 512;
const NONE: u32 = u32::MAX;
const UNARMED: u16 = u16::MAX;

/// The links of one timer (12 bytes). The timer is in the list of its slot, or in none.
#[derive(Debug)]
struct Link {
    previous: u32,
    next: u32,
    slot: u16,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            previous: NONE,
            next: NONE,
            slot: UNARMED,
        }
    }
}

/// Timers of numbered owners.
#[derive(Debug)]
pub(super) struct Timers {
    links: Slots<Link>,
    heads: Box<[u32; SLOTS]>,
    occupied: [u64; SLOTS / 64],
    // The first tick that has not been handled. Armed timers lie in `tick .. tick + SLOTS`.
    tick: u64,
}

impl Timers {
    pub(super) fn new(now_ms: u64) -> Self {
        Self {
            links: Slots::new(),
            heads: Box::new([NONE; SLOTS]),
            occupied: [0; SLOTS / 64],
            tick: now_ms / SLOT_MS,
        }
    }

    /// Arms the timer of `owner`, unless it is armed for the same slot or an earlier one.
    pub(super) fn arm(&mut self, owner: u32, deadline_ms: u64) {
        self.links.reserve(owner);
        let tick = deadline_ms
            .div_ceil(SLOT_MS)
            .clamp(self.tick, self.tick + SLOTS as u64 - 1);
        let armed = self.links[owner].slot;
        if armed != UNARMED {
            if self.ahead(armed) <= tick - self.tick {
                return;
            }
            self.unlink(owner);
        }
        self.link(owner, slot_of(tick));
    }

    /// Disarms the timer of `owner` if it is armed.
    pub(super) fn cancel(&mut self, owner: u32) {
        if self.links.get(owner).is_some_and(|link| link.slot != UNARMED) {
            self.unlink(owner);
        }
    }

    /// Disarms at most `limit` timers that are due and appends their owners to `due`. Returns whether more are due.
    pub(super) fn expire(&mut self, now_ms: u64, limit: usize, due: &mut Vec<u32>) -> bool {
        let last = now_ms / SLOT_MS;
        let mut left = limit;
        while let Some(tick) = self.first_occupied().filter(|&tick| tick <= last) {
            self.tick = tick;
            while self.heads[slot_of(tick)] != NONE {
                if left == 0 {
                    return true;
                }
                let owner = self.heads[slot_of(tick)];
                self.unlink(owner);
                due.push(owner);
                left -= 1;
            }
        }
        self.tick = self.tick.max(last + 1);
        false
    }

    /// When the next timer is due, in milliseconds; `None`: no timer is armed.
    pub(super) fn next_ms(&self) -> Option<u64> {
        self.first_occupied().map(|tick| tick * SLOT_MS)
    }

    // The distance in ticks from `self.tick` to a slot.
    fn ahead(&self, slot: u16) -> u64 {
        (u64::from(slot) + SLOTS as u64 - self.tick % SLOTS as u64) % SLOTS as u64
    }

    fn first_occupied(&self) -> Option<u64> {
        let start = slot_of(self.tick);
        for step in 0..=self.occupied.len() {
            let word = (start / 64 + step) % self.occupied.len();
            let mut bits = self.occupied[word];
            if step == 0 {
                bits &= u64::MAX << (start % 64);
            } else if step == self.occupied.len() {
                bits &= !(u64::MAX << (start % 64));
            }
            if bits != 0 {
                let slot = word * 64 + bits.trailing_zeros() as usize;
                return Some(self.tick + self.ahead(u16::try_from(slot).unwrap_or(0)));
            }
        }
        None
    }

    fn link(&mut self, owner: u32, slot: usize) {
        let next = std::mem::replace(&mut self.heads[slot], owner);
        if next != NONE {
            self.links[next].previous = owner;
        }
        self.links[owner] = Link {
            previous: NONE,
            next,
            slot: u16::try_from(slot).unwrap_or(0),
        };
        self.occupied[slot / 64] |= 1 << (slot % 64);
    }

    fn unlink(&mut self, owner: u32) {
        let Link { previous, next, slot } = std::mem::take(&mut self.links[owner]);
        let slot = usize::from(slot);
        if next != NONE {
            self.links[next].previous = previous;
        }
        if previous != NONE {
            self.links[previous].next = next;
            return;
        }
        self.heads[slot] = next;
        if next == NONE {
            self.occupied[slot / 64] &= !(1 << (slot % 64));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a remainder below 512")]
const fn slot_of(tick: u64) -> usize {
    (tick % SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    #[test]
    fn a_link_is_twelve_bytes() {
        assert_eq!(size_of::<Link>(), 12);
    }

    #[test]
    fn a_deadline_on_the_edge_of_a_slot_is_exact_and_any_other_less_than_a_slot_late() {
        let mut timers = Timers::new(1_000);
        let mut due = Vec::new();
        timers.arm(3, 6_000);
        timers.arm(4, 6_001);
        assert_eq!(timers.next_ms(), Some(6_000));
        assert!(!timers.expire(5_999, 10, &mut due));
        assert!(due.is_empty());
        timers.expire(6_000, 10, &mut due);
        assert_eq!(due, [3]);
        timers.expire(6_249, 10, &mut due);
        assert_eq!(due, [3]);
        timers.expire(6_250, 10, &mut due);
        assert_eq!(due, [3, 4]);
        assert_eq!(timers.next_ms(), None);
    }

    #[test]
    fn work_is_bounded_and_the_other_timers_stay_due() {
        let mut timers = Timers::new(0);
        for owner in 0..1_000 {
            timers.arm(owner, 500);
        }
        let mut due = Vec::new();
        assert!(timers.expire(10_000, 512, &mut due));
        assert_eq!(due.len(), 512);
        assert!(timers.next_ms().is_some_and(|ms| ms <= 10_000));
        assert!(!timers.expire(10_000, 512, &mut due));
        due.sort_unstable();
        assert_eq!(due, (0..1_000).collect::<Vec<_>>());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Arm(u32, u64),
        Cancel(u32),
        Advance(u64, usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0u32..300, 0u64..200_000).prop_map(|(owner, ahead)| Step::Arm(owner, ahead)),
            1 => (0u32..300).prop_map(Step::Cancel),
            2 => (0u64..40_000, 1usize..100).prop_map(|(ms, limit)| Step::Advance(ms, limit)),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        // The model keeps the earliest deadline of each owner, rounded as in the wheel.
        #[test]
        fn agrees_with_a_map_of_deadlines(start in 0u64..1_000_000, steps in steps()) {
            let mut now = start;
            let mut timers = Timers::new(now);
            let mut model = BTreeMap::<u32, u64>::new();
            let mut first_tick = now / SLOT_MS;
            for step in steps {
                match step {
                    Step::Arm(owner, ahead) => {
                        let tick = (now + ahead).div_ceil(SLOT_MS).clamp(first_tick, first_tick + SLOTS as u64 - 1);
                        timers.arm(owner, now + ahead);
                        let kept = model.entry(owner).or_insert(tick);
                        *kept = tick.min(*kept);
                    }
                    Step::Cancel(owner) => {
                        timers.cancel(owner);
                        model.remove(&owner);
                    }
                    Step::Advance(ms, limit) => {
                        now += ms;
                        let mut due = Vec::new();
                        let more = timers.expire(now, limit, &mut due);
                        prop_assert!(due.len() <= limit);
                        for owner in due {
                            let tick = model.remove(&owner);
                            prop_assert!(tick.is_some_and(|tick| tick * SLOT_MS <= now), "{owner} is early");
                        }
                        let left = model.values().filter(|&&tick| tick * SLOT_MS <= now).count();
                        prop_assert_eq!(more, left > 0);
                        first_tick = timers.tick;
                    }
                }
                prop_assert_eq!(timers.next_ms(), model.values().min().map(|tick| tick * SLOT_MS));
            }
        }
    }
}
