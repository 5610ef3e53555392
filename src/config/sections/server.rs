//! `[server]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use hyper::header::{HeaderName, HeaderValue};

use crate::config::check::{Because, Check, HOUR, MINUTE, at_least, at_most, ensure, no_longer_than, not_zero};
use crate::config::declare::section;
use crate::config::source::Node;
use crate::config::value::{Refusal, Value, choices, duration_from_text, milliseconds, text};
use crate::hub::SHARDS_MAX;
use crate::ingress::{self, AllowedOrigins, ListenAddress, TrustedProxies};
use crate::shard;
use crate::shard::mailbox::ConnectionId;
use tickgate_protocol::channel::is_segment;

const _: () = assert!(SHARDS_MAX == 64, "the documentation and the message of shards say 64");

/// The most connections of one kind. A shard numbers its own with 26 bits.
pub(super) const CONNECTIONS_MAX: u32 = 1 << ConnectionId::SLOT_BITS;
pub(super) const WHY_CONNECTIONS: &str = "the numbers of a shard's connections have 26 bits";
const _: () = assert!(CONNECTIONS_MAX == 67_108_864, "the documentation says 67,108,864");

/// Accepts numbers of connections of which there must be one.
pub(super) fn some_connections(connections: &u32) -> Result<(), String> {
    at_least(*connections, 1)
        .because("nobody could connect")
        .and(connections_or_no_limit(connections))
}

/// Accepts numbers of connections, and 0.
pub(super) fn connections_or_no_limit(connections: &u32) -> Result<(), String> {
    at_most(*connections, CONNECTIONS_MAX).because(WHY_CONNECTIONS)
}

section! {
    /// `[server]`.
    struct Server {
        /// The public listeners, TCP or Unix. Sockets that systemd passes (socket activation) replace them. `[::]` accepts IPv4
        /// too, unless an IPv4 listener has the same port: `["0.0.0.0:80", "[::]:80"]`.
        value listen: Vec<ListenAddress> = vec![loopback(8080)],
            check |listeners| ensure(!listeners.is_empty(), "must name at least one listener");
        /// The permissions of a public Unix socket that the gateway makes, in octal as systemd's `SocketMode`: who may connect.
        /// With `"0660"` a proxy of another user must be in the gateway's group. `"0666"` lets every user of the machine
        /// connect; do not trust `unix` in `trusted_proxies` then, because a trusted peer may name any client address.
        value socket_mode: SocketMode = SocketMode(0o660);
        /// The listener of the API, statistics and metrics. It must not be a public listener.
        value admin_listen: ListenAddress = loopback(8081);
        /// The name of this gateway, one segment of a channel: `system.gateway.<node>`, statistics and metrics carry it. Several
        /// gateways need different names. Not set: the first part of the host's name.
        value node: Option<String> = None, check is_node;
        /// Threads that own the connections, at most 64. 0: one for each core.
        value shards: u16 = 0, check |shards| at_most(*shards, SHARDS_MAX).because("a set of shards has 64 bits (0: one shard for each core)");
        /// Peers whose `X-Forwarded-For`, `X-Real-IP` and PROXY protocol header (version 1 or 2) are trusted: addresses,
        /// networks, or `unix`.
        value trusted_proxies: Vec<Proxy> = ["127.0.0.0/8", "::1", "unix"].map(|entry| Proxy(entry.to_owned())).to_vec();
        /// Origins of the pages that may connect: `https://app.example.com`, `https://*.example.com`, or `*` for all.
        /// A port that is the scheme's default makes no difference. Native apps send `file://`, `null`, `capacitor://localhost`,
        /// `ionic://localhost` or the gateway's own address (`wss://ws.example.com`); list what yours sends. `null` allows
        /// sandboxed frames of every page too. Empty: only pages with the host name of the request, on any port. A request
        /// without `Origin` does not come from a browser and passes. A refused request gets 403.
        value allowed_origins: Vec<AllowedOrigin> = Vec::new();
        /// Request headers that a page of an allowed origin may set when it polls (CORS), such as those that a client's
        /// `extraHeaders` adds. The gateway itself reads `authorization`.
        value cors_headers: Vec<RequestHeader> =
            ["authorization", "content-type"].map(|name| RequestHeader(name.to_owned())).to_vec();
        /// Connections in total, 1 to 67,108,864. One more gets 503. The gateway raises `RLIMIT_NOFILE` at start; if the limit stays too
        /// low, it accepts fewer connections and, if this key
        /// has another value than the default, logs a warning.
        value max_connections: u32 = 1_000_000, check some_connections;
        /// Connections of one client address, at most 67,108,864. One more gets 429. 0: no limit.
        value max_connections_per_ip: u32 = 0, check connections_or_no_limit;
        /// Connections of one user, at most 67,108,864. What happens to one more, `server.per_user_overflow` says. 0: no limit.
        value max_connections_per_user: u32 = 0, check connections_or_no_limit;
        /// What happens when a user who has `server.max_connections_per_user` connections opens one more. `refuse`: it gets
        /// 429. `oldest`: it is served, and the user's others are asked for a sign of life. One that gives none within 5 s is
        /// dead and ends (code 4009). If all give one, the oldest ends a second later (code 4005), and its client stays away.
        /// Until then, a user may have twice as many connections.
        value per_user_overflow: ingress::PerUserOverflow = ingress::PerUserOverflow::Refuse;
        /// Connections that speak HTTP at one time: those whose handshake is not complete, and those between two requests.
        /// 1 to 67,108,864. When there are more, the one that has been silent longest is closed for the new one.
        value max_pending: u32 = 16_384, check some_connections;
        /// How many of them may be silent of one client address (IPv6: one network of 64 bits). One more closes the one that
        /// has been silent longest. Behind a trusted proxy, the address is the one that the proxy names, as soon as it has
        /// named it; before that, only `server.max_pending` counts. At most 67,108,864. 0: no limit.
        value max_pending_per_ip: u32 = 256, check connections_or_no_limit;
        /// Handshakes per second in total, at most 1,000,000. One more gets 429 with `Retry-After`. 0: no limit.
        value connect_rate: u32 = 0, check |rate| at_most(*rate, 1_000_000).because("a higher rate is no limit (0: no limit)");
        /// The time from accepting a connection to the end of the request's head, at most 1 h. A kept connection has the same time from a
        /// response to the end of the next head; 60 s after accept, or after its last poll, it ends with `Connection: close` on
        /// its next response.
        value handshake_timeout: Duration = Duration::from_secs(5),
            check |time| not_zero(time).and(no_longer_than(time, HOUR).because("a client that sends nothing is kept for this time"));
        /// The longest time over which connections are closed (code 1012) after SIGTERM, at most one hour. Each shard waits for
        /// 250 ms and then closes at least one connection in 10 ms, so few clients take moments. A connection whose command is not
        /// answered stays until half a second before the end. The drain ends when no connection is left.
        value drain: Duration = Duration::from_secs(20),
            check |drain| no_longer_than(drain, HOUR).because("a restart waits for it");
        /// The same for a restart in place (SIGUSR2), at most one minute. New connections wait for so long, and a little longer.
        value restart_drain: Duration = Duration::from_secs(2),
            check |drain| no_longer_than(drain, MINUTE).because("new connections wait meanwhile");
        /// How frames are written to the sockets. `io_uring`: one system call for all connections of a tick; the gateway does
        /// not start if the kernel forbids it. `writev`: one system call for each connection. `auto`: each shard tests
        /// io_uring at start and uses `writev` if the kernel forbids it (containers often do) or it misbehaves. A ring that fails
        /// later is replaced by `writev` with one warning, whatever is set here. The log, `/metrics` (`tickgate_io_uring`) and
        /// the statistics say which one is in use.
        value flush: Flush = Flush::Auto;
        /// How long events may wait so that several are sent together: the time from one sending to the next. `auto`:
        /// `server.coalesce_max` times the share of the time that sending takes, so nothing waits while the shard is idle. A
        /// duration, at most `"1s"`: a fixed time; `"0ms"` means that nothing waits.
        value coalesce: Coalesce = Coalesce::Auto,
            check |coalesce| no_longer_than(&coalesce.fixed().unwrap_or_default(), Duration::from_secs(1))
                .because("every event would be late by this time");
        /// The longest wait of `server.coalesce = "auto"`, which only a shard without any time left reaches; at most `"1s"`. A
        /// longer one costs less CPU and more latency: see [performance](performance.md#when-events-wait-for-company). Not
        /// set: 10 ms.
        value coalesce_max: Option<Duration> = None,
            check |time| no_longer_than(&time.unwrap_or_default(), Duration::from_secs(1))
                .because("events would be late by this time");

        rule listeners_are_distinct;
        rule only_auto_has_a_longest_wait;
        rule overflow_has_a_limit;
    }
}

fn loopback(port: u16) -> ListenAddress {
    ListenAddress::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

fn only_auto_has_a_longest_wait(server: &Server, check: &mut Check<'_>) {
    if server.coalesce_max.is_some() && server.coalesce != Coalesce::Auto {
        check.refuse("coalesce_max", "has a meaning only with coalesce = \"auto\"");
    }
}

fn overflow_has_a_limit(server: &Server, check: &mut Check<'_>) {
    let has_effect =
        server.max_connections_per_user > 0 || server.per_user_overflow == ingress::PerUserOverflow::Refuse;
    check.require(
        has_effect,
        "per_user_overflow",
        "has a meaning only with max_connections_per_user",
    );
}

fn listeners_are_distinct(server: &Server, check: &mut Check<'_>) {
    for (index, address) in server.listen.iter().enumerate() {
        if server.listen[..index].iter().any(|earlier| overlap(earlier, address)) {
            check.refuse("listen", format!("{address} overlaps another listener"));
        }
    }
    if server
        .listen
        .iter()
        .any(|public| is_public(&server.admin_listen, public))
    {
        let message = "the admin listener must not be a public one";
        check.contradiction(["admin_listen", "listen"], message);
    }
}

/// Whether two listeners exclude each other. Port 0 stands for a different free port each time. An IPv6 listener leaves the
/// IPv4 addresses to those that name one.
fn overlap(one: &ListenAddress, other: &ListenAddress) -> bool {
    match (one.tcp(), other.tcp()) {
        (Some(one), Some(other)) => {
            let (one_ip, other_ip) = (one.ip().to_canonical(), other.ip().to_canonical());
            let is_wildcard = one_ip.is_unspecified() || other_ip.is_unspecified();
            let same_ip = one_ip == other_ip || (is_wildcard && one_ip.is_ipv4() == other_ip.is_ipv4());
            one.port() == other.port() && one.port() != 0 && same_ip
        }
        _ => one == other,
    }
}

/// Whether a client could reach `admin` under the address of `public`, in either protocol.
fn is_public(admin: &ListenAddress, public: &ListenAddress) -> bool {
    let is_wildcard = |address: &ListenAddress| address.tcp().is_some_and(|address| address.ip().is_unspecified());
    let port = |address: &ListenAddress| address.tcp().map(|address| address.port()).filter(|port| *port != 0);
    let same_port = port(admin).is_some() && port(admin) == port(public);
    overlap(admin, public) || (same_port && (is_wildcard(admin) || is_wildcard(public)))
}

fn is_node(node: &Option<String>) -> Result<(), String> {
    let is_fine = node.as_ref().is_none_or(|node| is_segment(node) && node.len() <= 64);
    ensure(
        is_fine,
        "must be one segment of a channel: at most 64 bytes, without dots, spaces, * and >",
    )
}

impl Server {
    /// The number of shards, 1 to 64.
    pub(in crate::config) fn shards(&self) -> u16 {
        match self.shards {
            0 => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                u16::try_from(cores).unwrap_or(SHARDS_MAX).min(SHARDS_MAX)
            }
            shards => shards,
        }
    }

    pub(in crate::config) fn coalesce(&self) -> shard::CoalescePolicy {
        match self.coalesce {
            Coalesce::Auto => match self.coalesce_max {
                Some(time) => shard::CoalescePolicy::Auto { max_ms: whole_ms(time) },
                None => shard::CoalescePolicy::AUTO,
            },
            Coalesce::Fixed(time) => shard::CoalescePolicy::Fixed(whole_ms(time)),
        }
    }

    pub(in crate::config) fn flush(&self) -> shard::FlushMethod {
        match self.flush {
            Flush::Auto => shard::FlushMethod::Auto,
            Flush::IoUring => shard::FlushMethod::IoUring,
            Flush::Writev => shard::FlushMethod::Writev,
        }
    }

    /// Whether every user of the machine may connect to a public Unix socket whose peers are trusted as proxies.
    pub(in crate::config) fn trusts_every_local_user(&self) -> bool {
        const OTHERS_MAY_CONNECT: u32 = 0o002;
        self.socket_mode.0 & OTHERS_MAY_CONNECT != 0
            && self.listen.iter().any(|address| address.tcp().is_none())
            && self.trusted_proxies.iter().any(|entry| entry.0 == "unix")
    }

    /// The settings of the ingress. The arguments are those that come from other sections and from the process.
    pub(in crate::config) fn ingress(
        &self,
        endpoints: Vec<ingress::Endpoint>,
        tenants: Vec<ingress::TenantLimits>,
        max_connections: u32,
    ) -> ingress::Settings {
        let proxies: Vec<&str> = self.trusted_proxies.iter().map(|entry| entry.0.as_str()).collect();
        let headers: Vec<&str> = self.cors_headers.iter().map(|name| name.0.as_str()).collect();
        let origins: Vec<&str> = self.allowed_origins.iter().map(|entry| entry.0.as_str()).collect();
        ingress::Settings {
            listen: self.listen.clone(),
            socket_mode: self.socket_mode.0,
            // Reading has checked every entry of these lists.
            trusted_proxies: TrustedProxies::parse(&proxies).unwrap_or_default(),
            allowed_origins: AllowedOrigins::parse(&origins).unwrap_or_default(),
            cors_headers: HeaderValue::from_str(&headers.join(", ")).unwrap_or(HeaderValue::from_static("")),
            endpoints,
            tenants,
            max_connections,
            max_connections_per_ip: self.max_connections_per_ip,
            max_connections_per_user: self.max_connections_per_user,
            per_user_overflow: self.per_user_overflow,
            max_pending: self.max_pending,
            max_pending_per_ip: self.max_pending_per_ip,
            connect_rate: self.connect_rate,
            handshake_timeout_ms: milliseconds(self.handshake_timeout),
        }
    }
}

/// `flush`: how frames are written to the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Flush {
    Auto,
    IoUring,
    Writev,
}

choices!(ingress::PerUserOverflow { "refuse" => Self::Refuse, "oldest" => Self::Oldest });
choices!(Flush { "auto" => Self::Auto, "io_uring" => Self::IoUring, "writev" => Self::Writev });

/// `socket_mode`: the permissions of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) struct SocketMode(u32);

impl Value for SocketMode {
    fn kind() -> String {
        "octal mode".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        const WANTED: &str = "permissions in quotes, in octal, such as \"0660\"";
        let text = text(node, WANTED)?;
        let is_octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let mode = u32::from_str_radix(text, 8)
            .ok()
            .filter(|mode| is_octal && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| Refusal::new(format!("expected {WANTED}")))
    }
    fn write(&self) -> Option<toml::Value> {
        Some(format!("{:04o}", self.0).into())
    }
}

/// An entry of `trusted_proxies`, as it was written. It is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Proxy(pub(in crate::config) String);

impl Value for Proxy {
    fn kind() -> String {
        "network".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "a network in quotes")?;
        match TrustedProxies::parse(&[text]) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err((_, error)) => Err(Refusal::new(format!("\"{text}\" {error}"))),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.0.as_str().into())
    }
}

/// An entry of `allowed_origins`, as it was written. It is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct AllowedOrigin(pub(in crate::config) String);

impl Value for AllowedOrigin {
    fn kind() -> String {
        "origin".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "an origin in quotes")?;
        match AllowedOrigins::parse(&[text]) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err((_, error)) => Err(Refusal::new(format!("\"{text}\" {error}"))),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.0.as_str().into())
    }
}

/// An entry of `cors_headers`: the name of a header, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct RequestHeader(String);

impl Value for RequestHeader {
    fn kind() -> String {
        "header name".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "the name of a header in quotes")?;
        // With credentials, `*` stands for a header of this name (Fetch standard).
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) if text != "*" => Ok(Self(name.as_str().to_owned())),
            _ => Err(Refusal::new(format!("\"{text}\" is not the name of a header"))),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.0.as_str().into())
    }
}

fn whole_ms(time: Duration) -> u32 {
    u32::try_from(milliseconds(time)).unwrap_or(u32::MAX)
}

/// `coalesce`: the time between two ticks of a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Coalesce {
    /// The shard adapts it to the load.
    Auto,
    /// At least this long.
    Fixed(Duration),
}

impl Value for Coalesce {
    fn kind() -> String {
        "duration or `auto`".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        match text(node, "\"auto\" or a duration in quotes")? {
            "auto" => Ok(Self::Auto),
            text => duration_from_text(text)
                .map(Self::Fixed)
                .ok_or_else(|| Refusal::new("expected \"auto\" or a duration such as \"2ms\"")),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        match self {
            Self::Auto => Some("auto".into()),
            Self::Fixed(duration) => duration.write(),
        }
    }
}

impl Coalesce {
    /// The fixed time, if there is one.
    fn fixed(self) -> Option<Duration> {
        match self {
            Self::Auto => None,
            Self::Fixed(time) => Some(time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_everybody_may_open_and_that_is_trusted_is_noticed() {
        let mut server = Server {
            listen: vec![ListenAddress::Unix("/run/tickgate/public.sock".into())],
            ..Server::default()
        };
        assert!(!server.trusts_every_local_user(), "0660");
        server.socket_mode = SocketMode(0o666);
        assert!(server.trusts_every_local_user());
        server.trusted_proxies.retain(|entry| entry.0 != "unix");
        assert!(!server.trusts_every_local_user(), "not trusted");
        let tcp = Server {
            socket_mode: SocketMode(0o666),
            ..Server::default()
        };
        assert!(!tcp.trusts_every_local_user(), "no Unix socket");
    }

    #[test]
    fn listeners_exclude_each_other_as_in_the_kernel() {
        for (one, other, excluded, is_public_admin) in [
            ("0.0.0.0:80", "[::]:80", false, true),
            ("127.0.0.1:80", "[::]:80", false, true),
            ("[::1]:80", "0.0.0.0:80", false, true),
            ("[::1]:80", "127.0.0.1:80", false, false),
            ("0.0.0.0:80", "127.0.0.1:80", true, true),
            ("[::]:80", "[::1]:80", true, true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true, true),
            ("127.0.0.1:80", "127.0.0.1:81", false, false),
            ("0.0.0.0:0", "0.0.0.0:0", false, false),
            ("unix:/a", "unix:/a", true, true),
            ("unix:/a", "unix:/b", false, false),
        ] {
            let (one, other) = (one.parse().expect(one), other.parse().expect(other));
            assert_eq!(overlap(&one, &other), excluded, "{one} and {other}");
            assert_eq!(overlap(&other, &one), excluded, "{other} and {one}");
            assert_eq!(is_public(&one, &other), is_public_admin, "{one} and {other}");
            assert_eq!(is_public(&other, &one), is_public_admin, "{other} and {one}");
        }
    }

    /// A proxy that connects to `localhost` may use either address.
    #[test]
    fn the_proxies_of_this_machine_are_trusted_by_default() {
        let trusted = Server::default().ingress(Vec::new(), Vec::new(), 1).trusted_proxies;
        for peer in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(trusted.trusts(Some(peer.parse().expect(peer))), "{peer}");
        }
        assert!(trusted.trusts(None));
        for peer in ["192.0.2.1", "::2", "fe80::1"] {
            assert!(!trusted.trusts(Some(peer.parse().expect(peer))), "{peer}");
        }
    }
}
