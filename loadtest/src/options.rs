//! The command line.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Load tool for WebSocket servers that fan events out: many clients, one publisher, honest figures
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
    /// N subscribed clients that wait: server memory per connection before and after a burst, set-up and idle CPU
    Idle(Idle),
    /// N clients connect, authenticate and subscribe at once while M others receive: time until all are live, the others' latency
    Storm(Storm),
    /// Clients end and begin their subscriptions while others receive
    Churn(Churn),
    /// Commands and their answers through the server to a backend inside the tool: latency and rate
    Commands(Commands),
    /// Stalled readers among healthy ones: the healthy ones' latency without and with them
    Slow(Slow),
    /// `fanout` for long: whether rates hold, memory stays flat and nothing is lost
    Soak(Fanout),
    /// Two reports side by side, as ratios
    Compare(Compare),
    /// Print a built-in adapter, to begin one's own with
    Adapter {
        /// tickgate, tickgate-typed, tickgate-socketio, plain, centrifugo
        name: String,
    },
}

/// How to talk to the server, and what to write.
#[derive(Args, Clone, Debug)]
pub(crate) struct Server {
    /// Where clients connect: ws://host:port/path; without a path, the adapter's
    #[arg(long, default_value = "ws://127.0.0.1:8080")]
    pub(crate) url: String,
    /// The server's protocol: tickgate, tickgate-typed, tickgate-socketio, plain, centrifugo, or the path of a TOML file
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
    /// The variable that holds the server's HS256 secret: each client gets a token of a user of its own, load-0, load-1, ...
    #[arg(long, value_name = "VARIABLE")]
    pub(crate) secret_env: Option<String>,
    /// How many users the clients are, with --secret-env [default: as many as clients]
    #[arg(long)]
    pub(crate) users: Option<usize>,
    /// Where events are published: http://host:port/path; without a path, the adapter's
    #[arg(long, default_value = "http://127.0.0.1:8081")]
    pub(crate) publish_url: String,
    /// The publisher's key or token
    #[arg(long, env = "TICKGATE_ADMIN_KEY", hide_env_values = true)]
    pub(crate) publish_key: Option<String>,
    /// The text each client subscribes with in place of the adapter's; `{channel}` is filled in, empty sends nothing
    #[arg(long)]
    pub(crate) subscribe_frame: Option<String>,
    /// A client is ready when a message contains this, in place of the adapter's; empty: at once
    #[arg(long)]
    pub(crate) ready_marker: Option<String>,
    /// Subscribe to this pattern instead of one channel each
    #[arg(long)]
    pub(crate) pattern: Option<String>,
    /// Channels published to, in turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) channels: u64,
    /// Offer permessage-deflate without context takeover, and inflate what comes; a server that declines ends the run
    #[arg(long)]
    pub(crate) compression: bool,
    /// The server's process, whose CPU and memory are measured
    #[arg(long)]
    pub(crate) pid: Option<u32>,
    /// Threads of the tool [default: one per core it may use]
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Handshakes in flight
    #[arg(long, default_value_t = 128)]
    pub(crate) connect_window: usize,
    /// Connect the clients evenly over so many seconds instead of as fast as the server takes them
    #[arg(long, default_value_t = 0)]
    pub(crate) ramp_seconds: u64,
    /// Length of each event's `data` in bytes, 64 at least
    #[arg(long, default_value_t = 157)]
    pub(crate) data_bytes: usize,
    /// How the server is called in the report
    #[arg(long, default_value = "server")]
    pub(crate) name: String,
    /// Write the figures and their time series here
    #[arg(long)]
    pub(crate) json: Option<PathBuf>,
    /// Write them as a page with plots here
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Clients
    #[arg(long, default_value_t = 1000)]
    pub(crate) clients: usize,
    /// Events per second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
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

#[derive(Args, Clone, Debug)]
pub(crate) struct Storm {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Clients that come at once
    #[arg(long, default_value_t = 5000)]
    pub(crate) clients: usize,
    /// Clients that receive meanwhile; 0: none, and nothing is published
    #[arg(long, default_value_t = 0)]
    pub(crate) others: usize,
    /// Events per second to the others
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// Seconds that the others are measured without and, at least, with the storm
    #[arg(long, default_value_t = 5)]
    pub(crate) seconds: u64,
    /// How often they come: before each time but the first all are cut off (their tokens have been seen then)
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: u32,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Churn {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Clients that unsubscribe and subscribe
    #[arg(long, default_value_t = 500)]
    pub(crate) clients: usize,
    /// Clients that stay subscribed
    #[arg(long, default_value_t = 100)]
    pub(crate) others: usize,
    /// Subscriptions ended or begun per second, of all clients together
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests_per_second: u64,
    /// Events per second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Commands {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Clients that send commands
    #[arg(long, default_value_t = 100)]
    pub(crate) clients: usize,
    /// Commands per second, of all clients together
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) requests_per_second: u64,
    /// Seconds that are measured
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
    /// Where the tool's backend listens, which the server's route for the commands names; "none": the server answers itself
    #[arg(long, default_value = "127.0.0.1:18090")]
    pub(crate) backend: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Slow {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Healthy clients
    #[arg(long, default_value_t = 1000)]
    pub(crate) clients: usize,
    /// Clients that stop reading
    #[arg(long, default_value_t = 50)]
    pub(crate) stalled: usize,
    /// Events per second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rate: u64,
    /// Seconds that are measured, without and with them
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Compare {
    /// The report that others are measured by
    pub(crate) base: PathBuf,
    /// The report to compare with it
    pub(crate) other: PathBuf,
    /// Write the comparison as a page with plots here
    #[arg(long)]
    pub(crate) html: Option<PathBuf>,
}

/// A plain address and a path.
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
