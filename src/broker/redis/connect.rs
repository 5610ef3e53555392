//! Connecting to the server that takes writes, and what it must be like.
//!
//! Invariant: a connection is to one process and is not made again by itself. So what holds of the server when the session
//! begins holds until its incarnation changes, for which the session looks every second.

use std::path::PathBuf;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, TlsCertificates};
use tokio::time::timeout;

use super::Settings;
use crate::auth::Secret;
use crate::broker::link::{ANSWER, End};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// The oldest version that has what the scripts need.
const VERSION_MIN: u64 = 7;

/// How the gateway authenticates.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// The name of an ACL user; `None`: the default one.
    pub user: Option<Box<str>>,
    /// The password; `None`: there is none.
    pub password: Option<Secret>,
    /// The certificates of authorities that may have signed the server's; `None`: those of the system.
    pub ca_file: Option<PathBuf>,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// A server: `redis://` or `rediss://`.
    Server(String),
    /// A Sentinel that names the server: its own address, and the name of the master. If the third value is set, both
    /// connections are encrypted.
    Sentinel(String, String, bool),
}

impl Address {
    /// Reads an address: `redis://host:port/database`, `rediss://…`, `sentinel://host:port/master` or `sentinels://…`.
    pub(super) fn parse(url: &str) -> Option<Self> {
        let is_url = |url: &str| url.into_connection_info().is_ok();
        if url.starts_with("redis://") || url.starts_with("rediss://") {
            return is_url(url).then(|| Self::Server(url.to_owned()));
        }
        let (rest, scheme) = url
            .strip_prefix("sentinel://")
            .map(|rest| (rest, "redis"))
            .or_else(|| url.strip_prefix("sentinels://").map(|rest| (rest, "rediss")))?;
        let (host, master) = rest.split_once('/')?;
        let sentinel = format!("{scheme}://{host}");
        let is_fine = is_url(&sentinel) && !master.is_empty() && master.bytes().all(|byte| byte.is_ascii_graphic());
        is_fine.then(|| Self::Sentinel(sentinel, master.to_owned(), scheme == "rediss"))
    }
}

/// Whether this is the address of a Redis server or Sentinel, without a secret.
#[must_use]
pub fn is_address(url: &str) -> bool {
    Address::parse(url).is_some()
}

/// A server that takes writes.
pub(super) struct Server {
    client: Client,
    /// The address as the log and a Sentinel say it.
    pub(super) address: String,
    /// What watches whether another server is to be used.
    pub(super) sentinel: Option<Sentinel>,
}

/// A Sentinel that has named the server.
pub(super) struct Sentinel {
    connection: MultiplexedConnection,
    master: String,
}

impl Sentinel {
    /// The address of the master.
    pub(super) async fn master(&mut self) -> Result<String, End> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master);
        let answer: Option<(String, u16)> = ask(&mut self.connection, &command, "the Sentinel does not answer").await?;
        let (host, port) =
            answer.ok_or_else(|| End::Failed(format!("the Sentinel knows no master {:?}", self.master)))?;
        Ok(if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        })
    }
}

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    version: String,
    role: String,
    policy: String,
    is_cluster: bool,
    /// The bytes that it may use; 0: no limit.
    pub(super) memory_max: u64,
    /// Another one after each start and each promotion.
    pub(super) incarnation: String,
}

impl Info {
    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        Self {
            version: value("redis_version"),
            role: value("role"),
            policy: value("maxmemory_policy"),
            is_cluster: value("cluster_enabled") == "1",
            memory_max: value("maxmemory").parse().unwrap_or(0),
            incarnation: format!("{}/{}", value("run_id"), value("master_replid")),
        }
    }

    /// Whether gateways can work with the server.
    fn check(&self) -> Result<(), End> {
        if self.role != "master" {
            return Err(End::Failed(
                "the server is a replica: name the master, or all servers, or a Sentinel".to_owned(),
            ));
        }
        let major = self.version.split('.').next().and_then(|major| major.parse().ok());
        if major.unwrap_or(0) < VERSION_MIN {
            return Err(End::Unfit(format!(
                "the server has the version {:?}: Redis 7.0, Valkey 7.2 or later is needed",
                self.version
            )));
        }
        if self.is_cluster {
            return Err(End::Unfit(
                "the server belongs to a Redis Cluster, which is not supported: one log cannot be spread over its \
                 servers; use one server with replicas and Sentinel"
                    .to_owned(),
            ));
        }
        if self.policy != "noeviction" {
            return Err(End::Unfit(format!(
                "its maxmemory-policy is {:?}, under which the server deletes events and offsets of its own accord: set it to noeviction",
                self.policy
            )));
        }
        Ok(())
    }
}

/// Asks the server something, for at most [`ANSWER`].
pub(super) async fn ask<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
    what: &'static str,
) -> Result<T, End> {
    match timeout(ANSWER, command.query_async(connection)).await {
        Ok(answer) => answer.map_err(|error| End::Failed(format!("{what}: {error}"))),
        Err(_) => Err(End::Failed(format!("{what} in time"))),
    }
}

/// What the server says of itself, if gateways can work with it.
pub(super) async fn inspect(connection: &mut MultiplexedConnection) -> Result<Info, End> {
    let mut command = redis::cmd("INFO");
    command.arg("server").arg("replication").arg("memory").arg("cluster");
    let text: String = ask(connection, &command, "the server does not say what it is").await?;
    let info = Info::parse(&text);
    info.check()?;
    Ok(info)
}

/// Finds one of the configured servers, or the one that a Sentinel names.
pub(super) async fn find(settings: &Settings, attempt: usize) -> Result<Server, End> {
    let url = &settings.urls[attempt % settings.urls.len()];
    let address = Address::parse(url).ok_or_else(|| End::Failed(format!("{url:?} is not an address")))?;
    let (url, sentinel) = match address {
        Address::Server(url) => (url, None),
        Address::Sentinel(url, master, is_encrypted) => {
            let connection = connect_sentinel(&settings.login, &url).await?;
            let mut sentinel = Sentinel { connection, master };
            let scheme = if is_encrypted { "rediss" } else { "redis" };
            let url = format!("{scheme}://{}", sentinel.master().await?);
            (url, Some(sentinel))
        }
    };
    let address = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest).to_owned();
    Ok(Server {
        client: client(&settings.login, &url, true)?,
        address,
        sentinel,
    })
}

/// A Sentinel often has no users of its own.
async fn connect_sentinel(login: &Login, url: &str) -> Result<MultiplexedConnection, End> {
    let mut connection = connect(&client(login, url, false)?, url).await?;
    let ping = timeout(ANSWER, redis::cmd("PING").query_async::<String>(&mut connection)).await;
    match ping {
        Ok(Err(error)) if error.code() == Some("NOAUTH") => connect(&client(login, url, true)?, url).await,
        _ => Ok(connection),
    }
}

fn client(login: &Login, url: &str, authenticates: bool) -> Result<Client, End> {
    let wrong = |error: redis::RedisError| End::Failed(format!("{url}: {error}"));
    let mut info: ConnectionInfo = url.into_connection_info().map_err(wrong)?;
    if authenticates {
        let mut redis = info.redis_settings().clone();
        if let Some(user) = &login.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &login.password {
            let password = std::str::from_utf8(password.expose());
            redis = redis.set_password(password.map_err(|_| End::Failed("the password is not UTF-8".to_owned()))?);
        }
        info = info.set_redis_settings(redis);
    }
    if let (ConnectionAddr::TcpTls { .. }, Some(path)) = (info.addr(), &login.ca_file) {
        let pem = std::fs::read(path);
        let certificates = TlsCertificates {
            client_tls: None,
            root_cert: Some(pem.map_err(|error| End::Failed(format!("cannot read {}: {error}", path.display())))?),
        };
        return Client::build_with_tls(info, certificates).map_err(wrong);
    }
    Client::open(info).map_err(wrong)
}

async fn connect(client: &Client, address: &str) -> Result<MultiplexedConnection, End> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        // A read waits for entries, and everything else has a limit of its own.
        .set_response_timeout(None);
    match timeout(CONNECT, client.get_multiplexed_async_connection_with_config(&config)).await {
        Ok(connection) => connection.map_err(|error| End::Failed(format!("no connection to {address}: {error}"))),
        Err(_) => Err(End::Failed(format!("no connection to {address} in time"))),
    }
}

impl Server {
    /// Makes a connection.
    pub(super) async fn connect(&self) -> Result<MultiplexedConnection, End> {
        connect(&self.client, &self.address).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_server_or_a_sentinel() {
        assert_eq!(
            Address::parse("redis://a:6379/2"),
            Some(Address::Server("redis://a:6379/2".to_owned()))
        );
        assert!(is_address("rediss://a") && is_address("redis://[::1]:7000"));
        assert_eq!(
            Address::parse("sentinel://s:26379/events"),
            Some(Address::Sentinel(
                "redis://s:26379".to_owned(),
                "events".to_owned(),
                false
            ))
        );
        assert_eq!(
            Address::parse("sentinels://s/events"),
            Some(Address::Sentinel("rediss://s".to_owned(), "events".to_owned(), true))
        );
        for wrong in [
            "redis://",
            "redis://a/x",
            "sentinel://s",
            "sentinel://s/",
            "sentinel:///m",
            "a:6379",
            "nats://a",
        ] {
            assert!(!is_address(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_server_that_would_lose_events_is_refused_with_the_reason() {
        let good = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\nrole:master\r\nmaster_replid:def\r\n\
                    maxmemory:0\r\nmaxmemory_policy:noeviction\r\ncluster_enabled:0\r\n";
        let info = Info::parse(good);
        assert_eq!((info.incarnation.as_str(), info.check()), ("abc/def", Ok(())));
        for (is, other, reason) in [
            ("role:master", "role:slave", "is a replica"),
            ("7.0.15", "6.2.7", "Redis 7.0"),
            ("cluster_enabled:0", "cluster_enabled:1", "Redis Cluster"),
            ("noeviction", "allkeys-lru", "set it to noeviction"),
        ] {
            let told = Info::parse(&good.replace(is, other)).check().expect_err(other);
            assert!(told.reason().contains(reason), "{told:?}");
        }
        assert!(Info::parse("").check().is_err());
    }
}
