//! Load tool for WebSocket servers that fan events out: many clients, one publisher, honest figures.
//!
//! Invariant: a latency is counted from the time at which the event was *due*, so a server (or a tool) that falls
//! behind shows it, and an event that is lost, doubled or overtaken is seen by every client's own sequence numbers.
//!
//! # Layout
//!
//! | file | what |
//! |---|---|
//! | `options` | the command line |
//! | `scenario` | what is done in which order: `fanout` and `idle` |
//! | `worker` | one thread, one epoll loop: clients and, in the first worker, the publisher |
//! | `client`, `protocol` | one connection: handshake, subscribing, frames, sequence numbers |
//! | `publisher` | events to `POST /api/publish` over one keep-alive connection, all that are due in one request |
//! | `process` | CPU and memory of a process from `/proc` |
//! | `report` | the figures as text and JSON, and whether the tool itself was the bottleneck |

mod client;
mod options;
mod process;
mod protocol;
mod publisher;
mod report;
mod scenario;
mod worker;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let options = options::Options::parse();
    if let Err(error) = scenario::run(&options) {
        eprintln!("tickgate-loadtest: {error}");
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}
