//! Duties: what exactly one of several gateways does for all of them, such as polling feeds.
//!
//! The gateway that has the duties renews a lease in a register that all gateways share. The others watch the register, and
//! take the lease when nobody has renewed it for [`LEASE`].
//!
//! Invariant: a gateway that could not renew for [`HOLD`] does not have the duties any more, and another one takes them
//! later. Both measure time with their own monotonic clock, from an instant that lies on the safe side. What the former
//! gateway has sent by then may arrive later all the same. So it carries a [`Fence`], and brokers drop what has a lower
//! fence than something before it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use super::requests::{Doing, Peers};
use crate::event::Refusal;

/// How often the lease is renewed, and looked at by the others.
pub const RENEW: Duration = Duration::from_secs(1);

/// How long a gateway has the duties after it has begun to renew the lease.
pub const HOLD: Duration = Duration::from_secs(4);

/// How long others wait for a renewal before they take the lease.
pub const LEASE: Duration = Duration::from_secs(6);

/// How long one access to the register may take.
const PATIENCE: Duration = Duration::from_secs(2);

const _: () = assert!(RENEW.as_secs() + PATIENCE.as_secs() < HOLD.as_secs() && HOLD.as_secs() < LEASE.as_secs());

/// The number of a lease. Each lease has a higher one than those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fence(pub u64);

impl Fence {
    /// That of a gateway that stands alone, which needs no lease.
    pub const ALONE: Self = Self(0);
}

/// A register that several gateways share. It holds at most one record, each with a higher number than the one before.
pub trait Register: Send + Sync {
    /// The number of the record; 0: there is none.
    fn read_lease(&self) -> Doing<'_, Result<u64, Refusal>>;

    /// Replaces the record if its number is still `after`, and returns the number of the new one. `None`: it was not.
    fn replace_lease(&self, after: u64) -> Doing<'_, Result<Option<u64>, Refusal>>;

    /// Removes the record with this number.
    fn remove_lease(&self, number: u64) -> Doing<'_, ()>;

    /// The fence of a lease that begins with this record: not lower than its number, and higher than all fences that the
    /// gateway has seen.
    fn fence(&self, number: u64) -> Fence;
}

/// Tells whether this gateway has the duties.
#[derive(Clone, Debug)]
pub struct Duties {
    held: watch::Receiver<Option<Held>>,
    gives_up: Arc<watch::Sender<bool>>,
}

/// Begins to contend for the duties with the other gateways.
pub fn contend(peers: Arc<dyn Peers>, runtime: &Handle) -> Duties {
    let (contender, duties) = Contender::new();
    runtime.spawn(async move { contender.run(&*peers).await });
    duties
}

/// The duties, as long as a gateway has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    fence: Fence,
    // `None`: for ever.
    until: Option<Instant>,
}

impl Held {
    fn is_current(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

impl Duties {
    /// The duties of a gateway that stands alone: it always has them.
    #[must_use]
    pub fn alone() -> Self {
        let held = Held {
            fence: Fence::ALONE,
            until: None,
        };
        Self {
            held: watch::channel(Some(held)).1,
            gives_up: Arc::default(),
        }
    }

    /// Leaves the duties to another gateway, for good.
    pub fn give_up(&self) {
        self.gives_up.send_replace(true);
    }

    /// The fence for what this gateway does now; `None`: another gateway has the duties, or nobody.
    #[must_use]
    pub fn fence(&self) -> Option<Fence> {
        let held = *self.held.borrow();
        held.filter(Held::is_current).map(|held| held.fence)
    }

    /// Waits until this gateway has the duties.
    pub async fn begun(&mut self) -> Fence {
        loop {
            self.held.mark_unchanged();
            if let Some(fence) = self.fence() {
                return fence;
            }
            if self.held.changed().await.is_err() {
                // Nobody contends any more: the gateway ends.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until this gateway does not have the duties any more that it had with this fence.
    pub async fn ended(&mut self, fence: Fence) {
        loop {
            let held = *self.held.borrow_and_update();
            let Some(held) = held.filter(|held| held.fence == fence && held.is_current()) else {
                return;
            };
            let over = async {
                match held.until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            let changed = async {
                if self.held.changed().await.is_err() {
                    // Nobody renews the lease any more.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = over => {}
            }
        }
    }
}

/// Contends for the duties of a gateway.
#[derive(Debug)]
pub struct Contender {
    held: watch::Sender<Option<Held>>,
    gives_up: watch::Receiver<bool>,
    // The record that was seen last, and since when.
    seen: Option<(u64, Instant)>,
}

impl Contender {
    /// A contender, and the duties that it contends for.
    #[must_use]
    pub fn new() -> (Self, Duties) {
        let (sender, held) = watch::channel(None);
        let gives_up = Arc::<watch::Sender<bool>>::default();
        let contender = Self {
            held: sender,
            gives_up: gives_up.subscribe(),
            seen: None,
        };
        (contender, Duties { held, gives_up })
    }

    /// Contends until the gateway gives up or the future is dropped.
    pub async fn run<R: Register + ?Sized>(mut self, register: &R) {
        let mut ticks = interval(RENEW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The number of the own record.
        let mut own = None;
        loop {
            let mut gives_up = self.gives_up.clone();
            tokio::select! {
                _ = ticks.tick() => {}
                () = stopped(&mut gives_up) => {
                    self.held.send_replace(None);
                    if let Some(number) = own {
                        tracing::info!("the duties are given up");
                        let _ = timeout(PATIENCE, register.remove_lease(number)).await;
                    }
                    return;
                }
            }
            own = match own {
                Some(number) => self.renew(register, number).await,
                None => self.watch(register).await,
            };
        }
    }

    /// Renews the lease. Returns the number of the own record, unless the lease is lost.
    async fn renew<R: Register + ?Sized>(&mut self, register: &R, number: u64) -> Option<u64> {
        let began = Instant::now();
        match timeout(PATIENCE, register.replace_lease(number)).await {
            Ok(Ok(Some(number))) => {
                self.held.send_modify(|held| {
                    if let Some(held) = held {
                        held.until = Some(began + HOLD);
                    }
                });
                Some(number)
            }
            // Another gateway has the lease, or a renewal was stored of which nothing was heard.
            Ok(Ok(None)) => {
                self.lose("the lease has another record");
                None
            }
            Ok(Err(_)) | Err(_) => {
                let is_current = self.held.borrow().is_some_and(|held| held.is_current());
                if !is_current {
                    self.lose("the lease could not be renewed");
                    return None;
                }
                Some(number)
            }
        }
    }

    fn lose(&mut self, reason: &str) {
        self.seen = None;
        self.held.send_replace(None);
        tracing::warn!(reason, "this gateway does not have the duties any more");
    }

    /// Takes the lease if nobody has it. Returns the number of the own record then.
    async fn watch<R: Register + ?Sized>(&mut self, register: &R) -> Option<u64> {
        let number = timeout(PATIENCE, register.read_lease()).await.ok()?.ok()?;
        let now = Instant::now();
        let since = match self.seen {
            Some((seen, since)) if seen == number => since,
            _ => now,
        };
        self.seen = Some((number, since));
        if number != 0 && now.duration_since(since) < LEASE {
            return None;
        }
        let began = Instant::now();
        let own = timeout(PATIENCE, register.replace_lease(number)).await.ok()?.ok()??;
        let fence = register.fence(own);
        self.held.send_replace(Some(Held {
            fence,
            until: Some(began + HOLD),
        }));
        tracing::info!(
            fence = fence.0,
            "this gateway has the duties: feeds, sources and the report on system.health"
        );
        Some(own)
    }
}

/// Waits until the gateway gives the duties up.
async fn stopped(gives_up: &mut watch::Receiver<bool>) {
    let _ = gives_up.wait_for(|stop| *stop).await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

    use super::*;

    /// A register in memory. It can be out of reach.
    #[derive(Default)]
    struct Shared {
        record: AtomicU64,
        numbers: AtomicU64,
    }

    struct Reached {
        shared: Arc<Shared>,
        is_cut: Arc<AtomicBool>,
    }

    impl Reached {
        fn check(&self) -> Result<(), Refusal> {
            if self.is_cut.load(Relaxed) {
                Err(Refusal::Unavailable)
            } else {
                Ok(())
            }
        }
    }

    impl Register for Reached {
        fn read_lease(&self) -> Doing<'_, Result<u64, Refusal>> {
            Box::pin(async { self.check().map(|()| self.shared.record.load(Relaxed)) })
        }

        fn replace_lease(&self, after: u64) -> Doing<'_, Result<Option<u64>, Refusal>> {
            Box::pin(async move {
                self.check()?;
                let number = self.shared.numbers.fetch_add(1, Relaxed) + 1;
                let replaced = self.shared.record.compare_exchange(after, number, Relaxed, Relaxed);
                Ok(replaced.ok().map(|_| number))
            })
        }

        fn remove_lease(&self, number: u64) -> Doing<'_, ()> {
            Box::pin(async move {
                let _ = self.shared.record.compare_exchange(number, 0, Relaxed, Relaxed);
            })
        }

        fn fence(&self, number: u64) -> Fence {
            Fence(number)
        }
    }

    struct Node {
        duties: Duties,
        is_cut: Arc<AtomicBool>,
        task: tokio::task::JoinHandle<()>,
    }

    fn node(shared: &Arc<Shared>) -> Node {
        let (contender, duties) = Contender::new();
        let is_cut = Arc::<AtomicBool>::default();
        let register = Reached {
            shared: Arc::clone(shared),
            is_cut: Arc::clone(&is_cut),
        };
        let task = tokio::spawn(async move { contender.run(&register).await });
        Node { duties, is_cut, task }
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_alone_always_has_the_duties() {
        let mut alone = Duties::alone();
        assert_eq!((alone.fence(), alone.begun().await), (Some(Fence::ALONE), Fence::ALONE));
        let ended = timeout(Duration::from_secs(1000), alone.ended(Fence::ALONE)).await;
        assert!(ended.is_err(), "they never end");
    }

    #[tokio::test(start_paused = true)]
    async fn one_gateway_has_the_duties_and_another_takes_them_when_it_is_gone() {
        let shared = Arc::<Shared>::default();
        let mut one = node(&shared);
        let first = one.duties.begun().await;
        let mut two = node(&shared);
        let waited = timeout(10 * LEASE, two.duties.begun()).await;
        assert!(
            waited.is_err() && one.duties.fence() == Some(first),
            "the lease is renewed"
        );
        // Killed: nobody tells.
        one.task.abort();
        let gone = Instant::now();
        let second = two.duties.begun().await;
        assert!(second > first);
        let took = gone.elapsed();
        assert!(LEASE - RENEW <= took && took <= LEASE + 2 * RENEW, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_is_cut_off_stops_before_another_begins() {
        let shared = Arc::<Shared>::default();
        let mut one = node(&shared);
        let first = one.duties.begun().await;
        let mut two = node(&shared);
        tokio::time::sleep(3 * LEASE).await;
        one.is_cut.store(true, Relaxed);
        let mut watched = one.duties.clone();
        let ended = tokio::spawn(async move {
            watched.ended(first).await;
            Instant::now()
        });
        two.duties.begun().await;
        let begun = Instant::now();
        assert_eq!(one.duties.fence(), None);
        let ended = ended.await.expect("no panic");
        assert!(ended + (LEASE - HOLD) - RENEW <= begun, "{:?}", begun - ended);
        // It comes back, and waits.
        one.is_cut.store(false, Relaxed);
        assert!(timeout(10 * LEASE, one.duties.begun()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_ends_gives_the_duties_to_the_next_at_once() {
        let shared = Arc::<Shared>::default();
        let mut one = node(&shared);
        let first = one.duties.begun().await;
        let mut two = node(&shared);
        tokio::time::sleep(3 * RENEW).await;
        one.duties.give_up();
        let gone = Instant::now();
        one.duties.ended(first).await;
        assert!(two.duties.begun().await > first && gone.elapsed() <= 2 * RENEW);
        assert!(timeout(10 * LEASE, one.duties.begun()).await.is_err(), "for good");
    }
}
