//! What the server must be like.
//!
//! Invariant: a connection is to one process. So what holds of the server when the session begins holds until its
//! incarnation changes, for which the session looks every second.

use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use crate::broker::link::{ANSWER, End};

/// The oldest version that has what the scripts need.
const VERSION_MIN: u64 = 7;

/// What a server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Info {
    version: String,
    role: String,
    policy: String,
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
    command.arg("server").arg("replication").arg("memory");
    let text: String = ask(connection, &command, "the server does not say what it is").await?;
    let info = Info::parse(&text);
    info.check()?;
    Ok(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_would_lose_events_is_refused_with_the_reason() {
        let good = "# Server\r\nredis_version:7.0.15\r\nrun_id:abc\r\nrole:master\r\nmaster_replid:def\r\n\
                    maxmemory:0\r\nmaxmemory_policy:noeviction\r\n";
        let info = Info::parse(good);
        assert_eq!((info.incarnation.as_str(), info.check()), ("abc/def", Ok(())));
        for (is, other, reason) in [
            ("role:master", "role:slave", "is a replica"),
            ("7.0.15", "6.2.7", "Redis 7.0"),
            ("noeviction", "allkeys-lru", "set it to noeviction"),
        ] {
            let told = Info::parse(&good.replace(is, other)).check().expect_err(other);
            assert!(told.reason().contains(reason), "{told:?}");
        }
        assert!(Info::parse("").check().is_err());
    }
}
