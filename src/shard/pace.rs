//! How fast a subscription gets the values of conflating channels.
//!
//! Subscriptions with the same rate are divided into a few phases, by their connections, so that their periods do not all
//! end at once. A rate and a phase are a [`Group`]. All subscriptions of a group get the same updates at the same times.

use tickgate_protocol::rate::{Rate, slower};

/// The phases of a rate.
const PHASES: usize = 4;

/// A rate and a phase. The periods of a group end at fixed times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group(u8);

impl Group {
    /// The number of groups.
    pub(super) const COUNT: usize = Rate::COUNT * PHASES;

    #[expect(clippy::cast_possible_truncation, reason = "there are 32 groups")]
    const fn new(rate: Rate, phase: u8) -> Self {
        Self((rate.index() * PHASES) as u8 + phase)
    }

    /// Its number, below [`Group::COUNT`].
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }

    const fn rate(self) -> Rate {
        Rate::ALL[self.index() / PHASES]
    }

    #[expect(clippy::cast_possible_truncation, reason = "there are 4 phases")]
    const fn phase(self) -> u8 {
        (self.index() % PHASES) as u8
    }

    /// When the period ends that runs at `now_ms`. It is later than `now_ms`.
    pub(super) fn period_end_ms(self, now_ms: u64) -> u64 {
        let period_ms = self.rate().period_ms();
        let begins_ms = period_ms * u64::from(self.phase()) / PHASES as u64;
        let passed_ms = (now_ms + period_ms - begins_ms) % period_ms;
        now_ms + period_ms - passed_ms
    }
}

/// A set of groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups(u32);

const _: () = assert!(Group::COUNT == u32::BITS as usize);

impl Groups {
    pub(super) const NONE: Self = Self(0);

    /// The groups that a connection can be in: those with its phase.
    pub(super) fn of_slot(slot: u32) -> Self {
        let phase = phase(slot);
        Rate::ALL.into_iter().map(|rate| Group::new(rate, phase)).collect()
    }

    pub(super) const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) const fn contains(self, group: Group) -> bool {
        self.0 & (1 << group.0) != 0
    }

    pub(super) const fn insert(&mut self, group: Group) {
        self.0 |= 1 << group.0;
    }

    pub(super) const fn remove(&mut self, group: Group) {
        self.0 &= !(1 << group.0);
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The groups of the same phases with rates that are not above the limit.
    pub(super) fn limited_to(self, limit: Rate) -> Self {
        let limited = |group: Group| Group::new(group.rate().min(limit), group.phase());
        self.iter().map(limited).collect()
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn iter(self) -> impl Iterator<Item = Group> {
        let mut left = self.0;
        std::iter::from_fn(move || {
            let group = u8::try_from(left.trailing_zeros()).ok().filter(|_| left != 0)?;
            left &= left - 1;
            Some(Group(group))
        })
    }
}

impl FromIterator<Group> for Groups {
    fn from_iter<I: IntoIterator<Item = Group>>(groups: I) -> Self {
        let mut all = Self::NONE;
        groups.into_iter().for_each(|group| all.insert(group));
        all
    }
}

/// How fast a subscription gets the values of conflating channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As they come.
    Live,
    /// At most at the rate, if there is one, and at the rate of the channel's class.
    Timed {
        rate: Option<Rate>,
        /// The slowest rate at which it gets any channel.
        slowest: Rate,
        phase: u8,
    },
}

impl Pace {
    /// The pace of a subscription of the connection in a slot. `limit`: the slowest limit of a class.
    pub(super) fn new(rate: Option<Rate>, limit: Option<Rate>, slot: u32) -> Self {
        let phase = phase(slot);
        slower(rate, limit).map_or(Self::Live, |slowest| Self::Timed { rate, slowest, phase })
    }

    /// The rate of the subscription; `None`: no limit.
    pub(super) const fn rate(self) -> Option<Rate> {
        match self {
            Self::Live => None,
            Self::Timed { rate, .. } => rate,
        }
    }

    /// The group in which the subscription gets the values of a channel of a class with this limit; `None`: it gets them as
    /// they come.
    pub(super) fn group(self, limit: Option<Rate>) -> Option<Group> {
        match self {
            Self::Live => None,
            Self::Timed { rate, phase, .. } => Some(Group::new(slower(rate, limit)?, phase)),
        }
    }

    /// The group whose period the subscription begins with: the slowest that it may be in.
    pub(super) fn first_group(self) -> Option<Group> {
        match self {
            Self::Live => None,
            Self::Timed { slowest, phase, .. } => Some(Group::new(slowest, phase)),
        }
    }

    /// Whether the subscription is in the same group for every class.
    pub(super) fn has_one_group(self) -> bool {
        matches!(self, Self::Timed { rate, slowest, .. } if rate == Some(slowest))
    }

    /// Whether a subscription with this pace is faster.
    pub(super) fn is_faster_than(self, other: Self) -> bool {
        match (self.rate(), other.rate()) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(own), Some(other)) => own > other,
        }
    }
}

fn phase(slot: u32) -> u8 {
    #[expect(clippy::cast_possible_truncation, reason = "there are 4 phases")]
    let phase = (slot as usize % PHASES) as u8;
    phase
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_periods_of_a_group_end_at_fixed_times_and_those_of_its_phases_apart() {
        for rate in Rate::ALL {
            let ends: Vec<u64> = (0..4)
                .map(|slot| Pace::new(Some(rate), None, slot))
                .map(|pace| {
                    let group = pace.group(None).expect("a rate");
                    let end = group.period_end_ms(1_000_000);
                    assert!((1_000_001..=1_000_000 + rate.period_ms()).contains(&end));
                    assert_eq!(group.period_end_ms(end - 1), end);
                    assert_eq!(group.period_end_ms(end), end + rate.period_ms());
                    end % rate.period_ms()
                })
                .collect();
            let quarters: Vec<u64> = (0..4).map(|phase| rate.period_ms() * phase / 4).collect();
            assert_eq!(ends, quarters, "{rate}");
        }
    }

    #[test]
    fn a_group_is_that_of_the_slower_limit() {
        let [slow, .., fast] = Rate::ALL;
        let group = |rate, limit| Pace::new(rate, Some(slow), 6).group(limit);
        let of = |rate| Some(Group::new(rate, 2));
        assert_eq!(group(Some(slow), Some(fast)), of(slow));
        assert_eq!(group(None, Some(fast)), of(fast));
        assert_eq!(group(Some(fast), None), of(fast));
        assert_eq!(group(None, None), None);
        assert_eq!(Pace::new(None, None, 6), Pace::Live);
        let first = |rate| Pace::new(rate, Some(slow), 6).first_group();
        assert_eq!((first(Some(fast)), first(None)), (of(slow), of(slow)));
        let all: Groups = Rate::ALL.into_iter().map(|rate| Group::new(rate, 2)).collect();
        assert_eq!(Groups::of_slot(6), all);
        assert_eq!(all.iter().count(), Rate::COUNT);
    }
}
