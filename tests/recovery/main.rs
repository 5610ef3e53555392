//! Recovery on the real binary: clients are killed and reconnect, and the gateway is drained or killed and restarts. In the
//! end every client must have every event that it was promised. The tests assert completeness and order, not time.
//!
//! `crowd` kills clients, for a few seconds in every test run. `TICKGATE_RECOVERY_CLIENTS` and `TICKGATE_RECOVERY_SECONDS`
//! make it larger and longer (the nightly command is in the documentation). Every run prints its seed, and `TICKGATE_SEED`
//! runs that seed again, although the timing then differs. `restart` drains and kills gateways, `in_place` restarts them by SIGUSR2.

#[path = "../sockets/clients.rs"]
mod clients;
mod crowd;
#[path = "../sockets/harness.rs"]
mod harness;
mod in_place;
mod listener;
#[path = "../support/nats_server.rs"]
mod nats_server;
#[path = "../support/process.rs"]
mod process;
mod restart;
