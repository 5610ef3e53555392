//! Load tool for WebSocket servers that fan events out: many clients, one publisher, honest figures.
//!
//! Invariant: a latency is counted from the time at which the event (the request, the connection) was *due*, so a server
//! (or a tool) that falls behind shows it, and an event that is lost, doubled or overtaken is seen by every client's own
//! sequence numbers.
//!
//! # Layout
//!
//! | file | what |
//! |---|---|
//! | `options` | the command line |
//! | `scenario/` | what is done in which order, one file each |
//! | `fleet` | all workers from outside: connect, publish, ask, wait |
//! | `recorder` | rows of the time series, phases, the line in the terminal |
//! | `worker` | one thread, one epoll loop: clients and, in the first worker, the publisher |
//! | `client`, `sequences`, `protocol` | one connection: handshake, subscribing, frames, what it should have received |
//! | `deflate` | compressed messages |
//! | `adapter` | how a server is spoken to, from a TOML file |
//! | `publisher` | events by HTTP or WebSocket frames, all that are due in one request |
//! | `requests` | commands and (un)subscriptions by the clock |
//! | `backend` | answers commands behind the server |
//! | `measured` | counters and histograms of one worker |
//! | `process`, `limit`, `token` | CPU and memory from `/proc`, descriptors, tokens |
//! | `report/` | figures as JSON, text, page with plots, comparison |

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
        eprintln!("tickgate-loadtest: {error}");
        return std::process::ExitCode::FAILURE;
    }
    std::process::ExitCode::SUCCESS
}
