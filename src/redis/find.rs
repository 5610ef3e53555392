//! Finding the server that takes writes, and connecting to it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError,
    ServerErrorKind, TlsCertificates, Value,
};
use tokio::time::timeout;

use super::address::Place;
use super::{RedisServer, is_refused};

/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// How long a server may take for one answer.
const ANSWER: Duration = Duration::from_secs(3);

/// How many nodes of a Cluster are asked for the owner of a slot. A node that was away knows a former owner.
pub(crate) const NODES_MAX: usize = 5;

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoConnection {
    /// The server refuses the login.
    #[error("are user and password right? {0}")]
    Refused(String),
    /// Anything else.
    #[error("{0}")]
    Unreachable(String),
}

impl NoConnection {
    fn of(what: &str, error: &RedisError) -> Self {
        let text = format!("{what}: {error}");
        if is_refused(error) {
            Self::Refused(text)
        } else {
            Self::Unreachable(text)
        }
    }

    /// The [`NODES_MAX`] nodes that were asked refer to others.
    pub(crate) fn without_owner() -> Self {
        Self::Unreachable("the nodes of the Redis Cluster do not agree about who owns the slot".to_owned())
    }
}

/// A server that was found.
pub(crate) struct Found {
    /// The first connection to it.
    pub(crate) connection: MultiplexedConnection,
    /// The address as the log and a Sentinel say it.
    pub(crate) address: String,
    /// The Sentinel that has named it.
    pub(crate) sentinel: Option<Sentinel>,
    client: Client,
}

impl Found {
    /// Makes another connection to the server.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub(crate) async fn connect(&self) -> Result<MultiplexedConnection, NoConnection> {
        connect(&self.client, &self.address).await
    }

    /// The client that makes connections to the server.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The URL of the node of a Redis Cluster to which the server refers with this error; `None`: it is another error.
    pub(crate) fn other_node(&self, error: &RedisError) -> Option<String> {
        let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
        let (scheme, own) = match self.client.get_connection_info().addr() {
            ConnectionAddr::Tcp(own, _) => ("redis", own),
            ConnectionAddr::TcpTls { host: own, .. } => ("rediss", own),
            _ => return None,
        };
        // A node that does not know its own host means that of the connection.
        let host = if host.is_empty() { own } else { host };
        Some(format!("{scheme}://{}", at(host, port)))
    }

    /// The URL of the node that owns the slot of the key which `probe` names, if it is another one.
    async fn owner(&mut self, probe: &Cmd) -> Result<Option<String>, NoConnection> {
        let answer = timeout(ANSWER, probe.query_async::<Value>(&mut self.connection)).await;
        let late = |_| NoConnection::Unreachable(format!("{} does not answer in time", self.address));
        let error = answer.map_err(late)?.err();
        let is_moved = |error: &RedisError| error.kind() == ErrorKind::Server(ServerErrorKind::Moved);
        Ok(error.filter(is_moved).and_then(|error| self.other_node(&error)))
    }
}

impl RedisServer {
    /// Finds the server and connects to it: by one of the addresses, the next one at the next attempt. Of a Redis Cluster it
    /// is the node that owns the slot of the key which `probe` names. Whatever else comes of this command is ignored.
    ///
    /// # Errors
    ///
    /// Why there is no connection.
    pub(crate) async fn find(&self, attempt: usize, probe: Option<&Cmd>) -> Result<Found, NoConnection> {
        let address = self.addresses.get(attempt % self.addresses.len().max(1));
        let address = address.ok_or_else(|| NoConnection::Unreachable("no address is configured".to_owned()))?;
        let (url, sentinel) = match &address.0 {
            Place::Server(url) => (url.to_string(), None),
            Place::Sentinel { url, master } => {
                let connection = self.connect_sentinel(url).await?;
                let master = master.clone();
                let mut sentinel = Sentinel { connection, master };
                (
                    format!("{}://{}", scheme(url), sentinel.master().await?),
                    Some(sentinel),
                )
            }
        };
        let mut found = self.connect_to(&url).await?;
        for _ in 0..NODES_MAX {
            let owner = match probe {
                Some(probe) => found.owner(probe).await?,
                None => None,
            };
            let Some(owner) = owner else {
                return Ok(Found { sentinel, ..found });
            };
            found = self.connect_to(&owner).await?;
        }
        Err(NoConnection::without_owner())
    }

    /// Connects to the server with this URL.
    ///
    /// # Errors
    ///
    /// Why there is no connection.
    pub(crate) async fn connect_to(&self, url: &str) -> Result<Found, NoConnection> {
        let client = self.client(url, true)?;
        let address = url.split_once("://").map_or(url, |(_, rest)| rest).to_owned();
        Ok(Found {
            connection: connect(&client, &address).await?,
            address,
            sentinel: None,
            client,
        })
    }

    /// A Sentinel often has no users of its own.
    async fn connect_sentinel(&self, url: &str) -> Result<MultiplexedConnection, NoConnection> {
        let mut connection = connect(&self.client(url, false)?, url).await?;
        let ping = timeout(ANSWER, redis::cmd("PING").query_async::<String>(&mut connection)).await;
        match ping {
            Ok(Err(error)) if error.code() == Some("NOAUTH") => connect(&self.client(url, true)?, url).await,
            _ => Ok(connection),
        }
    }

    fn client(&self, url: &str, authenticates: bool) -> Result<Client, NoConnection> {
        let wrong = |error: RedisError| NoConnection::of(url, &error);
        let mut info: ConnectionInfo = url.into_connection_info().map_err(wrong)?;
        if authenticates {
            let mut login = info.redis_settings().clone();
            if let Some(user) = &self.user {
                login = login.set_username(user);
            }
            // The configuration gives passwords as text.
            let password = self.password.as_ref().map(|secret| str::from_utf8(secret.expose()));
            if let Some(Ok(password)) = password {
                login = login.set_password(password);
            }
            info = info.set_redis_settings(login);
        }
        if let (ConnectionAddr::TcpTls { .. }, Some(path)) = (info.addr(), &self.ca_file) {
            let unread = |error| NoConnection::Unreachable(format!("cannot read {}: {error}", path.display()));
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(std::fs::read(path).map_err(unread)?),
            };
            return Client::build_with_tls(info, certificates).map_err(wrong);
        }
        Client::open(info).map_err(wrong)
    }
}

async fn connect(client: &Client, address: &str) -> Result<MultiplexedConnection, NoConnection> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        // A read waits for entries, and everything else has a limit of its own.
        .set_response_timeout(None);
    match timeout(CONNECT, client.get_multiplexed_async_connection_with_config(&config)).await {
        Ok(connection) => connection.map_err(|error| NoConnection::of(&format!("no connection to {address}"), &error)),
        Err(_) => Err(NoConnection::Unreachable(format!("no connection to {address} in time"))),
    }
}

fn scheme(url: &str) -> &'static str {
    if url.starts_with("rediss://") {
        "rediss"
    } else {
        "redis"
    }
}

fn at(host: &str, port: impl std::fmt::Display) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A Sentinel that has named a server.
pub(crate) struct Sentinel {
    connection: MultiplexedConnection,
    master: Box<str>,
}

impl Sentinel {
    /// The address of the master.
    ///
    /// # Errors
    ///
    /// Why the Sentinel does not tell it.
    pub(crate) async fn master(&mut self) -> Result<String, NoConnection> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("GET-MASTER-ADDR-BY-NAME").arg(&*self.master);
        let answer = timeout(ANSWER, command.query_async(&mut self.connection)).await;
        let unreachable = |why: String| NoConnection::Unreachable(why);
        let answer: Option<(String, u16)> = answer
            .map_err(|_| unreachable("the Sentinel does not answer in time".to_owned()))?
            .map_err(|error| NoConnection::of("the Sentinel does not answer", &error))?;
        let (host, port) =
            answer.ok_or_else(|| unreachable(format!("the Sentinel knows no master {:?}", self.master)))?;
        Ok(at(&host, port))
    }
}
