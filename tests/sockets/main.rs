//! Tests of the binary with real sockets and clients.
//!
//! Each test starts a gateway of its own, on free ports and in a temporary directory, and ends it. The tests assert order,
//! completeness and codes, never times; only a drain of few clients must be fast.

mod backends;
mod bandwidth;
mod cli;
mod clients;
mod command_keys;
mod commands;
mod demo;
mod drain;
mod endings;
mod fanout;
mod feeds;
mod half_close;
mod harness;
mod hostile;
mod identity;
mod logs;
mod memory;
mod newcomer;
mod pauses;
#[path = "../support/process.rs"]
mod process;
mod recovery;
#[path = "../support/redis_server.rs"]
mod redis_server;
mod reload;
mod snapshots;
mod spans;
mod story;
