//! The state of a feed's source, over all its channels. Pure.
//!
//! Invariant: the state depends only on the number of channels and on how many of them failed in their last poll. One bad
//! channel therefore hides no outage, and an outage of all channels changes the state once, not once for each channel.

/// The state of a feed's source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FeedState {
    /// No poll has ended yet.
    #[default]
    Unknown,
    /// Every channel's last poll succeeded.
    Good,
    /// Some channels' last poll failed.
    Partly,
    /// Every channel's last poll failed.
    Failing,
}

impl FeedState {
    /// Every state, each at the index of its number.
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
    state: FeedState,
    good: usize,
    failing: usize,
}

impl Health {
    pub(super) fn state(&self) -> FeedState {
        self.state
    }

    /// The number of channels whose last poll failed, and the number of all channels polled.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.failing, self.good + self.failing)
    }

    /// Replaces the result of a channel's last poll. `true` means that the poll succeeded. `None` stands for a channel
    /// that was not polled before, or is not polled any more.
    ///
    /// Returns the previous state of the feed if it changes. A feed without channels keeps its last state.
    pub(super) fn change(&mut self, from: Option<bool>, to: Option<bool>) -> Option<FeedState> {
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
            (_, 0) => FeedState::Good,
            (0, _) => FeedState::Failing,
            _ => FeedState::Partly,
        };
        let last = std::mem::replace(&mut self.state, state);
        (last != state).then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_of_many_channels_changes_the_state_twice_each_way() {
        let mut health = Health::default();
        assert_eq!(health.change(None, Some(true)), Some(FeedState::Unknown));
        for _ in 1..1000 {
            assert_eq!(health.change(None, Some(true)), None);
        }
        let out: Vec<FeedState> = (0..1000)
            .filter_map(|_| health.change(Some(true), Some(false)))
            .collect();
        assert_eq!(
            (out, health.state()),
            (vec![FeedState::Good, FeedState::Partly], FeedState::Failing)
        );
        let back: Vec<FeedState> = (0..1000)
            .filter_map(|_| health.change(Some(false), Some(true)))
            .collect();
        assert_eq!(
            (back, health.state()),
            (vec![FeedState::Failing, FeedState::Partly], FeedState::Good)
        );
    }

    #[test]
    fn forgotten_channels_no_longer_count() {
        let mut health = Health::default();
        health.change(None, Some(true));
        health.change(None, Some(false));
        assert_eq!((health.state(), health.counts()), (FeedState::Partly, (1, 2)));
        assert_eq!(health.change(Some(false), None), Some(FeedState::Partly));
        assert_eq!(health.state(), FeedState::Good);
        assert_eq!(health.change(Some(true), None), None, "keeps its last state");
        assert_eq!(health.state(), FeedState::Good);
    }
}
