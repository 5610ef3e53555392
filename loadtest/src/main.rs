//! Load tool for WebSocket servers that fan events out: many clients and one publisher.
//!
//! Invariants: A latency is measured from the time at which the event, request or connection was *due*, so a delay in
//! the server or in the tool is part of it. Each client finds lost, duplicate and reordered events by sequence numbers.
//!
//! # Layout
//!
//! | file | contents |
//! |---|---|
//! | `options` | the command line |
//! | `scenario/` | the steps of each scenario, one file each |
//! | `fleet` | all workers, as scenarios see them: connect, publish, request, wait |
//! | `recorder` | the time series, the phases, the progress line in the terminal |
//! | `worker` | one thread with one epoll loop: clients and, in the first worker, the publisher |
//! | `client`, `sequences`, `protocol` | one connection: handshake, subscriptions, frames, sequence checks |
//! | `deflate` | compressed messages |
//! | `adapter` | the protocol of a server, from a TOML file |
//! | `publisher` | publishes by HTTP requests or WebSocket frames; one carries all events that are due |
//! | `requests` | commands, subscribe and unsubscribe requests at a fixed rate |
//! | `backend` | a backend behind the server, which answers commands |
//! | `measured` | counters and histograms of one worker |
//! | `process`, `limit`, `token` | CPU and memory from `/proc`, the descriptor limit, tokens |
//! | `report/` | the results as JSON, text and a page with plots; comparisons |

mod adapter;
mod backend;
mod client;
mod deflate;
mod fleet;
mod limit;
mod measured;
mod options;
mod process;
mod protocol;
mod publisher;
mod recorder;
mod report;
mod requests;
mod scenario;
mod sequences;
mod token;
mod worker;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let options = options::Options::parse();
    if let Err(error) = scenario::run(&options) {
        eprintln!("tickgate-loadtest: {}", tickgate_escape::lines(&error));
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}
