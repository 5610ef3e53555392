//! The router: from a command to its one answer.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use super::audit::{Audit, NoRoom, Reservation};
use super::backend::Backend;
use super::http::{BackendUrl, HttpBackend, Pool};
use super::metrics::{CommandMetrics, CommandsSample};
use super::{BackendReply, CommandSource, Handler, Request, Responder, RouteSettings, Settings, Target};
use crate::broker::Broker;
use crate::pause;
use crate::session::{Command, CommandOutcome};
use crate::shard::mailbox::ConnectionId;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::message::ErrorCode;

// Attempts of an idempotent command in all, and the wait before the second one. The wait doubles each time.
const ATTEMPTS_MAX: u32 = 3;
const BACK_OFF: Duration = Duration::from_millis(100);

/// Routes commands. There is one per gateway, shared by `Arc`.
pub struct Router {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

struct Shared {
    routes: RwLock<Arc<Routes>>,
    pool: Pool,
    // One permit for each command in flight.
    permits: Arc<Semaphore>,
    permits_max: u32,
    per_connection_max: usize,
    per_connection: Mutex<HashMap<ConnectionId, usize>>,
    responder: Box<dyn Responder>,
    audit: Audit,
    metrics: CommandMetrics,
    phase: watch::Sender<Phase>,
}

/// The phases of a router's life.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Commands are accepted.
    Open,
    /// New commands are refused; those in flight continue.
    Draining,
    /// Commands still in flight are given up.
    Stopped,
}

/// The routes of one configuration, and their backends, each once.
#[derive(Default)]
struct Routes {
    list: Vec<Route>,
    backends: Vec<(BackendId, Arc<Backend>)>,
}

struct Route {
    pattern: Pattern,
    handler: Arc<dyn Handler>,
    backend: Arc<Backend>,
    // One permit for each command in flight on this route.
    permits: Arc<Semaphore>,
    timeout: Duration,
    idempotent: bool,
    audit: bool,
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
        let pool = {
            // The pool creates its timer within the runtime.
            let _entered = runtime.enter();
            Pool::default()
        };
        let routes = Routes::new(settings.routes, &pool, settings.reply_bytes_max, &Routes::default());
        let permits_max = u32::try_from(settings.in_flight_max.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let shared = Shared {
            routes: RwLock::new(Arc::new(routes)),
            pool,
            permits: Arc::new(Semaphore::new(permits_max as usize)),
            permits_max,
            per_connection_max: settings.in_flight_per_connection_max,
            per_connection: Mutex::new(HashMap::new()),
            responder,
            audit: Audit::start(broker, &runtime, settings.audit_room),
            metrics: CommandMetrics::default(),
            phase: watch::Sender::new(Phase::Open),
        };
        Self {
            shared: Arc::new(shared),
            runtime,
        }
    }

    /// Replaces the routes. Commands in flight end on the route that they began on. A backend that the new routes name, too,
    /// keeps its counters and its circuit breaker.
    pub fn replace(&self, routes: Vec<RouteSettings>, reply_bytes_max: usize) {
        let mut current = self.shared.routes.write();
        *current = Arc::new(Routes::new(routes, &self.shared.pool, reply_bytes_max, &current));
    }

    /// Records a command that the session refused, if its route is audited: an audit trail must show forbidden attempts.
    pub fn forbidden(&self, client_id: &str, address: Option<IpAddr>, command: Command) {
        let routes = self.shared.routes();
        if routes.of(&command.action).is_some_and(|route| route.audit) {
            let outcome = refused(ErrorCode::Forbidden, "not allowed for this user".to_owned());
            self.shared
                .audit
                .record(&Request::new(client_id, command), address, &outcome, 0, None);
        }
    }

    /// Accepts a command and returns at once. The answer comes through the [`Responder`], exactly once.
    pub fn route(&self, source: CommandSource<'_>, command: Command) {
        self.shared.metrics.received.add(1);
        self.shared.metrics.in_flight.add(1);
        self.shared.metrics.bytes.add(length(&command.params));
        let pending = Pending {
            shared: Arc::clone(&self.shared),
            to: source.connection,
            number: source.request,
            address: source.address,
            request: Request::new(source.client_id, command),
            audit: false,
            reservation: None,
            received: Instant::now(),
            answered: false,
        };
        // A runtime that has shut down drops the task, and dropping `pending` answers the command.
        self.runtime.spawn(pending.run());
    }

    /// Waits up to `deadline` for the commands in flight, then answers the rest with `TIMEOUT`.
    ///
    /// New commands are refused from the call on. The gateway calls this after the last connection has ended: the commands
    /// in flight then belong to clients that are gone, but are still carried out and audited.
    pub async fn drain(&self, deadline: Duration) {
        self.shared.phase.send_replace(Phase::Draining);
        let all = self.shared.permits.acquire_many(self.shared.permits_max);
        let _ = tokio::time::timeout(deadline, all).await;
        self.shared.phase.send_replace(Phase::Stopped);
    }

    /// The bytes that commands in flight hold.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        u64::try_from(self.shared.metrics.bytes.get()).unwrap_or(0)
    }

    /// Reads the counters.
    #[must_use]
    pub fn read(&self) -> CommandsSample {
        let routes = self.shared.routes();
        let backends = routes.backends.iter().map(|(_, backend)| backend.read()).collect();
        self.shared.metrics.read(self.shared.audit.read(), backends)
    }
}

impl Shared {
    fn routes(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.read())
    }
}

impl Routes {
    /// `before`: the routes that these replace, whose backends they share.
    fn new(settings: Vec<RouteSettings>, pool: &Pool, reply_bytes_max: usize, before: &Self) -> Self {
        let mut routes = Self::default();
        for route in settings {
            let (id, handler) = handler(&route, pool, reply_bytes_max);
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
                id.name(|name| others.clone().any(|(_, other)| other.name() == name)),
            ))
        });
        self.backends.push((id, Arc::clone(&backend)));
        backend
    }

    /// The first route that matches the action.
    fn of(&self, action: &Channel) -> Option<&Route> {
        self.list.iter().find(|route| route.pattern.matches(action))
    }
}

/// What tells one backend from another: routes with the same one share a circuit breaker.
#[derive(PartialEq, Eq)]
enum BackendId {
    Url(BackendUrl),
    Name(Box<str>),
}

impl BackendId {
    /// The name in logs and metrics, one that is not taken. It shows no query, so two URLs may look the same.
    fn name(&self, is_taken: impl Fn(&str) -> bool) -> Box<str> {
        let name = match self {
            Self::Url(url) => url.to_string(),
            Self::Name(name) => name.to_string(),
        };
        let mut numbered = (2..).map(|number| format!("{name} ({number})"));
        if !is_taken(&name) {
            return name.into();
        }
        numbered.find(|name| !is_taken(name)).unwrap_or_default().into()
    }
}

fn handler(route: &RouteSettings, pool: &Pool, reply_bytes_max: usize) -> (BackendId, Arc<dyn Handler>) {
    match &route.target {
        Target::Http(http) => (
            BackendId::Url(http.url.clone()),
            Arc::new(HttpBackend::new(pool, http, reply_bytes_max)),
        ),
        Target::InProcess { name, handler } => (BackendId::Name(name.clone()), Arc::clone(handler)),
    }
}

fn length(params: &[u8]) -> i64 {
    i64::try_from(params.len()).unwrap_or(i64::MAX)
}

/// A command that is not answered yet. Dropping it answers it, so that a panic or the end of the runtime loses no command.
struct Pending {
    shared: Arc<Shared>,
    to: ConnectionId,
    number: u32,
    address: Option<IpAddr>,
    request: Request,
    audit: bool,
    // Room for the audit line, if the trail needs some.
    reservation: Option<Reservation>,
    received: Instant,
    answered: bool,
}

impl Pending {
    async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let routes = shared.routes();
        let Some(route) = routes.of(&self.request.action) else {
            let message = format!("no route for action {}", self.request.action);
            return self.answer(refused(ErrorCode::UnknownAction, message));
        };
        self.audit = route.audit;
        let deadline = self.received + route.timeout;
        // Before the command takes permits, so that commands of other routes find theirs however many wait here.
        if route.audit {
            match self.reserve(deadline).await {
                Ok(reservation) => self.reservation = reservation,
                Err(NoRoom) => {
                    let message =
                        "the audit trail cannot be written, so the command was not carried out; try again later";
                    return self.answer(refused(ErrorCode::BackendUnavailable, message.to_owned()));
                }
            }
        }
        // Held until after the answer: a drain that has acquired all permits then knows that all commands are answered.
        let _permit = match InFlightPermit::new(&shared, route, self.to) {
            Ok(permit) => permit,
            Err(outcome) => return self.answer(outcome),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let mut phase = shared.phase.subscribe();
        let outcome = tokio::select! {
            result = pause::timeout(left, route.carry_out(&shared, &self.request)) => match result {
                Ok(outcome) => outcome,
                Err(_) => {
                    let ms = route.timeout.as_millis();
                    tracing::warn!(
                        backend = route.backend.name(),
                        action = self.request.action.as_str(),
                        timeout_ms = ms,
                        "no reply in time"
                    );
                    refused(ErrorCode::Timeout, format!("no reply within {ms} ms; the outcome is unknown"))
                }
            },
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {
                let message = "the gateway restarted before the reply; the outcome is unknown";
                refused(ErrorCode::Timeout, message.to_owned())
            }
        };
        self.answer(outcome);
    }

    /// Room for the audit line. Without room, the command is not carried out.
    async fn reserve(&self, deadline: Instant) -> Result<Option<Reservation>, NoRoom> {
        let mut phase = self.shared.phase.subscribe();
        tokio::select! {
            biased;
            reservation = self.shared.audit.reserve(deadline) => reservation,
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => Err(NoRoom),
        }
    }

    fn answer(mut self, outcome: CommandOutcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: CommandOutcome) {
        self.answered = true;
        if self.audit {
            let duration_ms = u64::try_from(self.received.elapsed().as_millis()).unwrap_or(u64::MAX);
            let reservation = self.reservation.take();
            self.shared
                .audit
                .record(&self.request, self.address, &outcome, duration_ms, reservation);
        }
        self.shared.metrics.answered(&outcome);
        self.shared.metrics.in_flight.add(-1);
        self.shared.metrics.bytes.add(-length(&self.request.params));
        self.shared.responder.respond(self.to, self.number, outcome);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.answered {
            let message = "the gateway failed before the reply; the outcome is unknown";
            self.finish(refused(ErrorCode::Internal, message.to_owned()));
        }
    }
}

/// A command's permits of the three limits in flight: in all, of its route, and of its connection.
struct InFlightPermit<'a> {
    shared: &'a Shared,
    connection: ConnectionId,
    _in_all: OwnedSemaphorePermit,
    _of_route: OwnedSemaphorePermit,
}

impl<'a> InFlightPermit<'a> {
    /// Takes the permits. The error is the answer to the command. Only the limit of one connection is the client's own
    /// doing, so only that one is `RATE_LIMITED`.
    fn new(shared: &'a Shared, route: &Route, connection: ConnectionId) -> Result<Self, CommandOutcome> {
        let full = || {
            refused(
                ErrorCode::BackendUnavailable,
                "too many commands in flight; try again".to_owned(),
            )
        };
        if *shared.phase.borrow() != Phase::Open {
            return Err(refused(
                ErrorCode::BackendUnavailable,
                "the gateway is restarting; the command was not carried out".to_owned(),
            ));
        }
        let in_all = Arc::clone(&shared.permits).try_acquire_owned().map_err(|_| full())?;
        let of_route = Arc::clone(&route.permits).try_acquire_owned().map_err(|_| full())?;
        let mut per_connection = shared.per_connection.lock();
        let in_flight = per_connection.get(&connection).copied().unwrap_or(0);
        if in_flight >= shared.per_connection_max {
            let message = format!("{in_flight} commands of this connection are in flight already");
            return Err(refused(ErrorCode::RateLimited, message));
        }
        per_connection.insert(connection, in_flight + 1);
        drop(per_connection);
        Ok(Self {
            shared,
            connection,
            _in_all: in_all,
            _of_route: of_route,
        })
    }
}

impl Drop for InFlightPermit<'_> {
    fn drop(&mut self) {
        let mut per_connection = self.shared.per_connection.lock();
        if let hashbrown::hash_map::Entry::Occupied(mut entry) = per_connection.entry(self.connection) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

impl Route {
    async fn carry_out(&self, shared: &Shared, request: &Request) -> CommandOutcome {
        let mut back_off = BACK_OFF;
        for attempt in 1.. {
            let failure = match self.backend.attempt(&*self.handler, request).await {
                Ok(Ok(BackendReply::Success(data))) => return CommandOutcome::Success { data },
                Ok(Ok(BackendReply::Failure(error))) => return CommandOutcome::Failure { error },
                Ok(Err(failure)) => failure,
                Err(retry_after_ms) => {
                    let message = format!("the backend has failed repeatedly; try again in {retry_after_ms} ms");
                    return refused(ErrorCode::BackendUnavailable, message);
                }
            };
            tracing::warn!(
                backend = self.backend.name(),
                action = request.action.as_str(),
                attempt,
                detail = failure.detail(),
                "{failure}"
            );
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

fn refused(code: ErrorCode, message: String) -> CommandOutcome {
    CommandOutcome::Refused {
        code,
        message: message.into(),
    }
}
