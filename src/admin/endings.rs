//! `GET /api/endings`: why clients left. Counts by close code, and the last endings of each shard; and how many handshakes were refused.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use super::access::Viewer;
use super::clients::{ShardTimedOut, ask, seconds};
use super::query::Query;
use super::routes::Call;
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::metrics::RefusalReason;
use crate::shard::mailbox::{EndedClient, ShardMessage};
use tickgate_protocol::disconnect::{Advice, Blame, Disconnect};

#[derive(Serialize)]
struct EndingsReply {
    counts: Vec<Count>,
    recent: Vec<Ending>,
    /// Handshakes that were refused since the start, by reason. Left out for one tenant, whose handshakes are not told apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<BTreeMap<&'static str, u64>>,
}

/// How often connections ended with a code since the start.
#[derive(Serialize)]
struct Count {
    code: u16,
    label: &'static str,
    reason: &'static str,
    blame: &'static str,
    advice: &'static str,
    count: u64,
}

/// One connection that has ended. Times are in Unix seconds.
#[derive(Serialize)]
pub(super) struct Ending {
    client_id: Box<str>,
    user: Option<Box<str>>,
    address: Option<IpAddr>,
    dialect: &'static str,
    code: u16,
    label: &'static str,
    reason: &'static str,
    blame: &'static str,
    connected_at: f64,
    ended_at: f64,
    message_count: u64,
    dropped: u64,
}

impl From<EndedClient> for Ending {
    fn from(ended: EndedClient) -> Self {
        let ending = ended.ending;
        Self {
            client_id: ended.client_id,
            user: ended.user.as_deref().map(Box::from),
            address: ended.address,
            dialect: ended.dialect,
            code: ending.code(),
            label: ending.label(),
            reason: ending.reason(),
            blame: blame(ending),
            connected_at: seconds(ended.connected_at_ms),
            ended_at: seconds(ended.ended_at_ms),
            message_count: ended.message_count,
            dropped: ended.dropped,
        }
    }
}

pub(super) const fn blame(ending: Disconnect) -> &'static str {
    match ending.blame() {
        Blame::Client => "client",
        Blame::Gateway => "gateway",
        Blame::Operator => "operator",
    }
}

const fn advice(ending: Disconnect) -> &'static str {
    match ending.advice() {
        Advice::Reconnect => "reconnect",
        Advice::ReconnectWithNewToken => "reconnect_with_new_token",
        Advice::ReconnectLater => "reconnect_later",
        Advice::Stay => "stay",
    }
}

impl Admin {
    /// The endings that the shards remember, newest first.
    pub(super) async fn ended_clients(&self) -> Result<Vec<EndedClient>, ShardTimedOut> {
        let mut recent = Vec::new();
        for shard in &self.parts.shards {
            let limit = usize::MAX;
            let endings = ask(shard, |reply| ShardMessage::Endings { limit, reply }).await?;
            recent.extend(endings.unwrap_or_default());
        }
        recent.sort_by_key(|ended| std::cmp::Reverse(ended.ended_at_ms));
        Ok(recent)
    }

    /// How many handshakes were refused, by reason.
    pub(super) fn handshakes_refused(&self) -> BTreeMap<&'static str, u64> {
        let reasons = RefusalReason::ALL.iter();
        reasons
            .map(|reason| (reason.label(), self.parts.ingress.refused(*reason)))
            .collect()
    }

    /// `GET /api/endings?limit&user&code&blame`
    pub(super) async fn endings(&self, viewer: Viewer, call: Call) -> HttpResponse {
        let query = match EndingsQuery::read(&call.query()) {
            Ok(query) => query,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, &message),
        };
        let mut recent = match self.ended_clients().await {
            Ok(recent) => recent,
            Err(timed_out) => return timed_out.0,
        };
        let sample = self.parts.statistics.read(self.parts.clock.now());
        let counted = if let Some(tenant) = viewer.scope() {
            recent.retain(|ended| ended.tenant == tenant);
            sample.tenant(tenant).endings
        } else {
            sample.total.endings
        };
        recent.retain(|ended| query.wants(ended));
        recent.truncate(query.limit);
        let counts = Disconnect::ALL.iter().zip(counted);
        let counts = counts.map(|(ending, count)| Count {
            code: ending.code(),
            label: ending.label(),
            reason: ending.reason(),
            blame: blame(*ending),
            advice: advice(*ending),
            count,
        });
        let reply = EndingsReply {
            counts: counts.collect(),
            recent: recent.into_iter().map(Ending::from).collect(),
            refused: viewer.scope().is_none().then(|| self.handshakes_refused()),
        };
        response::json(StatusCode::OK, &reply)
    }
}

/// The query of `GET /api/endings`.
#[derive(Debug, PartialEq, Eq)]
struct EndingsQuery {
    limit: usize,
    user: Option<Box<str>>,
    code: Option<u16>,
    blame: Option<Box<str>>,
}

impl EndingsQuery {
    /// Reads the parameters. The error is the message for the client.
    fn read(query: &Query<'_>) -> Result<Self, String> {
        let limit = query.limit()?;
        let is_code = |code: &u16| Disconnect::ALL.iter().any(|ending| ending.code() == *code);
        let code = match query.get("code")? {
            None => None,
            Some(code) => Some(
                code.parse()
                    .ok()
                    .filter(is_code)
                    .ok_or("`code` must be a close code, such as 4008")?,
            ),
        };
        let blame = query.get("blame")?;
        if blame
            .as_deref()
            .is_some_and(|blame| !matches!(blame, "client" | "gateway" | "operator"))
        {
            return Err("`blame` must be client, gateway or operator".to_owned());
        }
        Ok(Self {
            limit,
            user: query.get("user")?.map(|user| user.into_owned().into()),
            code,
            blame: blame.map(|blame| blame.into_owned().into()),
        })
    }

    fn wants(&self, ended: &EndedClient) -> bool {
        let is_user = self.user.is_none() || self.user.as_deref() == ended.user.as_deref();
        is_user && self.wants_ending(ended.ending)
    }

    fn wants_ending(&self, ending: Disconnect) -> bool {
        self.code.is_none_or(|code| code == ending.code())
            && self.blame.as_deref().is_none_or(|wanted| wanted == blame(ending))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_is_checked() {
        let read = |query| EndingsQuery::read(&Query::of(query));
        let all = read("").expect("valid");
        assert_eq!((all.limit, &all.user, all.code), (100, &None, None));
        let some = read("limit=7&user=u%201&code=4008&blame=client").expect("valid");
        assert_eq!(
            (some.limit, some.user.as_deref(), some.code),
            (7, Some("u 1"), Some(4008))
        );
        assert!(some.wants_ending(Disconnect::SlowConsumer) && !some.wants_ending(Disconnect::Lost));
        for wrong in ["limit=0", "limit=1001", "code=4000", "code=x", "blame=nobody"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
