//! What the server does at once: the scripts.

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, FromRedisValue, RedisError, ServerErrorKind};
use tokio::time::timeout;

use super::Keys;
use super::inspect::ask;
use crate::broker::link::{ANSWER, End};
use crate::event::Refusal;

const COMMON: &str = include_str!("scripts/common.lua");

/// The scripts as the server knows them.
#[derive(Clone, Debug)]
pub(super) struct Scripts {
    pub(super) publish: String,
    pub(super) notice: String,
    pub(super) remember: String,
    pub(super) take: String,
    pub(super) lease: String,
    pub(super) claim: String,
}

impl Scripts {
    /// Hands the scripts to the server, which forgets them when it starts anew.
    pub(super) async fn load(connection: &mut MultiplexedConnection) -> Result<Self, End> {
        Ok(Self {
            publish: load(connection, "", include_str!("scripts/publish.lua")).await?,
            // A server without free memory refuses events, but gateways stay current.
            notice: load(connection, "allow-oom", include_str!("scripts/notice.lua")).await?,
            remember: load(connection, "", include_str!("scripts/remember.lua")).await?,
            take: load(connection, "allow-oom", include_str!("scripts/take.lua")).await?,
            lease: load(connection, "allow-oom", include_str!("scripts/lease.lua")).await?,
            claim: load(connection, "", include_str!("scripts/claim.lua")).await?,
        })
    }
}

async fn load(connection: &mut MultiplexedConnection, flags: &str, script: &str) -> Result<String, End> {
    let text = format!("#!lua flags={flags}\n{COMMON}\n{script}");
    let mut command = redis::cmd("SCRIPT");
    command.arg("LOAD").arg(text);
    ask(connection, &command, "the server does not take a script").await
}

/// Calls a script that has no conditions of its own, for at most [`ANSWER`]. A server that has forgotten the scripts is given
/// them again.
pub(super) async fn run<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &redis::Cmd,
) -> Result<T, CallError> {
    loop {
        let answer = timeout(ANSWER, command.query_async(connection)).await;
        match answer.map_err(|_| CallError::Late)? {
            Err(error) if is_forgotten(&error) => {
                Scripts::load(connection).await.map_err(CallError::NotLoaded)?;
            }
            answer => return answer.map_err(CallError::Refused),
        }
    }
}

/// Why a call of a script has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// It may have been carried out.
    #[error("no answer in time")]
    Late,
    #[error("{}", .0.reason())]
    NotLoaded(End),
    #[error("{0}")]
    Refused(RedisError),
}

impl CallError {
    /// What the caller is told.
    pub(super) fn refusal(&self) -> Refusal {
        let code = match self {
            Self::Late => None,
            Self::NotLoaded(_) => return Refusal::Unavailable,
            Self::Refused(error) => error.code(),
        };
        // A script that is refused does not begin.
        match code {
            Some("OOM" | "MISCONF" | "NOREPLICAS" | "FULL") => Refusal::Rejected,
            Some("TERM" | "READONLY" | "MASTERDOWN" | "LOADING" | "BUSY" | "NOPERM" | "NOAUTH") => Refusal::Unavailable,
            // Of a Cluster: another node owns the slot, is about to, or none is known to.
            Some("MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN") => Refusal::Unavailable,
            _ => Refusal::Unknown,
        }
    }

    /// What the caller is told who wanted to store this. The log has the reason if the server does not take it.
    pub(super) fn refusal_of(&self, what: &'static str) -> Refusal {
        let refusal = self.refusal();
        if refusal == Refusal::Rejected {
            tracing::warn!(reason = %self, "the broker does not store {what}");
        }
        refusal
    }
}

fn is_forgotten(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

impl Keys {
    /// The call of a script.
    pub(super) fn call(&self, script: &str, keys: &[&str]) -> redis::Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script).arg(keys.len() + 1).arg(keys).arg(&self.none);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_whether_something_was_done() {
        let answered = |answer: &str| {
            let value = redis::parse_redis_value(answer.as_bytes()).and_then(redis::Value::extract_error);
            CallError::Refused(value.expect_err("an error")).refusal()
        };
        assert_eq!(answered("-OOM command not allowed\r\n"), Refusal::Rejected);
        assert_eq!(answered("-FULL the claims hold enough\r\n"), Refusal::Rejected);
        assert_eq!(answered("-TERM another term has begun\r\n"), Refusal::Unavailable);
        assert_eq!(answered("-READONLY a replica\r\n"), Refusal::Unavailable);
        for cluster in [
            "-MOVED 1 a:1\r\n",
            "-ASK 1 a:1\r\n",
            "-TRYAGAIN\r\n",
            "-CLUSTERDOWN down\r\n",
        ] {
            assert_eq!(answered(cluster), Refusal::Unavailable, "{cluster}");
        }
        assert_eq!(answered("-ERR within a script\r\n"), Refusal::Unknown);
        assert_eq!(CallError::Late.refusal(), Refusal::Unknown);
        let not_loaded = CallError::NotLoaded(End::Failed(String::new()));
        assert_eq!(not_loaded.refusal(), Refusal::Unavailable);
    }
}
