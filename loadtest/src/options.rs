//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Load tool for WebSocket servers that fan events out.
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) scenario: Scenario,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Scenario {
    /// N subscribed clients, R events/s: latency, loss, order, server CPU per delivery.
    Fanout(Fanout),
    /// N subscribed clients that wait: server memory per connection before and after a burst, set-up and idle CPU.
    Idle(Idle),
}

/// How to talk to the server.
#[derive(Args, Clone, Debug)]
pub(crate) struct Server {
    /// Where clients connect: ws://host:port/path
    #[arg(long, default_value = "ws://127.0.0.1:8080/ws", value_parser = parse_url)]
    pub(crate) url: Url,
    /// Sent as `?token=`
    #[arg(long, env = "TICKGATE_LOADTEST_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// Where events are published: http://host:port/path
    #[arg(long, default_value = "http://127.0.0.1:8081/api/publish", value_parser = parse_url)]
    pub(crate) publish_url: Url,
    /// Sent as `Authorization: Bearer`
    #[arg(long, env = "TICKGATE_ADMIN_KEY", hide_env_values = true)]
    pub(crate) publish_key: Option<String>,
    /// The text each client sends after the handshake; `{channel}` stands for what it subscribes to, empty sends nothing
    #[arg(long, default_value = r#"{"type":"subscribe","channels":["{channel}"]}"#)]
    pub(crate) subscribe_frame: String,
    /// A client is ready when a message contains this; empty: at once
    #[arg(long, default_value = r#""type":"subscribed""#)]
    pub(crate) ready_marker: String,
    /// Subscribe to this pattern instead of one channel each
    #[arg(long)]
    pub(crate) pattern: Option<String>,
    /// Channels published to, in turn: load.0, load.1, ...
    #[arg(long, default_value_t = 1)]
    pub(crate) channels: usize,
    /// The server's process, whose CPU and memory are measured
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Threads of the tool
    #[arg(long, default_value_t = 1)]
    pub(crate) threads: usize,
    /// Handshakes in flight
    #[arg(long, default_value_t = 128)]
    pub(crate) connect_window: usize,
    /// Length of each event's `data` in bytes, 64 at least
    #[arg(long, default_value_t = 157)]
    pub(crate) data_bytes: usize,
    /// How the server is called in the report
    #[arg(long, default_value = "server")]
    pub(crate) name: String,
    /// Write the figures here, too
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Clients
    #[arg(long, default_value_t = 1000)]
    pub(crate) clients: usize,
    /// Events per second
    #[arg(long, default_value_t = 500)]
    pub(crate) rate: u64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Seconds before that
    #[arg(long, default_value_t = 2)]
    pub(crate) warmup_seconds: u64,
    /// How long to wait for what is still under way
    #[arg(long, default_value_t = 30)]
    pub(crate) drain_seconds: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Connections
    #[arg(long, default_value_t = 10_000)]
    pub(crate) clients: usize,
    /// Seconds of idling that are measured
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Events of the burst
    #[arg(long, default_value_t = 50)]
    pub(crate) burst_events: u64,
    /// Add a client that stops reading, and fill its socket, before idle CPU is measured
    #[arg(long)]
    pub(crate) stalled: bool,
}

/// A plain address and a path.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    pub(crate) host: String,
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
}

fn parse_url(text: &str) -> Result<Url, String> {
    let rest = text
        .strip_prefix("ws://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or("must begin with ws:// or http://")?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let mut addresses = host.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
    let address = addresses.next().ok_or_else(|| format!("{host} has no address"))?;
    Ok(Url {
        host: host.to_owned(),
        address,
        path: path.to_owned(),
    })
}
