//! The hub's source, compiled a second time with the locks and atomics of a model checker instead of the real ones.
//!
//! The tests are in `src/hub/interleavings/`, beside the code that they drive. Everything else that they use is the ordinary
//! library.
//!
//! The hub is included by `#[path]`, because Cargo can only compile a dependency in two variants by a feature. Cargo unifies
//! features over a workspace, so a feature would also put the model checker's types into the gateway.
#![cfg(test)]

#[path = "../../../src/event.rs"]
pub mod event;
#[path = "../../../src/hub/mod.rs"]
pub mod hub;
mod sync;

use tickgate::time;
