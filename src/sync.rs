//! What the threads of the hub share, by one name each: locks, atomics, queues, semaphores.
//!
//! Invariant: here these are other names and nothing else, so they cost nothing. The package `interleavings` compiles the
//! hub's source a second time with a `sync` of its own, in which every use of one of them is a point at which the model
//! checker may let another thread go on. What threads of the hub share and is not named here, the checker cannot see.

pub(crate) use std::sync::OnceLock;
pub(crate) use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(crate) use crossbeam_channel::{Receiver, Sender, bounded};
pub(crate) use parking_lot::{Mutex, MutexGuard};
pub(crate) use tokio::sync::{Notify, Semaphore, SemaphorePermit};
