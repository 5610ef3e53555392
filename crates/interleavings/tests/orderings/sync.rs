//! The `sync` module of the doorbell's source, with the types of the ordering checker and with planted faults.

use std::cell::Cell;

use loom::sync::atomic::AtomicBool;

pub(crate) use loom::sync::atomic::Ordering;

/// An ordering that is weaker than in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    RingDoesNotRelease,
    RingDoesNotAcquire,
    AnswerDoesNotAcquire,
    /// Neither `answer` nor `fall_asleep` releases. One of them would suffice, because the exchange of the other continues
    /// its release sequence.
    ShardDoesNotRelease,
    /// `ring` first loads the state, and returns if the bell was rung already.
    RingLoadsFirst,
}

thread_local! {
    // The checker runs all threads of a model on one thread, so all of them see the fault.
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

fn planted() -> Option<Fault> {
    PLANTED.with(Cell::get)
}

pub(crate) fn plant(fault: Option<Fault>) {
    PLANTED.with(|planted| planted.set(fault));
}

/// The state of the bell. Its values tell which function writes them; see the constants in the source.
#[derive(Debug, Default)]
pub(crate) struct AtomicU8(loom::sync::atomic::AtomicU8);

const AWAKE: u8 = 0;
const RUNG: u8 = 2;

impl AtomicU8 {
    pub(crate) fn swap(&self, value: u8, ordering: Ordering) -> u8 {
        if planted() == Some(Fault::RingLoadsFirst) && value == RUNG && self.0.load(Ordering::Acquire) == RUNG {
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

/// Set once, by one thread. Another thread may see it unset as long as nothing orders its load after the store.
#[derive(Debug)]
pub(crate) struct OnceLock<T> {
    is_set: AtomicBool,
    value: std::sync::OnceLock<T>,
}

// Not derived, because that would require `T: Default`.
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
