//! The hub's own source, compiled a second time, with the model checker's locks and atomics in the place of the real ones.
//!
//! The tests are in `src/hub/interleavings/`, beside the code that they drive; what they need of the rest of the gateway is
//! the ordinary library.
#![cfg(test)]

#[path = "../../../src/event.rs"]
pub mod event;
#[path = "../../../src/hub/mod.rs"]
pub mod hub;
mod sync;

use tickgate::time;
