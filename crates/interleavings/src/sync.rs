//! The model checker's versions of the types in `src/sync.rs`.
//!
//! Invariant: another thread may run before each use of one of these types, and nowhere else. Locks and atomics are the
//! model checker's own. It has no queues and no fair semaphore, so those are the real ones, with a scheduling point before
//! each call. That is sufficient, because their calls never block and take effect at one instant.

use std::sync::PoisonError;

use crossbeam_channel::{TryRecvError, TrySendError};
use tokio::sync::{AcquireError, TryAcquireError};

// No thread waits for a `OnceLock`, so the real one suffices.
pub(crate) use std::sync::OnceLock;

pub(crate) use shuttle::sync::MutexGuard;
pub(crate) use shuttle::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub(crate) use tokio::sync::SemaphorePermit;

/// A lock without poisoning, like the real one.
#[derive(Default)]
pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A scheduling point: the model checker may run another thread before any atomic operation.
#[derive(Default)]
struct Point(AtomicU8);

impl Point {
    fn pass(&self) {
        self.0.load(Ordering::SeqCst);
    }
}

pub(crate) struct Sender<T> {
    real: crossbeam_channel::Sender<T>,
    point: Point,
}

pub(crate) struct Receiver<T> {
    real: crossbeam_channel::Receiver<T>,
    point: Point,
}

pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(capacity);
    let sender = Sender {
        real: sender,
        point: Point::default(),
    };
    let receiver = Receiver {
        real: receiver,
        point: Point::default(),
    };
    (sender, receiver)
}

impl<T> Sender<T> {
    pub(crate) fn try_send(&self, message: T) -> Result<(), TrySendError<T>> {
        self.point.pass();
        self.real.try_send(message)
    }
}

impl<T> Receiver<T> {
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.point.pass();
        self.real.try_recv()
    }

    pub(crate) fn len(&self) -> usize {
        self.point.pass();
        self.real.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

pub(crate) struct Semaphore {
    real: tokio::sync::Semaphore,
    point: Point,
}

impl Semaphore {
    pub(crate) fn new(permits: usize) -> Self {
        Self {
            real: tokio::sync::Semaphore::new(permits),
            point: Point::default(),
        }
    }

    pub(crate) fn available_permits(&self) -> usize {
        self.point.pass();
        self.real.available_permits()
    }

    pub(crate) fn try_acquire_many(&self, permits: u32) -> Result<SemaphorePermit<'_>, TryAcquireError> {
        self.point.pass();
        self.real.try_acquire_many(permits)
    }

    pub(crate) async fn acquire_many(&self, permits: u32) -> Result<SemaphorePermit<'_>, AcquireError> {
        self.point.pass();
        self.real.acquire_many(permits).await
    }

    pub(crate) fn add_permits(&self, permits: usize) {
        self.point.pass();
        self.real.add_permits(permits);
    }
}

pub(crate) struct Notify {
    real: tokio::sync::Notify,
    point: Point,
}

impl Notify {
    pub(crate) fn new() -> Self {
        Self {
            real: tokio::sync::Notify::new(),
            point: Point::default(),
        }
    }

    pub(crate) fn notify_one(&self) {
        self.point.pass();
        self.real.notify_one();
    }

    pub(crate) async fn notified(&self) {
        self.point.pass();
        self.real.notified().await;
    }
}
