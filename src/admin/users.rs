//! `GET /api/users/{sub}`: one user, with permissions as resolved, and `/explain`: what the user may do, and by which rule.
//!
//! Invariant: a user is one of a tenant. The user of another tenant with the same name is somebody else.

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use super::access::Viewer;
use super::clients::{Client, ShardTimedOut, ask, seconds};
use super::endings::Ending;
use super::query::Query;
use super::routes::Call;
use crate::auth::{Explanation, Identity};
use crate::backend::commands::AnsweredCommand;
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::shard::mailbox::{ClientFilter, ClientInfo, ShardMessage};
use tickgate_protocol::channel::{Channel, Pattern, Tenant};

/// Connections that are shown of one user.
const CONNECTIONS_MAX: usize = 100;
/// Commands and endings that are shown.
const LAST_MAX: usize = 50;

#[derive(Serialize)]
struct UserReply<'a> {
    user: &'a str,
    connections: Vec<UserConnection>,
    commands: Vec<Command>,
    endings: Vec<Ending>,
}

#[derive(Serialize)]
struct UserConnection {
    #[serde(flatten)]
    client: Client,
    expires_at: Option<f64>,
    /// The token's `jti`, by which it can be revoked.
    token_id: Option<Box<str>>,
    issued_at: Option<f64>,
    permissions: Option<PermissionsReply>,
    subscribed: Vec<Subscribed>,
}

#[derive(Serialize)]
struct PermissionsReply {
    admin: bool,
    channels: Vec<String>,
    commands: Vec<String>,
    publish: Vec<String>,
}

#[derive(Serialize)]
struct Subscribed {
    pattern: String,
    rule: String,
    /// The newest offset of a channel with history; null for a pattern with `*`.
    offset: Option<u64>,
}

#[derive(Serialize)]
struct Command {
    action: String,
    outcome: &'static str,
    code: Option<Box<str>>,
    received_at: f64,
    duration_ms: u64,
    client_id: Box<str>,
}

#[derive(Serialize)]
struct Verdict {
    allowed: bool,
    rule: String,
}

impl From<AnsweredCommand> for Command {
    fn from(command: AnsweredCommand) -> Self {
        Self {
            action: command.action.to_string(),
            outcome: command.outcome,
            code: command.code,
            received_at: seconds(command.received_at_ms),
            duration_ms: command.duration_ms,
            client_id: command.client_id,
        }
    }
}

impl From<&Identity> for PermissionsReply {
    fn from(identity: &Identity) -> Self {
        let texts = |patterns: &[Pattern]| patterns.iter().map(Pattern::to_string).collect();
        let permissions = &identity.permissions;
        Self {
            admin: permissions.admin,
            channels: texts(&permissions.channels),
            commands: texts(&permissions.commands),
            publish: texts(&permissions.publish),
        }
    }
}

impl Admin {
    /// `GET /api/users/{sub}`
    pub(super) async fn user(&self, viewer: Viewer, call: Call) -> HttpResponse {
        let (tenant, user) = (viewer.tenant(), &*call.segment);
        let connections = match self.connections_of(tenant, user).await {
            Ok(connections) => connections,
            Err(timed_out) => return timed_out.0,
        };
        let endings = match self.ended_clients().await {
            Ok(endings) => endings,
            Err(timed_out) => return timed_out.0,
        };
        let endings =
            (endings.into_iter()).filter(|ended| ended.tenant == tenant && ended.user.as_deref() == Some(user));
        let commands = self.parts.router.answered(tenant, user, LAST_MAX);
        let reply = UserReply {
            user,
            connections: connections.into_iter().map(|info| self.user_connection(info)).collect(),
            commands: commands.into_iter().map(Command::from).collect(),
            endings: endings.take(LAST_MAX).map(Ending::from).collect(),
        };
        response::json(StatusCode::OK, &reply)
    }

    /// `GET /api/users/{sub}/explain?subscribe|command|publish`
    pub(super) async fn explain(&self, viewer: Viewer, call: Call) -> HttpResponse {
        let question = match Question::read(&call.query()) {
            Ok(question) => question,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, &message),
        };
        let connections = match self.connections_of(viewer.tenant(), &call.segment).await {
            Ok(connections) => connections,
            Err(timed_out) => return timed_out.0,
        };
        let Some(identity) = connections.iter().find_map(|info| info.identity.as_deref()) else {
            let text = "this user has no connection, so their permissions are not known: they stand in the token";
            return response::error(HttpErrorCode::NotFound, text);
        };
        let (allowed, rule) = match question.answer(identity) {
            Ok(rule) => (true, rule),
            Err(reason) => (false, reason),
        };
        response::json(StatusCode::OK, &Verdict { allowed, rule })
    }

    async fn connections_of(&self, tenant: Tenant, user: &str) -> Result<Vec<ClientInfo>, ShardTimedOut> {
        let mut connections = Vec::new();
        for shard in &self.parts.shards {
            let mut next = Some(0);
            while let Some(from_slot) = next.filter(|_| connections.len() < CONNECTIONS_MAX) {
                let filter = ClientFilter {
                    tenant: Some(tenant),
                    user: Some(user.into()),
                    search: None,
                };
                let page = ask(shard, |reply| ShardMessage::Clients {
                    from_slot,
                    limit: CONNECTIONS_MAX - connections.len(),
                    filter,
                    reply,
                });
                let page = page.await?.unwrap_or_default();
                connections.extend(page.clients);
                next = page.next_slot;
            }
        }
        Ok(connections)
    }

    fn user_connection(&self, info: ClientInfo) -> UserConnection {
        let identity = info.identity.clone();
        let subscribed = |text: &str| {
            let pattern = Pattern::parse(text).ok()?;
            let identity = identity.as_ref()?;
            let pattern = pattern.in_tenant(identity.tenant);
            let (Ok(rule) | Err(rule)) = identity.explain_subscribe(&pattern);
            let offset = pattern.to_channel().and_then(|channel| self.newest_offset(&channel));
            Some(Subscribed {
                pattern: text.to_owned(),
                rule,
                offset,
            })
        };
        UserConnection {
            subscribed: info.subscriptions.iter().filter_map(|text| subscribed(text)).collect(),
            expires_at: identity.as_ref().and_then(|identity| identity.exp_ms).map(seconds),
            token_id: identity.as_ref().and_then(|identity| identity.token_id.clone()),
            issued_at: identity
                .as_ref()
                .and_then(|identity| identity.issued_at_ms)
                .map(seconds),
            permissions: identity.as_deref().map(PermissionsReply::from),
            client: Client::of(info, &self.tenants),
        }
    }
}

/// What a user might do.
#[derive(Debug)]
enum Question {
    Subscribe(Pattern),
    Command(Channel),
    Publish(Channel),
}

impl Question {
    /// Reads the parameters. The error is the message for the client.
    fn read(query: &Query<'_>) -> Result<Self, String> {
        let channel =
            |name: &str, text: &str| Channel::parse(text).map_err(|error| format!("`{name}` {text:?} {error}"));
        let given = (query.get("subscribe")?, query.get("command")?, query.get("publish")?);
        match given {
            (Some(text), None, None) => Pattern::parse(&text)
                .map(Self::Subscribe)
                .map_err(|error| format!("`subscribe` {text:?} {error}")),
            (None, Some(text), None) => channel("command", &text).map(Self::Command),
            (None, None, Some(text)) => channel("publish", &text).map(Self::Publish),
            _ => Err("give one of `subscribe`, `command` and `publish`".to_owned()),
        }
    }

    fn answer(self, identity: &Identity) -> Explanation {
        let tenant = identity.tenant;
        match self {
            Self::Subscribe(pattern) => identity.explain_subscribe(&pattern.in_tenant(tenant)),
            Self::Command(action) => identity.explain_command(&action.in_tenant(tenant)),
            Self::Publish(channel) => identity.explain_publish(&channel.in_tenant(tenant)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_is_asked_at_a_time() {
        let read = |query| Question::read(&Query::of(query));
        assert!(matches!(read("subscribe=grid.*"), Ok(Question::Subscribe(pattern)) if pattern.as_str() == "grid.*"));
        assert!(matches!(read("command=grid.start"), Ok(Question::Command(_))));
        assert!(matches!(read("publish=grid.a"), Ok(Question::Publish(_))));
        for wrong in ["", "subscribe=a&publish=b", "subscribe=a..b", "publish=grid.*"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
