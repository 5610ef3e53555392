//! How a feed's source does, over all its channels. Pure.
//!
//! Invariant: the state follows from how many channels were polled and how many of them failed the last time; so one
//! bad channel among many hides no outage, and an outage of all is one change, not one for each channel.

/// How a feed's source does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// It was not asked yet.
    #[default]
    Unknown,
    /// Every channel's last poll succeeded.
    Good,
    /// Some channels' last poll failed.
    Partly,
    /// Every channel's last poll failed.
    Failing,
}

impl State {
    /// All of them, each at its own number.
    pub const ALL: [Self; 4] = [Self::Unknown, Self::Good, Self::Partly, Self::Failing];

    /// `unknown`, `good`, `partly` or `failing`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Good => "good",
            Self::Partly => "partly",
            Self::Failing => "failing",
        }
    }
}

/// Counts channels by how their last poll went.
#[derive(Debug, Default)]
pub(super) struct Health {
    state: State,
    good: usize,
    failing: usize,
}

impl Health {
    pub(super) fn state(&self) -> State {
        self.state
    }

    /// Channels whose last poll failed, and channels polled.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.failing, self.good + self.failing)
    }

    /// The last poll of a channel went `to` (whether it succeeded; `None`: the channel is given up), the one before
    /// `from`. Says from which state the feed's has changed, when it has. A feed without channels keeps its last state.
    pub(super) fn change(&mut self, from: Option<bool>, to: Option<bool>) -> Option<State> {
        match from {
            Some(true) => self.good -= 1,
            Some(false) => self.failing -= 1,
            None => {}
        }
        match to {
            Some(true) => self.good += 1,
            Some(false) => self.failing += 1,
            None => {}
        }
        let state = match (self.good, self.failing) {
            (0, 0) => self.state,
            (_, 0) => State::Good,
            (0, _) => State::Failing,
            _ => State::Partly,
        };
        let last = std::mem::replace(&mut self.state, state);
        (last != state).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_of_many_is_two_changes_there_and_two_back() {
        let mut health = Health::default();
        assert_eq!(health.change(None, Some(true)), Some(State::Unknown));
        for _ in 1..1000 {
            assert_eq!(health.change(None, Some(true)), None);
        }
        let out: Vec<State> = (0..1000)
            .filter_map(|_| health.change(Some(true), Some(false)))
            .collect();
        assert_eq!(
            (out, health.state()),
            (vec![State::Good, State::Partly], State::Failing)
        );
        let back: Vec<State> = (0..1000)
            .filter_map(|_| health.change(Some(false), Some(true)))
            .collect();
        assert_eq!(
            (back, health.state()),
            (vec![State::Failing, State::Partly], State::Good)
        );
    }

    #[test]
    fn channels_that_are_given_up_count_no_more() {
        let mut health = Health::default();
        health.change(None, Some(true));
        health.change(None, Some(false));
        assert_eq!((health.state(), health.counts()), (State::Partly, (1, 2)));
        assert_eq!(health.change(Some(false), None), Some(State::Partly));
        assert_eq!(health.state(), State::Good);
        assert_eq!(health.change(Some(true), None), None, "keeps its last state");
        assert_eq!(health.state(), State::Good);
    }
}
