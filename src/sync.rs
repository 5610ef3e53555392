//! The synchronization types of the hub: locks, atomics, queues and semaphores, under one name each.
//!
//! Invariant: in this package they are plain re-exports, so they cost nothing. The package `tickgate-interleavings`
//! compiles the hub's source a second time with a `sync` module of its own. There, each use of one of these types is a point
//! at which the model checker may run another thread. The model checker cannot see anything that the hub's threads share
//! by other types.

pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(crate) use crossbeam_channel::{Receiver, Sender, bounded};
pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use tokio::sync::{Notify, Semaphore, SemaphorePermit};
