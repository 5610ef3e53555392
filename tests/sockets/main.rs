//! The real binary, real sockets, real clients. Each test starts a gateway of its own on free ports in a temporary
//! directory and ends it; what is asserted is order, completeness and codes, never time.

mod backends;
mod cli;
mod clients;
mod commands;
mod demo;
mod drain;
mod endings;
mod fanout;
mod harness;
mod hostile;
mod identity;
mod recovery;
#[path = "../support/redis_server.rs"]
#[allow(dead_code, reason = "shared with the tests of feeds, which use all of it")]
mod redis_server;
mod story;
