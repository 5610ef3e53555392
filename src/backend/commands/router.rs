//! The router: from a command to its one answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use super::audit::Audit;
use super::backend::Backend;
use super::http::{BackendUrl, HttpBackend, Pool};
use super::keys::{Keys, Scope, Status};
use super::metrics::{CommandMetrics, CommandsSample};
use super::nats::NatsBackend;
use super::operation::{Answered, AnsweredCommand};
use super::pending::Pending;
use super::sharing;
use super::{
    BackendReply, CommandSource, Failure, Handler, Request, Responder, RouteSettings, Settings, Target, reply,
};
use crate::auth::Identity;
use crate::backend::lines::Lines;
use crate::backend::spans::{Kind, Span, Tracer};
use crate::broker::Broker;
use crate::broker::nats::Nats;
use crate::hub::snapshot::CommandRecord;
use crate::session::{Command, CommandOutcome};
use crate::shard::mailbox::ConnectionId;
use crate::time::unix_ms;
use tickgate_protocol::channel::{Channel, Pattern, Tenant, TenantNames};
use tickgate_protocol::message::{CommandKey, ErrorCode};

// Attempts of an idempotent command in all, and the wait before the second one. The wait doubles each time.
const ATTEMPTS_MAX: u32 = 3;
const BACK_OFF: Duration = Duration::from_millis(100);

/// Routes commands. There is one per gateway, shared by `Arc`.
pub struct Router {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

pub(super) struct Shared {
    routes: RwLock<Arc<Routes>>,
    transports: Transports,
    // One permit for each command in flight, by the number of its tenant. Each tenant has an equal share, so that none can
    // use up those of another.
    pub(super) permits: Box<[Arc<Semaphore>]>,
    permits_max: u32,
    pub(super) tenants: TenantNames,
    pub(super) per_connection_max: usize,
    pub(super) per_connection: Mutex<HashMap<ConnectionId, usize>>,
    pub(super) responder: Box<dyn Responder>,
    pub(super) audit: Audit,
    pub(super) broker: Arc<dyn Broker>,
    pub(super) tracer: Tracer,
    pub(super) answered: Answered,
    pub(super) keys: Mutex<Keys<Pending>>,
    pub(super) metrics: CommandMetrics,
    /// The lines of the log about outcomes that other gateways do not learn.
    pub(super) untold_lines: Lines,
    pub(super) phase: watch::Sender<Phase>,
    reply_bytes_max: AtomicUsize,
    // The origin of the keys' time. It is tokio's, so that tests can pause it.
    started: Instant,
    started_unix_ms: u64,
}

/// The phases of a router's life.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Commands are accepted.
    Open,
    /// New commands are refused; those in flight continue.
    Draining,
    /// Commands still in flight are given up.
    Stopped,
}

/// How commands reach backends.
struct Transports {
    pool: Pool,
    nats: Option<Arc<Nats>>,
}

/// The routes of one configuration, and their backends, each once.
#[derive(Default)]
pub(super) struct Routes {
    list: Vec<Route>,
    backends: Vec<(BackendId, Arc<Backend>)>,
}

pub(super) struct Route {
    pattern: Pattern,
    handler: Arc<dyn Handler>,
    pub(super) backend: Arc<Backend>,
    // One permit for each command in flight on this route.
    pub(super) permits: Arc<Semaphore>,
    pub(super) timeout: Duration,
    pub(super) idempotent: bool,
    pub(super) audit: bool,
}

impl Router {
    /// Creates a router that works on `runtime`, answers through `responder` and publishes audit events with `broker`.
    #[must_use]
    pub fn new(
        settings: Settings,
        responder: Box<dyn Responder>,
        broker: Arc<dyn Broker>,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let transports = {
            // The pool creates its timer within the runtime.
            let _entered = runtime.enter();
            let (pool, nats) = (Pool::default(), settings.nats);
            Transports { pool, nats }
        };
        let routes = Routes::new(
            settings.routes,
            &transports,
            settings.reply_bytes_max,
            &Routes::default(),
        );
        let tables = settings.tenants.tables();
        let share = (settings.in_flight_max / tables).clamp(1, Semaphore::MAX_PERMITS);
        let permits_max = u32::try_from(share).unwrap_or(u32::MAX);
        let shared = Shared {
            routes: RwLock::new(Arc::new(routes)),
            transports,
            permits: (0..tables)
                .map(|_| Arc::new(Semaphore::new(permits_max as usize)))
                .collect(),
            permits_max,
            tenants: settings.tenants,
            per_connection_max: settings.in_flight_per_connection_max,
            per_connection: Mutex::new(HashMap::new()),
            responder,
            audit: Audit::start(Arc::clone(&broker), &runtime, settings.audit_room),
            broker,
            tracer: settings.tracer,
            answered: Answered::default(),
            keys: Mutex::new(Keys::new(settings.keys)),
            metrics: CommandMetrics::default(),
            untold_lines: Lines::new(),
            phase: watch::Sender::new(Phase::Open),
            reply_bytes_max: AtomicUsize::new(settings.reply_bytes_max),
            started: Instant::now(),
            started_unix_ms: unix_ms(),
        };
        Self {
            shared: Arc::new(shared),
            runtime,
        }
    }

    /// Replaces the routes. Commands in flight end on the route that they began on. A backend that the new routes name, too,
    /// keeps its counters and its circuit breaker.
    pub fn replace(&self, routes: Vec<RouteSettings>, reply_bytes_max: usize) {
        self.shared.reply_bytes_max.store(reply_bytes_max, Relaxed);
        let mut current = self.shared.routes.write();
        *current = Arc::new(Routes::new(routes, &self.shared.transports, reply_bytes_max, &current));
    }

    /// Records a command that the session refused, if its route is audited: an audit trail must show forbidden attempts.
    pub fn forbidden(&self, client_id: &str, address: Option<IpAddr>, command: Command) {
        let routes = self.shared.routes();
        if routes.of(&command.action).is_some_and(|route| route.audit) {
            let outcome = refused(ErrorCode::Forbidden, "not allowed for this user".to_owned());
            self.shared
                .audit
                .record(&self.shared.request(client_id, command), address, &outcome, 0, None);
        }
    }

    /// Accepts a command and returns at once. The answer comes through the [`Responder`], exactly once.
    pub fn route(&self, source: CommandSource<'_>, command: Command) {
        let scope = command.key.as_ref().and_then(|_| Scope::of(&command.identity));
        let mut pending = Some(Pending::new(&self.shared, source, command));
        if let Some(scope) = scope {
            pending = pending.and_then(|command| command.begin(scope));
        }
        if let Some(pending) = pending {
            // A runtime that has shut down drops the task, and dropping `pending` answers the command.
            self.runtime.spawn(pending.run());
        }
    }

    /// Answers request `request` of `to` with what is known of a key of the identity's user, here or at the broker.
    pub fn status(&self, to: ConnectionId, request: u32, identity: &Identity, key: &CommandKey) {
        let shared = Arc::clone(&self.shared);
        let Some(scope) = Scope::of(identity) else {
            return shared.responder.respond(to, request, sharing::unknown_key());
        };
        let known = shared.keys.lock().status(&scope, key, shared.now_ms());
        if known.is_some() || shared.broker.claims().is_none() {
            return shared.tell_status(to, request, known.ok_or_else(sharing::unknown_key));
        }
        let name = sharing::name(&scope, key, &shared.tenants);
        self.runtime.spawn(async move {
            let status = match shared.broker.claims() {
                Some(claims) => sharing::status(claims, &name, shared.now_unix_ms()).await,
                None => Err(sharing::unknown_key()),
            };
            shared.tell_status(to, request, status);
        });
    }

    /// The keys with an outcome, for the snapshot. To be called after the last command has ended.
    #[must_use]
    pub fn export_keys(&self) -> Vec<CommandRecord> {
        self.shared.keys.lock().export(self.shared.now_ms(), unix_ms())
    }

    /// Restores the keys of a snapshot. Returns how many found no room.
    pub fn restore_keys(&self, records: Vec<CommandRecord>) -> usize {
        self.shared
            .keys
            .lock()
            .restore(records, self.shared.now_ms(), unix_ms())
    }

    /// Waits up to `deadline` for the commands in flight, then answers the rest with `TIMEOUT`.
    ///
    /// New commands are refused from the call on. The gateway calls this after the last connection has ended: the commands
    /// in flight then belong to clients that are gone, but are still carried out and audited.
    pub async fn drain(&self, deadline: Duration) {
        self.shared.phase.send_replace(Phase::Draining);
        let all = async {
            for permits in &self.shared.permits {
                let _ = permits.acquire_many(self.shared.permits_max).await;
            }
        };
        let _ = tokio::time::timeout(deadline, all).await;
        self.shared.phase.send_replace(Phase::Stopped);
    }

    /// The commands of a tenant's user that were answered last, newest first.
    #[must_use]
    pub fn answered(&self, tenant: Tenant, user: &str, limit: usize) -> Vec<AnsweredCommand> {
        self.shared.answered.of_user(tenant, user, limit)
    }

    pub(super) fn audit(&self) -> &Audit {
        &self.shared.audit
    }

    /// The bytes that commands in flight and the outcomes of keys hold.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let in_flight = u64::try_from(self.shared.metrics.bytes.get()).unwrap_or(0);
        in_flight + self.shared.keys.lock().kept_bytes() as u64
    }

    /// Reads the counters.
    #[must_use]
    pub fn read(&self) -> CommandsSample {
        let routes = self.shared.routes();
        let backends = routes.backends.iter().map(|(_, backend)| backend.read()).collect();
        let keys = {
            let mut keys = self.shared.keys.lock();
            keys.expire(self.shared.now_ms());
            (keys.len(), keys.kept_bytes())
        };
        self.shared.metrics.read(self.shared.audit.read(), keys, backends)
    }
}

impl Shared {
    pub(super) fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.read())
    }

    /// Milliseconds since the router was created.
    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The time of the keys in Unix milliseconds, which other gateways understand. A clock that is set back does not stop it.
    pub(super) fn now_unix_ms(&self) -> u64 {
        unix_ms().max(self.started_unix_ms.saturating_add(self.now_ms()))
    }

    /// The length of the longest outcome of a command.
    pub(super) fn reply_bytes_max(&self) -> usize {
        self.reply_bytes_max.load(Relaxed)
    }

    fn tell_status(&self, to: ConnectionId, request: u32, status: Result<Status, CommandOutcome>) {
        let outcome = status.map_or_else(
            |refusal| refusal,
            |status| CommandOutcome::Success {
                data: reply::status(&status),
            },
        );
        self.responder.respond(to, request, outcome);
    }

    pub(super) fn request(&self, client_id: &str, command: Command) -> Request {
        Request::new(&self.tenants, client_id, command)
    }
}

impl Routes {
    /// `before`: the routes that these replace, whose backends they share.
    fn new(settings: Vec<RouteSettings>, transports: &Transports, reply_bytes_max: usize, before: &Self) -> Self {
        let mut routes = Self::default();
        for route in settings {
            let (id, handler) = handler(&route, transports, reply_bytes_max);
            let backend = routes.backend(id, before);
            routes.list.push(Route {
                pattern: route.pattern,
                handler,
                backend,
                permits: Arc::new(Semaphore::new(route.in_flight_max.min(Semaphore::MAX_PERMITS))),
                timeout: route.timeout,
                idempotent: route.idempotent,
                audit: route.audit,
            });
        }
        routes
    }

    /// The backend with this id: one of these routes, one of the routes `before`, or a new one.
    fn backend(&mut self, id: BackendId, before: &Self) -> Arc<Backend> {
        let find = |backends: &[(BackendId, Arc<Backend>)]| {
            let known = backends.iter().find(|(known, _)| *known == id);
            known.map(|(_, backend)| Arc::clone(backend))
        };
        if let Some(backend) = find(&self.backends) {
            return backend;
        }
        let backend = find(&before.backends).unwrap_or_else(|| {
            let others = self.backends.iter().chain(&before.backends);
            Arc::new(Backend::new(
                id.tenant,
                id.name(|name| others.clone().any(|(_, other)| other.name() == name)),
            ))
        });
        self.backends.push((id, Arc::clone(&backend)));
        backend
    }

    /// The first route that matches the action.
    pub(super) fn of(&self, action: &Channel) -> Option<&Route> {
        self.list.iter().find(|route| route.pattern.matches(action))
    }
}

/// What tells one backend from another: routes with the same one share a circuit breaker.
#[derive(PartialEq, Eq)]
struct BackendId {
    // A backend that fails one tenant's commands must not be refused to another.
    tenant: Tenant,
    target: TargetId,
}

#[derive(PartialEq, Eq)]
enum TargetId {
    Url(BackendUrl),
    Name(Box<str>),
}

impl BackendId {
    /// The name in logs and metrics, one that is not taken. It shows no query, so two URLs may look the same.
    fn name(&self, is_taken: impl Fn(&str) -> bool) -> Box<str> {
        let name = match &self.target {
            TargetId::Url(url) => url.to_string(),
            TargetId::Name(name) => name.to_string(),
        };
        let mut numbered = (2..).map(|number| format!("{name} ({number})"));
        if !is_taken(&name) {
            return name.into();
        }
        numbered.find(|name| !is_taken(name)).unwrap_or_default().into()
    }
}

fn handler(route: &RouteSettings, transports: &Transports, reply_bytes_max: usize) -> (BackendId, Arc<dyn Handler>) {
    let (target, handler): (_, Arc<dyn Handler>) = match &route.target {
        Target::Http(http) => (
            TargetId::Url(http.url.clone()),
            Arc::new(HttpBackend::new(&transports.pool, http, reply_bytes_max)),
        ),
        Target::Nats { hmac_secret } => {
            // A backend that has got stuck keeps the commands that it got, and another one may answer the next attempt.
            let patience = route.idempotent.then(|| route.timeout / (ATTEMPTS_MAX + 1));
            let nats = transports.nats.clone();
            (
                TargetId::Name(format!("nats {}", route.pattern.as_str()).into()),
                Arc::new(NatsBackend::new(nats, hmac_secret.as_ref(), patience, reply_bytes_max)),
            )
        }
        Target::InProcess { name, handler } => (TargetId::Name(name.clone()), Arc::clone(handler)),
    };
    let tenant = route.pattern.tenant();
    (BackendId { tenant, target }, handler)
}

pub(super) fn length(params: &[u8]) -> i64 {
    i64::try_from(params.len()).unwrap_or(i64::MAX)
}

impl Route {
    /// `may_be_sent` tells at any time whether the backend may have seen the command, also if the future is dropped. Each
    /// attempt is a span within `span`.
    pub(super) async fn carry_out(
        &self,
        shared: &Shared,
        request: &Request,
        span: &Span,
        may_be_sent: &mut bool,
    ) -> CommandOutcome {
        let mut back_off = BACK_OFF;
        for attempt in 1.. {
            let was_sent = std::mem::replace(may_be_sent, true);
            let mut span = span.child(Kind::Client, || self.backend.name().to_owned());
            span.set("tickgate.attempt", u64::from(attempt));
            let traced = span.is_recorded().then(|| Request {
                trace: span.trace_parent(),
                ..request.clone()
            });
            let request = traced.as_ref().unwrap_or(request);
            let failure = match self.backend.attempt(&*self.handler, request).await {
                Ok(Ok(BackendReply::Success(data))) => return CommandOutcome::Success { data },
                Ok(Ok(BackendReply::Failure(error))) => return CommandOutcome::Failure { error },
                Ok(Err(failure)) => {
                    *may_be_sent = was_sent || !matches!(failure, Failure::Unreachable(_));
                    failure
                }
                Err(retry_after_ms) => {
                    *may_be_sent = was_sent;
                    span.fail("the circuit breaker is open");
                    let message = format!("the backend has failed repeatedly; try again in {retry_after_ms} ms");
                    return refused(ErrorCode::BackendUnavailable, message);
                }
            };
            span.fail(failure.to_string());
            drop(span);
            if let Some(left_out) = self.backend.failure_lines.take() {
                tracing::warn!(
                    backend = self.backend.name(),
                    action = request.action.as_str(),
                    attempt,
                    detail = failure.detail(),
                    left_out,
                    "{failure}"
                );
            }
            if !self.idempotent || attempt >= ATTEMPTS_MAX || !failure.is_transient() {
                return refused(ErrorCode::BackendUnavailable, failure.to_string());
            }
            tokio::time::sleep(back_off).await;
            back_off *= 2;
            shared.metrics.retries.add(1);
        }
        unreachable!("the loop ends by returning")
    }
}

pub(super) fn refused(code: ErrorCode, message: String) -> CommandOutcome {
    CommandOutcome::Refused {
        code,
        message: message.into(),
    }
}
