//! Nothing is lost, proved on the real binary: clients are killed and come back, the gateway is killed or drained and
//! comes back, and in the end every client has what it was promised. What is asserted is completeness and order, never
//! time.
//!
//! `crowd` kills clients: a few seconds in every test run; longer and with more of them by `TICKGATE_RECOVERY_CLIENTS`
//! and `TICKGATE_RECOVERY_SECONDS` (`docs/guarantees.md` has the nightly command). `TICKGATE_SEED` takes up a run's seed,
//! which every run prints; timing is the machine's all the same. `restart` kills gateways.

#[path = "../sockets/clients.rs"]
mod clients;
mod crowd;
#[path = "../sockets/harness.rs"]
mod harness;
mod listener;
mod restart;
