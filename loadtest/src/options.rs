//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Load tool for WebSocket servers that fan events out: many clients, one publisher
#[derive(Clone, Debug, Parser)]
#[command(version)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Command {
    /// N subscribed clients, R events/s: latency, loss, order, server CPU per delivery
    Fanout(Fanout),
    /// N subscribed clients that wait: server memory per connection before and after a burst, connect time and idle CPU
    Idle(Idle),
    /// N clients connect, authenticate and subscribe at once while M others receive: time until all are live, latency
    /// of the others
    Storm(Storm),
    /// Clients unsubscribe and subscribe while others receive
    Churn(Churn),
    /// Commands that the server passes to a backend inside the tool: latency and rate of the answers
    Commands(Commands),
    /// `fanout` of a market: many channels, of which each client has some
    Market(Market),
    /// Stalled readers among healthy ones: latency of the healthy ones, first without and then with stalled readers
    Slow(Slow),
    /// `fanout` for a long time: whether rates hold, memory stays flat and no event is lost
    Soak(Fanout),
    /// Compare two reports by ratios
    Compare(Compare),
    /// Print a built-in adapter, as a template for your own
    Adapter {
        /// tickgate, tickgate-market, tickgate-typed, tickgate-socketio, plain, centrifugo
        name: String,
    },
}

/// The server to test, and the files to write.
#[derive(Args, Clone, Debug)]
pub(crate) struct Server {
    /// WebSocket URL of the server: ws://host:port/path; the default path is the adapter's
    #[arg(long, default_value = "ws://127.0.0.1:8080")]
    pub(crate) url: String,
    /// The server's protocol: tickgate, tickgate-market, tickgate-typed, tickgate-socketio, plain, centrifugo, or the path of a TOML
    /// file
    #[arg(long, default_value = "tickgate")]
    pub(crate) adapter: String,
    /// One token for all clients
    #[arg(
        long,
        env = "TICKGATE_LOADTEST_TOKEN",
        hide_env_values = true,
        conflicts_with = "secret_env"
    )]
    pub(crate) token: Option<String>,
    /// The environment variable with the server's HS256 secret: each client gets a token for a user of its own, load-0,
    /// load-1, ...
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) secret_env: Option<String>,
    /// Number of users that the clients share, with --secret-env [default: as many as clients]
    #[arg(long)]
    pub(crate) users: Option<usize>,
    /// URL to publish to: http://host:port/path; the default path is the adapter's
    #[arg(long, default_value = "http://127.0.0.1:8081")]
    pub(crate) publish_url: String,
    /// The publisher's key or token
    #[arg(long, env = "TICKGATE_ADMIN_KEY", hide_env_values = true)]
    pub(crate) publish_key: Option<String>,
    /// Publish what becomes due within this many milliseconds together, as a busy backend does; 0: each event at once
    #[arg(long, default_value_t = 0)]
    pub(crate) publish_every_ms: u64,
    /// Subscribe message, instead of the adapter's; `{channel}` is replaced; if empty, nothing is sent
    #[arg(long)]
    pub(crate) subscribe_frame: Option<String>,
    /// A client is ready when a message contains this text, instead of the adapter's; if empty, it is ready at once
    #[arg(long)]
    pub(crate) ready_marker: Option<String>,
    /// Subscribe to this pattern instead of one channel each
    #[arg(long)]
    pub(crate) pattern: Option<String>,
    /// Number of channels; events go to them in rotation
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) channels: u64,
    /// Number of channels that each client subscribes to, chosen at random, always the same in each run
    #[arg(long, default_value_t = 1, conflicts_with = "pattern", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) subscriptions: u64,
    /// Updates per second and channel that clients ask for, if the adapter has rates. Events that newer ones replace count as
    /// conflated, not as missing
    #[arg(long)]
    pub(crate) max_rate: Option<f64>,
    /// Offer permessage-deflate without context takeover and decompress messages; the run fails if the server declines
    #[arg(long)]
    pub(crate) compression: bool,
    /// Process ID of the server, to measure its CPU and memory
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Process ID of a proxy in front of the server, to measure its CPU
    #[arg(long)]
    pub(crate) proxy_pid: Option<u32>,
    /// Threads of the tool [default: one per available core]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Maximum number of handshakes in progress
    #[arg(long, default_value_t = 128)]
    pub(crate) connect_window: usize,
    /// Connect the clients evenly over this many seconds instead of as fast as the server accepts them
    #[arg(long, default_value_t = 0)]
    pub(crate) ramp_seconds: u64,
    /// Length of each event's `data` in bytes, at least 64
    #[arg(long, default_value_t = 157)]
    pub(crate) data_bytes: usize,
    /// Name of the server in the report
    #[arg(long, default_value = "server")]
    pub(crate) name: String,
    /// Write the report with its time series to this JSON file
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Write the report as a page with plots to this HTML file
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Number of clients
    #[arg(long, default_value_t = 1000)]
    pub(crate) clients: usize,
    /// Events per second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// Seconds to measure
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Seconds to publish before the measurement begins
    #[arg(long, default_value_t = 2)]
    pub(crate) warmup_seconds: u64,
    /// Seconds to wait at the end for events in transit
    #[arg(long, default_value_t = 30)]
    pub(crate) drain_seconds: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Market {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Number of clients
    #[arg(long, default_value_t = 2000)]
    pub(crate) clients: usize,
    /// Events per second, of all channels together
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// Seconds to measure
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
}

impl Market {
    /// The same as options of `fanout`, with the least numbers of a market.
    pub(crate) fn fanout(&self) -> Fanout {
        let mut server = self.server.clone();
        if (server.channels, server.subscriptions) == (1, 1) {
            (server.channels, server.subscriptions) = (500, 20);
        }
        Fanout {
            server,
            clients: self.clients,
            rate: self.rate,
            seconds: self.seconds,
            warmup_seconds: 2,
            drain_seconds: 30,
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Number of connections
    #[arg(long, default_value_t = 10_000)]
    pub(crate) clients: usize,
    /// Seconds to measure idle connections
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Number of events in the burst
    #[arg(long, default_value_t = 50)]
    pub(crate) burst_events: u64,
    /// Add a client that stops reading, and fill its socket, before idle CPU is measured
    #[arg(long)]
    pub(crate) stalled: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Storm {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Number of clients that connect at once
    #[arg(long, default_value_t = 5000)]
    pub(crate) clients: usize,
    /// Number of clients that receive meanwhile; with 0 nothing is published
    #[arg(long, default_value_t = 0)]
    pub(crate) others: usize,
    /// Events per second to the others
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// Seconds to measure the others before the storm; also the minimum while it lasts
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,
    /// Number of storms; all storming clients are disconnected between storms, so the server has seen their tokens from
    /// the second on
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Churn {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Number of clients that unsubscribe and subscribe
    #[arg(long, default_value_t = 500)]
    pub(crate) clients: usize,
    /// Number of clients that stay subscribed
    #[arg(long, default_value_t = 100)]
    pub(crate) others: usize,
    /// Subscribe and unsubscribe requests per second, of all clients together
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests_per_second: u64,
    /// Events per second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// Seconds to measure
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Commands {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Number of clients that send commands
    #[arg(long, default_value_t = 100)]
    pub(crate) clients: usize,
    /// Commands per second, of all clients together
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests_per_second: u64,
    /// Seconds to measure
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Address of the tool's backend, to which the server must route the commands; "none" if the server answers them
    /// itself
    #[arg(long, default_value = "127.0.0.1:18090")]
    pub(crate) backend: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Slow {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Number of healthy clients
    #[arg(long, default_value_t = 1000)]
    pub(crate) clients: usize,
    /// Number of clients that stop reading
    #[arg(long, default_value_t = 50)]
    pub(crate) stalled: usize,
    /// Events per second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// Seconds to measure without the stalled clients, and again with them
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Compare {
    /// The report to compare with
    pub(crate) base: PathBuf,
    /// The report to compare
    pub(crate) other: PathBuf,
    /// Write the comparison as a page with plots to this HTML file
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
}

/// A URL without TLS: the address and the path.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    pub(crate) host: String,
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
}

impl Url {
    pub(crate) fn parse(text: &str, default_path: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("ws://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or_else(|| format!("{text}: a URL must begin with ws:// or http://"))?;
        let (host, path) = rest.find('/').map_or((rest, default_path), |at| rest.split_at(at));
        let mut addresses = host.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{host} has no address"))?;
        Ok(Self {
            host: host.to_owned(),
            address,
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_path_gets_the_adapters() {
        let path = |text: &str| Url::parse(text, "/ws").map(|url| url.path);
        assert_eq!(path("ws://127.0.0.1:8080"), Ok("/ws".into()));
        assert_eq!(path("ws://127.0.0.1:8080/"), Ok("/".into()));
        assert_eq!(path("http://127.0.0.1:8080/a?b"), Ok("/a?b".into()));
        assert!(path("wss://127.0.0.1:8080").is_err());
        assert!(path("ws://127.0.0.1").is_err());
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Options as clap::CommandFactory>::command().debug_assert();
    }
}
