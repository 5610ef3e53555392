//! The doorbell of a shard: how other threads wake it from its poll.
//!
//! Invariant: whatever was put into an inbox or a mailbox before [`Doorbell::ring`] is seen by the shard before it sleeps
//! again. Ringing a shard that is awake costs no system call.
//!
//! ```text
//! loop { bell.answer(); drain inbox, mailbox, ...; if nothing is left && bell.fall_asleep() { poll(deadline) } else { poll(0) } }
//! ```

use crate::sync::{AtomicU8, OnceLock, Ordering};

const AWAKE: u8 = 0;
const ASLEEP: u8 = 1;
const RUNG: u8 = 2;

/// One per shard, shared by the hub, the mailbox and the shard.
#[derive(Default)]
pub struct Doorbell {
    state: AtomicU8,
    waker: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Doorbell {
    /// Sets the function that wakes the shard from its poll. The shard calls this before it sleeps for the first time.
    /// Later calls have no effect.
    pub fn connect(&self, waker: impl Fn() + Send + Sync + 'static) {
        let _ = self.waker.set(Box::new(waker));
    }

    /// Tells the shard that there is something to drain. Calls the waker only if the shard sleeps, so only once for any
    /// number of rings.
    pub fn ring(&self) {
        // A read-modify-write, not a load first: a stale `RUNG` would lose the wake-up.
        if self.state.swap(RUNG, Ordering::AcqRel) == ASLEEP
            && let Some(waker) = self.waker.get()
        {
            waker();
        }
    }

    /// Resets the bell. The shard calls this at the beginning of a turn, before it drains anything: later rings count for
    /// the next turn.
    pub fn answer(&self) {
        self.state.swap(AWAKE, Ordering::AcqRel);
    }

    /// Marks the shard as asleep, unless the bell rang since [`Doorbell::answer`]. Returns `false` if it rang: the shard
    /// must not sleep then.
    #[must_use]
    pub fn fall_asleep(&self) -> bool {
        self.state
            .compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
}

impl std::fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doorbell")
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU64;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn one_wake_for_any_number_of_rings_and_none_while_awake() {
        let (bell, wakes) = (Doorbell::default(), Arc::new(AtomicU64::new(0)));
        let count = wakes.clone();
        bell.connect(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        bell.ring();
        assert_eq!(wakes.load(Ordering::Relaxed), 0);
        assert!(!bell.fall_asleep(), "a ring while awake must not be slept through");
        bell.answer();
        assert!(bell.fall_asleep());
        bell.ring();
        bell.ring();
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        bell.answer();
        assert!(bell.fall_asleep());
    }

    // A single lost wake-up would leave the sleeper in its poll until the deadline.
    #[test]
    fn no_wake_up_is_lost_between_two_threads() {
        let bell = Arc::new(Doorbell::default());
        let (sent, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let rounds = 20_000;
        let sleeper = std::thread::spawn({
            let (bell, sent, seen) = (bell.clone(), sent.clone(), seen.clone());
            move || {
                let me = std::thread::current();
                bell.connect(move || me.unpark());
                loop {
                    bell.answer();
                    let now = sent.load(Ordering::Relaxed);
                    seen.store(now, Ordering::Release);
                    if now == rounds {
                        return;
                    }
                    if bell.fall_asleep() {
                        std::thread::park_timeout(Duration::from_secs(60));
                    }
                }
            }
        });
        let deadline = Instant::now() + Duration::from_secs(30);
        for round in 1..=rounds {
            sent.store(round, Ordering::Relaxed);
            bell.ring();
            while seen.load(Ordering::Acquire) < round {
                assert!(Instant::now() < deadline, "wake-up {round} was lost");
                std::thread::yield_now();
            }
        }
        sleeper.join().expect("the sleeper ends");
    }
}
