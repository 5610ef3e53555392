//! A command from its arrival to its one answer, and its permits of the limits in flight.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::audit::{NoRoom, Reservation, code};
use super::keys::{Begun, Record, Scope, Ticket};
use super::router::{Phase, Route, Shared, length, refused};
use super::sharing::{self, SharedKey, Start};
use super::{CommandSource, Request};
use crate::backend::spans::{Kind, Span};
use crate::pause;
use crate::session::{Command, CommandOutcome};
use crate::shard::mailbox::ConnectionId;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::message::ErrorCode;

/// A command that is not answered yet. Dropping it answers it, so that a panic or the end of the runtime loses no command.
pub(super) struct Pending {
    shared: Arc<Shared>,
    to: ConnectionId,
    number: u32,
    address: Option<IpAddr>,
    request: Request,
    audit: bool,
    // Room for the audit line, if the trail needs some.
    reservation: Option<Reservation>,
    // Of a command with a key, while it is carried out.
    ticket: Option<Ticket>,
    // The backend may have seen the command.
    may_be_sent: bool,
    // Its route repeats commands whose outcome is unknown.
    may_repeat: bool,
    // Ends after the answer.
    span: Span,
    received: Instant,
    answered: bool,
}

impl Pending {
    pub(super) fn new(shared: &Arc<Shared>, source: CommandSource<'_>, command: Command) -> Self {
        shared.metrics.received.add(1);
        shared.metrics.in_flight.add(1);
        shared.metrics.bytes.add(length(&command.params));
        let span = (shared.tracer).begin(Kind::Server, command.trace, || format!("command {}", command.action));
        Self {
            shared: Arc::clone(shared),
            to: source.connection,
            number: source.request,
            address: source.address,
            request: shared.request(source.client_id, command),
            audit: false,
            reservation: None,
            ticket: None,
            may_be_sent: false,
            may_repeat: false,
            span,
            received: Instant::now(),
            answered: false,
        }
    }

    /// Begins the key of a command that has one. Returns the command if it is to be carried out. Otherwise it is answered, now
    /// or with the one in flight.
    ///
    /// This happens before the client's next message is read, so that a question for the key's status finds the key.
    pub(super) fn begin(self, scope: Scope) -> Option<Self> {
        let Some(key) = self.request.key.clone() else {
            return Some(self);
        };
        let shared = Arc::clone(&self.shared);
        let fingerprint = self.request.fingerprint();
        let now_ms = shared.now_ms();
        let reserve = shared.reply_bytes_max();
        // The lock is free before a command is answered.
        let begun = shared
            .keys
            .lock()
            .begin((scope, key), fingerprint, reserve, self, now_ms);
        match begun {
            Begun::Run(mut command, ticket) => {
                command.may_be_sent = ticket.is_repeat;
                command.ticket = Some(ticket);
                return Some(command);
            }
            Begun::Waits => shared.metrics.repeats.add(1),
            Begun::Repeat(command, outcome) => {
                shared.metrics.repeats.add(1);
                command.answer(outcome);
            }
            Begun::Refused(command, refusal) => command.answer(refusal),
        }
        None
    }

    pub(super) async fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let routes = shared.routes();
        let Some(route) = routes.of(&self.request.action) else {
            let message = format!("no route for action {}", self.request.action);
            return self.answer(refused(ErrorCode::UnknownAction, message));
        };
        self.may_repeat = route.idempotent;
        let deadline = self.received + route.timeout;
        // Before everything by which this gateway might refuse the command: another one may have carried it out.
        let claim = self.to_claim(&shared, route);
        let mut version = None;
        if let Some(claim) = &claim {
            match self.claim(claim, deadline).await {
                Ok(claimed) => version = Some(claimed),
                Err(outcome) => return self.answer(outcome),
            }
        }
        let (outcome, _permit) = self.carry_out(&shared, route, deadline).await;
        if let (Some(claim), Some(version)) = (&claim, version) {
            let (_, record) = self.verdict(outcome.clone());
            let told = claim.end(version, record.as_ref(), shared.now_unix_ms()).await;
            if let Err(reason) = told
                && let Some(left_out) = shared.untold_lines.take()
            {
                tracing::warn!(
                    reason,
                    left_out,
                    "the outcome of a command with a key is known to this gateway only; others take it for unknown"
                );
            }
        }
        self.answer(outcome);
    }

    /// Carries the command out within the limits in flight. The permits are to be held until after the answer: a drain that
    /// has acquired all permits then knows that all commands are answered.
    async fn carry_out<'a>(
        &mut self,
        shared: &'a Shared,
        route: &Route,
        deadline: Instant,
    ) -> (CommandOutcome, Option<InFlightPermit<'a>>) {
        self.audit = route.audit;
        // Before the command takes permits, so that commands of other routes find theirs however many wait here.
        if route.audit {
            match self.reserve(deadline).await {
                Ok(reservation) => self.reservation = reservation,
                Err(NoRoom) => {
                    let message =
                        "the audit trail cannot be written, so the command was not carried out; try again later";
                    return (refused(ErrorCode::BackendUnavailable, message.to_owned()), None);
                }
            }
        }
        let tenant = self.request.action.tenant();
        let permit = match InFlightPermit::new(shared, route, tenant, self.to) {
            Ok(permit) => permit,
            Err(outcome) => return (outcome, None),
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let mut phase = shared.phase.subscribe();
        let outcome = tokio::select! {
            result = pause::timeout(left, route.carry_out(shared, &self.request, &self.span, &mut self.may_be_sent)) => match result {
                Ok(outcome) => outcome,
                Err(_) => {
                    let ms = route.timeout.as_millis();
                    if let Some(left_out) = route.backend.failure_lines.take() {
                        tracing::warn!(
                            backend = route.backend.name(),
                            action = self.request.action.as_str(),
                            timeout_ms = ms,
                            left_out,
                            "no reply in time"
                        );
                    }
                    refused(ErrorCode::Timeout, format!("no reply within {ms} ms; the outcome is unknown"))
                }
            },
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {
                let message = "the gateway restarted before the reply; the outcome is unknown";
                refused(ErrorCode::Timeout, message.to_owned())
            }
        };
        (outcome, Some(permit))
    }

    /// The key of the command as other gateways know it; `None`: it has none, or this gateway is on its own.
    fn to_claim<'a>(&self, shared: &'a Shared, route: &Route) -> Option<SharedKey<'a>> {
        let ticket = self.ticket.as_ref()?;
        let claims = shared
            .broker
            .claims()
            .filter(|_| route.timeout <= sharing::TIMEOUT_MAX)?;
        let name = sharing::name(ticket.scope(), ticket.key(), &shared.tenants);
        let times = (route.timeout, shared.keys.lock().window_ms());
        let fingerprint = self.request.fingerprint();
        Some(SharedKey::new(claims, name, fingerprint, times, route.idempotent))
    }

    /// Claims the key. The error is the answer to a command that is not carried out.
    async fn claim(&mut self, claim: &SharedKey<'_>, deadline: Instant) -> Result<u64, CommandOutcome> {
        let shared = Arc::clone(&self.shared);
        let mut phase = shared.phase.subscribe();
        let start = tokio::select! {
            start = claim.begin(deadline, || shared.now_unix_ms()) => start,
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {
                let message = "the gateway restarts; this message was not carried out, send it again later";
                Start::Refused(refused(ErrorCode::Overloaded, message.to_owned()))
            }
        };
        match start {
            Start::Run { version, is_repeat } => {
                self.may_be_sent |= is_repeat;
                Ok(version)
            }
            Start::Known(outcome) => {
                shared.metrics.repeats.add(1);
                // It was carried out, and recorded, elsewhere.
                (self.may_be_sent, self.may_repeat) = (true, false);
                Err(outcome)
            }
            Start::Refused(refusal) => {
                self.may_be_sent = false;
                Err(refusal)
            }
        }
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
        let trace_id = self.span.sampled_trace();
        self.shared.metrics.duration.add(self.received.elapsed(), trace_id);
        self.describe(&outcome);
        let duration_ms = u64::try_from(self.received.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.shared.answered.push(&self.request, &outcome, duration_ms);
        if self.audit {
            let reservation = self.reservation.take();
            self.shared
                .audit
                .record(&self.request, self.address, &outcome, duration_ms, reservation);
        }
        self.shared.metrics.answered(&outcome);
        self.shared.metrics.in_flight.add(-1);
        self.shared.metrics.bytes.add(-length(&self.request.params));
        let outcome = match self.ticket.take() {
            Some(ticket) => self.end_key(&ticket, outcome),
            None => outcome,
        };
        self.shared.responder.respond(self.to, self.number, outcome);
    }

    /// Gives the span what is known of the command.
    fn describe(&mut self, outcome: &CommandOutcome) {
        if !self.span.is_recorded() {
            return;
        }
        let request = &self.request;
        let texts = [
            ("tickgate.client_id", Some(&*request.client_id)),
            ("tickgate.tenant", request.tenant.as_deref()),
            ("user.id", request.user.as_deref()),
        ];
        for (name, text) in texts {
            if let Some(text) = text {
                self.span.set(name, text.to_owned());
            }
        }
        if let Some(code) = code(outcome) {
            self.span.set("error.type", code);
        }
        match outcome {
            CommandOutcome::Success { .. } => {}
            CommandOutcome::Failure { .. } => self.span.fail("the backend refused the command"),
            CommandOutcome::Refused { message, .. } => self.span.fail(message.clone()),
        }
    }

    /// Records the outcome for the key, and answers the commands that waited for it. Returns what the client is told.
    fn end_key(&self, ticket: &Ticket, outcome: CommandOutcome) -> CommandOutcome {
        let (outcome, record) = self.verdict(outcome);
        let waiters = self.shared.keys.lock().end(ticket, record, self.shared.now_ms());
        for waiter in waiters {
            waiter.answer(outcome.clone());
        }
        outcome
    }

    /// What the client of a command with a key is told, and what is recorded; `None`: it was surely not sent.
    fn verdict(&self, outcome: CommandOutcome) -> (CommandOutcome, Option<Record>) {
        let (outcome, is_recorded) = match outcome {
            CommandOutcome::Refused { message, .. } if self.may_be_sent => {
                let code = ErrorCode::Unknown;
                (CommandOutcome::Refused { code, message }, true)
            }
            // The command was surely not sent, so the key is free.
            refusal @ CommandOutcome::Refused { .. } => (refusal, false),
            outcome => (outcome, true),
        };
        let record = is_recorded.then(|| Record {
            may_repeat: self.may_repeat && matches!(outcome, CommandOutcome::Refused { .. }),
            outcome: outcome.clone(),
        });
        (outcome, record)
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

/// A command's permits of the three limits in flight: of its tenant, of its route, and of its connection.
struct InFlightPermit<'a> {
    shared: &'a Shared,
    connection: ConnectionId,
    _of_tenant: OwnedSemaphorePermit,
    _of_route: OwnedSemaphorePermit,
}

impl<'a> InFlightPermit<'a> {
    /// Takes the permits. The error is the answer to the command. Only the limit of one connection is the client's own
    /// doing, so only that one is `RATE_LIMITED`.
    fn new(
        shared: &'a Shared,
        route: &Route,
        tenant: Tenant,
        connection: ConnectionId,
    ) -> Result<Self, CommandOutcome> {
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
        let of_tenant = shared.permits.get(tenant.index()).ok_or_else(full)?;
        let of_tenant = Arc::clone(of_tenant).try_acquire_owned().map_err(|_| full())?;
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
            _of_tenant: of_tenant,
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
