//! The bound on what subscribe requests may cost in one turn.

/// A request gets this part of a turn's steps when it begins.
const FIRST_SHARES: usize = 8;

/// The steps of one turn. Looking at a channel is one step, and comparing it with four patterns is another one.
pub(super) struct Steps {
    per_turn: usize,
    taken: usize,
}

impl Steps {
    pub(super) const fn new(per_turn: usize) -> Self {
        Self { per_turn, taken: 0 }
    }

    /// Begins a turn.
    pub(super) const fn begin_turn(&mut self) {
        self.taken = 0;
    }

    /// The steps that are left in this turn.
    pub(super) const fn left(&self) -> usize {
        self.per_turn.saturating_sub(self.taken)
    }

    /// Takes steps. They may exceed the bound by what one page of a scan costs.
    pub(super) const fn spend(&mut self, steps: usize) {
        self.taken += steps;
    }

    /// The steps that a request gets when it begins.
    pub(super) fn first_share(&self) -> usize {
        (self.per_turn / FIRST_SHARES).max(1)
    }

    /// The steps that are reserved for requests under way while others begin.
    pub(super) const fn reserve(&self) -> usize {
        self.per_turn / 2
    }

    /// The steps taken in this turn.
    pub(super) const fn taken(&self) -> usize {
        self.taken
    }
}
