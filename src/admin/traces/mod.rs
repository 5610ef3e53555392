//! `/api/traces`: everything that happens to a user, a connection or a channel, as lines, for a limited time.
//!
//! Invariant: a trace is bounded in time and in bytes, there are at most [`TRACES_MAX`] of the operators of all tenants and
//! [`TRACES_OF_TENANT_MAX`] of each tenant's administrators, and each one that begins is in the audit trail. Payloads are
//! for operators only, and the configured members in them are masked. The administrators of a tenant follow nothing of
//! another tenant, and see no trace but their own.

mod mask;

use std::fmt::Write as _;

use hyper::StatusCode;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::Admin;
use super::access::{Operator, Role, Viewer};
use super::act::Reason;
use super::query::Query;
use super::routes::Call;
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::shard::mailbox::{ConnectionId, ShardMessage, Trace, TraceLine, TraceTarget};
use crate::time::Now;
use tickgate_protocol::channel::{Channel, Tenant};

/// Traces of the operators of all tenants that run or are kept. Beginning one more ends the oldest.
const TRACES_MAX: usize = 8;
/// The same of the administrators of one tenant.
const TRACES_OF_TENANT_MAX: usize = 2;
/// How long a trace is kept after its end, in milliseconds.
const KEPT_MS: u64 = 600_000;
const SECONDS_DEFAULT: u64 = 60;
const SECONDS_MAX: u64 = 3600;
const BYTES_DEFAULT: u64 = 1 << 20;
const BYTES_MAX: u64 = 16 << 20;
/// Most lines of one answer.
const LINES_MAX: usize = 1000;

/// The traces of one gateway.
#[derive(Debug, Default)]
pub(super) struct Traces(Mutex<Store>);

#[derive(Debug, Default)]
struct Store {
    next: u64,
    traces: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    id: u64,
    // The tenant whose administrators began it; `None`: an operator of all.
    owner: Option<Tenant>,
    target: String,
    ends_ms: u64,
    bytes_max: u64,
    bytes: u64,
    lines: Vec<TraceLine>,
    receiver: Option<UnboundedReceiver<TraceLine>>,
    why: Option<&'static str>,
}

impl Running {
    /// Takes what the shards have told.
    fn take(&mut self, now: Now) {
        let Some(receiver) = &mut self.receiver else { return };
        let why = loop {
            match receiver.try_recv() {
                Ok(line) => {
                    self.bytes += line.weight();
                    self.lines.push(line);
                    if self.bytes >= self.bytes_max {
                        break Some("its bytes are used up");
                    }
                }
                Err(TryRecvError::Empty) => break (now.mono_ms >= self.ends_ms).then_some("its time is over"),
                Err(TryRecvError::Disconnected) if now.mono_ms >= self.ends_ms => break Some("its time is over"),
                Err(TryRecvError::Disconnected) => break Some("its bytes are used up"),
            }
        };
        if why.is_some() {
            self.end(why, now);
        }
    }

    fn end(&mut self, why: Option<&'static str>, now: Now) {
        self.receiver = None;
        self.why = self.why.or(why);
        self.ends_ms = self.ends_ms.min(now.mono_ms);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Begin {
    user: Option<Box<str>>,
    client_id: Option<Box<str>>,
    channel: Option<Box<str>>,
    seconds: Option<u64>,
    bytes: Option<u64>,
    reason: Option<String>,
}

#[derive(Serialize)]
struct TraceReply<'a> {
    id: String,
    target: &'a str,
    state: &'static str,
    why: Option<&'static str>,
    lines: Vec<Line>,
    next: usize,
}

/// One line, as it is shown.
#[derive(Serialize)]
struct Line {
    n: usize,
    at: u64,
    what: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Box<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

impl Line {
    fn of(n: usize, line: &TraceLine, role: Role, masked: &[Box<str>]) -> Self {
        let text = line.text.as_ref().filter(|_| role == Role::Operator);
        Self {
            n,
            at: line.at_ms,
            what: line.what,
            client_id: line.client_id.clone(),
            user: line.user.as_deref().map(Box::from),
            channel: line.channel.clone(),
            detail: line.detail.clone(),
            bytes: line.bytes,
            text: text.map(|text| mask::mask(&String::from_utf8_lossy(text), masked)),
        }
    }
}

impl Admin {
    /// `POST /api/traces`
    pub(super) async fn begin_trace(&self, operator: Operator, call: Call) -> HttpResponse {
        let (address, begin) = match self.small_body::<Begin>(call, &begin_help()).await {
            Ok(begin) => begin,
            Err(refused) => return *refused,
        };
        let (target, shown) = match target(&begin, (operator.tenant(), operator.scope())) {
            Ok(target) => target,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, &message),
        };
        let (seconds, bytes_max) = (
            begin.seconds.unwrap_or(SECONDS_DEFAULT),
            begin.bytes.unwrap_or(BYTES_DEFAULT),
        );
        if !(1..=SECONDS_MAX).contains(&seconds) || !(1..=BYTES_MAX).contains(&bytes_max) {
            let text = format!("`seconds` must be 1 to {SECONDS_MAX}, and `bytes` 1 to {BYTES_MAX}");
            return response::error(HttpErrorCode::InvalidMessage, &text);
        }
        let reason = Reason::given(begin.reason.as_deref(), &shown);
        self.operate("admin.trace", &operator, address, &reason, async {
            let now = self.parts.clock.now();
            let ends_ms = now.mono_ms + seconds * 1000;
            let (sender, receiver) = unbounded_channel();
            let owner = operator.bound();
            let id = self.traces.add((owner, &shown), ends_ms, bytes_max, receiver, now);
            for shard in &self.parts.shards {
                let trace = Trace {
                    id,
                    target: target.clone(),
                    ends_ms,
                    bytes_max,
                    lines: sender.clone(),
                };
                // A shard that has ended has no connections.
                let _ = shard.send(ShardMessage::BeginTrace(Box::new(trace)));
            }
            drop(sender);
            self.trace_page((id, owner), 0, Role::Operator, false)
        })
        .await
    }

    /// `GET /api/traces/{id}?from&format`
    #[expect(clippy::unused_async, reason = "the form of a handler")]
    pub(super) async fn trace(&self, viewer: Viewer, call: Call) -> HttpResponse {
        let (from, is_lines) = match read_query(&call.query()) {
            Ok(query) => query,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, &message),
        };
        match id_of(&call.segment) {
            Some(id) => self.trace_page((id, viewer.bound()), from, viewer.role(), is_lines),
            None => no_trace(),
        }
    }

    /// `DELETE /api/traces/{id}`
    #[expect(clippy::unused_async, reason = "the form of a handler")]
    pub(super) async fn end_trace(&self, operator: Operator, call: Call) -> HttpResponse {
        let now = self.parts.clock.now();
        let found = |id: &u64| self.traces.end((*id, operator.bound()), now);
        let Some(id) = id_of(&call.segment).filter(found) else {
            return no_trace();
        };
        for shard in &self.parts.shards {
            let _ = shard.send(ShardMessage::EndTrace { id });
        }
        response::empty(StatusCode::NO_CONTENT)
    }

    /// A page of a trace, for whoever administers the tenant `by`; `None`: all of them.
    fn trace_page(&self, (id, by): (u64, Option<Tenant>), from: usize, role: Role, is_lines: bool) -> HttpResponse {
        let now = self.parts.clock.now();
        let mut store = self.traces.0.lock();
        let Some(trace) = store.of(id, by) else {
            return no_trace();
        };
        trace.take(now);
        let shown = trace.lines.iter().enumerate().skip(from).take(LINES_MAX);
        let lines: Vec<_> = shown
            .map(|(n, line)| Line::of(n, line, role, &self.trace_masks))
            .collect();
        if is_lines {
            let mut text = String::new();
            for line in &lines {
                // The type has no map with keys other than strings.
                let _ = writeln!(text, "{}", serde_json::to_string(line).unwrap_or_default());
            }
            return response::with_body(StatusCode::OK, "application/x-ndjson", text);
        }
        let next = from + lines.len();
        let reply = TraceReply {
            id: format!("trace_{id}"),
            target: &trace.target,
            // The page may end before the last line.
            state: if trace.receiver.is_some() || next < trace.lines.len() {
                "running"
            } else {
                "ended"
            },
            why: trace.why,
            lines,
            next,
        };
        response::json(StatusCode::OK, &reply)
    }
}

impl Store {
    /// The trace with this number, if whoever administers the tenant `by` may see it; `None`: all tenants.
    fn of(&mut self, id: u64, by: Option<Tenant>) -> Option<&mut Running> {
        let mut traces = self.traces.iter_mut();
        traces.find(|trace| trace.id == id && (by.is_none() || trace.owner == by))
    }
}

impl Traces {
    fn add(
        &self,
        (owner, target): (Option<Tenant>, &str),
        ends_ms: u64,
        bytes_max: u64,
        lines: UnboundedReceiver<TraceLine>,
        now: Now,
    ) -> u64 {
        let mut store = self.0.lock();
        store.traces.iter_mut().for_each(|trace| trace.take(now));
        store
            .traces
            .retain(|trace| trace.receiver.is_some() || now.mono_ms < trace.ends_ms + KEPT_MS);
        let count_max = if owner.is_some() {
            TRACES_OF_TENANT_MAX
        } else {
            TRACES_MAX
        };
        let is_own = |trace: &Running| trace.owner == owner;
        if store.traces.iter().filter(|trace| is_own(trace)).count() >= count_max {
            let oldest = store.traces.iter().position(is_own);
            oldest.map(|oldest| store.traces.remove(oldest));
        }
        store.next += 1;
        let id = store.next;
        store.traces.push(Running {
            id,
            owner,
            target: target.to_owned(),
            ends_ms,
            bytes_max,
            bytes: 0,
            lines: Vec::new(),
            receiver: Some(lines),
            why: None,
        });
        id
    }

    /// Returns whether there was such a trace.
    fn end(&self, (id, by): (u64, Option<Tenant>), now: Now) -> bool {
        let mut store = self.0.lock();
        let Some(trace) = store.of(id, by) else {
            return false;
        };
        trace.take(now);
        trace.end(Some("an operator ended it"), now);
        true
    }
}

fn begin_help() -> String {
    format!(
        "the body must be a JSON object with one of `user`, `client_id` and `channel`, and may have `seconds` (to {SECONDS_MAX}), \
         `bytes` (to {BYTES_MAX}) and `reason`"
    )
}

/// What a trace follows, and how it is shown: a user or a channel of the tenant, or a connection within the scope. The error
/// is the message for the client.
fn target(begin: &Begin, (tenant, scope): (Tenant, Option<Tenant>)) -> Result<(TraceTarget, String), String> {
    match (&begin.user, &begin.client_id, &begin.channel) {
        (Some(user), None, None) => Ok((TraceTarget::User(tenant, user.clone()), format!("user {user}"))),
        (None, Some(client), None) => {
            let id = ConnectionId::from_client_id(client)
                .ok_or("`client_id` is not one, such as client_eea20ae900b6e11c")?;
            Ok((TraceTarget::Connection(scope, id), format!("connection {client}")))
        }
        (None, None, Some(channel)) => {
            let parsed = Channel::parse(channel).map_err(|error| format!("channel {channel:?} {error}"))?;
            Ok((
                TraceTarget::Channel(parsed.in_tenant(tenant)),
                format!("channel {channel}"),
            ))
        }
        _ => Err(begin_help()),
    }
}

fn id_of(text: &str) -> Option<u64> {
    text.strip_prefix("trace_")?.parse().ok()
}

fn no_trace() -> HttpResponse {
    response::error(
        HttpErrorCode::NotFound,
        "no such trace, or it ended more than ten minutes ago",
    )
}

/// The first line, and whether lines are wanted. The error is the message for the client.
fn read_query(query: &Query<'_>) -> Result<(usize, bool), String> {
    let from = query.get("from")?.map(|from| from.parse());
    let from = from
        .transpose()
        .map_err(|_| "`from` must be the `next` of another page")?;
    let is_lines = match query.get("format")?.as_deref() {
        None | Some("json") => false,
        Some("ndjson") => true,
        Some(_) => return Err("`format` must be json or ndjson".to_owned()),
    };
    Ok((from.unwrap_or(0), is_lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(mono_ms: u64) -> Now {
        Now { mono_ms, unix_ms: 0 }
    }

    fn line(length: usize) -> TraceLine {
        TraceLine {
            text: Some(vec![b'x'; length].into()),
            ..TraceLine::default()
        }
    }

    #[test]
    fn a_trace_ends_by_time_by_bytes_or_by_hand_and_the_oldest_makes_room() {
        let traces = Traces::default();
        let begin = |ends_ms, bytes| {
            let (sender, receiver) = unbounded_channel();
            (traces.add((None, "user u"), ends_ms, bytes, receiver, now(0)), sender)
        };
        let why = |id, at| {
            let mut store = traces.0.lock();
            let trace = store.traces.iter_mut().find(|trace| trace.id == id).expect("kept");
            trace.take(now(at));
            (trace.lines.len(), trace.why)
        };
        let (timed, sender) = begin(1_000, 1 << 20);
        sender.send(line(1)).expect("open");
        assert_eq!(why(timed, 999), (1, None));
        assert_eq!(why(timed, 1_000), (1, Some("its time is over")));
        assert!(sender.send(line(1)).is_err(), "shards notice the end");
        let (short, sender) = begin(1_000, 1_000);
        for _ in 0..3 {
            sender.send(line(500)).expect("open");
        }
        assert_eq!(why(short, 1), (2, Some("its bytes are used up")));
        let (ended, _sender) = begin(1_000, 1_000);
        assert!(traces.end((ended, None), now(5)) && !traces.end((99, None), now(5)));
        assert_eq!(why(ended, 6), (0, Some("an operator ended it")));
        for _ in 0..TRACES_MAX {
            begin(1_000, 1_000);
        }
        assert!(!traces.0.lock().traces.iter().any(|trace| trace.id == timed));
        assert_eq!(traces.0.lock().traces.len(), TRACES_MAX);
    }

    #[test]
    fn the_traces_of_a_tenant_are_its_own_and_displace_nobody_elses() {
        let traces = Traces::default();
        let begin = |owner| traces.add((owner, "user u"), 1_000, 1_000, unbounded_channel().1, now(0));
        let (one, two) = (Tenant::new(1), Tenant::new(2));
        let (of_all, of_one, of_two) = (begin(None), begin(one), begin(two));
        let seen = |by| [of_all, of_one, of_two].map(|id| traces.0.lock().of(id, by).is_some());
        assert_eq!(seen(None), [true, true, true]);
        assert_eq!(seen(one), [false, true, false]);
        assert!(!traces.end((of_two, one), now(5)) && !traces.end((of_all, one), now(5)));
        for _ in 0..TRACES_OF_TENANT_MAX {
            begin(one);
        }
        assert_eq!(seen(None), [true, false, true], "only its own oldest one made room");
        assert_eq!(traces.0.lock().traces.len(), 2 + TRACES_OF_TENANT_MAX);
    }

    #[test]
    fn a_viewer_sees_no_payload() {
        let line = line(3);
        let text = |role| Line::of(0, &line, role, &[]).text;
        assert_eq!(text(Role::Operator).as_deref(), Some("xxx"));
        assert_eq!(text(Role::Viewer), None);
    }
}
