//! What the doorbell's source names as `sync`, as the checker of orderings has it, with faults to be planted into it.

use std::cell::Cell;

use loom::sync::atomic::AtomicBool;

pub(crate) use loom::sync::atomic::Ordering;

/// An ordering that is weaker than it stands in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    RingDoesNotRelease,
    RingDoesNotAcquire,
    AnswerDoesNotAcquire,
    /// Neither the answer nor falling asleep. Either would do: what one of them released is handed on by the exchange of
    /// the other.
    ShardDoesNotRelease,
    /// Not an exchange, but a look whether it was rung already.
    RingLooksFirst,
}

thread_local! {
    // All threads of a model see it: the checker runs them on one.
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

fn planted() -> Option<Fault> {
    PLANTED.with(Cell::get)
}

pub(crate) fn plant(fault: Option<Fault>) {
    PLANTED.with(|planted| planted.set(fault));
}

/// The bell's byte. Its values tell who writes them: see the constants in the source.
#[derive(Debug, Default)]
pub(crate) struct AtomicU8(loom::sync::atomic::AtomicU8);

const AWAKE: u8 = 0;
const RUNG: u8 = 2;

impl AtomicU8 {
    pub(crate) fn swap(&self, value: u8, ordering: Ordering) -> u8 {
        if planted() == Some(Fault::RingLooksFirst) && value == RUNG && self.0.load(Ordering::Acquire) == RUNG {
            return RUNG;
        }
        let weaker = match (planted(), value) {
            (Some(Fault::RingDoesNotRelease), RUNG) => Ordering::Acquire,
            (Some(Fault::RingDoesNotAcquire), RUNG) => Ordering::Release,
            (Some(Fault::AnswerDoesNotAcquire), AWAKE) => Ordering::Release,
            (Some(Fault::ShardDoesNotRelease), AWAKE) => Ordering::Acquire,
            _ => ordering,
        };
        self.0.swap(value, weaker)
    }

    pub(crate) fn compare_exchange(
        &self,
        current: u8,
        new: u8,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u8, u8> {
        let weaker = match planted() {
            Some(Fault::ShardDoesNotRelease) => Ordering::Acquire,
            _ => success,
        };
        self.0.compare_exchange(current, new, weaker, failure)
    }
}

/// Set once, by one thread. Whoever looks at it may see it unset as long as nothing orders the one before the other.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    is_set: AtomicBool,
    value: std::sync::OnceLock<T>,
}

// Whatever is in it: a derived one would ask for a default of that.
impl<T> Default for OnceLock<T> {
    fn default() -> Self {
        Self {
            is_set: AtomicBool::default(),
            value: std::sync::OnceLock::new(),
        }
    }
}

impl<T> OnceLock<T> {
    pub(crate) fn set(&self, value: T) -> Result<(), T> {
        self.value.set(value)?;
        self.is_set.store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn get(&self) -> Option<&T> {
        self.value.get().filter(|_| self.is_set.load(Ordering::Acquire))
    }
}
